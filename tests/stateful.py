"""A hypothesis state machine that drives the public API from several processes at once.

What it draws does not depend on what comes of it, so that a seed draws the same
again; how the processes interleave is the machine's own affair.
"""

from __future__ import annotations

import shutil
import sys
import time
import zlib
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1
from typing import ClassVar, Final

import attrs
from clients import ClientPool
from history import WAITERS, WORKERS, History
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from model_jobs import ModelJob

MAX_JOBS: Final = 10

workers = st.integers(0, WORKERS - 1)
waiters = st.integers(0, WAITERS - 1)
jobs = st.integers(0, MAX_JOBS - 1)
kinds = st.sampled_from(["plain", "polite", "deaf", "family"])
delays = st.integers(0, 20_000)
"""Microseconds between two steps, so that the second finds the first at any stage of its work."""


@attrs.define
class Stage:
    """Where histories take place, and how many there were."""

    pool: ClientPool
    truth: Path
    folder: Path
    histories: int = 0
    jobs: int = 0
    calls: int = 0
    kills: int = 0
    drawn: int = 0
    """A checksum of what was to be done, whatever came of it."""
    failure: str | None = None
    """The first one; a second try may end otherwise."""


class HistoryMachine(RuleBasedStateMachine):
    """Draws what is done; `History` does it, and checks what comes of it."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self._folder = self.stage.folder / f"history{self.stage.histories}"
        self._folder.mkdir()
        self.stage.histories += 1
        self._history = History(self.stage.pool, self.stage.truth, self._folder)

    def _job(self, number: int) -> ModelJob:
        """Counted from the youngest, with which most happens."""
        known = self._history.jobs
        return known[-1 - number % len(known)]

    def teardown(self) -> None:
        history = self._history
        try:
            if sys.exc_info()[0] is None:
                history.finish()
        finally:
            self.stage.jobs += len(history.jobs)
            self.stage.calls += history.calls
            self.stage.kills += history.kills
            self.stage.drawn = zlib.crc32(history.drawn.encode(), self.stage.drawn)
            self.stage.failure = self.stage.failure or history.failure
            history.close()
        shutil.rmtree(self._folder)

    # -- what may happen -------------------------------------------------------

    @initialize(first=kinds, second=kinds)
    def begin(self, first: str, second: str) -> None:
        for client, kind in enumerate((first, second)):
            self._history.start(client, natural=client, delay=1000, kind=kind, timeout=None)

    @rule(
        client=workers,
        kind=kinds,
        natural=st.integers(0, 3),
        delay=delays,
        timeout=st.sampled_from([None, None, 0.05, 0.5]),
    )
    def start(
        self, client: int, kind: str, natural: int, delay: int, timeout: float | None
    ) -> None:
        if len(self._history.jobs) < MAX_JOBS:
            self._history.start(client, natural=natural, delay=delay, kind=kind, timeout=timeout)

    @rule(job=jobs)
    def release(self, job: int) -> None:
        self._history.release(self._job(job))

    @rule(client=workers, job=jobs, grace=st.sampled_from([None, 0, 0.1]))
    def cancel(self, client: int, job: int, grace: float | None) -> None:
        self._history.call(client, "cancel", self._job(job), grace=grace)

    @rule(client=workers, job=jobs, verb=st.sampled_from(["status", "get", "read"]))
    def look_at(self, client: int, job: int, verb: str) -> None:
        self._history.call(client, verb, self._job(job))

    @rule(client=workers, job=jobs, verb=st.sampled_from(["pause", "resume"]))
    def pause(self, client: int, job: int, verb: str) -> None:
        self._history.call(client, verb, self._job(job))

    @rule(client=workers, job=jobs, signum=st.sampled_from([SIGTERM, SIGUSR1, SIGKILL]))
    def send_signal(self, client: int, job: int, signum: int) -> None:
        self._history.call(client, "send_signal", self._job(job), signum=int(signum))

    @rule(client=workers, verb=st.sampled_from(["ids", "active_ids", "events"]))
    def look_around(self, client: int, verb: str) -> None:
        self._history.call(client, verb)

    @rule(client=workers, keep=st.integers(0, 2))
    def prune(self, client: int, keep: int) -> None:
        self._history.call(client, "prune", keep=keep)

    @rule(client=workers, job=jobs, timeout=st.sampled_from([0.0, 0.02, 0.1]))
    def wait(self, client: int, job: int, timeout: float) -> None:
        self._history.call(client, "wait", self._job(job), timeout=timeout)

    @rule(client=workers, first=jobs, second=jobs, timeout=st.sampled_from([0.0, 0.1]))
    def wait_any(self, client: int, first: int, second: int, timeout: float) -> None:
        some = {id(job): job for job in (self._job(first), self._job(second))}
        self._history.call(client, "wait_any", *some.values(), timeout=timeout)

    @rule(waiter=waiters, job=jobs)
    def wait_long(self, waiter: int, job: int) -> None:
        self._history.wait_long(waiter, self._job(job))

    @rule(job=jobs, delay=delays)
    def kill_monitor(self, job: int, delay: int) -> None:
        time.sleep(delay / 1e6)
        self._history.kill_monitor(self._job(job))

    @rule(client=st.integers(0, WORKERS + WAITERS - 1), delay=delays)
    def kill_client(self, client: int, delay: int) -> None:
        time.sleep(delay / 1e6)
        self._history.kill_client(client)

    @rule(client=workers, delay=delays)
    def kill_launcher(self, client: int, delay: int) -> None:
        time.sleep(delay / 1e6)
        self._history.kill_launcher(client)

    @rule(client=workers)
    def collect(self, client: int) -> None:
        self._history.collect(client)


def run_histories(stage: Stage, number: int, count: int, steps: int) -> None:
    """*count* histories of so many steps, drawn from the seed *number*.

    Raises:
        AssertionError: One of them went wrong; it names the seed.
    """

    class Machine(HistoryMachine):
        pass

    Machine.stage = stage
    # It does not shrink: what depends on who comes first is no smaller the next time.
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=chosen)
    except Exception as error:
        raise AssertionError(f"seed {number}, steps {steps}: {stage.failure or error}") from error
