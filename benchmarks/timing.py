"""Time something many times, and say it in one line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable


def time_each(act: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of *rounds* calls, after one that does not count."""
    act()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return seconds


def report(figure: str, ours: list[float], bare: list[float] | None, unit: str = "ms") -> None:
    """One JSON line: median, spread, and the ratio to the baseline."""
    scale = 1e3 if unit == "ms" else 1.0
    line: dict[str, object] = {"figure": figure, "unit": unit, **_summary("jobsup", ours, scale)}
    if bare:
        line.update(_summary("bare", bare, scale))
        line["ratio"] = round(statistics.median(ours) / statistics.median(bare), 2)
    print(json.dumps(line), flush=True)


def _summary(who: str, values: list[float], scale: float) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{who}_median": round(statistics.median(ordered) * scale, 3),
        f"{who}_p95": round(ordered[int(0.95 * (len(ordered) - 1))] * scale, 3),
        "n": len(ordered),
    }
