"""The server that `conformance.py` tests: the real one, and the tools that the suite asks for.

The suite can send no bearer token, so this adds it to every request; all the
rest is what `jobsup-mcp --http` serves.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ToolAnnotations,
)
from pydantic import Field

from jobsup import Job, JobStore
from jobsup_mcp import http, server
from jobsup_mcp.desk import Desk
from jobsup_mcp.greeting import TASKS
from jobsup_mcp.policy import Policy
from jobsup_mcp.presets import AGENTS
from jobsup_mcp.server import JobServer
from jobsup_mcp.views import RunView, run_view
from jobsup_mcp.waiting import wait

_TOKEN = "conformance-of-a-test-server"
_TASK_TOOLS = (
    "job_run",
    "slow_compute",
    "failing_job",
    "protocol_error_job",
    "test_tool_with_task",
)
_HINTS = ToolAnnotations(read_only_hint=False)


class BringsToken:
    """What a client of `NeedsToken` would have done."""

    def __init__(self, app: http.App) -> None:
        self._app = app

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "http":
            headers = [*scope["headers"], (b"authorization", f"Bearer {_TOKEN}".encode())]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def add_fixtures(jobs: JobServer, desk: Desk) -> None:
    """The tools of the suite's tasks-* scenarios, each of them a job."""

    async def run(argv: list[str], seconds: float = 0) -> RunView:
        job = desk.start(argv, cwd="/", timeout=100)
        await wait(desk, [job], "all", seconds)
        return run_view(job, 1000)

    async def slow_compute(seconds: float, label: str = "") -> RunView:
        """Sleep, and say so."""
        words = ["sh", "-c", f"sleep {seconds}; echo computed {label}"]
        return await run(words, 0 if seconds else 10)

    async def failing_job(ctx: Context) -> RunView:
        """Fail; for clients that know tasks only."""
        require_client_extension(ctx.request_context, TASKS)
        return await run(["sh", "-c", "sleep 1; exit 1"])

    async def protocol_error_job() -> RunView:
        """Run on when the machine goes down, so that nobody learns how it ended."""
        view = await run(["sleep", "100"])
        pretend_reboot(desk.find(view["job_id"]))
        return view

    def test_missing_capability(ctx: Context) -> str:
        """Need sampling, which nobody declares."""
        capabilities = ctx.client_capabilities
        if capabilities is None or capabilities.sampling is None:
            data: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "needs sampling", data)
        return "sampling is there"

    async def test_tool_with_task(ctx: Context) -> RunView | InputRequiredResult:
        """Ask for a name first, then run on as a task."""
        answers: Any = ctx.input_responses
        if not answers:
            form = ElicitRequestFormParams(
                message="Your name?",
                requested_schema={
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                },
            )
            return InputRequiredResult(input_requests={"user_name": ElicitRequest(params=form)})
        return await run(
            ["sh", "-c", 'sleep 1; echo "Hello, $0!"', answers["user_name"].content["name"]]
        )

    def greet(name: Annotated[str, Field(description="Whom.")]) -> str:
        """Greet somebody."""
        return f"Hello, {name}!"

    for tool in (
        *(slow_compute, failing_job, protocol_error_job, test_tool_with_task, greet),
        test_missing_capability,
    ):
        jobs.add_tool(tool, annotations=_HINTS)


def pretend_reboot(job: Job) -> None:
    """Kill the job's processes, and have its record say that they were of another boot."""
    record = job.status()
    meta = job.root / "jobs" / job.id / "meta.json"
    for process in (record.monitor, record.command):
        assert process is not None
        fd = os.pidfd_open(process.pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [])
        os.close(fd)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = meta.read_text()
    assert boot_id in text
    meta.write_text(text.replace(boot_id, "00000000-0000-0000-0000-000000000000"))


def main(store: str) -> None:
    desk = Desk(JobStore(store), Policy(max_runtime=100))
    jobs = server.build(desk, [AGENTS["codex"]], task_tools=_TASK_TOOLS)
    add_fixtures(jobs, desk)
    desk.start(["true"], cwd="/").wait(timeout=10)  # so that there is a resource to read
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = BringsToken(http.make_app(jobs, _TOKEN, "127.0.0.1", port))
        print(f"http://127.0.0.1:{port}/mcp", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
