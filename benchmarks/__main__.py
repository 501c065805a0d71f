"""Run all: ``python -m benchmarks [--rounds N]``. JSON lines, the first names the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile

from benchmarks import bench_latency, bench_scale
from jobsup import JobStore, __version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="per figure (default 30)")
    parser.add_argument("--jobs", type=int, default=50, help="at once (default 50)")
    given = parser.parse_args()
    machine = {
        "jobsup": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(machine))
    with tempfile.TemporaryDirectory() as directory:
        store = JobStore(directory)
        bench_latency.bench_start(store, given.rounds)
        bench_latency.bench_start_to_ended(store, given.rounds)
        bench_latency.bench_cancel(store, given.rounds)
        bench_latency.bench_status(store, given.rounds * 10)
        bench_scale.bench_memory(store, given.jobs)
        bench_scale.bench_idle_cpu(store, given.jobs, seconds=10.0)
        bench_scale.bench_list(store, given.rounds)


if __name__ == "__main__":
    main()
