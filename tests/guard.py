"""Who still uses a directory; and a guard that ends them when the test that should has died.

Daemons forget the deadline, the session and at times the environment that they
were started with, but not where they work. Run as a program, with the directory
on its standard input: waits there for end-of-file, 110 seconds at most.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

LIFE_SECONDS = 110


def users_of(directory: str) -> set[int]:
    """Every other process that works in, was told of or has open something in *directory*."""
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return {pid for pid in pids - {os.getpid()} if _uses(pid, directory)}


def _uses(pid: int, directory: str) -> bool:
    with suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if directory.encode() in file.read():
                return True
        links = ["cwd", *(f"fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
        for link in links:
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/{link}").startswith(directory):
                    return True
    return False


def kill_users_of(directory: str) -> None:
    for pid in users_of(directory):
        with suppress(OSError):
            fd = os.pidfd_open(pid)  # held first, looked at again second
            if _uses(pid, directory):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def main() -> None:
    os.setsid()  # what ends the tests does not end their guard
    directory = sys.stdin.readline().strip()
    select.select([sys.stdin], [], [], LIFE_SECONDS)
    while users_of(directory):
        kill_users_of(directory)


if __name__ == "__main__":
    main()
