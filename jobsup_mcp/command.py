"""The command line of the server."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from jobsup_mcp import greeting
from jobsup_mcp.presets import AGENTS

if TYPE_CHECKING:
    from jobsup_mcp.server import JobServer

_Number = TypeVar("_Number", int, float)


def run() -> None:
    """Parse the command line and serve."""
    options = _parser().parse_args()
    if importlib.util.find_spec("mcp") is None:
        sys.exit("jobsup-mcp needs the MCP SDK: pip install 'jobsup[mcp]'")
    # There is nothing to put in order at the end, and a KeyboardInterrupt would
    # wait for the thread that reads from the client.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.http is None:
        _serve_stdio(options)
    else:
        _serve_http(options)


def _serve_stdio(options: argparse.Namespace) -> None:
    wire = greeting.greet()
    if wire.is_closed:
        return
    with _quick_import():
        import anyio  # noqa: PLC0415 - the client is greeted before anything heavy is loaded

    anyio.run(_build(options).serve_wire, wire)


def _serve_http(options: argparse.Namespace) -> None:
    from jobsup_mcp import http  # noqa: PLC0415 - loads the SDK

    token = http.take_token()
    http.serve(_build(options), token, options.host, options.http)


def _build(options: argparse.Namespace) -> JobServer:
    with _quick_import():
        from jobsup import JobStore  # noqa: PLC0415
        from jobsup_mcp.desk import Desk  # noqa: PLC0415
        from jobsup_mcp.policy import Policy  # noqa: PLC0415
        from jobsup_mcp.server import build  # noqa: PLC0415
    policy = Policy(
        allow=tuple(options.allow),
        roots=tuple(options.root),
        max_jobs=options.max_jobs,
        max_runtime=options.max_runtime,
        env=tuple(options.env),
    )
    agents = [AGENTS[name] for name in dict.fromkeys(options.agent or ["codex"])]
    return build(Desk(JobStore(options.store), policy), agents)


@contextmanager
def _quick_import() -> Iterator[None]:
    """Without looking for garbage, of which imports make none: a quarter of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobsup-mcp",
        description="Serve jobs to MCP clients, on stdio or on a loopback port.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--store", metavar="DIR", help="the directory of jobs; default as for jobsup")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    add("--agent", choices=list(AGENTS), **many, help="agents to serve tools for; default: codex")
    add("--allow", metavar="CMD", **many, help="commands that may be run; default: any")
    add(
        "--root",
        metavar="DIR",
        type=_directory,
        **many,
        help="where jobs may run; default: anywhere",
    )
    add("--max-jobs", metavar="N", type=_positive(int), help="jobs that may run at the same time")
    add(
        "--max-runtime",
        metavar="SECONDS",
        type=_positive(float),
        help="after which jobs are stopped",
    )
    add("--env", metavar="NAME", **many, help="variables to pass on to jobs; may have wildcards")
    add("--http", metavar="PORT", type=int, help="serve HTTP; needs a token in $JOBSUP_MCP_TOKEN")
    add("--host", choices=["127.0.0.1", "::1"], default="127.0.0.1", help="default: %(default)s")
    return parser


def _directory(text: str) -> str:
    path = os.path.realpath(text)
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path


def _positive(kind: type[_Number]) -> Callable[[str], _Number]:
    def parse(text: str) -> _Number:
        value = kind(text)
        if not (math.isfinite(value) and value > 0):
            raise argparse.ArgumentTypeError(f"{text} is not a number > 0")
        return value

    return parse
