"""All figures of a run in one table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from benchmarks.figures import Figure, Summary

_HEAD: Final = ("figure", "unit", "median", "p95", "ratio", "target", "met")
_VERDICTS: Final = {True: "met", False: "MISSED", None: "-"}


def table(figures: Iterable[Figure], skipped: Iterable[tuple[str, str]]) -> str:
    """Ours first, below it each other one with our median in multiples of its own."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for figure in figures:
        rows += _rows_of(figure)
    rows += [(name, "", "", "", "", why, "-") for name, why in skipped]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(_line(row, widths) for row in rows)


def _rows_of(figure: Figure) -> Iterable[tuple[str, ...]]:
    target = str(figure.target) if figure.target else "-"
    own = (figure.name, figure.unit, *_numbers(figure.summary), "")
    yield (*own, target, _VERDICTS[figure.met()])
    for name, summary in figure.summaries.items():
        label = "  baseline: " if name == figure.baseline else "  peer: "
        ratio = figure.ratio(name)
        times = "-" if ratio is None else f"{ratio:.2f}x"
        yield (label + name, "", *_numbers(summary), times, "", "")
    for name, why in figure.missing.items():
        yield (f"  peer: {name}", "", "", "", "", why, "")


def _numbers(summary: Summary) -> tuple[str, str]:
    return _number(summary.median), _number(summary.p95) if summary.n > 1 else "n=1"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if column in (2, 3, 4) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
