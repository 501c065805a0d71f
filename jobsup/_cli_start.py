"""The commands that start a job: in the foreground, and in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from jobsup import JobRecord, JobStore, Outcome
from jobsup import _cli_follow as follow
from jobsup import _cli_options as options
from jobsup import _cli_views as views
from jobsup._cli_text import SHORT, complain, how_it_exited
from jobsup._cli_views import print_json

_COMMAND_FOLLOWS: Final = {"allow_interspersed_args": False}
"""Options behind the command's first word are the command's."""


@click.command(context_settings=_COMMAND_FOLLOWS)
@options.start_options
@click.pass_obj
def run(store: JobStore, /, argv: Sequence[str], as_json: bool, **given: Any) -> int:
    """Start a job, show its output, and exit as it does.

    Ctrl-C or SIGTERM stops the job by its plan; once more kills it. It is
    stopped too when nobody reads the output any more. Whatever else ends
    'jobsup run', the job runs on.
    """
    arguments = options.start_arguments(given)
    separate = given["stderr"] == "separate"
    record = follow.run(lambda: store.start(argv, **arguments), separate=separate, as_json=as_json)
    if record.outcome not in (Outcome.SUCCEEDED, Outcome.FAILED):
        complain(_how_it_went(record))
    return views.passed_on(record)


def _how_it_went(record: JobRecord) -> str:
    assert record.outcome
    because = f" ({record.reason})" if record.reason else ""
    how = f" by {how_it_exited(record)}" if record.signal is not None else ""
    return f"job {record.job_id[-SHORT:]} {record.outcome.value}{how}{because}"


@click.command(context_settings=_COMMAND_FOLLOWS)
@options.start_options
@click.pass_obj
def start(store: JobStore, /, argv: Sequence[str], as_json: bool, **given: Any) -> None:
    """Start a job and print its id."""
    if given["lifetime"] == "owner":
        raise click.UsageError(
            "'start' is over as soon as the job runs, and would take it along; "
            "use 'jobsup run --lifetime owner'"
        )
    job = store.start(argv, **options.start_arguments(given))
    if as_json:
        print_json(views.view(views.look(job)))
    else:
        print(job.id)
