"""Real clients of the SDK, and servers for them to talk to."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec

import httpx2
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client import ClaimContext, ClientExtension, ClientSession, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, Request, Result
from pydantic import ConfigDict

from jobsup import JobStore
from jobsup_mcp.desk import Desk
from jobsup_mcp.policy import Policy
from jobsup_mcp.presets import AGENTS
from jobsup_mcp.server import JobServer, build

MODERN: Final = "2026-07-28"
HANDSHAKE: Final = "2025-06-18"
TOKEN: Final = "a-token-that-only-tests-know"
TEST_SECONDS: Final = 60

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), TEST_SECONDS))

    return run


def server_of(store: JobStore, *agents: str, **policy: Any) -> JobServer:
    """A server in this process."""
    return build(Desk(store, Policy(**policy)), [AGENTS[name] for name in agents or ["codex"]])


def command_of(store: JobStore, *options: str) -> list[str]:
    return [sys.executable, "-m", "jobsup_mcp", "--store", str(store.root), *options]


@contextmanager
def speaking(monkeypatch: pytest.MonkeyPatch, version: str) -> Iterator[str]:
    """The mode in which a `Client` speaks *version*."""
    if version == MODERN:
        yield version
        return
    with monkeypatch.context() as patch:
        # The SDK's client always offers the newest handshake.
        patch.setattr("mcp.client.session.LATEST_HANDSHAKE_VERSION", version)
        yield "legacy"


@asynccontextmanager
async def on_stdio(argv: list[str], mode: str, **options: Any) -> AsyncIterator[Client]:
    """A client, and a server process of its own."""
    server = StdioServerParameters(command=argv[0], args=argv[1:], env=dict(os.environ))
    async with Client(stdio_client(server), mode=mode, **options) as client:
        yield client


@asynccontextmanager
async def on_http(url: str, mode: str, token: str = TOKEN, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=TEST_SECONDS) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client


@contextmanager
def http_server(store: JobStore, *options: str, port: int = 0) -> Iterator[str]:
    """The address of a server process."""
    argv = command_of(store, "--http", str(port), *options)
    env = {**os.environ, "JOBSUP_MCP_TOKEN": TOKEN}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr
        try:
            line = process.stderr.readline()
            address = re.search(r"http://\S+", line)
            assert address, line + process.stderr.read()
            yield address.group()
        finally:
            process.send_signal(signal.SIGTERM)


def reply_of(result: CallToolResult) -> dict[str, Any]:
    """The structured reply; that the text says the same is checked on the way."""
    assert isinstance(result, CallToolResult), result
    reply: dict[str, Any] = result.structured_content or {}
    assert reply, result
    if "result" not in reply:
        (text,) = result.content
        assert text.type == "text"
        assert json.loads(text.text) == reply
    return reply


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The reply of a tool, which is no error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error or tool == "job_run", result
    return reply_of(result)


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """What the error of a tool says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    reply = reply_of(result)
    assert list(reply) == ["error"]
    error: str = reply["error"]
    return error


class TaskHandle(Result):
    """What a call comes to whose job runs on."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int | None


class AnyReply(Result):
    model_config = ConfigDict(extra="allow")


class TaskRequest(Request[dict[str, Any], str]):
    name_param = "taskId"


async def ask_task(session: ClientSession, verb: str, task_id: str, **more: Any) -> dict[str, Any]:
    """One of the requests tasks/get, tasks/update and tasks/cancel."""
    request = TaskRequest(method=f"tasks/{verb}", params={"taskId": task_id, **more})
    reply = await session.send_request(request, AnyReply)
    return reply.model_dump(by_alias=True, exclude_unset=True)


class Tasks(ClientExtension):
    """A client's side of the extension: it polls until the task is over."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self) -> None:
        self.handles: list[TaskHandle] = []

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=self._resolve)]

    async def _resolve(self, handle: TaskHandle, context: ClaimContext) -> CallToolResult:
        self.handles.append(handle)
        while True:
            task = await ask_task(context.session, "get", handle.task_id)
            if task["status"] == "completed":
                return CallToolResult.model_validate(task["result"])
            assert task["status"] == "working", task
            await asyncio.sleep(0.02)


def put_codex_on_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake one, as an executable in *directory*."""
    source = Path(__file__).with_name("data") / "fake_codex.py"
    program = directory / "codex"
    directory.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable} -I\n{source.read_text()}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return program
