"""The commands that only look: list, status, logs, events."""

from __future__ import annotations

import sys
from typing import Final

import click

from jobsup import Job, JobNotFoundError, JobState, JobStore, Outcome
from jobsup import _cli_options as options
from jobsup import _cli_text as text
from jobsup import _cli_views as views
from jobsup._cli_options import ACTIVE, json_option
from jobsup._cli_text import complain
from jobsup._cli_views import print_json

FAILED: Final = 1
_RECENT: Final = 20
_COUNTED: Final = 1000
"""More older jobs than this are not counted: it takes longer than all else."""


@click.command("list")
@click.option("-a", "--all", "every", is_flag=True, help="Every job.")
@click.option("--active", is_flag=True, help="Only jobs that have not ended.")
@click.option("--state", type=click.Choice([state.value for state in JobState]), multiple=True)
@click.option("--outcome", type=click.Choice([item.value for item in Outcome]), multiple=True)
@click.option("--name", help="Jobs of exactly this name.", shell_complete=options.any_job)
@click.option(
    "--label",
    "labels",
    type=options.pair,
    multiple=True,
    metavar="K=V",
    help="Jobs with this label.",
)
@click.option("-n", "limit", type=click.IntRange(min=0), help="The newest N.")
@json_option
@click.pass_obj
def list_(
    store: JobStore,
    /,
    *,
    every: bool,
    active: bool,
    state: tuple[str, ...],
    outcome: tuple[str, ...],
    name: str | None,
    labels: tuple[tuple[str, str], ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Show jobs, newest first.

    Without options: those that have not ended, and the newest 20 of all.
    """
    if active and state:
        raise click.UsageError("--active is a --state; give one of them")
    states = ACTIVE if active else state
    older = ""
    if not (every or states or outcome or name or labels or limit is not None):
        jobs, older = _recent(store)
    else:
        jobs = store.list(
            state=states or None,
            outcome=outcome or None,
            name=name,
            labels=dict(labels),
            limit=limit,
        )
    seen = []
    for job in jobs:
        try:
            seen.append(views.look(job))
        except JobNotFoundError:  # pruned since
            continue
    if as_json:
        print_json([views.view(one) for one in seen])
        return
    text.print_table(seen)
    if older:
        sys.stdout.flush()
        complain(f"{older} older jobs have ended; 'jobsup list --all' shows them")


def _recent(store: JobStore) -> tuple[list[Job], str]:
    """What a person wants to see, and how many jobs were left out, if any."""
    newest = store.list(limit=_COUNTED + 1)
    if len(newest) <= _RECENT:
        return newest, ""
    shown = {job.id: job for job in [*newest[:_RECENT], *store.list(state=ACTIVE)]}
    older = sum(job.id not in shown for job in newest)
    many = f"over {_COUNTED}" if len(newest) > _COUNTED else str(older or "")
    return sorted(shown.values(), key=lambda job: job.id, reverse=True), many


@click.command()
@options.jobs_argument(options.any_job)
@json_option
@click.pass_obj
def status(store: JobStore, /, words: tuple[str, ...], as_json: bool) -> int:
    """Show all that is known of jobs."""
    seen = [views.look(job) for job in options.find(store, words)]
    if as_json:
        print_json([views.view(one, live=True) for one in seen])
    else:
        print("\n\n".join(map(text.details, seen)))
    return FAILED if any(one.error for one in seen) else 0


@click.command()
@click.argument("word", metavar="JOB", shell_complete=options.any_job)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job has ended.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="The last N lines.  [default: all]")
@click.option("--stderr", "of_stderr", is_flag=True, help="The separate stderr instead.")
@json_option
@click.pass_obj
def logs(
    store: JobStore,
    /,
    *,
    word: str,
    following: bool,
    lines: int | None,
    of_stderr: bool,
    as_json: bool,
) -> None:
    """Show what a job wrote, byte for byte.

    Where output was dropped to keep its limit, stderr says how much. With
    --json, one line of JSON a piece.
    """
    from jobsup import _cli_follow as follow  # noqa: PLC0415 - threads and more, for this alone

    job = store.get(word)
    stream: follow.StreamName = "stderr" if of_stderr else "output"
    if of_stderr and not job.spec().separate_stderr:
        raise click.UsageError(
            "this job's stderr is in its output; start it with --stderr separate"
        )
    outlet = follow.JsonLines(stream) if as_json else follow.Plain(1)
    cursor = 0
    if lines is not None:
        tail = job.tail_chunk(lines, stream=stream)
        cursor = tail.cursor
        if tail.data:
            outlet.show(tail.data, tail.cursor, 0, False)
    if following or lines is None:
        follow.copy(job, stream, outlet, cursor=cursor, follow=following)


@click.command()
@click.option("--since", type=click.IntRange(min=0), default=0, help="A cursor that was printed.")
@click.option("-n", "limit", type=click.IntRange(min=1), default=1000, help="At most N.")
@json_option
@click.pass_obj
def events(store: JobStore, since: int, limit: int, as_json: bool) -> None:
    """Show the state changes of all jobs, oldest first.

    The last line, on stderr, is the cursor to go on from.
    """
    page = store.events(since, limit)
    rows = [
        {
            "id": event.job_id,
            "sequence": event.sequence,
            "at": event.at.isoformat(),
            "state": event.state.value,
            "outcome": event.outcome and event.outcome.value,
            "exit_code": event.exit_code,
            "signal": event.signal,
        }
        for event in page.events
    ]
    if as_json:
        print_json({"events": rows, "next_cursor_bytes": page.cursor})
        return
    for row in rows:
        print(row["at"], row["id"], row["state"], row["outcome"] or "")
    sys.stdout.flush()
    complain(f"next: --since {page.cursor}")
