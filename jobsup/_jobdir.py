"""The names on disk, the lock, and the atomic reading and writing of a record."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobsup._model import JobRecord, from_json, to_json
from jobsup._platform import reserve, sync_data
from jobsup._spec import JobSpec
from jobsup._ulid import is_id
from jobsup.errors import RecordError

_SPARE_BYTES: Final = 16 * 1024
"""Room for the final record: a full survivors list is below 8 KiB."""

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_CREATE: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class StoreDir:
    """The names in a store's root.  All are created by `create`, the jobs by their monitors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs"
        self.active = root / "active"
        self.events = root / "events"
        self.lock = root / "store.lock"

    def create(self) -> None:
        """Make the root ready, once.

        Raises:
            OSError: It cannot be written.
            PermissionError: It is another user's.
        """
        for path in (self.root, self.jobs, self.active):
            if not path.is_dir():
                path.mkdir(parents=path is self.root, exist_ok=True)
                path.chmod(DIR_MODE)  # whatever the umask takes away
        owner = os.stat(self.root).st_uid
        if owner != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}", str(self.root))

    def job(self, job_id: str) -> JobDir:
        return JobDir(self.jobs / job_id)

    def unborn(self, job_id: str) -> JobDir:
        """The hidden directory in which a job is built."""
        return JobDir(self.jobs / f".{job_id}.new")

    def ids(self) -> list[str]:
        """The published jobs, oldest first; ids are ordered by time."""
        return _ids_in(self.jobs, lambda entry: entry.is_dir(follow_symlinks=False))

    def active_ids(self) -> list[str]:
        """The marked jobs, oldest first.  A marker may outlive its job in a crash."""
        return _ids_in(self.active, lambda entry: entry.is_file(follow_symlinks=False))

    def mark_active(self, job_id: str) -> None:
        fd = os.open(self.active / job_id, _CREATE | os.O_WRONLY, FILE_MODE)
        os.close(fd)

    def is_marked(self, job_id: str) -> bool:
        return (self.active / job_id).exists()

    def unmark_active(self, job_id: str) -> None:
        (self.active / job_id).unlink(missing_ok=True)


def _ids_in(directory: Path, is_kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """The entries that are named like a job and are no link to elsewhere."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name) and is_kind(entry))
    except FileNotFoundError:
        return []


class JobDir:
    """One job's directory.  Whoever holds the lock may write; anybody may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.meta = path / "meta.json"
        self.spare = path / "meta.spare"
        self.lock = path / "lock"
        self.control = path / "control"
        self.output = path / "output"
        self.stderr = path / "stderr"
        self.stdin = path / "stdin"
        self.log = path / "monitor.log"

    @property
    def store(self) -> StoreDir:
        return StoreDir(self.path.parent.parent)

    def is_ours(self) -> bool:
        """Whether this user may act for the job; root acts for root alone."""
        return os.stat(self.path).st_uid == os.geteuid()

    def exists(self) -> bool:
        return self.path.is_dir() and not self.path.is_symlink()

    def remove(self) -> None:
        """Delete the directory.  It is flat; what somebody else put into it below stays."""
        with suppress(OSError):
            if self.path.is_symlink():  # somebody planted it: what it points at is not ours
                self.path.unlink()
                return
            for entry in os.scandir(self.path):
                with suppress(OSError):
                    os.unlink(entry.path)
            self.path.rmdir()

    # -- the lock ------------------------------------------------------------

    def acquire(self, wait: float = 0.0) -> int | None:
        """The lock's descriptor, to be kept open for as long as it is held; None if taken.

        *wait* seconds are for a probe to let go: one lasts microseconds.
        """
        fd = os.open(self.lock, _CREATE | os.O_RDWR, FILE_MODE)
        deadline = time.monotonic() + wait
        while not _flock(fd, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(fd)
                return None
            time.sleep(0.001)
        return fd

    def is_held(self) -> bool:
        """Whether a monitor lives.  A shared lock: two who look do not see each other."""
        fd = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return not _flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    # -- what is read --------------------------------------------------------

    def read_spec(self) -> JobSpec:
        return from_json(JobSpec, _read(self.spec), self.spec)

    def read_record(self) -> JobRecord:
        """The record as last replaced.

        Raises:
            FileNotFoundError: There is no such job.
            RecordError: The record is damaged or of a newer format.
        """
        record = from_json(JobRecord, _read(self.meta), self.meta)
        if record.job_id != self.path.name.strip(".").removesuffix(".new"):
            raise RecordError(self.meta, f"is damaged (it is of another job, {record.job_id!r})")
        return record

    # -- what the lock's holder writes ---------------------------------------

    def write_spec(self, spec: JobSpec) -> None:
        _write(self.spec, to_json(spec))

    def write_record(self, record: JobRecord) -> None:
        """Replace the record; a reader, or a crash, sees the old one or the new one.  rename(2)"""
        new = self.path / "meta.json.new"
        try:
            _write(new, to_json(record))
            os.replace(new, self.meta)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def reserve_spare(self) -> None:
        """Allocate the final record's blocks now, so that a disk that fills up cannot refuse it."""
        fd = os.open(self.spare, _CREATE | os.O_WRONLY, FILE_MODE)
        try:
            reserve(fd, _SPARE_BYTES)
        finally:
            os.close(fd)

    def write_final_record(self, record: JobRecord) -> None:
        """Replace the record for good: on a full disk too, and past a power cut."""
        data = to_json(record)
        fd = os.open(self.spare, _CREATE | os.O_WRONLY, FILE_MODE)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], written)
            os.ftruncate(fd, len(data))
            sync_data(fd)
        finally:
            os.close(fd)
        os.replace(self.spare, self.meta)
        directory = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # the rename itself.  fsync(2)
        finally:
            os.close(directory)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes:
    """A regular file, whole: no FIFO to hang on, no link to elsewhere, no giant."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RecordError(path, "is a symbolic link, which jobsup never writes") from None
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(path, "is not a regular file")
        if status.st_size > 64 << 20:
            raise RecordError(path, f"is damaged ({status.st_size} bytes)")
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, _CREATE | os.O_WRONLY | os.O_TRUNC, FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
