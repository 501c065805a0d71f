"""The Tasks extension (SEP-2663): the durable job is the task, so nothing of it is kept here."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    RequestParams,
)
from pydantic import Field

from jobsup import Job, JobRecord, JobState, JobsupError, Outcome
from jobsup_mcp import views
from jobsup_mcp.desk import Desk
from jobsup_mcp.greeting import MODERN, TASKS
from jobsup_mcp.job_tools import DEFAULT_OUTPUT_BYTES

_POLL_MS: Final = 1000

Context = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    task_id: str


class TaskUpdateParams(TaskParams):
    input_responses: dict[str, Any] = Field(default_factory=dict)


class JobTasks(Extension):
    """Answers a call whose job runs on with a task, and knows every job of the store as one.

    Only clients that declare the extension get tasks; to others the same job
    is what the tool returns.
    """

    identifier = TASKS

    def __init__(self, desk: Desk, tools: Collection[str]) -> None:
        """*tools* are those whose reply is a `RunView`."""
        self._desk = desk
        self._tools = tools

    def methods(self) -> Sequence[MethodBinding]:
        only = frozenset([MODERN])
        return (
            MethodBinding("tasks/get", TaskParams, self._get, only),
            MethodBinding("tasks/update", TaskUpdateParams, self._update, only),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, only),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        result = await call_next(ctx)
        if params.name not in self._tools or not isinstance(result, CallToolResult):
            return result
        if result.is_error:
            return result
        view = result.structured_content or {}
        if view.get("state") == JobState.ENDED.value:
            # The same as of a task that was looked at later.
            return result.model_copy(update={"is_error": view["outcome"] != "succeeded"})
        if not _declares(ctx):
            return result
        record = self._desk.find(view["job_id"]).status()
        # A dict: of a model the SDK would leave out the null of ttlMs.
        return {"resultType": "task", **_task(record)}

    async def _get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        job = self._found(ctx, params.task_id)
        try:
            record = job.status()
            return {**_task(record), **_details(job, record)}
        except JobsupError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error

    async def _update(self, ctx: Context, params: TaskUpdateParams) -> dict[str, Any]:
        # No job ever asks its client for input, so every answer is to a key
        # that is not outstanding, and those are to be ignored.
        self._found(ctx, params.task_id)
        return {}

    async def _cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        self._found(ctx, params.task_id)
        try:
            # The monitor has noted it when this returns. That the tree is gone
            # is told by tasks/get.
            self._desk.touch(params.task_id).cancel()
        except JobsupError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error
        return {}

    def _found(self, ctx: Context, task_id: str) -> Job:
        require_client_extension(ctx, self.identifier)
        headers = getattr(ctx.request, "headers", None)
        if headers is not None and headers.get("mcp-name") != task_id:
            raise MCPError(HEADER_MISMATCH, "the Mcp-Name header does not match params.taskId")
        try:
            return self._desk.find(task_id)
        except JobsupError as error:
            raise MCPError(INVALID_PARAMS, f"no such task: {error}") from error


def _declares(ctx: Context) -> bool:
    if ctx.protocol_version != MODERN:
        return False
    capabilities = ctx.session.client_capabilities
    return TASKS in ((capabilities and capabilities.extensions) or {})


def _status(record: JobRecord) -> str:
    if record.state is not JobState.ENDED:
        return "working"
    if record.outcome is Outcome.CANCELLED:
        return "cancelled"
    return "failed" if record.outcome is Outcome.LOST else "completed"


def _task(record: JobRecord) -> dict[str, Any]:
    words = [record.state.value, record.outcome and record.outcome.value, record.reason]
    return {
        "taskId": record.job_id,
        "status": _status(record),
        "statusMessage": ", ".join(word for word in words if word),
        "createdAt": record.created_at.isoformat(),
        "lastUpdatedAt": (record.ended_at or record.started_at or record.created_at).isoformat(),
        "ttlMs": None,
        "pollIntervalMs": _POLL_MS,
    }


def _details(job: Job, record: JobRecord) -> dict[str, Any]:
    """What the status of a task that is over brings along."""
    status = _status(record)
    if status == "failed":
        message = f"nobody could learn how job {job.id} ended ({record.reason})"
        return {"error": {"code": INTERNAL_ERROR, "message": message}}
    if status != "completed":
        return {}
    view = views.run_view(job, DEFAULT_OUTPUT_BYTES)
    text = json.dumps(view, indent=2, ensure_ascii=False)
    return {
        "result": {
            "content": [{"type": "text", "text": text}],
            "structuredContent": view,
            "isError": record.outcome is not Outcome.SUCCEEDED,
        }
    }
