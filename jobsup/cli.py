"""The command line's entry: every failure becomes one line and an exit code, here and only here.

The commands are in `jobsup._cli_commands`, which needs click. This module
does not, so that it can say what to install.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Final, NoReturn

from jobsup import JobsupError, SpawnError
from jobsup._cli_text import complain

FAILED: Final = 1
USAGE: Final = 2
JOBSUP_FAILED: Final = 125
"""Of the commands that pass on a job's own exit code, where 1 and 2 are the job's."""
CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141
"""What a shell shows of a program that died of SIGPIPE."""

_NEEDS: Final = ("click", "rich")
_PASS_ON: Final = ("run", "wait")


def main() -> NoReturn:
    """The console script."""
    _have_standard_streams()
    code = _guarded(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = _on_os_error(error, code or FAILED)
    sys.exit(code)


def _have_standard_streams() -> None:
    """Fill closed descriptors, or the next file opened would become our stdout."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # names need not be UTF-8, and a terminal may know less than that
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper


def _guarded(argv: list[str]) -> int:
    try:
        import click  # noqa: PLC0415 - may be missing

        from jobsup._cli_commands import cli  # noqa: PLC0415 - needs click
        from jobsup._cli_options import complete_if_asked  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return _on_missing(error)
    failed = FAILED
    try:
        complete_if_asked(cli)
        with cli.make_context("jobsup", argv or ["--help"]) as context:
            try:
                return cli.invoke(context) or 0
            finally:
                if context.invoked_subcommand in _PASS_ON:
                    failed = JOBSUP_FAILED
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "jobsup"
        complain(f"{error.format_message()} (see '{path} --help')")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SpawnError as error:
        complain(error)
        return _spawn_code(error) if failed == JOBSUP_FAILED else FAILED
    except JobsupError as error:  # before OSError, which some of them are as well
        complain(error)
        return failed
    except OSError as error:
        return _on_os_error(error, failed)
    except ModuleNotFoundError as error:
        return _on_missing(error)
    except (ValueError, TypeError) as error:
        complain(error)
        return USAGE


def _spawn_code(error: SpawnError) -> int:
    """As timeout(1) and the shells have it."""
    if error.stage != "exec":
        return JOBSUP_FAILED
    return NOT_FOUND if isinstance(error.__cause__, FileNotFoundError) else CANNOT_RUN


def _on_os_error(error: OSError, code: int) -> int:
    if error.errno == errno.EPIPE:
        code = NOBODY_READS
    else:
        complain(": ".join(map(str, filter(None, (error.filename, error.strerror)))) or error)
    with suppress(OSError, ValueError, AttributeError):
        # What is still buffered cannot be written; the interpreter would say
        # so once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _on_missing(error: ModuleNotFoundError) -> int:
    missing = (error.name or "").partition(".")[0]
    if missing not in _NEEDS:
        raise error
    complain(f"the command line needs {missing}, which is missing: pip install 'jobsup[cli]'")
    return FAILED
