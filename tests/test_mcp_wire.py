"""The server as its clients meet it: a process on stdio or HTTP, that may be killed."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import exits_with, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, held, kill_and_wait
from mcp import Client, MCPError
from mcp_clients import (
    HANDSHAKE,
    MODERN,
    Tasks,
    ask_task,
    call,
    command_of,
    http_server,
    in_loop,
    on_http,
    on_stdio,
    put_codex_on_path,
    refused,
    speaking,
)

from jobsup import JobState, JobStore
from jobsup._identity import is_alive

VERSIONS = [HANDSHAKE, MODERN]


@pytest.fixture(autouse=True)
def _codex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_codex_on_path(tmp_path / "bin", monkeypatch)


@asynccontextmanager
async def connected(
    store: JobStore, transport: str, version: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[Client]:
    """A client that speaks *version* over *transport* to a server process."""
    async with AsyncExitStack() as stack:
        mode = stack.enter_context(speaking(monkeypatch, version))
        if transport == "stdio":
            client = await stack.enter_async_context(on_stdio(command_of(store), mode, **options))
        else:
            url = stack.enter_context(http_server(store))
            client = await stack.enter_async_context(on_http(url, mode, **options))
        assert client.protocol_version == version
        yield client


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
@in_loop
async def test_every_tool_and_every_error(
    store: WatchedStore,
    gate: Gate,
    tmp_path: Path,
    transport: str,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cwd = str(tmp_path)
    async with connected(store, transport, version, monkeypatch) as client:
        # codex
        prompt = f"tool tell {gate.told} await {gate.opened}"
        codex = await call(client, "codex_start", prompt=prompt, cwd=cwd)
        tree = [held(pid) for pid in gate.pids()]
        assert (await call(client, "codex_poll", job_id=codex["job_id"]))["status"] == "running"
        waited = await call(client, "codex_wait", job_id=codex["job_id"], timeout_seconds=0.01)
        assert waited["status"] == "running"
        reply = await call(client, "codex_cancel", job_id=codex["job_id"])
        assert (reply["status"], reply["killed"]) == ("cancelled", True)
        assert not any(is_alive(process) for process in tree)
        (listed,) = (await call(client, "codex_list"))["result"]
        assert (listed["job_id"], listed["status"]) == (codex["job_id"], "cancelled")
        for tool in ("codex_poll", "codex_cancel", "codex_wait"):
            assert await refused(client, tool, job_id="nope") == "Job 'nope' not found"
        wrong = {"prompt": "x", "cwd": cwd, "approval_policy": "yolo"}
        assert "suggest, auto-edit, full-auto" in await refused(client, "codex_start", **wrong)
        assert "No such file" in await refused(
            client, "codex_start", prompt="x", cwd=f"{cwd}/missing"
        )

        # any command
        cat = await call(client, "job_start", argv=["cat"], cwd=cwd, open_stdin=True, name="cat")
        assert (await call(client, "job_pause", job_id="cat"))["state"] == "paused"
        assert (await call(client, "job_resume", job_id="cat"))["state"] == "running"
        await call(client, "job_send", job_id="cat", text="words\n")
        waited = await call(client, "job_wait", job_ids=["cat"], timeout_seconds=0.01)
        assert waited["pending"][0]["job_id"] == cat["job_id"]
        await call(client, "job_send", job_id="cat", close=True)
        waited = await call(client, "job_wait", job_ids=["cat"])
        assert waited["ended"][0]["outcome"] == "succeeded"
        assert (await call(client, "job_output", job_id="cat"))["output"] == "words\n"
        assert (await call(client, "job_status", job_id="cat"))["state"] == "ended"

        ran = await client.call_tool("job_run", {"argv": ["sh", "-c", "echo hi; exit 3"]})
        assert ran.structured_content
        assert (ran.structured_content["exit_code"], ran.is_error) == (3, True)
        await call(client, "job_start", argv=sleeper(), cwd=cwd, name="sleeper")
        await call(client, "job_signal", job_id="sleeper", signal="KILL")
        killed = (await call(client, "job_wait", job_ids=["sleeper"]))["ended"][0]
        assert (killed["outcome"], killed["signal"]) == ("killed", "SIGKILL")
        await call(client, "job_start", argv=sleeper(), cwd=cwd, name="another")
        assert (await call(client, "job_cancel", job_id="another"))["outcome"] == "cancelled"
        page = await call(client, "job_list", outcome=["cancelled"])
        assert {view["name"] for view in page["jobs"]} == {None, "another"}

        for tool in ("job_status", "job_output", "job_cancel", "job_pause", "job_resume"):
            assert "no job 'nope'" in await refused(client, tool, job_id="nope")
        assert "ended" in await refused(client, "job_signal", job_id="cat", signal="TERM")
        assert "ended" in await refused(client, "job_pause", job_id="cat")
        assert "No such file" in await refused(client, "job_start", argv=["no-such-program"])

        # resources
        (content,) = (await client.read_resource(f"job://{cat['job_id']}/output")).contents
        assert content.model_dump()["text"] == "words\n"
        with pytest.raises(MCPError, match="no job 'nope'"):
            await client.read_resource("job://nope")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
@in_loop
async def test_progress_reaches_the_client(
    store: WatchedStore,
    gate: Gate,
    transport: str,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)
        if len(told) == 2:
            gate.open()

    job = store.start(exits_with(0, gate))
    async with connected(store, transport, version, monkeypatch) as client:
        result = await client.call_tool("job_wait", {"job_ids": [job.id]}, progress_callback=tell)
    assert not result.is_error
    assert len(told) >= 2
    assert told == sorted(set(told))


# -- a server that dies ------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@in_loop
async def test_server_killed_in_mid_wait_is_as_good_as_new(
    store: WatchedStore,
    gate: Gate,
    tmp_path: Path,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; exec {shlex.join(command_of(store))}"
    with speaking(monkeypatch, version) as mode:
        async with on_stdio(["sh", "-c", script], mode) as client:
            prompt = f"tool tell {gate.told} await {gate.opened} exit 7"
            job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
            tree = [held(pid) for pid in gate.pids()]
            wait = asyncio.create_task(call(client, "codex_wait", job_id=job["job_id"]))
            await asyncio.sleep(0)
            kill_and_wait(held(int(pid_file.read_text())))
            with pytest.raises(MCPError, match=r"[Cc]losed"):
                await wait
        assert all(is_alive(process) for process in tree)

        async with on_stdio(command_of(store), mode) as client:
            (listed,) = (await call(client, "codex_list"))["result"]
            assert (listed["job_id"], listed["status"]) == (job["job_id"], "running")
            wait = asyncio.create_task(call(client, "codex_wait", job_id=job["job_id"]))
            gate.open()
            reply = await wait
    assert (reply["status"], reply["exit_code"]) == ("error", 7)
    assert not any(is_alive(process) for process in tree)


@in_loop
async def test_task_of_a_killed_server_is_found_by_the_next(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; exec {shlex.join(command_of(store))}"
    async with on_stdio(["sh", "-c", script], MODERN, extensions=[Tasks()]) as client:
        arguments = {"argv": exits_with(0, gate), "cwd": "/", "wait_seconds": 0}
        handle = await client.session.call_tool("job_run", arguments, allow_claimed=True)
        kill_and_wait(held(int(pid_file.read_text())))
    async with on_stdio(command_of(store), MODERN, extensions=[Tasks()]) as client:
        task_id: str = handle.task_id  # type: ignore[union-attr]
        assert (await ask_task(client.session, "get", task_id))["status"] == "working"
        gate.open()
        await store.get(task_id).wait_async(timeout=TIMEOUT)
        task = await ask_task(client.session, "get", task_id)
    assert (task["status"], task["result"]["isError"]) == ("completed", False)


# -- a client that gives up --------------------------------------------------


class RawServer:
    """A server process that is spoken to line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def send(self, method: str, request_id: int | None = None, **params: Any) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if request_id is not None:
            message["id"] = request_id
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def receive(self) -> dict[str, Any]:
        assert self._process.stdout
        message: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return message


@asynccontextmanager
async def raw_server(store: JobStore) -> AsyncIterator[RawServer]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command_of(store), stdin=pipe, stdout=pipe, limit=1 << 24
    )
    server = RawServer(process)
    client = {"name": "raw", "version": "1"}
    await server.send(
        "initialize", 0, protocolVersion=HANDSHAKE, capabilities={}, clientInfo=client
    )
    assert (await server.receive())["result"]["protocolVersion"] == HANDSHAKE
    await server.send("notifications/initialized")
    try:
        yield server
    finally:
        assert process.stdin
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 0


@in_loop
async def test_cancelled_notification_ends_the_wait_and_not_the_job(
    store: WatchedStore, gate: Gate
) -> None:
    job = store.start(exits_with(0, gate))
    arguments = {"name": "job_wait", "arguments": {"job_ids": [job.id]}}
    async with raw_server(store) as server:
        await server.send("tools/call", 1, **arguments, _meta={"progressToken": "p"})
        assert (await server.receive())["method"] == "notifications/progress"  # it waits
        await server.send("notifications/cancelled", requestId=1, reason="enough")
        await server.send("ping", 2)
        seen = [await server.receive()]
        while seen[-1].get("id") != 2:
            seen.append(await server.receive())
        assert job.status().state is JobState.RUNNING
        gate.open()
        job.wait(timeout=TIMEOUT)
        # Had the wait gone on it would be answered now.
        await server.send("ping", 3)
        seen.append(await server.receive())
    assert seen[-1]["id"] == 3
    assert not any("result" in message for message in seen if message.get("id") == 1)


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("version", VERSIONS)
@in_loop
async def test_client_cancelled_in_mid_wait(
    store: WatchedStore,
    gate: Gate,
    transport: str,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = asyncio.Event()

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        began.set()

    job = store.start(exits_with(5, gate))
    async with connected(store, transport, version, monkeypatch) as client:
        wait = asyncio.create_task(
            client.call_tool("job_wait", {"job_ids": [job.id]}, progress_callback=tell)
        )
        await began.wait()
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert (await call(client, "job_status", job_id=job.id))["state"] == "running"
        gate.open()
        reply = await call(client, "job_wait", job_ids=[job.id])
    assert reply["ended"][0]["exit_code"] == 5


@in_loop
async def test_client_that_leaves_in_mid_wait_ends_the_server_and_not_the_job(
    store: WatchedStore, gate: Gate
) -> None:
    job = store.start(exits_with(0, gate))
    async with raw_server(store) as server:  # checks that it ends by itself
        arguments = {"name": "job_wait", "arguments": {"job_ids": [job.id]}}
        await server.send("tools/call", 1, **arguments, _meta={"progressToken": "p"})
        await server.receive()
    assert job.status().state is JobState.RUNNING


# -- many servers ------------------------------------------------------------


@in_loop
async def test_twenty_servers_on_one_store(store: WatchedStore, gate: Gate) -> None:
    argv = command_of(store, "--max-jobs", "5")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(on_stdio(argv, MODERN)) for _ in range(20)]
        results = await asyncio.gather(
            *(
                client.call_tool("job_start", {"argv": exits_with(0, gate), "cwd": "/"})
                for client in clients
            )
        )
        started = [result.structured_content for result in results if not result.is_error]
        assert len(started) == 5
        ids = {view["job_id"] for view in started if view}
        pages = await asyncio.gather(*(call(client, "job_list") for client in clients))
        assert all({view["job_id"] for view in page["jobs"]} == ids for page in pages)

        waits = [
            asyncio.create_task(call(client, "job_wait", job_ids=sorted(ids))) for client in clients
        ]
        gate.open()
        replies = await asyncio.gather(*waits)
    assert all(len(reply["ended"]) == 5 for reply in replies)


# -- HTTP --------------------------------------------------------------------
