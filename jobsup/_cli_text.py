"""What people are shown of a job: words, lines, and a table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Final

from jobsup import JobRecord, JobSpec, JobState
from jobsup._cli_views import Seen, duration_of, errno_name, signal_name, view

SHORT: Final = 6
"""Characters of a job's id that people are shown."""

_STYLES: Final = {
    "succeeded": "green",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "damaged": "red",
    "cancelled": "yellow",
    "timed-out": "yellow",
    "running": "cyan",
}


def complain(what: object) -> None:
    """One line on stderr."""
    with suppress(OSError):
        print(f"jobsup: {one_line(str(what))}", file=sys.stderr, flush=True)


@contextmanager
def progress(doing: str, *, hidden: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What to call with the number of jobs done and of all: a line on stderr, if a person sees it.

    It is wiped out in the end.
    """
    if hidden or not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        with suppress(OSError):
            share = 100 * done // total if total else 100
            print(
                f"\r{doing} {done} of {total} jobs, {share} %", end="", file=sys.stderr, flush=True
            )

    try:
        yield show
    finally:
        with suppress(OSError):
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # erase to the end of the line


def one_line(text: str) -> str:
    """*text* without anything that could move a cursor or break a line."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that was no UTF-8.  PEP 383
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def command_line(spec: JobSpec) -> str:
    return one_line(shlex.join(spec.argv))


def short(seconds: float | None) -> str:
    """``42s``, ``5m 3s``, ``2h 10m``, ``3d 4h``: the two largest units."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit, below, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit} {rest}{small}" if rest else f"{whole // size}{unit}"
    return f"{whole}s" if whole or not seconds else f"{seconds:.1f}s"


def in_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def how_it_exited(record: JobRecord) -> str:
    if record.signal is not None:
        return signal_name(record.signal)
    return "-" if record.exit_code is None else str(record.exit_code)


def survivor_lines(record: JobRecord) -> list[str]:
    """Each process that could not be killed."""
    return [
        f"pid {survivor.pid} ({one_line(survivor.command)}), uid {survivor.uid}, "
        f"state {survivor.state}"
        + (f": {errno_name(survivor.errno)}" if survivor.errno is not None else "")
        for survivor in record.survivors
    ]


def details(seen: Seen) -> str:
    """One job, as `jobsup status` shows it."""
    fields = view(seen, live=True)
    spec, record = seen.spec, seen.record
    rows: list[tuple[str, object]] = [("job", seen.job.id), ("damaged", seen.error)]
    if spec:
        rows += [
            ("name", spec.name),
            ("command", command_line(spec)),
            ("directory", spec.cwd),
            ("labels", ", ".join(f"{key}={text}" for key, text in spec.labels.items())),
            ("time limit", spec.timeout is not None and short(spec.timeout)),
            ("stop plan", spec.stop),
        ]
    if record:
        rows += [
            ("state", record.state.value if record.outcome is None else f"ended, {seen.word}"),
            ("because", record.reason),
            ("exit", record.command_exited and how_it_exited(record)),
            ("started", record.started_at and _local(record.started_at)),
            ("ended", record.ended_at and _local(record.ended_at)),
            ("ran for", short(duration_of(record))),
            ("pid", record.state is not JobState.ENDED and fields["pid"]),
            ("processes", fields.get("processes")),
            ("memory", "rss_bytes" in fields and in_bytes(fields["rss_bytes"])),
            ("peak memory", record.usage and in_bytes(record.usage.peak_rss_bytes)),
            ("CPU", fields["cpu_seconds"] is not None and f"{fields['cpu_seconds']:.2f}s"),
            ("output", _output(record)),
            ("adopted", record.adoptions and f"{record.adoptions} times"),
            ("unproven", record.proved is False and "an escaped process may have been missed"),
            ("note", record.note),
            *(("alive", line) for line in survivor_lines(record)),
        ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(
        f"{label:{width}}  {one_line(str(value))}"
        for label, value in rows
        if value not in (None, "", False)
    )


def _age(time: datetime) -> float:
    return max(0.0, (datetime.now(timezone.utc) - time).total_seconds())


def _local(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z} ({short(_age(time))} ago)"


def _output(record: JobRecord) -> str:
    lost = record.output_lost_bytes
    return in_bytes(record.output_bytes) + (f", {in_bytes(lost)} of it dropped" if lost else "")


_HEADER: Final = ("ID", "NAME", "STATE", "EXIT", "AGE", "TIME", "COMMAND")


def _row(seen: Seen) -> tuple[str, ...]:
    spec, record = seen.spec, seen.record
    word = seen.word
    if record and record.reason:
        word += f" ({record.reason})"
    return (
        seen.job.id[-SHORT:],
        (spec and spec.name) or "",
        word,
        how_it_exited(record) if record and record.command_exited else "",
        short(_age(record.created_at)) if record else "",
        short(duration_of(record)) if record else "",
        one_line(seen.error) if seen.error else command_line(spec) if spec else "",
    )


def print_table(jobs: Iterable[Seen]) -> None:
    """By rich on a terminal; elsewhere plain and uncut, so that grep(1) and awk(1) see it all."""
    rows = [(seen.word, _row(seen)) for seen in jobs]
    if not sys.stdout or not sys.stdout.isatty():
        _print_plain([_HEADER, *(row for _, row in rows)])
        return
    from rich.console import Console  # noqa: PLC0415 - 60 ms that only a table needs
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in _HEADER:
        table.add_column(title, no_wrap=title != "COMMAND", overflow="ellipsis")
    for word, row in rows:
        *cells, command = (Text(cell) for cell in row)
        cells[2].stylize(_STYLES.get(word, ""))
        command.no_wrap, command.overflow = True, "ellipsis"
        table.add_row(*cells, command)
    Console().print(table)


def _print_plain(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
