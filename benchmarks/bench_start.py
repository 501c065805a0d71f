"""From the call to a running command."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from benchmarks.bench import TIMEOUT, Bench
from benchmarks.figures import Figure, Target
from benchmarks.held import run_python
from benchmarks.peers import PEERS
from benchmarks.processes import subreaper
from benchmarks.programs import TRUE, Children, children, compiled, fifo
from benchmarks.timing import Act, interleave, timed
from jobsup import JobStore

_REST_SECONDS: Final = 0.01
"""For a contender's books on a command that ended, before the next one's turn."""
_AT_ONCE: Final = 8
"""More than a contender whose books are slow has open at a time."""

_FIRST: Final = """
import subprocess, sys, time
import jobsup
store = jobsup.JobStore(sys.argv[1])
begun = time.perf_counter()
if sys.argv[2] == "jobsup":
    job = store.start(["true"])
else:
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL, start_new_session=True)
print(time.perf_counter() - begun)
job.wait(60) if sys.argv[2] == "jobsup" else child.wait(60)
"""


def bench_start(bench: Bench) -> Iterator[Figure]:
    """The call of start(), with whatever it keeps warm, until the command was executed."""
    yield _starts(bench, "start", "start() of true, warm, after a rest", bench.pick(200, 3), 1)
    rounds, row = bench.pick(10, 1), bench.pick(20, 3)
    yield _starts(bench, "start-in-a-row", f"start() of true, warm, {row} in a row", rounds, row)


def _starts(bench: Bench, key: str, text: str, rounds: int, row: int) -> Figure:
    store = bench.store("start")
    missing = {peer.name: why for peer in PEERS if (why := peer.missing())}
    notes = {"Popen": "`subprocess.Popen` has returned", "jobsup": "start() has returned: exec'd"}
    with subreaper(), children() as bare, ExitStack() as on_exit:
        acts = {"jobsup": _start_job(store), "Popen": _start_child(bare)}
        for kind in PEERS:
            if kind.name not in missing:
                place, count = bench.place(f"{key}-{kind.name}"), (rounds + 1) * row
                peer = kind(place, TRUE, count, _AT_ONCE)
                acts[kind.name] = on_exit.enter_context(peer).start
                notes[kind.name] = kind.what
        rows = {name: _in_a_row(act, row) for name, act in acts.items()}
        taken = interleave(rows, rounds, rest=_REST_SECONDS)
    return Figure(
        key,
        text,
        "ms",
        taken.pop("jobsup"),
        taken,
        missing,
        Target(at_most=2, no_worse_than=("task-spooler", "s6", "conmon")),
        notes=notes,
    )


def _in_a_row(act: Act, times: int) -> Act:
    return lambda: statistics.median(act() for _ in range(times))


def _start_job(store: JobStore) -> Act:
    def act() -> float:
        begun = time.perf_counter()
        job = store.start(TRUE)
        seconds = time.perf_counter() - begun
        job.wait(TIMEOUT)
        return seconds

    return act


def _start_child(bare: Children) -> Act:
    def act() -> float:
        begun = time.perf_counter()
        child = bare.start(TRUE)
        seconds = time.perf_counter() - begun
        child.wait(TIMEOUT)
        return seconds

    return act


def bench_first_start(bench: Bench) -> Iterator[Figure]:
    """The first start() of a fresh process, jobsup imported but nothing warm."""
    root = str(bench.store("first-start").root)

    def first(who: str) -> float:
        return float(run_python(_FIRST, root, who))

    acts = {"jobsup": lambda: first("jobsup"), "Popen": lambda: first("Popen")}
    taken = interleave(acts, bench.pick(30, 2))
    yield Figure(
        "first-start",
        "first start() in a process",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=Target(at_most=40),
    )


def bench_first_instruction(bench: Bench) -> Iterator[Figure]:
    """The call until the command's own first instruction, by one clock."""
    store, rounds = bench.store("start"), bench.pick(200, 3)
    program = str(compiled("stamp.c", bench.directory))
    with fifo(bench, "first-instruction") as told, children() as bare:
        argv = [program, told.path]

        def job() -> float:
            begun = time.monotonic()
            started = store.start(argv)
            at = told.read_seconds()
            started.wait(TIMEOUT)
            return at - begun

        def child() -> float:
            begun = time.monotonic()
            started = bare.start(argv)
            at = told.read_seconds()
            started.wait(TIMEOUT)
            return at - begun

        taken = interleave({"jobsup": job, "Popen": child}, rounds, rest=_REST_SECONDS)
    yield Figure(
        "first-instruction",
        "command's first instruction after the call",
        "ms",
        taken.pop("jobsup"),
        taken,
        target=Target(times_baseline=2),
    )


def bench_start_to_ended(bench: Bench) -> Iterator[Figure]:
    """What supervision costs a command that does nothing."""
    store = bench.store("start")

    def child() -> None:
        bare.start(TRUE).wait(TIMEOUT)

    with children() as bare:
        acts = {"jobsup": timed(lambda: store.start(TRUE).wait(TIMEOUT)), "Popen": timed(child)}
        taken = interleave(acts, bench.pick(100, 3))
    yield Figure("start-to-ended", "start() to ended", "ms", taken.pop("jobsup"), taken)
