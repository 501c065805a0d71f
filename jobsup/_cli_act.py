"""The commands that wait, act or delete: look every job up, do it, print."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import click

from jobsup import Job, JobRecord, JobState, JobStore, JobsupError, StopPlan
from jobsup import _cli_follow as follow
from jobsup import _cli_options as options
from jobsup import _cli_views as views
from jobsup._cli_options import json_option
from jobsup._cli_text import complain, in_bytes, progress
from jobsup._cli_views import print_json

FAILED: Final = 1
TIMED_OUT: Final = 124
_LOOK_SECONDS: Final = 1.0


@click.command()
@options.jobs_argument(options.active_job)
@click.option(
    "--any/--all", "any_", default=False, help="Until one, or until all have ended.  [default: all]"
)
@click.option("--timeout", type=options.duration, help="Wait at most so long; the jobs run on.")
@json_option
@click.pass_obj
def wait(
    store: JobStore, /, words: tuple[str, ...], any_: bool, timeout: float | None, as_json: bool
) -> int:
    """Wait until jobs have ended, and exit as they did.

    Of several, with the exit code of the first, in the order given, that did
    not succeed.
    """
    jobs = options.find(store, words)
    mode: Literal["any", "all"] = "any" if any_ else "all"
    waited = store.wait(jobs, mode=mode, timeout=timeout)
    _print_ended(jobs, waited.ended, as_json)
    if waited.pending and not (any_ and waited.ended):
        return _too_late(waited.pending, timeout)
    return next((code for record in waited.ended if (code := views.passed_on(record))), 0)


def _too_late(job_ids: Sequence[str], timeout: float | None) -> int:
    complain(f"not ended after {timeout:g} s: {', '.join(job_ids)}")
    return TIMED_OUT


def _print_ended(jobs: Sequence[Job], ended: Sequence[JobRecord], as_json: bool) -> None:
    if as_json:
        print_json([views.view(views.look(job)) for job in jobs])
        return
    for record in ended:
        assert record.outcome
        print(record.job_id, record.outcome.value)
    sys.stdout.flush()


def _on_each(jobs: Sequence[Job], act: Callable[[Job], None]) -> list[Job]:
    """Do it to all, whatever becomes of the others; tell of each that failed, return the rest."""
    done = []
    for job in jobs:
        try:
            act(job)
            done.append(job)
        except JobsupError as error:
            complain(error)
    return done


def _only(jobs: Sequence[Job], act: Callable[[Job], None], as_json: bool) -> int:
    """Of a command that does no more than this."""
    done = _on_each(jobs, act)
    if as_json:
        print_json([views.view(views.look(job)) for job in jobs])
    return 0 if len(done) == len(jobs) else FAILED


@click.command()
@options.jobs_argument(options.active_job)
@click.option("--grace", type=options.duration, help="Time between SIGTERM and SIGKILL; 0 kills.")
@click.option("--stop", type=options.plan, help="A whole plan: 'INT 5, TERM 10, KILL'.")
@click.option("--timeout", type=options.duration, help="Wait at most so long for the end.")
@click.option("--no-wait", is_flag=True, help="Only ask; 'jobsup wait' tells of the end.")
@json_option
@click.pass_obj
def cancel(
    store: JobStore,
    /,
    *,
    words: tuple[str, ...],
    grace: float | None,
    stop: StopPlan | None,
    timeout: float | None,
    no_wait: bool,
    as_json: bool,
) -> int:
    """Stop jobs with all they spawned.

    Waits until everything is gone, and prints each id and its outcome; a job
    that had ended before keeps its own. Once more, with a shorter --grace,
    hurries a cancel under way. What cannot be killed is named, and the exit
    code is 1.
    """
    if no_wait and timeout is not None:
        raise click.UsageError("--timeout is of no use with --no-wait")
    jobs = options.find(store, words)
    if no_wait:
        return _only(jobs, lambda job: job.cancel(grace=grace, stop=stop), as_json)
    asked = _on_each(jobs, lambda job: job.cancel(grace=grace, stop=stop))
    records = _when_gone(store, asked, timeout)
    ended = [record for record in records if record.state is JobState.ENDED]
    _print_ended(jobs, ended, as_json)
    stuck = [record for record in records if follow.is_stuck(record)]
    for record in stuck:
        complain(follow.unkillable(record))
    if stuck or len(asked) < len(jobs):
        return FAILED
    if len(ended) == len(records):
        return 0
    return _too_late([record.job_id for record in records if record not in ended], timeout)


def _when_gone(store: JobStore, jobs: Sequence[Job], timeout: float | None) -> list[JobRecord]:
    """The records once every job has ended, or is stuck, or the time is up."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        # That a process cannot be killed wakes nobody: look now and then.
        pause = _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
        store.wait(jobs, timeout=pause)
        records = [job.status() for job in jobs]
        over = [record.state is JobState.ENDED or follow.is_stuck(record) for record in records]
        if all(over) or left == 0:
            return records


@click.command("signal")
@click.argument("number", metavar="SIGNAL", shell_complete=options.complete_signals)
@options.jobs_argument(options.active_job)
@json_option
@click.pass_obj
def signal_(store: JobStore, number: str, words: tuple[str, ...], as_json: bool) -> int:
    """Send a signal to every process of jobs.

    By name or number: HUP, SIGHUP, 1.
    """
    return _only(options.find(store, words), lambda job: job.send_signal(number), as_json)


@click.command()
@options.jobs_argument(options.active_job)
@json_option
@click.pass_obj
def pause(store: JobStore, /, words: tuple[str, ...], as_json: bool) -> int:
    """Stop every process of jobs, until 'jobsup resume'."""
    return _only(options.find(store, words), Job.pause, as_json)


@click.command()
@options.jobs_argument(options.active_job)
@json_option
@click.pass_obj
def resume(store: JobStore, /, words: tuple[str, ...], as_json: bool) -> int:
    """Let paused jobs run on."""
    return _only(options.find(store, words), Job.resume, as_json)


@click.command()
@click.argument("word", metavar="JOB", shell_complete=options.active_job)
@click.argument("text", metavar="[TEXT|-]", required=False)
@click.option("-N", "--no-newline", is_flag=True, help="Do not end TEXT with a newline.")
@click.option("--close", is_flag=True, help="Let the command read end-of-file afterwards.")
@json_option
@click.pass_obj
def send(
    store: JobStore,
    /,
    *,
    word: str,
    text: str | None,
    no_newline: bool,
    close: bool,
    as_json: bool,
) -> None:
    """Write to a job's standard input.

    TEXT and a newline, or with '-' all that jobsup itself reads. The job must
    have been started with '--stdin open'.
    """
    if text is None and not close:
        raise click.UsageError("give a text to send, '-' for stdin, or --close")
    job = store.get(word)
    sent = 0
    for data in _to_send(text, no_newline):
        job.write(data)
        sent += len(data)
    if close:
        job.close_stdin()
    if as_json:
        print_json({"id": job.id, "sent_bytes": sent, "closed": close})


def _to_send(text: str | None, no_newline: bool) -> Iterable[bytes]:
    if text == "-":
        return iter(lambda: os.read(0, 1 << 16), b"")
    if text is None:
        return ()
    return (text.encode("utf-8", "surrogateescape") + (b"" if no_newline else b"\n"),)


@click.command()
@click.option("--older-than", type=options.duration, help="What ended longer ago.")
@click.option("--keep", type=click.IntRange(min=0), help="All but the newest N.")
@click.option("--max-size", type=options.size, help="The oldest, until the rest takes no more.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@json_option
@click.pass_obj
def prune(
    store: JobStore,
    /,
    *,
    older_than: float | None,
    keep: int | None,
    max_size: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete ended jobs and their output.

    A job goes if any of the rules given says so. Jobs that have not ended
    stay. Without a rule, only what crashes left behind goes.
    """
    with progress("looking at" if dry_run else "pruning", hidden=as_json) as tell:
        pruned = store.prune(
            older_than=older_than,
            keep=keep,
            max_bytes=max_size,
            dry_run=dry_run,
            progress=tell,
        )
    if as_json:
        print_json(
            {
                "ids": pruned.job_ids,
                "freed_bytes": pruned.freed_bytes,
                "swept_ids": pruned.swept,
                "dry_run": dry_run,
            }
        )
        return
    if dry_run:
        for job_id in pruned.job_ids:
            print(job_id)
    verb = "would delete" if dry_run else "deleted"
    count = len(pruned.job_ids)
    print(f"{verb} {count} job{'' if count == 1 else 's'}, {in_bytes(pruned.freed_bytes)}")
    if pruned.swept:
        print(f"removed the remains of {len(pruned.swept)} starts that crashed")
    if older_than is None and keep is None and max_size is None:
        sys.stdout.flush()
        complain("no rule was given: --older-than, --keep or --max-size say what to delete")
