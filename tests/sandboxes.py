"""Sandboxes that a host can enter while it has a launcher outside, and what is seen within.

Imported by host programs, so by nothing that is slow to load.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

_NOBODY = 65534
_SYSCALLS = {"x86_64": {"getpriority": 140, "getsid": 124, "uname": 63}}
_GENERIC = {"getpriority": 141, "getsid": 156, "uname": 160}
_CAP_CHOWN, _CAP_DAC_READ_SEARCH = 0, 2


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(*numbers: int) -> None:
    _done(_libc.prctl(*numbers, *[0] * (5 - len(numbers))))


def forbid(name: str) -> None:
    """Have one system call fail with EPERM.  seccomp(2)"""
    number = _SYSCALLS.get(platform.machine(), _GENERIC)[name]
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # BPF_LD | BPF_W | BPF_ABS: seccomp_data.nr
            (0x15, 0, 1, number),  # BPF_JMP | BPF_JEQ | BPF_K
            (0x06, 0, 0, 0x00050000 | errno.EPERM),  # SECCOMP_RET_ERRNO
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    text = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(text)))
    _done(_libc.prctl(22, 2, header, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def forbid_symlinks() -> None:
    """A Landlock domain, which no file in /proc tells of.  landlock(7)"""
    handled = ctypes.c_uint64(1 << 12)  # LANDLOCK_ACCESS_FS_MAKE_SYM
    ruleset = _done(_libc.syscall(444, ctypes.byref(handled), 8, 0))  # landlock_create_ruleset
    _done(_libc.syscall(446, ruleset, 0))  # landlock_restrict_self
    os.close(ruleset)


def _become_nobody(store: Path) -> None:
    """With the one capability that finds this interpreter wherever it is."""
    names = ("jobs", "active", "events", "index")
    for path in (store.parent, store, *(store / name for name in names)):
        os.chown(path, _NOBODY, _NOBODY)
    _prctl(8, 1)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    bit = 1 << _CAP_DAC_READ_SEARCH
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    _done(_libc.capset(header, ctypes.create_string_buffer(struct.pack("6I", *[bit] * 3, 0, 0, 0))))
    _prctl(47, 2, _CAP_DAC_READ_SEARCH)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


def _unshare(flag: int) -> None:
    _done(_libc.unshare(flag))


def _make_root(store: Path) -> None:
    """Another view of the same file system, with the same root directory, less one file."""
    _unshare(0x00020000)  # CLONE_NEWNS
    root = store.parent / "root"
    root.mkdir()
    for words in (
        ["--make-rprivate", "/"],
        ["--rbind", "/", root],
        ["--bind", "/dev/null", f"{root}/etc/passwd"],
    ):
        subprocess.run(["mount", *words], check=True)


def _join_cgroup(store: Path) -> None:
    (store.parent / "cgroup" / "cgroup.procs").write_text("0")


def _shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def _python(text: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", "import os\n" + text]


def _tried(call: str) -> list[str]:
    return _python(f"try: print({call})\nexcept OSError as error: print(error.errno)")


def _namespace(kind: str) -> list[str]:
    return ["readlink", f"/proc/self/ns/{kind}"]


def _nothing(_: Path) -> None:
    pass


class Sandbox(NamedTuple):
    """How a host enters it, given the store's path, and a command that tells whether it is in."""

    enter: Callable[[Path], object]
    probe: list[str]
    prepare: Callable[[Path], object] = _nothing
    """Done before there is a launcher."""


SANDBOXES = {
    "seccomp filter": Sandbox(lambda _: forbid("getpriority"), _tried("os.getpriority(0, 0)")),
    "other seccomp filter": Sandbox(lambda _: forbid("getsid"), _tried("os.getsid(0) > 0")),
    "seccomp filter on uname": Sandbox(lambda _: forbid("uname"), _tried("os.uname().sysname")),
    "no_new_privs": Sandbox(lambda _: _prctl(38, 1), _shell("grep NoNewPrivs /proc/self/status")),
    "Landlock": Sandbox(
        lambda _: forbid_symlinks(), _tried("(os.symlink('x', 'link'), os.unlink('link'))")
    ),
    "capability": Sandbox(
        lambda _: _prctl(24, _CAP_CHOWN),  # PR_CAPBSET_DROP
        _tried("os.chown('.', 1, 1), os.chown('.', 0, 0)"),
    ),
    "another user": Sandbox(_become_nobody, ["id"]),
    "network namespace": Sandbox(lambda _: _unshare(0x40000000), _namespace("net")),
    "mount namespace": Sandbox(lambda _: _unshare(0x00020000), _namespace("mnt")),
    "user namespace": Sandbox(lambda _: _unshare(0x10000000), _namespace("user")),
    "chroot": Sandbox(
        lambda store: os.chroot(store.parent / "root"),
        _shell("head -c 5 /etc/passwd"),
        _make_root,
    ),
    "cgroup": Sandbox(_join_cgroup, ["cat", "/proc/self/cgroup"]),
}
