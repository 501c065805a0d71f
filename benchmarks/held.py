"""Many commands at once that do nothing, and the processes that supervise them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import jobsup
from benchmarks.bench import TIMEOUT, Bench, cancel_all
from benchmarks.peers import Peer
from benchmarks.processes import descendants, supervisors
from benchmarks.programs import SLEEPER
from jobsup import JobStore

_HOST: Final = """
import sys, jobsup
store = jobsup.JobStore(sys.argv[1])
for _ in range(int(sys.argv[2])):
    store.start(sys.argv[3:])
"""


@contextmanager
def held_jobs(bench: Bench, count: int) -> Iterator[set[int]]:
    """The pids of what supervises *count* jobs, the process that started them gone.

    To be called within `subreaper`.
    """
    store = bench.store(f"held-{time.monotonic_ns()}")
    before = descendants()
    try:
        run_python(_HOST, str(store.root), str(count), *SLEEPER)
        yield _settled(before, store)
    finally:
        cancel_all(store)


def _settled(before: set[int], store: JobStore) -> set[int]:
    """Once what belongs to the host alone has seen that it is gone."""
    monitors = {job.status().monitor for job in store.list()}
    deadline = time.monotonic() + 5.0
    while True:
        found = supervisors(descendants() - before, SLEEPER)
        if len(found) <= len(monitors) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@contextmanager
def held_by(peer: Peer) -> Iterator[set[int]]:
    """Likewise of a peer, which holds as many as it was made for."""
    before = descendants()
    try:
        with peer:
            for _ in range(peer.count):
                peer.start()
            yield supervisors(descendants() - before, peer.argv)
    finally:
        _kill(lambda: descendants() - before)


def _kill(left: Callable[[], set[int]]) -> None:
    """All of them, until they are zombies.  They are below this process, which reaps none now."""
    deadline = time.monotonic() + TIMEOUT
    while pids := supervisors(left(), []):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still there: {sorted(pids)[:10]}")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def run_python(program: str, *arguments: str) -> str:
    """What a Python program prints that finds jobsup where this one did."""
    paths = [str(Path(jobsup.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout=10 * TIMEOUT,
        check=True,
    ).stdout
