"""What comes before anything is done: imports, and the command line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks.bench import TIMEOUT, Bench, SkipError
from benchmarks.bench_look import FEW, MANY, few_jobs, many_jobs
from benchmarks.figures import Figure, Target
from benchmarks.held import run_python
from benchmarks.peers.base import beside_python
from benchmarks.timing import Act, interleave, timed

_IMPORT: Final = """
import sys, time
begun = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - begun)
"""


def bench_import(bench: Bench) -> Iterator[Figure]:
    """`import jobsup` in a fresh interpreter, which has its own start behind it."""
    names = {"jobsup": "jobsup", "import asyncio": "asyncio", "import subprocess": "subprocess"}
    acts = {who: _import(module) for who, module in names.items()}
    taken = interleave(acts, bench.pick(30, 2))
    yield Figure(
        "import", "import jobsup", "ms", taken.pop("jobsup"), taken, target=Target(at_most=40)
    )


def _import(module: str) -> Act:
    return lambda: float(run_python(_IMPORT, module))


def bench_cli(bench: Bench) -> Iterator[Figure]:
    """`jobsup list` on the command line, beside an interpreter that does nothing."""
    if any(importlib.util.find_spec(name) is None for name in ("click", "rich")):
        raise SkipError("needs jobsup[cli]")
    script = beside_python("jobsup")
    words = [script] if script else [sys.executable, "-m", "jobsup"]
    many = bench.pick(MANY, 300)
    stores = {FEW: few_jobs(bench), many: many_jobs(bench)}
    for count, store in stores.items():
        acts = {
            "jobsup": _run([*words, "list"], {"JOBSUP_HOME": str(store.root)}),
            "python -c pass": _run([sys.executable, "-c", "pass"], {}),
        }
        taken = interleave(acts, bench.pick(20, 2))
        yield Figure(
            f"cli-list-{'few' if count == FEW else 'many'}",
            f"`jobsup list` on the command line, {count:,} jobs in the store",
            "ms",
            taken.pop("jobsup"),
            taken,
            target=bench.target(Target(at_most=120)),
        )


def _run(words: list[str], environment: Mapping[str, str]) -> Act:
    whole = {**os.environ, **environment}
    return timed(
        lambda: subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=whole,
            timeout=TIMEOUT,
            check=True,
        )
    )
