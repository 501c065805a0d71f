"""What tests of the kill know for themselves, without asking jobsup's own books.

C programs of our own run under a name that nothing else has: a process keeps
it as a zombie too, whatever it does to its session, parent or environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from signal import SIGKILL

import pytest

from jobsup import ProcessIdentity
from jobsup._identity import identify, is_alive, send_verified
from jobsup._platform import processes

DATA = Path(__file__).parent / "data"


def compiled(source: str, into: Path, *flags: str) -> Path:
    """The program made of one of the C sources beside the tests."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("needs cc (Debian: gcc and libc6-dev)")
    program = into / Path(source).stem
    warnings = ("-Wall", "-Wextra", "-Werror")
    words = ("-O1", *warnings, "-pthread", *flags)
    subprocess.run([cc, *words, "-o", program, DATA / source], check=True)
    return program


def named(command: str) -> set[int]:
    """The pids of all processes of that name, zombies among them."""
    return {row.pid for row in processes() if row.command == command}


def living(pids: Iterable[int]) -> set[ProcessIdentity]:
    """Those that are no zombies.  A process may live though its first thread is one."""
    found = {identity for pid in pids if (identity := identify(pid))}
    return {identity for identity in found if is_alive(identity)}


def tree_below(root: ProcessIdentity | None) -> set[ProcessIdentity]:
    """Every process below *root*, and itself, zombies among them."""
    assert root is not None
    rows = list(processes())
    pids = {root.pid}
    while more := {row.pid for row in rows if row.parent in pids} - pids:
        pids |= more
    return {identity for pid in pids if (identity := identify(pid))}


def still_there(identities: Iterable[ProcessIdentity]) -> set[ProcessIdentity]:
    """Those not yet reaped."""
    return {identity for identity in identities if identify(identity.pid) == identity}


def kill_all(pids: Iterable[int]) -> None:
    """What a failing test left."""
    for identity in living(pids):
        send_verified(identity, SIGKILL)


UNPRIVILEGED = 65534
"""A user id that is nobody's in particular."""
_MAY_SEARCH = {"dac_read_search": 1 << 2, "dac_override": 1 << 1}
"""capabilities(7): which files a process may use, not which processes it may signal."""


def client(script: str, *words: object, home: Path) -> str:
    """What a Python program prints, run in *home* by a user who may not signal others.

    That user may search all directories, and so finds this interpreter wherever it is.
    """
    argv = [sys.executable, "-c", script, *map(str, words)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv (Debian: util-linux)")
        os.chown(home, UNPRIVILEGED, UNPRIVILEGED)
        kept = f"-all,+{_capability()}"
        argv = [
            *("setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"),
            *(f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}", "--"),
            *argv,
        ]
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(
        argv, cwd=home, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return done.stdout


def _capability() -> str:
    """The least that lets root's substitute find its way, of what root has here."""
    status = Path("/proc/self/status").read_text()
    [held] = re.findall(r"^CapBnd:\s+([0-9a-f]+)$", status, re.MULTILINE)
    for name, bit in _MAY_SEARCH.items():
        if int(held, 16) & bit:
            return name
    pytest.skip("needs root with the capability to search all directories")
