"""Jobs as resources, and the notifications of their changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)
from mcp_types import EmptyResult, Resource, SubscribeRequestParams, UnsubscribeRequestParams

from jobsup import Job, JobsupError
from jobsup_mcp import views
from jobsup_mcp.changes import Watch, job_uri, output_uri
from jobsup_mcp.desk import Desk

MAX_OUTPUT_BYTES: Final = 1 << 16
_LISTED_JOBS: Final = 50

Context = ServerRequestContext[Any, Any]


class Resources:
    """``job://{id}`` and ``job://{id}/output``, and who wants to hear of their changes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._watch: Watch | None = None
        self._wanted = anyio.Event()
        self._sessions: dict[tuple[str | None, str], ServerSession] = {}
        self.bus = _CountingBus(self._begin)

    def add_to(self, server: MCPServer[Any], lowlevel: Server[Any]) -> None:
        server.resource("job://{job_id}", name="job", mime_type="application/json")(self.job)
        server.resource("job://{job_id}/output", name="job-output", mime_type="text/plain")(
            self.output
        )
        # Of the versions before 2026-07-28; `bus` serves those from then on.
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        lowlevel.add_request_handler(
            "resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe
        )

    # -- read ----------------------------------------------------------------

    def listed(self) -> list[Resource]:
        """The newest jobs; more can be read than are listed."""
        found = []
        for job in self._desk.store.list(limit=_LISTED_JOBS):
            with suppress(JobsupError):
                what = job.spec().name or " ".join(job.spec().argv)[:80]
                found += [
                    Resource(uri=job_uri(job.id), name=f"job {what}", mime_type="application/json"),
                    Resource(
                        uri=output_uri(job.id), name=f"output of {what}", mime_type="text/plain"
                    ),
                ]
        return found

    def job(self, job_id: str) -> str:
        """Where a job stands, as job_status shows it."""
        return json.dumps(views.job_view(self._find(job_id)), indent=2)

    def output(self, job_id: str) -> str:
        """The last 64 KiB that a job wrote."""
        return views.output_tail(self._find(job_id), MAX_OUTPUT_BYTES)["output"]

    def _find(self, job_id: str) -> Job:
        try:
            return self._desk.find(job_id)
        except JobsupError as error:
            raise ResourceNotFoundError(str(error)) from error

    # -- tell ----------------------------------------------------------------

    def _begin(self) -> None:
        """Note what is, before the client is told that it is subscribed."""
        if self._watch is None:
            self._watch = Watch(self._desk.store)
            self._wanted.set()

    async def notify(self) -> None:
        """Tell of changes, for ever; sleeps while nobody listens."""
        while True:
            await self._wanted.wait()
            assert self._watch is not None
            async for changed, is_new in self._watch.changes():
                for uri in sorted(changed):
                    await self.bus.publish(ResourceUpdated(uri=uri))
                    await self._tell_sessions(uri)
                if is_new:
                    await self.bus.publish(ResourcesListChanged())
                if not (self.bus.listeners or self._sessions):
                    break
            self._watch, self._wanted = None, anyio.Event()

    async def _tell_sessions(self, uri: str) -> None:
        for key, session in list(self._sessions.items()):
            if key[1] == uri:
                try:
                    await session.send_resource_updated(uri)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    self._sessions.pop(key, None)

    async def _subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        self._begin()
        self._sessions[_peer(ctx), str(params.uri)] = ctx.session
        return EmptyResult()

    async def _unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        self._sessions.pop((_peer(ctx), str(params.uri)), None)
        return EmptyResult()


def _peer(ctx: Context) -> str | None:
    """Which client it is; on stdio there is but one."""
    headers = getattr(ctx.request, "headers", None) or {}
    session_id: str | None = headers.get("mcp-session-id")
    return session_id


class _CountingBus(InMemorySubscriptionBus):
    """Says when the first listener comes, and how many there are."""

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self.listeners = 0
        self._begin = begin

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        self._begin()
        leave = super().subscribe(listener)
        self.listeners += 1
        is_in = True

        def unsubscribe() -> None:
            nonlocal is_in
            self.listeners -= is_in
            is_in = False
            leave()

        return unsubscribe
