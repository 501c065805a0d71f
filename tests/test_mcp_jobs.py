"""The tools for jobs of any command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest
from commands import daemonizer, exits_with, polite, python, sleeper, stubborn
from conftest import TIMEOUT, Gate, WatchedStore, eventually, held, kill_and_wait, state_of
from mcp import Client
from mcp_clients import MODERN, call, in_loop, refused, server_of

from jobsup import Job, JobState, JobStore
from jobsup._identity import is_alive
from jobsup_mcp import waiting
from jobsup_mcp.job_tools import MAX_OUTPUT_BYTES


def client_of(store: JobStore, mode: str = MODERN, **policy: Any) -> Client:
    return Client(server_of(store, **policy), mode=mode)


# -- what the client is told of the tools ------------------------------------

READ_ONLY = {"job_status", "job_list", "job_output", "job_wait"}
READ_ONLY |= {"codex_poll", "codex_list", "codex_wait"}
STARTS = {"job_start", "job_run", "codex_start"}
STOPS = {"job_cancel", "codex_cancel"}
TALKS = {"job_send", "job_signal"}
FREEZES = {"job_pause", "job_resume"}


@in_loop
async def test_annotations_are_honest(store: WatchedStore) -> None:
    async with client_of(store) as client:
        tools = (await client.list_tools()).tools
    hints = {}
    for tool in tools:
        assert tool.annotations is not None
        one = tool.annotations
        hints[tool.name] = (
            one.read_only_hint,
            one.destructive_hint,
            one.idempotent_hint,
            one.open_world_hint,
        )
    assert hints == {
        **dict.fromkeys(READ_ONLY, (True, False, True, False)),
        **dict.fromkeys(STARTS, (False, True, False, True)),
        **dict.fromkeys(STOPS, (False, True, True, False)),
        **dict.fromkeys(TALKS, (False, True, False, True)),
        **dict.fromkeys(FREEZES, (False, False, True, False)),
    }


@in_loop
async def test_every_tool_is_described_with_its_units(store: WatchedStore) -> None:
    async with client_of(store) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        assert tool.description
        assert "{agent}" not in tool.description
        assert tool.output_schema
        assert tool.output_schema["type"] == "object"
        for name, field in tool.input_schema["properties"].items():
            kinds = {kind.get("type") for kind in [field, *field.get("anyOf", [])]}
            if kinds & {"number", "integer"}:
                units = ("_seconds", "_bytes", "_lines", "limit")
                assert name.endswith(units), f"{tool.name}: {name}"
            if tool.name.startswith("job_"):
                assert field.get("description"), f"{tool.name}: {name}"


# -- start and run -----------------------------------------------------------


@in_loop
async def test_start_hands_back_a_running_job(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    argv = sleeper(gate)
    async with client_of(store) as client:
        job = await call(
            client,
            "job_start",
            argv=argv,
            cwd=str(tmp_path),
            name="sleeper",
            timeout_seconds=90,
            labels={"team": "blue"},
        )
    assert (job["state"], job["outcome"], job["exit_code"]) == ("running", None, None)
    assert (job["argv"], job["cwd"], job["name"]) == (argv, str(tmp_path), "sleeper")
    assert job["timeout_seconds"] == 90
    assert job["labels"] == {"team": "blue", "jobsup_mcp": "1"}
    assert gate.pids() == [job["pid"]]
    record = store.get(job["job_id"]).status()
    assert record.state is JobState.RUNNING


@pytest.mark.parametrize("code", [0, 3])
@in_loop
async def test_run_of_what_is_short_shows_how_it_went(store: WatchedStore, code: int) -> None:
    async with client_of(store) as client:
        result = await client.call_tool(
            "job_run",
            {"argv": ["sh", "-c", f"cat; exit {code}"], "cwd": "/", "stdin_text": "ä line\n"},
        )
    view = result.structured_content
    assert view is not None
    assert (view["state"], view["exit_code"]) == ("ended", code)
    assert (view["output"], view["next_offset_bytes"], view["output_bytes"]) == ("ä line\n", 8, 8)
    assert view["gone_proved"] is True
    assert result.is_error == bool(code)


@in_loop
async def test_run_of_what_is_long_hands_back_the_job(store: WatchedStore, gate: Gate) -> None:
    async with client_of(store) as client:
        job = await call(
            client, "job_run", argv=exits_with(4, gate), cwd="/", wait_seconds=0, name="long"
        )
        assert job["state"] == "running"
        assert f'job_wait with job_ids ["{job["job_id"]}"]' in job["message"]
        gate.open()
        waited = await call(client, "job_wait", job_ids=[job["job_id"]])
    assert [(view["name"], view["exit_code"]) for view in waited["ended"]] == [("long", 4)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"argv": []}, "argv is empty"),
        ({"argv": [""]}, "argv is empty"),
        ({"argv": ["true\0"]}, "NUL"),
        ({"argv": ["no-such-program"]}, "No such file or directory"),
        ({"argv": ["/etc/passwd"]}, "Permission denied"),
        ({"argv": ["true"], "cwd": "/no/such/directory"}, "No such file or directory"),
        ({"argv": ["true"], "cwd": "/etc/passwd"}, "Not a directory"),
        ({"argv": ["true"], "name": "two words"}, "name"),
        ({"argv": ["true"], "timeout_seconds": -1}, "timeout"),
        ({"argv": ["true"], "labels": {"jobsup_mcp.agent": "codex"}}, "server's own"),
        ({"argv": ["true"], "labels": {"": "x"}}, "label"),
        ({"argv": ["true"], "stdin_text": "x", "open_stdin": True}, "not both"),
    ],
)
@in_loop
async def test_start_that_cannot_be_leaves_no_job(
    store: WatchedStore, arguments: dict[str, Any], says: str
) -> None:
    async with client_of(store) as client:
        assert says in await refused(client, "job_start", **{"cwd": "/", **arguments})
    assert store.list() == []


@in_loop
async def test_argv_must_be_a_list(store: WatchedStore) -> None:
    async with client_of(store) as client:
        result = await client.call_tool("job_start", {"argv": "rm -rf /"})
    assert result.is_error
    assert store.list() == []


# -- look --------------------------------------------------------------------

LOOKS = ["job_status", "job_output", "job_cancel", "job_pause", "job_resume", "job_send"]


@pytest.mark.parametrize("tool", [*LOOKS, "job_signal", "job_wait"])
@pytest.mark.parametrize("job_id", ["nope", "", "../jobs", "/"])
@in_loop
async def test_unknown_job_is_an_error(store: WatchedStore, tool: str, job_id: str) -> None:
    arguments: dict[str, Any] = {"job_id": job_id}
    if tool == "job_wait":
        arguments = {"job_ids": [job_id]}
    if tool == "job_signal":
        arguments["signal"] = "TERM"
    store.start(["true"], cwd="/").wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        error = await refused(client, tool, **arguments)
    assert f"no job {job_id!r}" in error or "fits" in error


@in_loop
async def test_status_tells_of_a_job_of_the_command_line_by_its_name(store: WatchedStore) -> None:
    job = store.start(python("os.kill(os.getpid(), signal.SIGUSR1)"), name="mine", cwd="/")
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        view = await call(client, "job_status", job_id="mine")
        assert view == await call(client, "job_status", job_id=job.id)
        assert "no job" in await refused(client, "job_status", job_id=job.id[-8:])
    assert (view["outcome"], view["exit_code"], view["signal"]) == ("killed", None, "SIGUSR1")
    assert view["peak_rss_bytes"] > 0


@in_loop
async def test_list_filters_and_pages(store: WatchedStore, gate: Gate) -> None:
    for number in range(5):
        store.start(exits_with(number % 2), name=f"job{number}", labels={"n": str(number % 2)})
    store.wait(store.list(), timeout=TIMEOUT)
    running = store.start(sleeper(gate))

    async with client_of(store) as client:

        async def names(**filters: Any) -> list[str]:
            return [view["name"] for view in (await call(client, "job_list", **filters))["jobs"]]

        assert await names() == [None, "job4", "job3", "job2", "job1", "job0"]
        assert await names(state=["running", "paused"]) == [None]
        assert await names(outcome=["failed"]) == ["job3", "job1"]
        assert await names(labels={"n": "0"}) == ["job4", "job2", "job0"]
        assert await names(name="job2") == ["job2"]
        assert await names(limit=0) == []

        seen: list[str] = []
        cursor = None
        while True:
            page = await call(client, "job_list", limit=2, cursor=cursor)
            seen += [view["job_id"] for view in page["jobs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert seen == [job.id for job in store.list()]
    assert seen[0] == running.id


@in_loop
async def test_list_names_damaged_jobs_and_shows_the_others(store: WatchedStore) -> None:
    good, bad = (store.start(["true"], cwd="/") for _ in range(2))
    store.wait([good, bad], timeout=TIMEOUT)
    (store.root / "jobs" / bad.id / "meta.json").write_text("{")
    async with client_of(store) as client:
        page = await call(client, "job_list")
    assert [view["job_id"] for view in page["jobs"]] == [good.id]
    (damaged,) = page["damaged"]
    assert damaged.startswith(bad.id)


# -- wait --------------------------------------------------------------------


@in_loop
async def test_wait_for_any_returns_with_the_first(store: WatchedStore, gate: Gate) -> None:
    slow = store.start(sleeper())
    quick = store.start(exits_with(0, gate))
    async with client_of(store) as client:
        asyncio.get_running_loop().call_later(0.1, gate.open)
        reply = await call(client, "job_wait", job_ids=[slow.id, quick.id], mode="any")
    assert [view["job_id"] for view in reply["ended"]] == [quick.id]
    assert [view["job_id"] for view in reply["pending"]] == [slow.id]
    assert "1 of 2 have ended" in reply["message"]


@in_loop
async def test_wait_for_all_answers_when_the_time_is_up(store: WatchedStore) -> None:
    slow = store.start(sleeper())
    quick = store.start(["true"], cwd="/")
    async with client_of(store) as client:
        quick.wait(timeout=TIMEOUT)
        reply = await call(client, "job_wait", job_ids=[quick.id, slow.id], timeout_seconds=0.05)
    assert [view["job_id"] for view in reply["pending"]] == [slow.id]
    assert "call job_wait again" in reply["message"]


@in_loop
async def test_wait_checks_all_ids_first(store: WatchedStore) -> None:
    slow = store.start(sleeper())
    async with client_of(store) as client:
        assert "'nope'" in await refused(client, "job_wait", job_ids=[slow.id, "nope"])
        assert "timeout_seconds" in await refused(
            client, "job_wait", job_ids=[slow.id], timeout_seconds=-1
        )
        result = await client.call_tool("job_wait", {"job_ids": []})
        assert result.is_error


def test_a_wait_is_cut_to_what_clients_bear() -> None:
    assert waiting.capped(3600) == waiting.MAX_WAIT_SECONDS == 45
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            waiting.capped(wrong)


@in_loop
async def test_wait_tells_of_ever_more_progress(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BEAT_SECONDS", 0.02)
    told: list[tuple[float, float | None, str | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        if len(told) == 5:
            gate.open()

    job = store.start(exits_with(0, gate))
    async with client_of(store, "legacy") as client:
        result = await client.call_tool("job_wait", {"job_ids": [job.id]}, progress_callback=tell)
    assert not result.is_error
    values = [value for value, _, _ in told]
    assert len(values) >= 5
    assert values == sorted(set(values))
    assert {total for _, total, _ in told} == {45.0}
    assert told[0][2] == "1 of 1 jobs still run after 0 s"


class SpiedStore(WatchedStore):
    """Says what became of the waits."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waits: list[str] = []
        self.began = asyncio.Event()

    async def wait_async(self, *args: Any, **kwargs: Any) -> Any:
        self.began.set()
        try:
            waited = await super().wait_async(*args, **kwargs)
        except asyncio.CancelledError:
            self.waits.append("cancelled")
            raise
        self.waits.append("done")
        return waited


@pytest.mark.parametrize("tool", ["job_wait", "job_run", "codex_wait"])
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
@in_loop
async def test_client_that_gives_up_ends_the_wait_and_not_the_job(
    store: WatchedStore, tool: str, mode: str
) -> None:
    spied = SpiedStore(store.root)
    job = store.start(sleeper(), labels={"jobsup_mcp.agent": "codex"})
    arguments: dict[str, Any] = {
        "job_wait": {"job_ids": [job.id]},
        "job_run": {"argv": sleeper(), "cwd": "/"},
        "codex_wait": {"job_id": job.id},
    }
    async with client_of(spied, mode) as client:
        call = asyncio.create_task(client.call_tool(tool, arguments[tool]))
        await spied.began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while not spied.waits:
            await asyncio.sleep(0.005)
        await client.list_tools()  # it serves on
    assert spied.waits == ["cancelled"]
    assert {job.status().state for job in store.list()} == {JobState.RUNNING}


# -- output ------------------------------------------------------------------


async def finished(store: JobStore, script: str) -> Job:
    job = store.start(python(script), cwd="/")
    await job.wait_async(timeout=TIMEOUT)
    return job


@in_loop
async def test_output_shows_the_last_whole_lines(store: WatchedStore) -> None:
    job = await finished(store, "for n in range(100): print(f'line {n:04}')")  # 10 bytes each
    async with client_of(store) as client:
        whole = await call(client, "job_output", job_id=job.id)
        tail = await call(client, "job_output", job_id=job.id, limit_bytes=25)
    assert whole["output"].startswith("line 0000\n")
    assert tail == {
        "job_id": job.id,
        "state": "ended",
        "output": "line 0098\nline 0099\n",
        "offset_bytes": 980,
        "next_offset_bytes": 1000,
        "total_bytes": 1000,
        "lost_bytes": 0,
        "is_end": True,
    }


@in_loop
async def test_output_is_that_of_stdout_where_stderr_is_apart(store: WatchedStore) -> None:
    job = store.start(
        python("os.write(1, b'out\\n'); os.write(2, b'x' * 20000)"), stderr="separate"
    )
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        reply = await call(client, "job_output", job_id=job.id)
    assert (reply["output"], reply["offset_bytes"], reply["total_bytes"]) == ("out\n", 0, 4)


@in_loop
async def test_output_is_8_kb_by_default(store: WatchedStore) -> None:
    job = await finished(store, "os.write(1, b'x' * 20000)")
    async with client_of(store) as client:
        reply = await call(client, "job_output", job_id=job.id)
        too_much = await client.call_tool(
            "job_output", {"job_id": job.id, "limit_bytes": MAX_OUTPUT_BYTES + 1}
        )
    assert reply["output"] == "x" * 8192
    assert (reply["offset_bytes"], reply["total_bytes"]) == (20000 - 8192, 20000)
    assert too_much.is_error


@in_loop
async def test_output_read_in_small_pieces_is_whole(store: WatchedStore) -> None:
    text = "aä€😀\n" * 20
    job = await finished(store, f"os.write(1, {text.encode()!r} + b'\\xff')")
    async with client_of(store) as client:
        pieces, offset = "", 0
        while True:
            piece = await call(
                client, "job_output", job_id=job.id, offset_bytes=offset, limit_bytes=5
            )
            pieces += piece["output"]
            assert piece["next_offset_bytes"] > offset or piece["is_end"]
            offset = piece["next_offset_bytes"]
            if piece["is_end"]:
                break
    assert pieces == text + "\ufffd"
    assert offset == len(text.encode()) + 1


@in_loop
async def test_output_begins_with_a_whole_character(store: WatchedStore) -> None:
    job = await finished(store, "os.write(1, '😀'.encode() * 10)")
    async with client_of(store) as client:
        reply = await call(client, "job_output", job_id=job.id, limit_bytes=10)
    assert (reply["output"], reply["offset_bytes"]) == ("😀😀", 32)


@in_loop
async def test_output_can_be_followed(store: WatchedStore, gate: Gate) -> None:
    job = store.start(
        python(
            "os.write(1, b'first\\n\\xc3'); tell(sys.argv[1]); wait_for(sys.argv[2])"
            "; os.write(1, b'\\xa4')",
            gate.told,
            gate.opened,
        )
    )
    gate.wait()
    async with client_of(store) as client:
        first = await call(client, "job_output", job_id=job.id, offset_bytes=0)
        gate.open()
        await job.wait_async(timeout=TIMEOUT)
        second = await call(
            client, "job_output", job_id=job.id, offset_bytes=first["next_offset_bytes"]
        )
    assert (first["output"], first["next_offset_bytes"], first["is_end"]) == ("first\n", 6, False)
    assert (second["output"], second["is_end"]) == ("ä", True)


@in_loop
async def test_output_tells_how_much_was_dropped(store: WatchedStore) -> None:
    limit = 2 << 20
    job = store.start(
        python("for _ in range(64): os.write(1, b'x' * (1 << 20)); time.sleep(0.005)"),
        output_limit=limit,
    )
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        status = await call(client, "job_status", job_id=job.id)
        reply = await call(client, "job_output", job_id=job.id, offset_bytes=1 << 20)
    assert status["output_lost_bytes"] > 0
    assert reply["lost_bytes"] > 0
    assert reply["offset_bytes"] == (1 << 20) + reply["lost_bytes"]
    assert reply["output"] == "x" * 8192


# -- act ---------------------------------------------------------------------


@in_loop
async def test_cancel_returns_when_all_is_gone(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.start(stubborn(gate), stop="TERM 0.05, KILL")
    process = held(gate.pids()[0])
    async with client_of(store) as client:
        view = await call(client, "job_cancel", job_id=job.id)
        assert not is_alive(process)
        assert (view["state"], view["outcome"], view["signal"]) == ("ended", "cancelled", "SIGKILL")
        assert await call(client, "job_cancel", job_id=job.id) == view


@in_loop
async def test_cancel_of_what_ended_by_itself_changes_nothing(store: WatchedStore) -> None:
    job = store.start(exits_with(5))
    before = job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        view = await call(client, "job_cancel", job_id=job.id)
    assert (view["outcome"], view["exit_code"]) == ("failed", 5)
    assert job.status() == before


@in_loop
async def test_send_feeds_an_open_standard_input(store: WatchedStore) -> None:
    async with client_of(store) as client:
        job = await call(client, "job_start", argv=["cat"], cwd="/", open_stdin=True)
        assert job["stdin"] == "fifo"
        sent = await call(client, "job_send", job_id=job["job_id"], text="ä\n")
        assert sent == {"job_id": job["job_id"], "sent_bytes": 3, "stdin_open": True}
        sent = await call(client, "job_send", job_id=job["job_id"], text="end", close=True)
        assert sent["stdin_open"] is False
        await call(client, "job_wait", job_ids=[job["job_id"]])
        reply = await call(client, "job_output", job_id=job["job_id"])
        assert reply["output"] == "ä\nend"
        assert "cannot take this" in await refused(
            client, "job_send", job_id=job["job_id"], text="x"
        )


@in_loop
async def test_send_without_open_input_is_an_error(store: WatchedStore) -> None:
    job = store.start(sleeper())
    async with client_of(store) as client:
        assert "standard input" in await refused(client, "job_send", job_id=job.id, text="x")


@in_loop
async def test_signal_reaches_the_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(polite(9, gate, on=SIGHUP))
    gate.wait()
    async with client_of(store) as client:
        assert "NOPE" in await refused(client, "job_signal", job_id=job.id, signal="NOPE")
        await call(client, "job_signal", job_id=job.id, signal="HUP")
        await call(client, "job_wait", job_ids=[job.id])
        assert "ended" in await refused(client, "job_signal", job_id=job.id, signal="HUP")
    assert job.status().exit_code == 9


@in_loop
async def test_pause_and_resume(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    (pid,) = gate.pids()
    async with client_of(store) as client:
        view = await call(client, "job_pause", job_id=job.id)
        assert view["state"] == "paused"
        eventually(lambda: state_of(pid) == "T", "stopped")
        view = await call(client, "job_resume", job_id=job.id)
        assert view["state"] == "running"
        eventually(lambda: state_of(pid) == "S", "resumed")


@in_loop
async def test_survivors_are_shown(store: WatchedStore, gate: Gate) -> None:
    job = store.start(daemonizer(gate), leftovers="leave")
    daemon = held(gate.pids()[0])
    job.wait(timeout=TIMEOUT)
    async with client_of(store) as client:
        view = await call(client, "job_status", job_id=job.id)
    (survivor,) = view["survivors"]
    assert survivor["pid"] == daemon.pid
    assert view["gone_proved"] is False
    kill_and_wait(daemon)
