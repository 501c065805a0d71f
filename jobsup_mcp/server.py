"""The MCP server: the tools in the SDK's terms, and what serves them on stdio."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import CallToolResult, Resource, TextContent, ToolAnnotations
from starlette.applications import Starlette

from jobsup import JobsupError
from jobsup_mcp import waiting
from jobsup_mcp.agent_tools import AgentTools
from jobsup_mcp.desk import Desk
from jobsup_mcp.greeting import INSTRUCTIONS, NAME, Wire, version
from jobsup_mcp.job_tools import JobTools
from jobsup_mcp.presets import Agent
from jobsup_mcp.resources import Resources
from jobsup_mcp.tasks import JobTasks

Tool = Callable[..., Any]


def _hints(*, reads: bool, destroys: bool, repeats: bool, open_world: bool) -> ToolAnnotations:
    return ToolAnnotations(
        read_only_hint=reads,
        destructive_hint=destroys,
        idempotent_hint=repeats,
        open_world_hint=open_world,
    )


_LOOK: Final = _hints(reads=True, destroys=False, repeats=True, open_world=False)
_START: Final = _hints(reads=False, destroys=True, repeats=False, open_world=True)
_STOP: Final = _hints(reads=False, destroys=True, repeats=True, open_world=False)
_TALK: Final = _hints(reads=False, destroys=True, repeats=False, open_world=True)
"""A signal or a line of input may make a command do anything."""
_FREEZE: Final = _hints(reads=False, destroys=False, repeats=True, open_world=False)


def agent_tools(desk: Desk, agent: Agent) -> Iterable[tuple[str, Tool, ToolAnnotations]]:
    tools = AgentTools(desk, agent)
    yield f"{agent.name}_start", tools.start, _START
    yield f"{agent.name}_poll", tools.poll, _LOOK
    yield f"{agent.name}_list", tools.list_jobs, _LOOK
    yield f"{agent.name}_cancel", tools.cancel, _STOP
    yield f"{agent.name}_wait", tools.wait, _LOOK


def job_tools(desk: Desk) -> Iterable[tuple[str, Tool, ToolAnnotations]]:
    tools = JobTools(desk)
    yield "job_start", tools.start, _START
    yield "job_run", tools.run, _START
    yield "job_status", tools.status, _LOOK
    yield "job_list", tools.list_jobs, _LOOK
    yield "job_wait", tools.wait, _LOOK
    yield "job_output", tools.output, _LOOK
    yield "job_cancel", tools.cancel, _STOP
    yield "job_send", tools.send, _TALK
    yield "job_signal", tools.signal, _TALK
    yield "job_pause", tools.pause, _FREEZE
    yield "job_resume", tools.resume, _FREEZE


class JobServer(MCPServer[None]):
    """Serves *desk*; `build` gives it its tools."""

    def __init__(self, desk: Desk, task_tools: Iterable[str]) -> None:
        self._resources = Resources(desk)
        super().__init__(
            NAME,
            version=version(),
            instructions=INSTRUCTIONS,
            log_level="WARNING",
            lifespan=self._notifying,
            subscriptions=self._resources.bus,
            extensions=[JobTasks(desk, frozenset(task_tools))],
            middleware=[_lend_progress],
        )
        self._resources.add_to(self, self._lowlevel_server)

    @asynccontextmanager
    async def _notifying(self, _: MCPServer[None]) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._resources.notify)
            yield
            group.cancel_scope.cancel()

    async def list_resources(self) -> list[Resource]:
        return await anyio.to_thread.run_sync(self._resources.listed)

    async def serve_wire(self, wire: Wire) -> None:
        """Serve the client on stdio until it closes it."""
        server = self._lowlevel_server
        files = anyio.wrap_file(wire.stdin), anyio.wrap_file(wire.stdout)
        async with stdio_server(*files) as (read, write):
            await server.run(read, write, server.create_initialization_options())

    def http_app(self, host: str, port: int) -> Starlette:
        """The application, without a token of its own; jobsup_mcp.http adds it."""
        names = [f"[{host}]" if ":" in host else host, "localhost"]
        return self.streamable_http_app(
            transport_security=TransportSecuritySettings(
                enable_dns_rebinding_protection=True,
                allowed_hosts=[f"{name}:{port}" for name in names],
                allowed_origins=[f"http://{name}:{port}" for name in names],
            )
        )


def build(
    desk: Desk, agents: Iterable[Agent], task_tools: Iterable[str] = ("job_run",)
) -> JobServer:
    """The server with the tools of *agents*, and those for any command.

    Args:
        task_tools: Those whose reply is a `RunView`; what runs on becomes a task.
    """
    server = JobServer(desk, task_tools)
    for agent in agents:
        for name, function, hints in agent_tools(desk, agent):
            text = (function.__doc__ or "").replace("{agent}", agent.name)
            add_tool(server, name, function, hints, text)
    for name, function, hints in job_tools(desk):
        add_tool(server, name, function, hints, function.__doc__ or "")
    return server


def add_tool(
    server: JobServer, name: str, function: Tool, hints: ToolAnnotations, description: str
) -> None:
    server.add_tool(
        _forgiving(function, name),
        name=name,
        description=inspect.cleandoc(description),
        annotations=hints,
        structured_output=True,
    )


def _forgiving(function: Tool, name: str) -> Tool:
    """*function*, whose foreseen errors become replies that say what is wrong."""
    foreseen = (JobsupError, ValueError, TypeError, OSError)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except foreseen as error:
                return _refusal(error)

        call_async.__name__ = name  # what the SDK calls its schemas by
        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except foreseen as error:
            return _refusal(error)

    call.__name__ = name
    return call


def _refusal(error: Exception) -> CallToolResult:
    # In both places: some clients show their model the one, some the other.
    reply = {"error": str(error)}
    text = TextContent(type="text", text=json.dumps(reply))
    return CallToolResult(content=[text], structured_content=reply, is_error=True)


async def _lend_progress(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Let the tools tell of their progress, without knowing of the SDK."""
    is_wanted = ctx.meta is not None and "progress_token" in ctx.meta
    token = waiting.progress.set(ctx.session.report_progress if is_wanted else None)
    try:
        return await call_next(ctx)
    finally:
        waiting.progress.reset(token)
