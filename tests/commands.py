"""The cast: programs that jobs run, as argument vectors.

Each ends by itself within two minutes, whatever becomes of the test. A command
that is given a gate tells it, in one line of words, when it is where the test
wants it: its own pid and those of the processes it made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Protocol

LIFE_SECONDS = 100

_PRELUDE = f"""
import os, signal, sys, time

def live():
    "End by alarm(2), which exec keeps and fork does not hand down."
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.alarm({LIFE_SECONDS})

def tell(path, *words):
    if path:
        with open(path, "wb", buffering=0) as gate:
            gate.write(" ".join(map(str, words)).encode() + b"\\n")

def wait_for(path):
    if path:
        with open(path, "rb", buffering=0) as gate:
            gate.read(1)

def fork(body, *arguments):
    "A child that does *body* and ends; its pid."
    pid = os.fork()
    if pid == 0:
        try:
            live()
            body(*arguments)
        finally:
            os._exit(0)
    return pid

def sleep(*_):
    while True:
        signal.pause()

live()
"""


class Gate(Protocol):
    """What commands know of `conftest.Gate`."""

    told: Path
    opened: Path


def python(body: str, *arguments: object) -> list[str]:
    """A Python program with the helpers above at hand, and sys.argv[1:]."""
    return [sys.executable, "-I", "-S", "-c", _PRELUDE + body, *map(str, arguments)]


def _told(gate: Gate | None) -> str:
    return str(gate.told) if gate else ""


def _opened(gate: Gate | None) -> str:
    return str(gate.opened) if gate else ""


def sleeper(gate: Gate | None = None) -> list[str]:
    """Sleeps; tells its pid."""
    return python("tell(sys.argv[1], os.getpid()); sleep()", _told(gate))


def exits_with(code: int, when_opened: Gate | None = None) -> list[str]:
    """Exits with *code*, at once or when the gate is opened."""
    return python("wait_for(sys.argv[2]); os._exit(int(sys.argv[1]))", code, _opened(when_opened))


def dies_of(signum: int, when_opened: Gate | None = None) -> list[str]:
    """Kills itself with *signum*, at once or when the gate is opened."""
    body = """
wait_for(sys.argv[2])
signum = int(sys.argv[1])
if signum not in (signal.SIGKILL, signal.SIGSTOP):
    signal.signal(signum, signal.SIG_DFL)
os.kill(os.getpid(), signum)
sleep()
"""
    return python(body, int(signum), _opened(when_opened))


def stubborn(gate: Gate | None = None, ignored: Iterable[int] = (SIGTERM,)) -> list[str]:
    """Ignores SIGTERM; tells its pid once it does."""
    body = """
for number in sys.argv[2:]:
    signal.signal(int(number), signal.SIG_IGN)
tell(sys.argv[1], os.getpid())
sleep()
"""
    return python(body, _told(gate), *map(int, ignored))


def listener(gate: Gate, signals: Iterable[int]) -> list[str]:
    """Prints the name of each of *signals* as it comes and lives on; tells its pid."""
    body = """
def hear(number, _):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
for number in sys.argv[2:]:
    signal.signal(int(number), hear)
tell(sys.argv[1], os.getpid())
sleep()
"""
    return python(body, _told(gate), *map(int, signals))


def polite(code: int, gate: Gate | None = None, on: int = SIGTERM) -> list[str]:
    """Exits with *code* when it gets SIGTERM; tells its pid."""
    body = """
signal.signal(int(sys.argv[3]), lambda *_: os._exit(int(sys.argv[2])))
tell(sys.argv[1], os.getpid())
sleep()
"""
    return python(body, _told(gate), code, int(on))


def forker(gate: Gate, children: int = 3, stubborn: bool = False) -> list[str]:
    """Has children in its group and one grandchild in a session of its own; tells all pids."""
    body = """
read, write = os.pipe()

def leave():
    os.setsid()
    os.write(write, b"!")
    sleep()

def beget():
    os.write(write, b"%d " % fork(leave))
    sleep()

if sys.argv[3]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [fork(sleep) for _ in range(int(sys.argv[2]))]
pids.append(fork(beget))
text = b""
while b"!" not in text or b" " not in text:
    text += os.read(read, 100)
pids.append(int(text.replace(b"!", b"")))
tell(sys.argv[1], os.getpid(), *pids)
sleep()
"""
    return python(body, _told(gate), children, "stubborn" if stubborn else "")


def daemonizer(gate: Gate, code: int = 0, until: Gate | None = None) -> list[str]:
    """Double fork, setsid(2), and the command exits; tells the daemon's pid.

    The daemon sleeps, or lives until the gate *until* is opened.
    """
    body = """
def serve():
    tell(sys.argv[1], os.getpid())
    wait_for(sys.argv[3]) if sys.argv[3] else sleep()

def go_between():
    os.setsid()
    fork(serve)

os.waitpid(fork(go_between), 0)
os._exit(int(sys.argv[2]))
"""
    return python(body, _told(gate), code, _opened(until))


def chatterbox(lines: int, width: int = 100, gate: Gate | None = None) -> list[str]:
    """Writes numbered lines of *width* bytes as fast as it can, then ends when the gate opens."""
    body = """
count, width = int(sys.argv[1]), int(sys.argv[2])
block = []
for number in range(count):
    block.append((b"%d " % number).ljust(width - 1, b".") + b"\\n")
    if len(block) == 1000 or number == count - 1:
        data = b"".join(block)
        while data:
            data = data[os.write(1, data):]
        block = []
tell(sys.argv[3], os.getpid())
wait_for(sys.argv[4])
"""
    return python(body, lines, width, _told(gate), _opened(gate))


def says(text: str | bytes, gate: Gate | None = None) -> list[str]:
    """Writes *text*, tells its pid, and ends when the gate is opened."""
    body = """
os.write(1, bytes.fromhex(sys.argv[1]))
tell(sys.argv[2], os.getpid())
wait_for(sys.argv[3])
"""
    data = text.encode() if isinstance(text, str) else text
    return python(body, data.hex(), _told(gate), _opened(gate))


def signal_names(text: str) -> list[Signals]:
    """What a `listener` printed."""
    return [Signals[line] for line in text.split()]
