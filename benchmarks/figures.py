"""A figure: what was measured, beside what, and whether it is as good as it should be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

SCALES: Final = {"ms": 1e3, "us": 1e6}
"""From the seconds that are measured to the unit that is shown; other units are measured as is."""


@attrs.frozen
class Summary:
    """Many values in few.  *p95* is what 19 of 20 values are no worse than."""

    median: float
    p95: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], more_is_better: bool = False) -> Summary:
        ordered = sorted(values, reverse=more_is_better)
        return cls(
            statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], len(values)
        )


@attrs.frozen
class Target:
    """What a median should be.  Limits are in the figure's unit; all that is given must hold."""

    at_most: float | None = None
    at_least: float | None = None
    times_baseline: float | None = None
    """At most so many times the baseline's median."""
    no_worse_than: tuple[str, ...] = ()
    """Peers; one that is not there is no judge."""

    def __str__(self) -> str:
        said = []
        if self.at_most is not None:
            said.append(f"<= {self.at_most:g}")
        if self.at_least is not None:
            said.append(f">= {self.at_least:g}")
        if self.times_baseline is not None:
            said.append(f"<= {self.times_baseline:g}x baseline")
        if self.no_worse_than:
            said.append(f"no worse than {', '.join(self.no_worse_than)}")
        return ", ".join(said)


@attrs.frozen
class Figure:
    """One question, one number, beside the numbers it should be compared with.

    Attributes:
        key: The same in every run, for plots.
        name: What was measured, with its counts.
        unit: One of `SCALES`, in which case all values are seconds, or any other.
        ours: What was measured of jobsup.
        others: Of everybody else; the first is the baseline.
        missing: Who else should be here, and why not.
        target: None where this run measured less than the target speaks of.
        notes: What one should know to read the figure.
    """

    key: str
    name: str
    unit: str
    ours: Sequence[float]
    others: Mapping[str, Sequence[float]] = attrs.field(factory=dict)
    missing: Mapping[str, str] = attrs.field(factory=dict)
    target: Target | None = None
    more_is_better: bool = False
    notes: Mapping[str, str] = attrs.field(factory=dict)

    def _summary(self, values: Sequence[float]) -> Summary:
        scale = SCALES.get(self.unit, 1.0)
        return Summary.of([value * scale for value in values], self.more_is_better)

    @property
    def summary(self) -> Summary:
        return self._summary(self.ours)

    @property
    def summaries(self) -> dict[str, Summary]:
        """Of the others, the baseline first."""
        return {name: self._summary(values) for name, values in self.others.items() if values}

    @property
    def baseline(self) -> str | None:
        return next(iter(self.summaries), None)

    def ratio(self, other: str) -> float | None:
        """Our median in multiples of another's; None where that is 0."""
        theirs = self.summaries[other].median
        return self.summary.median / theirs if theirs else None

    def met(self) -> bool | None:
        """None where there is nothing to judge by."""
        if self.target is None:
            return None
        target, median, others = self.target, self.summary.median, self.summaries
        verdicts = []
        if target.at_most is not None:
            verdicts.append(median <= target.at_most)
        if target.at_least is not None:
            verdicts.append(median >= target.at_least)
        if target.times_baseline is not None and self.baseline:
            verdicts.append(median <= target.times_baseline * others[self.baseline].median)
        for peer in target.no_worse_than:
            if peer in others:
                theirs = others[peer].median
                verdicts.append(median >= theirs if self.more_is_better else median <= theirs)
        return all(verdicts) if verdicts else None

    def to_json(self) -> dict[str, object]:
        """One line of a run."""
        return {
            "key": self.key,
            "figure": self.name,
            "unit": self.unit,
            "jobsup": _rounded(self.summary),
            "others": {name: _rounded(summary) for name, summary in self.summaries.items()},
            "baseline": self.baseline,
            "ratio": _significant(self.ratio(self.baseline)) if self.baseline else None,
            "target": str(self.target) if self.target else None,
            "met": self.met(),
            "missing": dict(self.missing),
            "notes": dict(self.notes),
        }


def _rounded(summary: Summary) -> dict[str, float | None]:
    return {
        "median": _significant(summary.median),
        "p95": _significant(summary.p95),
        "n": summary.n,
    }


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
