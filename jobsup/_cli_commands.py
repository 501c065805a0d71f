"""The `jobsup` command: what all its commands share, and the list of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

import jobsup
from jobsup import JobStore
from jobsup import _cli_options as options

_HOMES: Final = {
    "run": "_cli_start.run",
    "start": "_cli_start.start",
    "list": "_cli_look.list_",
    "status": "_cli_look.status",
    "logs": "_cli_look.logs",
    "wait": "_cli_act.wait",
    "cancel": "_cli_act.cancel",
    "signal": "_cli_act.signal_",
    "pause": "_cli_act.pause",
    "resume": "_cli_act.resume",
    "send": "_cli_act.send",
    "events": "_cli_look.events",
    "prune": "_cli_act.prune",
    "completion": "_cli_commands.completion",
}
"""Where each command is, in the order in which a job meets them."""


class _OnDemand(click.Group):
    """Imports a command when it is asked for: one command need not load what another needs."""

    def __init__(self, **given: Any) -> None:
        # What a mistyped name might have meant, click looks up among these.
        super().__init__(commands={name: click.Command(name) for name in _HOMES}, **given)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _HOMES:
            return None
        module, _, attribute = _HOMES[name].partition(".")
        command = getattr(import_module(f"jobsup.{module}"), attribute)
        assert isinstance(command, click.Command), name
        return command


def _root(context: click.Context, _: click.Parameter, value: str | None) -> Path | None:
    if value == "":
        raise click.BadParameter("an empty name is no directory")
    return None if value is None else Path(value)


@click.group(
    cls=_OnDemand,
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
