"""Run all: ``python -m benchmarks``.

JSON lines, of which the first names the machine, and a table at the end. A
missed target does not fail the run: these are no tests. Peers are used where
they are installed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks import (
    bench_cli,
    bench_end,
    bench_look,
    bench_prune,
    bench_rate,
    bench_resident,
    bench_start,
    plots,
)
from benchmarks.bench import Bench, SkipError, open_bench
from benchmarks.figures import Figure
from benchmarks.machine import machine
from benchmarks.table import table

ROWS: Final[Mapping[str, Callable[[Bench], Iterator[Figure]]]] = {
    "import": bench_cli.bench_import,
    "start": bench_start.bench_start,
    "first-start": bench_start.bench_first_start,
    "first-instruction": bench_start.bench_first_instruction,
    "start-to-ended": bench_start.bench_start_to_ended,
    "wait": bench_end.bench_wait,
    "cancel": bench_end.bench_cancel,
    "cancel-tree": bench_end.bench_cancel_tree,
    "status": bench_look.bench_status,
    "tail": bench_look.bench_tail,
    "rate": bench_rate.bench_rate,
    "memory": bench_resident.bench_memory,
    "idle": bench_resident.bench_idle,
    "list": bench_look.bench_list,
    "cli": bench_cli.bench_cli,
    "prune": bench_prune.bench_prune,
}
PLOTS: Final = Path(__file__).parent / "plots"


def main() -> int:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # tidy up then too
    with tempfile.TemporaryDirectory(prefix="jobsup-bench-", ignore_cleanup_errors=True) as scratch:
        about = {**machine(Path(scratch)), "quick": given.quick}
        print(json.dumps(about), flush=True)
        run = Run()
        with open_bench(scratch, given.quick) as bench:
            for name in ROWS:
                if name in (given.only or ROWS):
                    run.row(name, bench)
    print(table(run.figures, run.skipped), flush=True)
    if given.plot:
        for path in plots.plot(run.figures, given.plot, about):
            print(path)
    return 1 if run.has_failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ROWS, help=", ".join(ROWS))
    parser.add_argument(
        "--quick", action="store_true", help="small counts, which prove nothing but that it works"
    )
    parser.add_argument(
        "--plot",
        nargs="?",
        type=Path,
        const=PLOTS,
        metavar="DIR",
        help=f"write pictures too (default {PLOTS})",
    )
    given = parser.parse_args()
    if given.plot and not plots.can_plot():
        parser.error("--plot needs matplotlib: pip install 'jobsup[bench]'")
    return given


class Run:
    """What came of the rows so far."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.skipped: list[tuple[str, str]] = []
        self.has_failed = False

    def row(self, name: str, bench: Bench) -> None:
        """Print each figure as it comes; one row that breaks does not take the others along."""
        try:
            for figure in ROWS[name](bench):
                self.figures.append(figure)
                print(json.dumps(figure.to_json()), flush=True)
        except SkipError as error:
            self._leave_out(name, str(error))
        except Exception as error:  # whatever it is: the run says so, and ends with 1
            traceback.print_exc()
            self.has_failed = True
            self._leave_out(name, f"broke: {error}")

    def _leave_out(self, name: str, why: str) -> None:
        self.skipped.append((name, why))
        print(json.dumps({"key": name, "skipped": why}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
