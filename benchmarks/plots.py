"""Figures as pictures, for the README: SVG, by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import SCALES, Figure

_OURS: Final = "#1f77b4"
_THEIRS: Final = "#9a9a9a"
_STYLE: Final = {
    "svg.hashsalt": "jobsup",  # the same figures give the same file
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def plot(figures: Iterable[Figure], directory: Path, machine: Mapping[str, object]) -> list[Path]:
    """The pictures that can be made of what was measured."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    directory.mkdir(parents=True, exist_ok=True)
    known = {figure.key: figure for figure in figures}
    foot = (
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, "
        f"Python {machine['python']}{', quick run' if machine['quick'] else ''}"
    )
    made = []
    with matplotlib.rc_context(_STYLE):
        for key, figure in known.items():
            if key in ("start", "first-instruction"):
                made.append(_spread(figure, directory / f"{key}.svg", foot))
            elif key == "memory" or key.startswith("rate-"):
                made.append(_bars(figure, directory / f"{key}.svg", foot))
    return made


def _contenders(figure: Figure) -> list[tuple[str, list[float]]]:
    """Best last, which is at the top; values in the figure's unit."""
    scale = SCALES.get(figure.unit, 1.0)
    all_of_them = {"jobsup": figure.ours, **figure.others}
    scaled = [(name, [value * scale for value in values]) for name, values in all_of_them.items()]
    return sorted(scaled, key=lambda item: _median(item[1]), reverse=not figure.more_is_better)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _axes(count: int) -> tuple[Any, Any]:
    pyplot = import_module("matplotlib.pyplot")
    picture, axes = pyplot.subplots(figsize=(7, 1.3 + 0.42 * count), layout="constrained")
    return picture, axes


def _spread(figure: Figure, path: Path, foot: str) -> Path:
    """The middle half as a box, 5 to 95 % as a line; the axis is logarithmic."""
    contenders = _contenders(figure)
    picture, axes = _axes(len(contenders))
    boxes = axes.boxplot(
        [values for _, values in contenders],
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.55,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for patch, (name, _) in zip(boxes["boxes"], contenders, strict=True):
        patch.set_facecolor(_OURS if name == "jobsup" else _THEIRS)
    axes.set_yticks(range(1, len(contenders) + 1), [name for name, _ in contenders])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(_few_minor_ticks)
    for row, (_, values) in enumerate(contenders, start=1):
        axes.annotate(
            _number(_median(values)),
            (sorted(values)[int(0.95 * (len(values) - 1))], row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.margins(x=0.1)
    axes.set_xlabel(f"{figure.unit}, median in the box, line from 5 to 95 % (log axis)")
    return _saved(picture, axes, figure, path, foot)


def _few_minor_ticks(value: float, _: int | None = None) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _bars(figure: Figure, path: Path, foot: str) -> Path:
    """Medians from zero on, with the range of the rounds where there were several."""
    contenders = _contenders(figure)
    picture, axes = _axes(len(contenders))
    medians = [_median(values) for _, values in contenders]
    errors = [
        [median - min(values) for median, (_, values) in zip(medians, contenders, strict=True)],
        [max(values) - median for median, (_, values) in zip(medians, contenders, strict=True)],
    ]
    colours = [_OURS if name == "jobsup" else _THEIRS for name, _ in contenders]
    several = any(len(values) > 1 for _, values in contenders)
    bars = axes.barh(
        [name for name, _ in contenders],
        medians,
        xerr=errors if several else None,
        color=colours,
        height=0.6,
    )
    axes.bar_label(bars, [_number(median) for median in medians], padding=6)
    axes.margins(x=0.12)
    axes.set_xlabel(f"{figure.unit}, median and range" if several else figure.unit)
    return _saved(picture, axes, figure, path, foot)


def _saved(picture: Any, axes: Any, figure: Figure, path: Path, foot: str) -> Path:
    better = "more is better" if figure.more_is_better else "less is better"
    axes.set_title(f"{figure.name} ({better})", loc="left", fontsize=11)
    picture.supxlabel(foot, x=0.99, ha="right", fontsize=7, color="#666666")
    picture.savefig(path, metadata={"Date": None})
    import_module("matplotlib.pyplot").close(picture)
    return path
