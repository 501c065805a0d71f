"""Every system call in jobsup's source, what can become of it, and which were reached.

The list of calls is read from the source. A module's function that jobsup uses
is either in `CALLS`, with what it can come to, or in `HARMLESS`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

import attrs
from faulty import METHODS, MODULES

import jobsup
from jobsup import _launch

PACKAGE: Final = Path(jobsup.__file__).parent
_DISK = ("EIO", "EROFS", "EACCES", "ENOSPC")
_TABLE = ("EMFILE", "ENFILE", "ENOMEM")
_KILL = ("kill-before", "kill-after")
_LOOK = ("EIO", "ENOMEM", "EACCES")

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "open": (*_TABLE, "EIO", "EACCES"),
    "os.open": (*_KILL, *_DISK, *_TABLE),
    "os.close": _KILL,
    "os.read": (*_KILL, "EIO"),
    "os.pread": ("EIO",),
    "os.write": (*_KILL, "short", "EIO", "ENOSPC"),
    "os.pwrite": (*_KILL, "short", "EIO", "ENOSPC"),
    "os.lseek": ("EIO",),
    "os.stat": _LOOK,
    "os.lstat": _LOOK,
    "os.fstat": ("EIO", "ENOMEM"),
    "os.listdir": (*_LOOK, *_TABLE),
    "os.scandir": (*_LOOK, *_TABLE),
    "os.readlink": _LOOK,
    "os.link": (*_KILL, *_DISK, "EPERM"),
    "os.mkfifo": (*_KILL, *_DISK),
    "os.chmod": (*_KILL, "EIO", "EROFS", "EPERM"),
    "os.unlink": (*_KILL, "EIO", "EROFS", "EACCES"),
    "os.rename": (*_KILL, *_DISK),
    "os.replace": (*_KILL, *_DISK),
    "os.posix_fallocate": (*_KILL, "ENOSPC", "EIO", "EOPNOTSUPP"),
    "os.ftruncate": (*_KILL, "EIO", "EROFS"),
    "os.fdatasync": (*_KILL, "EIO", "ENOSPC"),
    "os.chdir": (*_KILL, "EACCES", "EIO", "ENOMEM"),
    "os.fchdir": (*_KILL, "EACCES", "EIO"),
    "os.pipe": (*_KILL, "EMFILE", "ENFILE"),
    "os.memfd_create": (*_KILL, *_TABLE),
    "os.dup2": _KILL,
    "os.fork": (*_KILL, "EAGAIN", "ENOMEM"),
    "os.setsid": _KILL,
    "os.posix_spawn": (*_KILL, "EACCES", "ENOMEM", "E2BIG", "ETXTBSY", "EAGAIN"),
    "os.execve": ("kill-before", "EACCES", "ENOMEM", "E2BIG", "ETXTBSY"),
    "os.pidfd_open": (*_KILL, *_TABLE),
    "os.kill": (*_KILL, "EPERM"),
    "os.killpg": (*_KILL, "EPERM"),
    "os.waitid": _KILL,
    "os.wait4": _KILL,
    "os.waitpid": _KILL,
    "signal.pidfd_send_signal": (*_KILL, "EPERM"),
    "fcntl.flock": (*_KILL, "ENOLCK"),
    "fcntl.fcntl": (*_KILL, "EMFILE"),
    "fcntl.ioctl": ("ENOTTY", "ESRCH"),
    "resource.setrlimit": (*_KILL, "EPERM"),
    "selectors.DefaultSelector": (*_KILL, *_TABLE),
    "selector.register": (*_KILL, "ENOMEM", "ENOSPC"),
    "selector.select": _KILL,
    "socket.socketpair": (*_KILL, "EMFILE", "ENFILE", "ENOMEM"),
    "sock.sendall": (*_KILL, "ENOBUFS"),
    "sock.shutdown": _KILL,
    "sock.recv": _KILL,
    "sock.sendmsg": (*_KILL, "ENOBUFS"),
    "sock.recvmsg": _KILL,
    "socket.recv_fds": _KILL,
    "socket.send_fds": (*_KILL, "ENOBUFS", "EPIPE"),
    "subprocess.Popen": (*_KILL, "EAGAIN", "ENOMEM", "EMFILE"),
    "tempfile.TemporaryFile": (*_KILL, *_DISK, "EMFILE"),
    # No error: both options are older than the pidfds without which nobody comes here.
    "libc.prctl": _KILL,
    "libc.fallocate": (*_KILL, "EOPNOTSUPP", "EIO", "ENOSPC"),
    "Path.mkdir": (*_KILL, *_DISK),
    "os.mkdir": (*_KILL, *_DISK),
    "os.rmdir": (*_KILL, "EIO", "EROFS", "EACCES"),
    "Path.chmod": (*_KILL, "EIO", "EROFS", "EPERM"),
    "Path.unlink": (*_KILL, "EIO", "EROFS", "EACCES"),
    "Path.rmdir": (*_KILL, "EIO", "EROFS", "EACCES"),
    "Path.stat": _LOOK,
}
"""What to do at each: be killed before or after it, write half, or fail with an errno that it
can give. A call that only looks needs no kill: that before the next one is the same."""

HARMLESS: Final = {
    *("os._exit", "os.getpid", "os.getppid", "os.getuid", "os.getgid", "os.geteuid"),
    *("os.getpgid", "os.getpgrp", "os.getcwd", "os.sysconf", "os.strerror", "os.urandom"),
    *("os.fsdecode", "os.fsencode", "os.fspath", "os.get_exec_path", "os.umask"),
    *("os.WIFSIGNALED", "os.WTERMSIG", "os.WEXITSTATUS", "os.set_blocking"),
    *("signal.signal", "signal.getsignal", "signal.valid_signals", "signal.pthread_sigmask"),
    *("signal.sigpending", "signal.sigwait", "signal.set_wakeup_fd"),
    *("os.uname", "os.set_inheritable", "os.register_at_fork", "libc.syscall"),
    *("libc.personality", "os.sched_getaffinity", "os.sched_yield", "os.fdopen"),
    *("resource.getrlimit", "socket.CMSG_SPACE", "socket.socket"),
    *("Path.exists", "Path.is_dir", "Path.is_file", "Path.is_symlink", "Path.home"),
}
"""They cannot fail where they stand, or answer an error with no, and change nothing on disk."""

OTHER_MODULES: Final = {
    "_portable": "not the path that Linux takes; it has a leg of its own",
    "_usage": "psutil makes the calls",
    **dict.fromkeys(
        (
            *("cli", "__main__", "__init__", "_cli_act", "_cli_commands", "_cli_follow"),
            *("_cli_look", "_cli_options", "_cli_start", "_cli_text", "_cli_views"),
        ),
        "the command line only asks and prints",
    ),
}
UNREACHED: Final = {
    "_board.Board.__init__: tempfile.TemporaryFile": "only where there is no memfd_create(2)",
    "_control.open_for_write: os.close": "somebody put a file in the FIFO's place",
    "_hostend.HostEnd.close: os.pidfd_open": "when an interpreter ends; these are killed",
    "_index._open_to_append: os.chmod": "for a umask that takes even its owner's rights",
    "_index._open_to_append: os.unlink": "somebody put something else there",
    "_jobdir.JobDir._open_spare: os.unlink": "somebody put something else there",
    "_jobdir.StoreDir.mark_active: os.open": "only where a file cannot have two names",
    "_jobdir.StoreDir.mark_active: os.close": "only where a file cannot have two names",
    "_jobdir.read_bytes: os.read #2": "only if the first read is cut short",
    "_launcher._Launcher._end: os.pidfd_open": "its spare may be gone before it looks",
    "_linux.ProcessHandle.exit_status: fcntl.ioctl": "only if init reaps the command at once",
    "_linux._may_inspect: open": "root needs not ask",
    "_linux.tell_of_writes: fcntl.fcntl": "only after ten seconds of silence",
    "_output.read_chunk: os.pread #2": "only when it is trimmed as it is read",
    "_outputcap.Caps._is_watched: os.open": "only after ten seconds of silence",
    "_prune.disk_bytes: Path.stat": "os.DirEntry's own, which cannot be wrapped",
    "_spare.Spare._read_order: os.write": "it may not enter; test_launcher has such a host",
    "_spare.Spare._receive: sock.shutdown": "only after ten seconds",
    "_spare._look_into: os.readlink": "only for a thread that did not begin the launcher",
    "_spawn.Inheritance.put_off: resource.setrlimit #2": "only once the first has failed",
    "_strays.ChildTree.command_lives: os.wait4": "for a monitor that is no subreaper",
}
"""Places that no scenario reaches for sure, with the reason."""
_PURE_PATH: Final = {*dir(PurePath), "group"}
_METHOD_NAMES: Final = {
    **dict.fromkeys({*dir(METHODS["Path"])} - _PURE_PATH, "Path"),
    **dict.fromkeys(("sendall", "recv", "shutdown", "sendmsg", "recvmsg"), "sock"),
}


@attrs.frozen
class Site:
    """One place in the source that makes a system call."""

    module: str
    function: str
    call: str
    number: int
    """Of its kind in the function."""
    lines: tuple[int, int] = attrs.field(eq=False)
    function_line: int = attrs.field(eq=False)
    is_callback: bool = attrs.field(eq=False)

    def __str__(self) -> str:
        number = f" #{self.number}" if self.number > 1 else ""
        return f"{self.module}.{self.function}: {self.call}{number}"


def sites() -> list[Site]:
    """All of them, in the order of the source."""
    found = list(_sites_of("_BOOT", ast.parse(_launch._BOOT)))
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem not in OTHER_MODULES:
            found += _sites_of(path.stem, ast.parse(path.read_text()))
    return found


def unknown_calls() -> set[str]:
    """Names of functions in the source that are on neither list."""
    return {site.call for site in sites()} - {*CALLS, *HARMLESS}


def _sites_of(module: str, tree: ast.Module) -> Iterator[Site]:
    counts: dict[tuple[str, str], int] = {}
    for function, line, node, is_callback in _uses(tree, "", 0):
        name = call_name(node)
        if name is None:
            continue
        number = counts[function, name] = counts.get((function, name), 0) + 1
        lines = (node.lineno, node.end_lineno or node.lineno)
        yield Site(module, function, name, number, lines, line, is_callback)


def _uses(node: ast.AST, function: str, line: int) -> Iterator[tuple[str, int, ast.expr, bool]]:
    """What is called, or handed over to be called, and in which function."""
    for child in ast.iter_child_nodes(node):
        inner, at = function, line
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{function}.{child.name}".strip(".")
            at = min([child.lineno, *(each.lineno for each in child.decorator_list)])
        if isinstance(child, ast.Call):
            yield inner, at, child.func, False
            for argument in child.args:
                if isinstance(argument, ast.Attribute) and _is_registration(child.func):
                    yield inner, at, argument, True
        yield from _uses(child, inner, at)


def _is_registration(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and called.attr == "callback"


def call_name(node: ast.expr) -> str | None:
    """``os.open``, ``Path.mkdir``, ``open``; None for what is none of the system's."""
    if isinstance(node, ast.Name):
        return "open" if node.id == "open" else None
    if not isinstance(node, ast.Attribute):
        return None
    receiver, name = ast.unparse(node.value), node.attr
    if receiver in (*MODULES, "subprocess", "tempfile"):
        return f"{receiver}.{name}"
    if receiver in ("libc", "_libc()"):
        return f"libc.{name}"
    if receiver.endswith("_selector"):
        return f"selector.{name}"
    if receiver == "code":  # CodeType.replace()
        return None
    if name in _METHOD_NAMES and isinstance(node.value, (ast.Name, ast.Attribute, ast.BinOp)):
        return f"{_METHOD_NAMES[name]}.{name}"
    return None


def call_of(point: str) -> str:
    """The name of the call that *point* is about."""
    return point.split()[1].partition("@")[0]


def sites_of(point: str, known: list[Site]) -> list[Site]:
    """The place in the source at which *point*, as `faulty` tells it, was reached.

    Of a callback that was handed to a caller's `ExitStack` only the kind is
    known: all those are named.
    """
    call, _, place = point.split()[1].partition("@")
    module, line, *callback = place.split(":")
    alike = [s for s in known if s.call == call and s.is_callback == bool(callback)]
    if callback:
        own = [s for s in alike if s.module == module and s.function_line == int(line)]
        return own or alike
    return [s for s in alike if s.module == module and s.lines[0] <= int(line) <= s.lines[1]]
