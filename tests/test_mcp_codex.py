"""The tools of codex-async-mcp, with a codex that behaves as the real one does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from commands import sleeper
from conftest import TIMEOUT, Gate, WatchedStore, held, kill_and_wait
from mcp import Client
from mcp_clients import MODERN, call, in_loop, put_codex_on_path, refused, server_of

from jobsup import Job, JobRecord, JobState, JobStore, Outcome
from jobsup._identity import is_alive
from jobsup._model import Survivor, now
from jobsup._value import evolve
from jobsup_mcp import views, waiting
from jobsup_mcp.desk import Desk
from jobsup_mcp.policy import Policy
from jobsup_mcp.presets import AGENTS
from jobsup_mcp.server import build

POLL_KEYS = [
    *("job_id", "status", "exit_code", "output", "started_at", "finished_at", "prompt", "cwd"),
]


@pytest.fixture(autouse=True)
def _codex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_codex_on_path(tmp_path / "bin", monkeypatch)


def client_of(store: JobStore, *agents: str) -> Client:
    return Client(server_of(store, *agents), mode=MODERN)


async def ended(client: Client, prompt: str, cwd: Path) -> dict[str, Any]:
    """A codex job that ran to its end."""
    job = await call(client, "codex_start", prompt=prompt, cwd=str(cwd))
    return await call(client, "codex_wait", job_id=job["job_id"])


@in_loop
async def test_start_answers_while_codex_works(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        prompt = f"tell {gate.told} await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))

        assert job == {"job_id": job["job_id"], "status": "running", "pid": gate.pids()[0]}

        poll = await call(client, "codex_poll", job_id=job["job_id"])
        assert list(poll) == POLL_KEYS
        assert (poll["status"], poll["exit_code"], poll["finished_at"]) == ("running", None, None)
        assert (poll["prompt"], poll["cwd"]) == (prompt, str(tmp_path))

        reply = await call(client, "codex_wait", job_id=job["job_id"], timeout_seconds=0.01)
        assert (list(reply), reply["status"]) == (["job_id", "status", "message"], "running")
        assert "codex_wait again" in reply["message"]
        gate.open()
        reply = await call(client, "codex_wait", job_id=job["job_id"])
        assert (reply["status"], reply["exit_code"]) == ("done", 0)


@in_loop
async def test_times_are_iso_8601_and_utc(store: WatchedStore, tmp_path: Path) -> None:
    async with client_of(store) as client:
        reply = await ended(client, "exit 0", tmp_path)
    started, finished = (
        datetime.fromisoformat(reply[key]) for key in ("started_at", "finished_at")
    )
    assert started.utcoffset() == finished.utcoffset() == timedelta(0)
    assert started <= finished <= now()


@in_loop
async def test_failure_is_an_error_with_its_code_also_after_a_restart(
    store: WatchedStore, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        before = await ended(client, "say before exit 7", tmp_path)
    async with client_of(JobStore(store.root)) as client:
        after = await call(client, "codex_poll", job_id=before["job_id"])
        (listed,) = (await call(client, "codex_list"))["result"]

    assert after == before
    assert list(after) == POLL_KEYS
    assert (after["status"], after["exit_code"]) == ("error", 7)
    assert after["output"].splitlines()[-1] == "before"
    assert listed["status"] == "error"


@in_loop
async def test_codex_that_died_of_a_signal_is_an_error(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        prompt = f"tell {gate.told} await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        kill_and_wait(held(gate.pids()[0]))
        reply = await call(client, "codex_wait", job_id=job["job_id"])
    assert (reply["status"], reply["exit_code"]) == ("error", -SIGKILL)


# -- cancel ------------------------------------------------------------------


@in_loop
async def test_cancel_returns_when_the_tools_in_their_own_sessions_are_gone_too(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        prompt = f"tool tool tell {gate.told} await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        tree = [held(pid) for pid in gate.pids()]

        reply = await call(client, "codex_cancel", job_id=job["job_id"])

        assert reply == {"job_id": job["job_id"], "status": "cancelled", "killed": True}
        assert len(tree) == 3
        assert not any(is_alive(process) for process in tree)
        assert store.get(job["job_id"]).status().proved

        again = await call(client, "codex_cancel", job_id=job["job_id"])
        assert again["message"] == "Job is not running"
        assert again["status"] == "cancelled"


@in_loop
async def test_codex_is_asked_with_sigint_first(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        prompt = f"tell {gate.told} await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        gate.wait()
        await call(client, "codex_cancel", job_id=job["job_id"])
        poll = await call(client, "codex_poll", job_id=job["job_id"])
    assert (poll["status"], poll["exit_code"]) == ("cancelled", 130)
    assert poll["output"].endswith("interrupted\n")


@in_loop
async def test_codex_that_will_not_go_is_killed(
    store: WatchedStore, gate: Gate, tmp_path: Path
) -> None:
    assert AGENTS["codex"].stop == "INT 5, TERM 10, KILL"
    hasty = AGENTS["codex"]._replace(stop="INT 0.05, TERM 0.05, KILL")
    async with Client(build(Desk(store, Policy()), [hasty]), mode=MODERN) as client:
        prompt = f"stubborn tool tell {gate.told} await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        tree = [held(pid) for pid in gate.pids()]
        reply = await call(client, "codex_cancel", job_id=job["job_id"])
    assert (reply["status"], reply["killed"]) == ("cancelled", True)
    assert not any(is_alive(process) for process in tree)


@pytest.mark.parametrize(("code", "status"), [(0, "done"), (7, "error")])
@in_loop
async def test_job_that_ended_before_the_cancel_keeps_its_status(
    store: WatchedStore, tmp_path: Path, code: int, status: str
) -> None:
    async with client_of(store) as client:
        job = await ended(client, f"exit {code}", tmp_path)
        reply = await call(client, "codex_cancel", job_id=job["job_id"])
        poll = await call(client, "codex_poll", job_id=job["job_id"])
    assert reply == {"job_id": job["job_id"], "status": status, "message": "Job is not running"}
    assert (poll["status"], poll["exit_code"]) == (status, code)


@in_loop
async def test_job_that_ends_while_the_cancel_is_under_way_keeps_its_status(
    store: WatchedStore, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_late(desk: Desk, job: Job) -> JobRecord:
        gate.open()
        await job.wait_async(timeout=TIMEOUT)
        return await cancel(desk, job)

    cancel = waiting.cancel
    monkeypatch.setattr(waiting, "cancel", too_late)
    async with client_of(store) as client:
        prompt = f"await {gate.opened} exit 7"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        reply = await call(client, "codex_cancel", job_id=job["job_id"])
    assert reply == {"job_id": job["job_id"], "status": "error", "message": "Job is not running"}


@in_loop
async def test_what_could_not_be_killed_is_named_and_not_called_cancelled(
    store: WatchedStore, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(_: Desk, job: Job) -> JobRecord:
        left = Survivor(4711, "sudo", 0, "S", errno=1)
        return evolve(job.status(), state=JobState.STOPPING, survivors=(left,))

    monkeypatch.setattr(waiting, "cancel", in_vain)
    async with client_of(store) as client:
        prompt = f"await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        reply = await call(client, "codex_cancel", job_id=job["job_id"])
    assert (reply["status"], reply["killed"]) == ("running", False)
    assert "pid 4711 (sudo, uid 0, state S, errno 1)" in reply["message"]


# -- bad input ---------------------------------------------------------------


@pytest.mark.parametrize("tool", ["codex_poll", "codex_cancel", "codex_wait"])
@pytest.mark.parametrize("job_id", ["nope", "", "../../etc", "/etc/passwd", "01m", "0" * 26, "a'b"])
@in_loop
async def test_unknown_id_is_not_found(
    store: WatchedStore, tmp_path: Path, tool: str, job_id: str
) -> None:
    async with client_of(store) as client:
        await ended(client, "exit 0", tmp_path)
        assert await refused(client, tool, job_id=job_id) == f"Job '{job_id}' not found"


@pytest.mark.parametrize("tool", ["codex_poll", "codex_cancel", "codex_wait"])
@in_loop
async def test_part_of_an_id_and_jobs_of_others_are_not_found(
    store: WatchedStore, tmp_path: Path, gate: Gate, tool: str
) -> None:
    async with client_of(store) as client:
        ours = await ended(client, "exit 0", tmp_path)
        other = store.start(sleeper(gate), labels={"jobsup_mcp.agent": "claude"})
        for job_id in (ours["job_id"][-6:], other.id):
            assert await refused(client, tool, job_id=job_id) == f"Job '{job_id}' not found"
        assert other.status().state is JobState.RUNNING


@in_loop
async def test_missing_codex_is_an_error_and_leaves_no_job(
    store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with client_of(store) as client:
        error = await refused(client, "codex_start", prompt="x", cwd=str(tmp_path))
        assert "cannot run 'codex': No such file or directory" in error
        assert store.list() == []


@in_loop
async def test_missing_cwd_is_an_error_and_leaves_no_job(
    store: WatchedStore, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        missing = str(tmp_path / "missing")
        error = await refused(client, "codex_start", prompt="x", cwd=missing)
        assert missing in error
        assert "No such file or directory" in error
        assert store.list() == []


@pytest.mark.parametrize("prompt", ["--full-auto", "-s", "--", "-", " ", ""])
@in_loop
async def test_prompt_is_never_a_flag(store: WatchedStore, tmp_path: Path, prompt: str) -> None:
    async with client_of(store) as client:
        if prompt.strip() in ("", "-"):  # the real one would read its standard input
            assert "prompt" in await refused(
                client, "codex_start", prompt=prompt, cwd=str(tmp_path)
            )
            assert store.list() == []
            return
        reply = await ended(client, prompt, tmp_path)
    assert (reply["status"], reply["prompt"]) == ("done", prompt)
    assert f"prompt: {prompt}\n" in reply["output"]


@in_loop
async def test_unknown_policy_names_the_three(store: WatchedStore, tmp_path: Path) -> None:
    async with client_of(store) as client:
        error = await refused(
            client, "codex_start", prompt="x", cwd=str(tmp_path), approval_policy="yolo"
        )
    assert "suggest, auto-edit, full-auto" in error
    assert store.list() == []


@in_loop
async def test_none_means_none_and_less_is_an_error(store: WatchedStore, tmp_path: Path) -> None:
    async with client_of(store) as client:
        job = await ended(client, "say words", tmp_path)
        poll = await call(client, "codex_poll", job_id=job["job_id"], tail_lines=0)
        assert poll["output"] == ""
        assert await call(client, "codex_list", limit=0) == {"result": []}
        assert "-1" in await refused(client, "codex_list", limit=-1)
        assert "-1" in await refused(client, "codex_poll", job_id=job["job_id"], tail_lines=-1)
        assert "-1" in await refused(client, "codex_wait", job_id=job["job_id"], timeout_seconds=-1)


# -- output and list ---------------------------------------------------------


@in_loop
async def test_output_is_the_last_lines_cut_to_8000_characters(
    store: WatchedStore, tmp_path: Path
) -> None:
    async with client_of(store) as client:
        job = await ended(client, "lines 1000", tmp_path)
        few = await call(client, "codex_poll", job_id=job["job_id"], tail_lines=2)
        many = await call(client, "codex_poll", job_id=job["job_id"], tail_lines=1000)

    whole = store.get(job["job_id"]).tail(1000)
    assert few["output"] == "".join(whole.splitlines(keepends=True)[-2:])
    assert len(whole) > 8000
    assert many["output"] == "...(truncated)...\n" + whole[-8000:]


@in_loop
async def test_list_is_newest_first_and_cuts_prompts(store: WatchedStore, tmp_path: Path) -> None:
    long = "say " + "x" * 100
    async with client_of(store) as client:
        first = await ended(client, "exit 1", tmp_path)
        second = await ended(client, long, tmp_path)
        store.start(["true"]).wait(timeout=TIMEOUT)
        listed = (await call(client, "codex_list"))["result"]
        newest = (await call(client, "codex_list", limit=1))["result"]

    assert [job["job_id"] for job in listed] == [second["job_id"], first["job_id"]]
    assert listed[:1] == newest
    assert listed[0] == {
        "job_id": second["job_id"],
        "status": "done",
        "prompt": long[:80] + "...",
        "cwd": str(tmp_path),
        "started_at": second["started_at"],
        "finished_at": second["finished_at"],
    }


@in_loop
async def test_damaged_job_does_not_hide_the_others(store: WatchedStore, tmp_path: Path) -> None:
    async with client_of(store) as client:
        good = await ended(client, "exit 0", tmp_path)
        bad = await ended(client, "exit 0", tmp_path)
        (store.root / "jobs" / bad["job_id"] / "meta.json").write_text("{")
        listed = (await call(client, "codex_list"))["result"]
        assert "damaged" in await refused(client, "codex_poll", job_id=bad["job_id"])
    assert [(job["job_id"], job["status"]) for job in listed] == [
        (bad["job_id"], "lost"),
        (good["job_id"], "done"),
    ]


# -- the table of agents -----------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "flags"),
    [
        ("suggest", ["-s", "read-only", "--skip-git-repo-check"]),
        ("auto-edit", ["-s", "workspace-write"]),
        ("full-auto", ["--dangerously-bypass-approvals-and-sandbox"]),
    ],
)
@in_loop
async def test_policies_are_flags_that_codex_takes(
    store: WatchedStore, tmp_path: Path, policy: str, flags: Sequence[str]
) -> None:
    async with client_of(store) as client:
        job = await call(
            client, "codex_start", prompt="exit 0", cwd=str(tmp_path), approval_policy=policy
        )
        reply = await call(client, "codex_wait", job_id=job["job_id"])
    assert reply["status"] == "done", reply["output"]
    assert store.get(job["job_id"]).spec().argv == ("codex", "exec", *flags, "--", "exit 0")


@pytest.mark.parametrize("agent", AGENTS.values(), ids=lambda agent: agent.name)
@pytest.mark.parametrize("prompt", ["fix it", "--yolo", "-p x", "--prompt=--", "ä\n-s"])
def test_prompt_of_every_agent_can_be_read_back(agent: Any, prompt: str) -> None:
    assert list(agent.policies) == ["suggest", "auto-edit", "full-auto"]
    for policy in agent.policies:
        argv = agent.argv(prompt, policy)
        assert agent.prompt_of(argv) == prompt
        assert argv[0] == agent.name
        assert argv[-2:] == ["--", prompt] or argv[-1] == f"--prompt={prompt}"


@in_loop
async def test_agents_have_tools_of_their_own_names(store: WatchedStore) -> None:
    async with client_of(store, "claude", "gemini") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    verbs = ("start", "poll", "list", "cancel", "wait")
    assert {f"{name}_{verb}" for name in ("claude", "gemini") for verb in verbs} <= set(tools)
    assert "codex_start" not in tools
    assert "codex" not in str(tools["claude_start"].description)


@pytest.mark.parametrize(
    ("state", "outcome", "word"),
    [
        (JobState.QUEUED, None, "queued"),
        (JobState.RUNNING, None, "running"),
        (JobState.PAUSED, None, "running"),
        (JobState.STOPPING, None, "running"),
        (JobState.ORPHANED, None, "running"),
        (JobState.ENDED, Outcome.SUCCEEDED, "done"),
        (JobState.ENDED, Outcome.FAILED, "error"),
        (JobState.ENDED, Outcome.KILLED, "error"),
        (JobState.ENDED, Outcome.TIMED_OUT, "error"),
        (JobState.ENDED, Outcome.CANCELLED, "cancelled"),
        (JobState.ENDED, Outcome.LOST, "lost"),
    ],
)
def test_every_state_has_its_word(state: JobState, outcome: Outcome | None, word: str) -> None:
    record = JobRecord("0" * 26, state, now(), outcome)
    assert views.agent_status(record) == word
