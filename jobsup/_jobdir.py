"""The names on disk, the lock, and the atomic reading and writing of a record."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from jobsup._model import JobRecord, from_json, to_json
from jobsup._platform import reserve, sync_data
from jobsup._spec import JobSpec
from jobsup._typing import TYPE_CHECKING, Final
from jobsup._ulid import is_id
from jobsup.errors import JobNotFoundError, JobsupError, RecordError

if TYPE_CHECKING:
    from pathlib import Path

_SPARE_BYTES: Final = 4096
_SPARE_BYTES_WITH_SURVIVORS: Final = 16 * 1024
"""Room for the final record: a full list of survivors is below 8 KiB."""

_DRAFT: Final = b"\n"
_GIANT_BYTES: Final = 64 << 20
DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600
# Without O_NONBLOCK a FIFO that somebody planted would hold us for ever.  fifo(7)
_CREATE: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def _path(text: str) -> Path:
    from pathlib import Path  # noqa: PLC0415 - 5 ms that no monitor needs

    return Path(text)


class _File:
    """A name in a directory, made into a path only when somebody asks for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, directory: _Directory, _: object) -> Path:
        return _path(directory.at(self._name))


class _Directory:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.text = os.fspath(path)
        """Its path, which as a Path would cost status() and a monitor more than its use."""

    def at(self, name: str) -> str:
        return f"{self.text}/{name}"


class StoreDir(_Directory):
    """The names in a store's root.  `create` makes all but the jobs."""

    jobs = _File("jobs")
    active = _File("active")
    events = _File("events")
    lock = _File("store.lock")

    @property
    def root(self) -> Path:
        return _path(self.text)

    def create(self) -> None:
        """Make the root ready, once.

        Raises:
            OSError: It cannot be written.
            PermissionError: It is another user's.
        """
        try:
            os.stat(self.at("jobs"))
            owner = os.stat(self.at("active")).st_uid
        except FileNotFoundError:
            self._make()
            owner = os.stat(self.text).st_uid
        if owner != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}", self.text)

    def _make(self) -> None:
        for path in (self.root, self.jobs, self.active):
            if not path.is_dir():
                path.mkdir(parents=path == self.root, exist_ok=True)
                path.chmod(DIR_MODE)  # whatever the umask takes away

    def job(self, job_id: str) -> JobDir:
        return JobDir(self.at(f"jobs/{job_id}"))

    def unborn(self, job_id: str) -> JobDir:
        """The hidden directory in which a job is built."""
        return JobDir(self.at(f"jobs/.{job_id}.new"))

    def ids(self) -> list[str]:
        """The published jobs, oldest first; ids are ordered by time."""
        return _ids_in(self.jobs, lambda entry: entry.is_dir(follow_symlinks=False))

    def active_ids(self) -> list[str]:
        """The marked jobs, oldest first.  A marker may outlive its job in a crash."""
        return _ids_in(self.active, lambda entry: entry.is_file(follow_symlinks=False))

    def mark_active(self, job_id: str) -> None:
        marker = self.at(f"active/{job_id}")
        try:
            # A name more takes less than a file more, above all when it goes.
            os.link(self.unborn(job_id).at("spec.json"), marker)
        except OSError:  # not every file system has links
            os.close(os.open(marker, _CREATE | os.O_WRONLY, FILE_MODE))

    def is_marked(self, job_id: str) -> bool:
        return os.path.exists(self.at(f"active/{job_id}"))

    def unmark_active(self, job_id: str) -> None:
        unlink(self.at(f"active/{job_id}"))


def _ids_in(directory: Path, is_kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """The entries that are named like a job and are no link to elsewhere."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name) and is_kind(entry))
    except FileNotFoundError:
        return []


class JobDir(_Directory):
    """One job's directory.  Whoever holds the lock may write; anybody may read."""

    spec = _File("spec.json")
    meta = _File("meta.json")
    spare = _File("meta.spare")
    lock = _File("lock")
    control = _File("control")
    output = _File("output")
    stderr = _File("stderr")
    stdin = _File("stdin")
    log = _File("monitor.log")

    @property
    def path(self) -> Path:
        return _path(self.text)

    @property
    def id(self) -> str:
        """Of the job, also while it is built under a hidden name."""
        return os.path.basename(self.text).strip(".").removesuffix(".new")

    @property
    def store(self) -> StoreDir:
        return StoreDir(os.path.dirname(os.path.dirname(self.text)))

    def is_ours(self) -> bool:
        """Whether this user may act for the job; root acts for root alone."""
        return os.stat(self.text).st_uid == os.geteuid()

    def exists(self) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(self.text).st_mode)  # and no link to one
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise

    def missing(self, error: OSError) -> JobsupError:
        """What *error*, that a file of the job is not there, means."""
        if self.exists():
            path = error.filename or self.at("meta.json")
            return RecordError.of(path, "is missing; somebody deleted it from the job's directory")
        return JobNotFoundError(self.path.name, self.store.root)

    def remove(self) -> int:
        """Delete the directory, which is flat, and say how much it took on disk.

        What cannot be deleted, and what somebody else put below it, stays.
        """
        freed = 0
        with suppress(OSError):
            if stat.S_ISLNK(os.lstat(self.text).st_mode):  # planted: what it leads to is not ours
                os.unlink(self.text)
                return 0
            fd = os.open(self.text, _DIRECTORY)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        with suppress(OSError):
                            size = os.stat(entry.name, dir_fd=fd, follow_symlinks=False).st_blocks
                            os.unlink(entry.name, dir_fd=fd)
                            freed += size * 512
            finally:
                os.close(fd)
            os.rmdir(self.text)
        return freed

    # -- the lock ------------------------------------------------------------

    def acquire(self, wait: float = 0.0) -> int | None:
        """The lock's descriptor, to be kept open for as long as it is held; None if taken.

        *wait* seconds are for a probe to let go: one lasts microseconds.
        """
        fd = os.open(self.at("lock"), _CREATE | os.O_RDWR, FILE_MODE)
        deadline = time.monotonic() + wait
        while not _flock(fd, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(fd)
                return None
            time.sleep(0.001)
        return fd

    def is_held(self) -> bool:
        """Whether a monitor has the job.  A shared lock: two who look do not see each other."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.at("lock"), flags)
        try:
            return not _flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the job's monitor from taking up another job meanwhile.

        For whoever signals the monitor's pid and not the job: pinned first and
        looked at second, a job that has not ended is the one that is meant.
        """
        fd = os.open(self.text, _DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def is_pinned(self) -> bool:
        """Whether somebody does; asked with the final record written, and the lock held."""
        fd = os.open(self.text, _DIRECTORY)
        try:
            return not _flock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    def size_of(self, name: str) -> int:
        """Bytes of a file, 0 if there is none."""
        try:
            return os.stat(self.at(name)).st_size
        except FileNotFoundError:
            return 0

    # -- what is read --------------------------------------------------------

    def read_spec(self) -> JobSpec:
        return from_json(JobSpec, read_bytes(self.at("spec.json")), self.at("spec.json"))

    def read_record(self) -> JobRecord:
        """The record as last replaced.

        Raises:
            FileNotFoundError: There is no such job.
            RecordError: The record is damaged or of a newer format.
        """
        meta = self.at("meta.json")
        record = from_json(JobRecord, read_bytes(meta), meta)
        if record.job_id != self.id:
            raise RecordError(self.meta, f"is damaged (it is of another job, {record.job_id!r})")
        return record

    # -- what the lock's holder writes ---------------------------------------

    def write_spec(self, spec: bytes) -> None:
        _write(self.at("spec.json"), spec)

    def write_record(self, record: JobRecord) -> None:
        """Replace the record; a reader, or a crash, sees the old one or the new one.  rename(2)"""
        new = self.at("meta.json.new")
        try:
            _write(new, to_json(record))
            os.replace(new, self.at("meta.json"))
        except OSError:
            unlink(new)
            raise

    def write_draft(self, record: bytes) -> None:
        """The record of a job that no monitor has begun: it says so by an empty first line."""
        _write(self.at("meta.json"), _DRAFT + record)

    def has_begun(self) -> bool:
        """Whether a monitor took a draft up, and may have executed the command."""
        try:
            return not read_bytes(self.at("meta.json")).startswith(_DRAFT)
        except FileNotFoundError:
            return False
        except RecordError:  # somebody put something else there
            return True

    def begin(self) -> int:
        """Take the draft up; the descriptor with which to complete it, in blocks that it has."""
        fd = os.open(self.at("meta.json"), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.pwrite(fd, b" " * len(_DRAFT), 0)
        return fd

    def reserve_spare(self, *, for_survivors: bool = False) -> None:
        """Allocate the final record's blocks now, so that a disk that fills up cannot refuse it."""
        fd = os.open(self.at("meta.spare"), _CREATE | os.O_WRONLY, FILE_MODE)
        try:
            reserve(fd, _SPARE_BYTES_WITH_SURVIVORS if for_survivors else _SPARE_BYTES)
        finally:
            os.close(fd)

    def write_ahead(self, record: JobRecord) -> None:
        """Keep what the next record will say where it has room already, and `ahead_of` finds it."""
        fd = self._open_spare()
        try:
            os.pwrite(fd, to_json(record), 0)
        finally:
            os.close(fd)

    def write_final_record(self, record: JobRecord) -> None:
        """Replace the record for good: on a full disk too, and past a power cut.

        The data is on the disk before the rename. If the power goes before
        that is, too, `ahead_of` finds it.
        """
        data = to_json(record)
        fd = self._open_spare()
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], written)
            os.ftruncate(fd, len(data))
            sync_data(fd)
        finally:
            os.close(fd)
        os.replace(self.at("meta.spare"), self.at("meta.json"))

    def _open_spare(self) -> int:
        spare = self.at("meta.spare")
        with suppress(OSError):
            if not stat.S_ISREG(os.lstat(spare).st_mode):  # somebody planted it
                os.unlink(spare)
        return os.open(spare, _CREATE | os.O_WRONLY, FILE_MODE)

    def ahead_of(self, record: JobRecord) -> JobRecord | None:
        """The record after *record*, if its writer was killed before it could publish it."""
        spare = self.at("meta.spare")
        try:
            # What was not written yet is zeros.
            ahead = from_json(JobRecord, read_bytes(spare).rstrip(b"\0"), spare)
        except (FileNotFoundError, RecordError):
            return None
        fits = ahead.job_id == record.job_id and ahead.sequence > record.sequence
        return ahead if fits else None


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlink(path: str) -> None:
    """Delete a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def read_bytes(path: str) -> bytes:
    """A regular file, whole: no FIFO to hang on, no link to elsewhere, no giant."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RecordError.of(path, "is a symbolic link, which jobsup never writes") from None
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError.of(path, "is not a regular file")
        if status.st_size > _GIANT_BYTES:
            raise RecordError.of(path, f"is damaged ({status.st_size} bytes)")
        data = os.read(fd, status.st_size + 1)
        while len(data) < status.st_size and (more := os.read(fd, status.st_size)):
            data += more
        return data
    finally:
        os.close(fd)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, _CREATE | os.O_WRONLY | os.O_TRUNC, FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
