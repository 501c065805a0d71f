"""What many jobs take that run and say nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Final

import attrs

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.held import held_by, held_jobs
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.conmon import Conmon
from benchmarks.processes import Spent, per_job, subreaper
from benchmarks.programs import SLEEPER

_WAKE_UP_SECONDS: Final = 5.0


def bench_memory(bench: Bench) -> Iterator[Figure]:
    """PSS of all that supervises, for each running job, the process that started them gone."""
    count = bench.pick(200, 4)
    others: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with subreaper():
        ours = _memory(held_jobs(bench, count), count)
        for kind in PEERS:
            if why := kind.missing():
                missing[kind.name] = why
                continue
            peer = kind(bench.place(f"memory-{kind.name}"), SLEEPER, count)
            others[kind.name] = _memory(held_by(peer), count)
    yield Figure(
        "memory",
        f"memory per running job beyond the command, {count} jobs",
        "MiB",
        ours,
        others,
        missing,
        bench.target(Target(at_most=0.8)),
        notes={"all": "PSS of all supervising processes, divided by the jobs"},
    )


def _memory(held: AbstractContextManager[set[int]], count: int) -> list[float]:
    with held as pids:
        return [per_job(pids, count)]


def bench_idle(bench: Bench) -> Iterator[Figure]:
    """CPU time and wake-ups of silent jobs' supervisors, conmon's beside ours at the same time."""
    count = bench.pick(1000, 4)
    missing = {Conmon.name: why} if (why := Conmon.missing()) else {}
    with subreaper(), ExitStack() as on_exit:
        contenders = {"jobsup": on_exit.enter_context(held_jobs(bench, count))}
        if not missing:
            conmon: Peer = Conmon(bench.place("idle-conmon"), SLEEPER, count)
            contenders[Conmon.name] = on_exit.enter_context(held_by(conmon))
        time.sleep(bench.pick(20, 1))  # until monitors look as seldom as they ever do
        # A minute: the longest that a monitor naps, so each wakes in it.
        spent = _watch(contenders, float(bench.pick(60, 1)))
    cpu = {name: [one.per_cent_of_core] for name, one in spent.items()}
    yield Figure(
        "idle-cpu",
        f"CPU of {count} idle supervised jobs",
        "% of a core",
        cpu.pop("jobsup"),
        cpu,
        missing,
        bench.target(Target(at_most=1)),
    )
    wakes = {name: [one.wake_ups_each(count)] for name, one in spent.items()}
    yield Figure(
        "idle-wakes",
        f"wake-ups per idle job in {_WAKE_UP_SECONDS:g} s, {count} jobs",
        "wake-ups",
        wakes.pop("jobsup"),
        wakes,
        missing,
        bench.target(Target(at_most=1)),
    )


@attrs.frozen
class _Window:
    """What was spent in a stretch of time."""

    spent: Spent
    seconds: float

    @property
    def per_cent_of_core(self) -> float:
        return self.spent.cpu_ns / 1e9 / self.seconds * 100

    def wake_ups_each(self, count: int) -> float:
        return self.spent.wake_ups / count / self.seconds * _WAKE_UP_SECONDS


def _watch(contenders: dict[str, set[int]], seconds: float) -> dict[str, _Window]:
    """Each over a window of its own, as to read a thousand processes takes a while."""
    before = {name: (time.monotonic(), Spent.by(pids)) for name, pids in contenders.items()}
    time.sleep(seconds)
    windows = {}
    for name, pids in contenders.items():
        begun, then = before[name]
        now = Spent.by(pids)
        spent = Spent(now.cpu_ns - then.cpu_ns, now.wake_ups - then.wake_ups)
        windows[name] = _Window(spent, time.monotonic() - begun)
    return windows
