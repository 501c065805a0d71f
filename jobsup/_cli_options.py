"""What is given on the command line: durations, sizes, pairs, jobs, and their completion."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from jobsup import Job, JobState, JobStore, JobsupError, StopPlan
from jobsup._cli_text import SHORT, command_line

_Function = TypeVar("_Function", bound=Callable[..., Any])

ACTIVE: Final = tuple(state for state in JobState if state is not JobState.ENDED)
_COMPLETE: Final = "_JOBSUP_COMPLETE"
_COMPLETED_JOBS: Final = 100
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


# -- kinds of values ---------------------------------------------------------
# click shows a function's name as the kind of value it takes.


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``5m``, ``2h``, ``7d``."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smhdw]?)", text.strip().lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration such as 90, 90s, 5m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def size(text: str) -> int:
    """Bytes of ``65536``, ``512K``, ``100M``, ``1G``, in powers of 1024."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmgt]?)(i?b)?", text.strip().lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size such as 65536, 512K, 100M or 1G")
    return int(float(match[1]) * _SIZES[match[2]])


def limit(text: str) -> int | str:
    """A size, or ``none``."""
    return text.lower() if text.lower() == "none" else size(text)


def pair(text: str) -> tuple[str, str]:
    """``key=value``."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.BadParameter(f"{text!r} is not of the form key=value")
    return key, value


def variable(text: str) -> tuple[str, str]:
    """``NAME=value``, or ``NAME`` alone for the value that it has here."""
    if "=" in text:
        return pair(text)
    if text not in os.environ:
        raise click.BadParameter(f"{text!r} is not set here; give it a value: {text}=...")
    return text, os.environ[text]


def plan(text: str) -> StopPlan:
    """``INT 5, TERM 10, KILL``."""
    try:
        return StopPlan.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


# -- options that several commands have --------------------------------------

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_START_OPTIONS: Final = (
    click.option("--name", metavar="NAME", help="For people; need not be unique."),
    click.option("--cwd", metavar="DIR", help="Working directory."),
    click.option(
        "--env",
        type=variable,
        multiple=True,
        metavar="K[=V]",
        help="Set a variable, or with --clean-env keep one.  [repeatable]",
    ),
    click.option("--clean-env", is_flag=True, help="Start from an empty environment."),
    click.option(
        "--stdin",
        metavar="FILE|-|open",
        help="Read a file (./open is one), or what jobsup itself reads, or keep it open for "
        "'jobsup send'.  [default: /dev/null]",
    ),
    click.option(
        "--stderr",
        type=click.Choice(["merge", "separate"]),
        default="merge",
        help="Into the output, in order, or a stream of its own.  [default: merge]",
    ),
    click.option("--timeout", type=duration, help="Stop the job after so long."),
    click.option(
        "--grace",
        type=duration,
        help="Time between SIGTERM and SIGKILL when it is stopped.  [default: 10s]",
    ),
    click.option("--stop", type=plan, help="A whole plan instead: 'INT 5, TERM 10, KILL'."),
    click.option(
        "--lifetime",
        type=click.Choice(["persist", "owner"]),
        default="persist",
        help="'owner': the job ends with its 'jobsup run', also by kill -9.  [default: persist]",
    ),
    click.option(
        "--leftovers",
        type=click.Choice(["kill", "wait", "leave"]),
        default="kill",
        help="What becomes of processes that outlive the command.  [default: kill]",
    ),
    click.option(
        "--output-limit",
        type=limit,
        metavar="SIZE|none",
        help="Keep so much output, its first MiB and the newest rest.  [default: 1G]",
    ),
    click.option(
        "--on-output-limit",
        type=click.Choice(["trim", "kill"]),
        default="trim",
        help="Drop output from the middle, or stop the job.  [default: trim]",
    ),
    click.option(
        "--label",
        "labels",
        type=pair,
        multiple=True,
        metavar="K=V",
        help="For 'jobsup list' to filter by.  [repeatable]",
    ),
    json_option,
    click.argument(
        "argv", metavar="COMMAND [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED
    ),
)


def start_options(function: _Function) -> _Function:
    """The options of `JobStore.start`, and the command itself."""
    for option in reversed(_START_OPTIONS):
        function = option(function)
    return function


def start_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `JobStore.start`, from what `start_options` gave."""
    arguments = {**options, "env": dict(options["env"]), "labels": dict(options["labels"])}
    if options["output_limit"] is None:
        del arguments["output_limit"]
    elif options["output_limit"] == "none":
        arguments["output_limit"] = None
    arguments["stdin"] = _stdin(options["stdin"])
    return arguments


def _stdin(word: str | None) -> Any:
    if word is None:
        return None
    if word == "open":
        return subprocess.PIPE
    if word == "-":
        if sys.stdin is None:
            raise click.UsageError("--stdin -: jobsup itself has no standard input")
        return sys.stdin.buffer
    return Path(word)


# -- jobs, and completion ----------------------------------------------------


def find(store: JobStore, words: tuple[str, ...]) -> list[Job]:
    """All of the jobs, each once, or JobNotFoundError before any is touched."""
    return list({job.id: job for job in map(store.get, words)}.values())


def _job_words(
    context: click.Context, incomplete: str, active_only: bool
) -> Iterator[CompletionItem]:
    store = JobStore(context.find_root().params.get("store"))
    jobs = store.list(state=ACTIVE) if active_only else store.list(limit=_COMPLETED_JOBS)
    for job in jobs:
        try:
            spec = job.spec()
        except (JobsupError, OSError):
            continue
        words = [spec.name, job.id[-SHORT:]]
        if incomplete:  # all ids begin alike: of little help before something was typed
            words.append(job.id)
        for word in words:
            if word and word.startswith(incomplete):
                yield CompletionItem(word, help=command_line(spec)[:60])


def _complete_jobs(
    context: click.Context, _: click.Parameter, incomplete: str, *, active_only: bool
) -> list[CompletionItem]:
    try:
        return list(
            {item.value: item for item in _job_words(context, incomplete, active_only)}.values()
        )
    except (JobsupError, OSError, ValueError):
        return []  # there is no place for an error in a line that is being typed


def complete_signals(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    names = (number.name.removeprefix("SIG") for number in signal.Signals)
    return [name for name in names if name.startswith(incomplete.upper())]


any_job: Final = functools.partial(_complete_jobs, active_only=False)
active_job: Final = functools.partial(_complete_jobs, active_only=True)


def jobs_argument(complete: Callable[..., Any]) -> Callable[[Any], Any]:
    return click.argument(
        "words", metavar="JOB...", nargs=-1, required=True, shell_complete=complete
    )


def complete_if_asked(cli: click.Command) -> None:
    """Answer the script of `completion_script`, which asks through the environment, and exit."""
    if instruction := os.environ.get(_COMPLETE):
        raise click.exceptions.Exit(shell_complete(cli, {}, "jobsup", _COMPLETE, instruction))


def completion_script(cli: click.Command, shell: str) -> str:
    """What a shell must evaluate for completion to work."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    return kind(cli, {}, "jobsup", _COMPLETE).source()
