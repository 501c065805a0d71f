"""System calls of Linux that Python's standard library does not name."""

from __future__ import annotations

import ctypes
import functools
import os

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15
_PR_GETTERS = {
    "securebits": 27,
    "timer slack": 30,
    "memory corruption policy": 34,
    "no huge pages": 42,
    "no writable code": 66,
    "memory merging": 68,
}
"""Of what a child inherits and /proc does not show.  linux/prctl.h"""
_SYSCALLS = {
    # machine: ioprio_get, keyctl, get_mempolicy, sched_getattr, sched_setattr.  asm/unistd.h
    "x86_64": (252, 250, 239, 315, 314),
    "aarch64": (31, 219, 236, 275, 274),
    "riscv64": (31, 219, 236, 275, 274),
}
_IOPRIO_WHO_PROCESS = 1
_KEYCTL_GET_KEYRING_ID = 0
_KEY_SPEC_SESSION_KEYRING = -3
_SCHED_ATTR_BYTES = 56
_NODEMASK_BITS = 4096
_PERSONALITY_UNCHANGED = ctypes.c_ulong(0xFFFFFFFF)
"""With no sign to extend: a seccomp(2) filter that lets this pass compares all 64 bits."""
_PR_SCHED_CORE = 62
_PR_SCHED_CORE_GET = 0
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _syscalls() -> tuple[int, ...] | None:
    return _SYSCALLS.get(os.uname().machine)


def become_subreaper() -> bool:
    """Have orphaned descendants re-parented to this process.  PR_SET_CHILD_SUBREAPER(2const)"""
    return bool(_libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def name_process(name: str) -> None:
    """What ps(1) shows as the command's name, 15 bytes of it.  PR_SET_NAME(2const)"""
    _libc().prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give back the blocks of a byte range; size and offsets stay.  fallocate(2)

    Raises:
        OSError: EOPNOTSUPP where the file system cannot.
    """
    libc = _libc()
    result = libc.fallocate(
        ctypes.c_int(fd),
        ctypes.c_int(_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE),
        ctypes.c_int64(offset),
        ctypes.c_int64(length),
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reserve(fd: int, size: int) -> None:
    """Allocate a file's first blocks.  posix_fallocate(3)"""
    os.posix_fallocate(fd, 0, size)


def sync_data(fd: int) -> None:
    """Have the data survive a power cut.  fdatasync(2)"""
    os.fdatasync(fd)


def inherited_settings() -> bytes | None:
    """What a child of this thread inherits and /proc does not show; None if that is not known.

    The I/O priority, the session keyring, the memory policy, what sched_getattr(2)
    and personality(2) tell, and some of prctl(2). A call that is refused counts as
    its own answer.
    """
    schedule, numbers = scheduling(), _syscalls()
    if numbers is None:
        return None
    libc = _libc()
    ioprio_get, keyctl, get_mempolicy, *_ = numbers
    mode = ctypes.c_int(0)
    cookie = ctypes.c_uint64(0)
    nodes = ctypes.create_string_buffer(_NODEMASK_BITS // 8)
    answers = [
        libc.syscall(ioprio_get, _IOPRIO_WHO_PROCESS, 0),
        libc.syscall(keyctl, _KEYCTL_GET_KEYRING_ID, _KEY_SPEC_SESSION_KEYRING, 0),
        libc.syscall(get_mempolicy, ctypes.byref(mode), nodes, _NODEMASK_BITS, None, 0),
        libc.personality(_PERSONALITY_UNCHANGED),
        *(libc.prctl(getter, 0, 0, 0, 0) for getter in _PR_GETTERS.values()),
        libc.prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_GET, 0, 0, ctypes.byref(cookie)),
        cookie.value,
        mode.value,
    ]
    return repr(answers).encode() + nodes.raw.rstrip(b"\0") + b"/%a" % schedule


def scheduling(pid: int = 0) -> bytes | None:
    """What sched_getattr(2) tells of a process, 0 is this one: a struct sched_attr; None if it
    does not.
    """
    numbers = _syscalls()
    if numbers is None:
        return None
    told = ctypes.create_string_buffer(_SCHED_ATTR_BYTES)
    refused = _libc().syscall(numbers[3], pid, told, _SCHED_ATTR_BYTES, 0)
    return None if refused else told.raw


def reschedule(attributes: bytes) -> bool:
    """Whether sched_setattr(2) gives this process a struct sched_attr."""
    numbers = _syscalls()
    return numbers is not None and _libc().syscall(numbers[4], 0, attributes, 0) == 0
