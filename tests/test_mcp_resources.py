"""Jobs as resources, and the notifications of their changes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from commands import exits_with, python, sleeper
from conftest import TIMEOUT, Gate, WatchedStore
from mcp import Client, MCPError
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_clients import MODERN, call, in_loop, server_of
from mcp_types import INVALID_PARAMS, ResourceUpdatedNotification, TextResourceContents

from jobsup_mcp import changes
from jobsup_mcp.changes import Watch


async def read(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


@pytest.mark.parametrize("mode", [MODERN, "legacy"])
@in_loop
async def test_jobs_are_listed_and_read(store: WatchedStore, mode: str) -> None:
    job = store.start(python("os.write(1, b'a line\\n')"), name="one", cwd="/")
    job.wait(timeout=TIMEOUT)
    async with Client(server_of(store), mode=mode) as client:
        listed = {
            resource.uri: resource.name for resource in (await client.list_resources()).resources
        }
        templates = (await client.list_resource_templates()).resource_templates
        view = json.loads(await read(client, f"job://{job.id}"))
        assert view == await call(client, "job_status", job_id=job.id)
        assert await read(client, f"job://{job.id}/output") == "a line\n"
    assert listed == {f"job://{job.id}": "job one", f"job://{job.id}/output": "output of one"}
    assert [one.uri_template for one in templates] == ["job://{job_id}", "job://{job_id}/output"]


@pytest.mark.parametrize("mode", [MODERN, "legacy"])
@pytest.mark.parametrize(
    "uri", ["job://nope", "job://nope/output", "job://..%2fx", "file:///etc/passwd"]
)
@in_loop
async def test_unknown_resource_is_an_error(store: WatchedStore, mode: str, uri: str) -> None:
    store.start(["true"], cwd="/").wait(timeout=TIMEOUT)
    async with Client(server_of(store), mode=mode) as client:
        with pytest.raises(MCPError) as refusal:
            await client.read_resource(uri)
    assert refusal.value.error.code == INVALID_PARAMS


@in_loop
async def test_damaged_job_does_not_hide_the_others(store: WatchedStore) -> None:
    good, bad = (store.start(["true"], cwd="/") for _ in range(2))
    store.wait([good, bad], timeout=TIMEOUT)
    (store.root / "jobs" / bad.id / "spec.json").write_text("{")
    async with Client(server_of(store), mode=MODERN) as client:
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
    assert listed == [f"job://{good.id}", f"job://{good.id}/output"]


@in_loop
async def test_changes_reach_who_listens(store: WatchedStore, gate: Gate) -> None:
    job = store.start(python("wait_for(sys.argv[1]); os.write(1, b'x')", gate.opened))
    other = store.start(sleeper())
    uris = [f"job://{job.id}", f"job://{job.id}/output"]
    seen: set[Any] = set()
    async with (
        Client(server_of(store), mode=MODERN) as client,
        client.listen(resource_subscriptions=uris, resources_list_changed=True) as events,
    ):
        gate.open()
        other.pause()
        await job.wait_async(timeout=TIMEOUT)
        store.start(["true"], cwd="/")
        wanted = {*(ResourceUpdated(uri=uri) for uri in uris), ResourcesListChanged()}
        async for event in events:
            seen.add(event)
            if seen == wanted:
                break
    assert seen == wanted


@pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")
@in_loop
async def test_changes_reach_subscribers_of_the_older_protocols(
    store: WatchedStore, gate: Gate
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            await told.put(str(message.params.uri))

    job = store.start(exits_with(0, gate))
    other = store.start(sleeper())
    async with Client(server_of(store), mode="legacy", message_handler=hear) as client:
        await client.subscribe_resource(f"job://{other.id}")
        await client.subscribe_resource(f"job://{job.id}")
        await client.unsubscribe_resource(f"job://{other.id}")
        other.pause()
        gate.open()
        assert await told.get() == f"job://{job.id}"
    assert told.empty()


@in_loop
async def test_nobody_looks_while_nobody_listens(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = Watch.look

    def counted(self: Watch) -> tuple[set[str], bool]:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(Watch, "look", counted)
    monkeypatch.setattr(changes, "_LOOK_SECONDS", 0.001)
    async with Client(server_of(store), mode=MODERN) as client:
        await call(client, "job_run", argv=["true"], cwd="/")
        assert looks == 0
        async with client.listen(resources_list_changed=True):
            await call(client, "job_run", argv=["true"], cwd="/")
            while looks < 3:
                await asyncio.sleep(0.001)
        await call(client, "job_run", argv=["true"], cwd="/")  # the last one it notices
        while True:
            before = looks
            await asyncio.sleep(0.05)
            if looks == before:
                break


def test_watch_tells_of_every_change_once(store: WatchedStore, gate: Gate) -> None:
    old = store.start(["true"], cwd="/")
    old.wait(timeout=TIMEOUT)
    watch = Watch(store)
    assert watch.look() == (set(), False)

    job = store.start(python("os.write(1, b'x'); wait_for(sys.argv[1])", gate.opened), cwd="/")
    changed: set[str] = set()
    is_new = False
    while changed != {f"job://{job.id}", f"job://{job.id}/output"}:
        more, new = watch.look()
        changed |= more
        is_new |= new
    assert is_new
    assert watch.look() == (set(), False)
    gate.open()
    job.wait(timeout=TIMEOUT)
    changed, is_new = watch.look()
    assert (f"job://{job.id}" in changed, is_new) == (True, False)
