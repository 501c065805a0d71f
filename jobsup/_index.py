"""The index: a line for each job that was begun, so that nobody reads a directory of all of them.

A job is entered before it is published, so all jobs are in it. Whom it names
need not be a job: some failed, some were pruned; look for the directory. What
cannot be trusted is not used, and made anew: without an index all is as true,
and slower.

Each line begins with its line feed, fixed width. What a full disk cut short,
or somebody else wrote, is so a line of its own and hides none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress

from jobsup._jobdir import FILE_MODE, unlink
from jobsup._platform import boot_id
from jobsup._typing import Final
from jobsup._ulid import LENGTH, is_id

_NAME: Final = "index"
_FORMAT: Final = b"jobsup-index 1 "
_WHOLE, _PARTIAL = b"+", b"-"
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_APPEND: Final = _OPEN | os.O_WRONLY | os.O_APPEND | os.O_CREAT
_CREATE: Final = _OPEN | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
_GIANT_BYTES: Final = 256 << 20
_BLOCK: Final = 1 << 20
_FEW: Final = 1000
"""So many directory entries, or dead lines, are read in a moment: no reason to write."""


def append(root: str, job_id: str) -> None:
    """Enter a job: once its hidden directory is there, before it may be published.

    Raises:
        OSError: It could not be done; the job must not be published.
    """
    path, line = f"{root}/{_NAME}", b"\n" + job_id.encode()
    fd = _open_to_append(path)
    try:
        # One write to an O_APPEND file: lines of others do not mix with it.
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        # The file may have been replaced since it was opened. Who did that looks
        # into the directory afterwards, and has found us there.
    finally:
        os.close(fd)


def _open_to_append(path: str) -> int:
    while True:
        try:
            fd = os.open(path, _APPEND, FILE_MODE)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
        else:
            with ExitStack() as on_error:
                on_error.callback(os.close, fd)
                mode = os.fstat(fd).st_mode
                if stat.S_ISREG(mode):
                    if stat.S_IMODE(mode) != FILE_MODE:  # the umask took of it
                        os.chmod(fd, FILE_MODE)
                    on_error.pop_all()
                    return fd
        os.unlink(path)  # a link, or a FIFO: somebody planted it


def newest_first(root: str) -> Iterator[str]:
    """The ids of the published jobs."""
    lines = _read(root)
    if lines is None:
        names = [name for name in _listed(f"{root}/jobs") if len(name) == LENGTH]
        if len(names) > _FEW:
            rebuild(root)
        names.sort(reverse=True)
        yield from (name for name in names if is_id(name) and _is_job(root, name))
        return
    dead, last = 0, ""
    for name in _sorted_ids(lines):
        if name != last and _is_job(root, name):
            yield name
        else:
            dead += 1
            if dead == _FEW:
                rebuild(root)
        last = name


def containing(root: str, part: str) -> list[str]:
    """The ids of the published jobs that hold *part*, oldest first."""
    lines = _read(root)
    wanted = part.encode()
    if lines is None or lines.count(wanted) > _FEW:
        found = {name for name in _listed(f"{root}/jobs") if part in name}
    else:
        found, at, lines = set(), 0, lines + b"\n"
        while (at := lines.find(wanted, at)) >= 0:
            end = lines.index(b"\n", at)
            found.add(_id_of(lines[lines.rfind(b"\n", 0, at) + 1 : end]))
            at = end
    return sorted(name for name in found if part in name and is_id(name) and _is_job(root, name))


def tidy(root: str, living: Iterable[str]) -> None:
    """Make it anew if it is not to be trusted, lacks one of *living*, or names many others."""
    lines = _read(root)
    if lines is not None:
        entered, entries = {*_sorted_ids(lines)}, lines.count(b"\n")
        wanted = {*living}
        is_clean = not os.path.exists(f"{root}/{_NAME}.new")  # of a crash
        if wanted <= entered and entries <= 2 * len(wanted) + _FEW and is_clean:
            return
    rebuild(root)


def rebuild(root: str) -> None:
    """Make it anew from the directory, if it is ours, can be written, and nobody else is at it."""
    with suppress(OSError), ExitStack() as on_exit:
        if not boot_id() or os.stat(root).st_uid != os.geteuid():
            return
        jobs = os.open(f"{root}/jobs", _OPEN | os.O_RDONLY | os.O_DIRECTORY)
        on_exit.callback(os.close, jobs)
        fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        on_exit.callback(_unlock, jobs)
        new = f"{root}/{_NAME}.new"
        unlink(new)
        fd = os.open(new, _CREATE, FILE_MODE)
        on_exit.callback(unlink, new)
        on_exit.callback(os.close, fd)
        head = _head(_PARTIAL, os.fstat(fd).st_ino, os.fstat(jobs).st_ino)
        if os.write(fd, head) < len(head):
            return
        os.rename(new, f"{root}/{_NAME}")
        # Whoever opened the old file had made its hidden directory before. One
        # look may miss a directory that is renamed meanwhile; of two, one finds
        # it under the old name or the new.
        ids = {*_begun(jobs), *_begun(jobs)}
        data = b"".join(b"\n" + name.encode() for name in sorted(ids))
        if os.write(fd, data) == len(data):
            # To an O_APPEND file Linux appends wherever it is told to write.  pwrite(2)
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
            os.pwrite(fd, _WHOLE, len(_FORMAT))


def _head(state: bytes, own: int, jobs: int) -> bytes:
    """What it begins with: of this boot, which kept what it wrote; this very file, and no
    copy that lags behind; and of this directory."""
    return b"%s%s %s %020d %020d" % (_FORMAT, state, boot_id().encode(), own, jobs)


def _read(root: str) -> bytes | None:
    """The lines, or None if they cannot be trusted to name all jobs."""
    try:
        fd = os.open(f"{root}/{_NAME}", _OPEN | os.O_RDONLY)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _GIANT_BYTES or not boot_id():
            return None
        head = _head(_WHOLE, status.st_ino, os.stat(f"{root}/jobs").st_ino)
        data = os.read(fd, status.st_size + 1)
        # Up to the end as it is after the head was read, not before: a file that
        # was not whole when it was measured may be by now.
        while more := os.read(fd, _BLOCK):
            data += more
    except OSError:
        return None
    finally:
        os.close(fd)
    return data[len(head) :] if data.startswith(head) else None


def _sorted_ids(lines: bytes) -> Iterator[str]:
    """Newest first; ids alone."""
    for line in sorted(lines.split(b"\n"), reverse=True):
        if is_id(name := _id_of(line)):
            yield name


def _id_of(line: bytes) -> str:
    """What it begins with: if the rest is garbage, that came without a line feed of its own."""
    return line[:LENGTH].decode("ascii", "replace")


def _listed(directory: str | int) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _begun(jobs: int) -> Iterator[str]:
    """The jobs of a directory, published or not."""
    for name in os.listdir(jobs):
        job_id = name[1:].removesuffix(".new") if name.startswith(".") else name
        if is_id(job_id):
            yield job_id


def _is_job(root: str, job_id: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(f"{root}/jobs/{job_id}").st_mode)
    except OSError:
        return False


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)  # a fork that a thread made meanwhile holds it open
