"""The Tasks extension: the durable job is the task."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import dies_of, exits_with, polite, python, sleeper
from conformance_server import pretend_reboot
from conftest import TIMEOUT, Gate, WatchedStore
from mcp import Client, MCPError
from mcp_clients import (
    MODERN,
    TaskHandle,
    Tasks,
    ask_task,
    call,
    in_loop,
    put_codex_on_path,
    reply_of,
    server_of,
)
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY

from jobsup import Job, JobState, JobStore, Outcome

TASK_KEYS = ["createdAt", "lastUpdatedAt", "pollIntervalMs", "status", "statusMessage"]
TASK_KEYS += ["taskId", "ttlMs"]


def client_of(store: JobStore, mode: str = MODERN, **policy: Any) -> Client:
    """A client that knows tasks."""
    return Client(server_of(store, **policy), mode=mode, extensions=[Tasks()])


async def get(client: Client, job: Job | str) -> dict[str, Any]:
    """What tasks/get says, without what the SDK adds."""
    task = await ask_task(client.session, "get", job if isinstance(job, str) else job.id)
    task.pop("_meta", None)
    assert task.pop("resultType") == "complete"
    return task


async def run_as_task(client: Client, argv: list[str]) -> TaskHandle:
    arguments = {"argv": argv, "cwd": "/", "wait_seconds": 0}
    handle = await client.session.call_tool("job_run", arguments, allow_claimed=True)
    assert isinstance(handle, TaskHandle)
    return handle


@in_loop
async def test_job_that_runs_on_becomes_a_task_of_its_own_id(
    store: WatchedStore, gate: Gate
) -> None:
    async with client_of(store) as client:
        handle = await run_as_task(client, exits_with(0, gate))
        (job,) = store.list()
        assert (handle.task_id, handle.status) == (job.id, "working")
        assert handle.ttl_ms is None  # not missing: the field has no default

        task = await get(client, job)
        assert sorted(task) == TASK_KEYS
        assert (task["status"], task["statusMessage"]) == ("working", "running")
        gate.open()
        job.wait(timeout=TIMEOUT)
        task = await get(client, job)
    assert sorted(task) == sorted([*TASK_KEYS, "result"])
    assert (task["status"], task["result"]["isError"]) == ("completed", False)
    assert task["ttlMs"] is None
    record = job.status()
    assert datetime.fromisoformat(task["createdAt"]) == record.created_at
    assert datetime.fromisoformat(task["lastUpdatedAt"]) == record.ended_at


@in_loop
async def test_client_that_knows_tasks_gets_the_same_reply_in_the_end(
    store: WatchedStore, gate: Gate
) -> None:
    tasks = Tasks()
    server = server_of(store)
    argv = python("os.write(1, b'words\\n'); wait_for(sys.argv[1]); os._exit(3)", gate.opened)
    async with Client(server, mode=MODERN, extensions=[tasks]) as client:
        handle = await run_as_task(client, argv)
        gate.open()
        result = await client.call_tool("job_run", {"argv": argv, "cwd": "/", "wait_seconds": 0})
        view = reply_of(result)
        store.get(handle.task_id).wait(timeout=TIMEOUT)
        task = await get(client, handle.task_id)

    assert (view["state"], view["exit_code"], view["output"]) == ("ended", 3, "words\n")
    assert result.is_error
    inlined = task["result"]
    assert sorted(inlined) == ["content", "isError", "structuredContent"]
    assert sorted(inlined["structuredContent"]) == sorted(view)
    assert json.loads(inlined["content"][0]["text"]) == inlined["structuredContent"]


@in_loop
async def test_job_that_ends_in_time_is_no_task(store: WatchedStore) -> None:
    async with client_of(store) as client:
        result = await client.session.call_tool("job_run", {"argv": ["true"], "cwd": "/"})
        view = reply_of(result)
    assert (view["state"], result.is_error) == ("ended", False)


@in_loop
async def test_error_is_no_task(store: WatchedStore) -> None:
    async with client_of(store) as client:
        result = await client.session.call_tool("job_run", {"argv": [], "cwd": "/"})
    assert result.is_error
    assert store.list() == []


@pytest.mark.parametrize("mode", [MODERN, "legacy"])
@in_loop
async def test_client_that_knows_no_tasks_gets_the_job(
    store: WatchedStore, gate: Gate, mode: str
) -> None:
    async with Client(server_of(store), mode=mode) as client:
        view = await call(client, "job_run", argv=exits_with(0, gate), cwd="/", wait_seconds=0)
        assert (view["state"], view["message"][:13]) == ("running", "still running")
        if mode == MODERN:
            for verb in ("get", "update", "cancel"):
                with pytest.raises(MCPError) as refusal:
                    await ask_task(client.session, verb, view["job_id"], inputResponses={})
                assert refusal.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
                assert refusal.value.error.data == {
                    "requiredCapabilities": {"extensions": {Tasks.identifier: {}}}
                }
        assert store.get(view["job_id"]).status().state is JobState.RUNNING


@in_loop
async def test_older_protocols_have_no_tasks(store: WatchedStore, gate: Gate) -> None:
    async with client_of(store, mode="legacy") as client:
        view = await call(client, "job_run", argv=exits_with(0, gate), cwd="/", wait_seconds=0)
        assert view["state"] == "running"
        with pytest.raises(MCPError) as refusal:
            await ask_task(client.session, "get", view["job_id"])
    assert refusal.value.error.code == METHOD_NOT_FOUND


# -- how it went -------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (exits_with(3), "ended, failed"),
        (dies_of(9), "ended, killed"),
        (python("time.sleep(100)"), "ended, timed-out"),
    ],
    ids=["failed", "killed", "timed-out"],
)
@in_loop
async def test_command_that_failed_is_completed_with_an_error(
    store: WatchedStore, argv: list[str], message: str
) -> None:
    job = store.start(argv, timeout=1.0, grace=0)
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        task = await get(client, job)
    assert (task["status"], task["statusMessage"]) == ("completed", message)
    assert task["result"]["isError"] is True
    assert "error" not in task


@pytest.mark.usefixtures("no_launcher")
@in_loop
async def test_lost_job_is_a_failed_task(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    pretend_reboot(job)
    async with client_of(store) as client:
        task = await get(client, job)
    assert job.status().outcome is Outcome.LOST
    assert (task["status"], task["statusMessage"]) == ("failed", "ended, lost, reboot")
    assert isinstance(task["error"]["code"], int)
    assert job.id in task["error"]["message"]
    assert "result" not in task


@in_loop
async def test_cancel_is_acknowledged_and_then_seen(store: WatchedStore, gate: Gate) -> None:
    job = store.start(polite(0, gate))
    gate.wait()
    async with client_of(store) as client:
        for _ in range(2):  # before and after the end
            ack = await ask_task(client.session, "cancel", job.id)
            ack.pop("_meta", None)
            assert ack == {"resultType": "complete"}
            await job.wait_async(timeout=TIMEOUT)
        task = await get(client, job)
    assert sorted(task) == TASK_KEYS
    assert (task["status"], task["statusMessage"]) == ("cancelled", "ended, cancelled")


@in_loop
async def test_cancel_of_what_ended_by_itself_changes_nothing(store: WatchedStore) -> None:
    job = store.start(["true"], cwd="/")
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        await ask_task(client.session, "cancel", job.id)
        assert (await get(client, job))["status"] == "completed"


@in_loop
async def test_update_is_acknowledged_and_ignored(store: WatchedStore, gate: Gate) -> None:
    job = store.start(exits_with(0, gate))
    async with client_of(store) as client:
        answer = {"never-asked": {"action": "accept"}}
        ack = await ask_task(client.session, "update", job.id, inputResponses=answer)
        ack.pop("_meta", None)
        assert ack == {"resultType": "complete"}
        assert (await get(client, job))["status"] == "working"


# -- which tasks there are ---------------------------------------------------


@in_loop
async def test_task_of_a_server_that_is_gone_is_found(store: WatchedStore, gate: Gate) -> None:
    async with client_of(store) as client:
        handle = await run_as_task(client, exits_with(4, gate))
    async with client_of(JobStore(store.root)) as client:
        assert (await get(client, handle.task_id))["status"] == "working"
        gate.open()
        await store.get(handle.task_id).wait_async(timeout=TIMEOUT)
        task = await get(client, handle.task_id)
    assert task["result"]["structuredContent"]["exit_code"] == 4


@in_loop
async def test_job_of_codex_is_a_task_too(
    store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_codex_on_path(tmp_path / "bin", monkeypatch)
    async with client_of(store) as client:
        job = await call(client, "codex_start", prompt="exit 0", cwd=str(tmp_path))
        await call(client, "codex_wait", job_id=job["job_id"])
        assert (await get(client, job["job_id"]))["status"] == "completed"


@pytest.mark.parametrize("verb", ["get", "update", "cancel"])
@pytest.mark.parametrize("task_id", ["nope", "", "../../x"])
@in_loop
async def test_unknown_task_is_invalid(store: WatchedStore, verb: str, task_id: str) -> None:
    async with client_of(store) as client:
        with pytest.raises(MCPError) as refusal:
            await ask_task(client.session, verb, task_id, inputResponses={})
    assert refusal.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize("method", ["result", "list"])
@in_loop
async def test_methods_of_the_old_tasks_are_gone(store: WatchedStore, method: str) -> None:
    async with client_of(store) as client:
        with pytest.raises(MCPError) as refusal:
            await ask_task(client.session, method, "x")
    assert refusal.value.error.code == METHOD_NOT_FOUND


@in_loop
async def test_policy_holds_for_tasks(store: WatchedStore) -> None:
    job = store.start(sleeper())
    async with client_of(store, allow=("true",)) as client:
        with pytest.raises(MCPError, match="can be read, not changed"):
            await ask_task(client.session, "cancel", job.id)
        assert (await get(client, job))["status"] == "working"


@in_loop
async def test_damaged_job_is_an_error(store: WatchedStore) -> None:
    job = store.start(["true"], cwd="/")
    job.wait(timeout=TIMEOUT)
    (store.root / "jobs" / job.id / "meta.json").write_text("{")
    async with client_of(store) as client:
        with pytest.raises(MCPError, match="damaged"):
            await get(client, job)
