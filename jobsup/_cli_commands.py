"""The `jobsup` command: what all its commands share, and the list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

import jobsup
from jobsup import JobStore
from jobsup import _cli_act as act
from jobsup import _cli_look as look
from jobsup import _cli_options as options
from jobsup import _cli_start as begin


class _InOrder(click.Group):
    """Lists its commands in the order in which a job meets them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


def _root(context: click.Context, _: click.Parameter, value: str | None) -> Path | None:
    if value == "":
        raise click.BadParameter("an empty name is no directory")
    return None if value is None else Path(value)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\
    A JOB is any part of an id that no other job has, such as the six
    characters that 'list' shows, or a name. Several are all looked up before
    the first is touched.

    Durations: 90, 90s, 5m, 2h, 7d. Sizes: 65536, 512K, 100M, 1G.

    Exit codes: 0 done, 1 jobsup failed, 2 wrong usage. 'run' and 'wait' pass
    on the command's own, or 128+n for a signal, and 1 for a command that
    returned 0 because it was stopped; 124 the wait timed out, 125 jobsup
    failed or the status is lost, 126 the command cannot be run, 127 it was
    not found.

    Completion of jobs, options and signals: put
    eval "$(jobsup completion bash)" into ~/.bashrc; likewise for zsh and fish.
    """,
)
@click.option(
    "--store",
    metavar="DIR",
    callback=_root,
    help="The directory of jobs.  [env: JOBSUP_HOME; default: ~/.local/state/jobsup]",
)
@click.version_option(jobsup.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, store: Path | None) -> None:
    """Run commands as background jobs that any process can see, wait for and stop."""
    context.obj = JobStore(store)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete jobs.

    \b
    bash:  eval "$(jobsup completion bash)"     in ~/.bashrc
    zsh:   eval "$(jobsup completion zsh)"      in ~/.zshrc
    fish:  jobsup completion fish | source      in ~/.config/fish/config.fish
    """
    print(options.completion_script(cli, shell))


_COMMANDS: Final = (
    begin.run,
    begin.start,
    look.list_,
    look.status,
    look.logs,
    act.wait,
    act.cancel,
    act.signal_,
    act.pause,
    act.resume,
    act.send,
    look.events,
    act.prune,
    completion,
)
for _command in _COMMANDS:
    cli.add_command(_command)
