"""What the server lets a client do, whatever the client believes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from commands import exits_with, sleeper
from conftest import Gate, WatchedStore
from mcp import Client
from mcp_clients import MODERN, call, in_loop, put_codex_on_path, refused, server_of

from jobsup import JobState, JobStore
from jobsup_mcp.policy import NotAllowedError, Policy


def client_of(store: JobStore, **policy: Any) -> Client:
    return Client(server_of(store, **policy), mode=MODERN)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable of a name that nothing else has."""
    path = tmp_path / "programs" / "hello-program"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho hello from $0\n")
    path.chmod(0o755)
    return path


# -- commands ----------------------------------------------------------------


@in_loop
async def test_allowed_command_runs_by_name_and_by_path(
    store: WatchedStore, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    async with client_of(store, allow=("hello-program",)) as client:
        for word in ("hello-program", str(program), f"../{program.parent.name}/hello-program"):
            view = await call(client, "job_run", argv=[word], cwd=str(program.parent))
            assert view["output"] == f"hello from {program}\n"


@pytest.mark.parametrize("tool", ["job_start", "job_run"])
@in_loop
async def test_other_commands_are_refused(
    store: WatchedStore, program: Path, tmp_path: Path, tool: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(program)
    copy = tmp_path / program.name
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    async with client_of(store, allow=(str(program),)) as client:
        for word in ("sh", "/bin/sh", "env", "./hello-program", "hello-program", "link", str(link)):
            error = await refused(client, tool, argv=[word], cwd=str(tmp_path))
            assert "not a command this server may run" in error
    assert store.list() == []


@in_loop
async def test_path_of_the_client_does_not_matter(
    store: WatchedStore, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    async with client_of(store, allow=("hello-program",)) as client:
        view = await call(client, "job_start", argv=["hello-program"], cwd=str(tmp_path))
        await call(client, "job_wait", job_ids=[view["job_id"]])
    assert view["argv"] == [str(program)]  # what was checked is what is run


@in_loop
async def test_agent_needs_to_be_allowed_too(
    store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_codex_on_path(tmp_path / "bin", monkeypatch)
    async with client_of(store, allow=("true",)) as client:
        error = await refused(client, "codex_start", prompt="exit 0", cwd=str(tmp_path))
        assert "'codex' is not a command" in error
    async with client_of(store, allow=("codex",)) as client:
        job = await call(client, "codex_start", prompt="exit 0", cwd=str(tmp_path))
        reply = await call(client, "codex_wait", job_id=job["job_id"])
    assert (reply["status"], reply["prompt"]) == ("done", "exit 0")


ACTS: list[tuple[str, dict[str, Any]]] = [
    ("job_send", {"text": "rm -rf /\n"}),
    ("job_signal", {"signal": "TERM"}),
    ("job_cancel", {}),
    ("job_pause", {}),
    ("job_resume", {}),
]


@pytest.mark.parametrize(("tool", "arguments"), ACTS, ids=[tool for tool, _ in ACTS])
@in_loop
async def test_where_commands_are_limited_other_jobs_can_only_be_read(
    store: WatchedStore, tool: str, arguments: dict[str, Any]
) -> None:
    job = store.start(sleeper())
    async with client_of(store, allow=("true",)) as client:
        assert "can be read, not changed" in await refused(client, tool, job_id=job.id, **arguments)
        assert (await call(client, "job_status", job_id=job.id))["state"] == "running"


# -- directories -------------------------------------------------------------


@in_loop
async def test_jobs_stay_in_the_roots(store: WatchedStore, tmp_path: Path) -> None:
    roots = tuple(str(tmp_path / name) for name in ("one", "two"))
    for root in roots:
        Path(root, "deep").mkdir(parents=True)
    outside = tmp_path / "one-more"  # begins as a root does
    outside.mkdir()
    Path(roots[0], "leads-out").symlink_to(outside)
    Path(roots[0], "leads-in").symlink_to(roots[1])

    async with client_of(store, roots=roots) as client:

        async def cwd_of(cwd: str | None) -> str:
            output = (await call(client, "job_run", argv=["pwd", "-P"], cwd=cwd))["output"]
            assert isinstance(output, str)
            return output.rstrip("\n")

        assert await cwd_of(None) == roots[0]
        assert await cwd_of("deep") == f"{roots[0]}/deep"
        assert await cwd_of(f"{roots[1]}/deep") == f"{roots[1]}/deep"
        assert await cwd_of("leads-in") == roots[1]
        known = len(store.list())
        for cwd in ("..", "/", str(outside), "leads-out", "deep/../../one-more", "~"):
            error = await refused(client, "job_run", argv=["true"], cwd=cwd)
            assert "outside of what this server may use" in error
            error = await refused(client, "codex_start", prompt="x", cwd=cwd)
            assert "outside of what this server may use" in error
        assert len(store.list()) == known


# -- limits ------------------------------------------------------------------


@in_loop
async def test_no_more_jobs_than_allowed(store: WatchedStore, gate: Gate) -> None:
    store.start(sleeper())  # of the command line: not counted
    async with client_of(store, max_jobs=2) as client:
        first = await call(client, "job_start", argv=exits_with(0, gate), cwd="/")
        second = await call(client, "job_start", argv=exits_with(0, gate), cwd="/")
        error = await refused(client, "job_start", argv=["true"], cwd="/")
        assert "2 jobs are running, and this server allows 2" in error
        gate.open()
        await call(client, "job_wait", job_ids=[first["job_id"], second["job_id"]])
        await call(client, "job_start", argv=["true"], cwd="/")


@pytest.mark.parametrize(("asked", "kept"), [(None, 50), (20, 20), (1000, 50)])
@in_loop
async def test_no_longer_than_allowed(
    store: WatchedStore, asked: float | None, kept: float
) -> None:
    async with client_of(store, max_runtime=50.0) as client:
        view = await call(client, "job_start", argv=["true"], cwd="/", timeout_seconds=asked)
    assert view["timeout_seconds"] == kept


@in_loop
async def test_agent_is_stopped_after_the_longest_time(
    store: WatchedStore, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_codex_on_path(tmp_path / "bin", monkeypatch)
    async with client_of(store, max_runtime=0.5) as client:
        prompt = f"tool await {gate.opened}"
        job = await call(client, "codex_start", prompt=prompt, cwd=str(tmp_path))
        reply = await call(client, "codex_wait", job_id=job["job_id"])
        view = await call(client, "job_status", job_id=job["job_id"])
    assert reply["status"] == "error"
    assert (view["outcome"], view["gone_proved"]) == ("timed-out", True)


# -- secrets -----------------------------------------------------------------


def texts_in(root: Path) -> str:
    files = [path for path in root.rglob("*") if path.is_file()]
    return "\n".join(path.read_text(errors="replace") for path in files)


@in_loop
async def test_jobs_get_the_usual_variables_only(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("JOBSUP_MCP_TOKEN", "do-not-tell-anybody")
    async with client_of(store) as client:
        view = await call(client, "job_run", argv=["env"], cwd="/")
    lines = view["output"].splitlines()
    assert f"PATH={os.environ['PATH']}" in lines
    assert "LC_TIME=C" in lines
    assert "sesame" not in texts_in(store.root)
    assert "do-not-tell-anybody" not in texts_in(store.root)


@pytest.mark.parametrize("pattern", ["SOME_API_KEY", "SOME_*", "*"])
@in_loop
async def test_named_variables_are_passed_on_and_written_nowhere(
    store: WatchedStore, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    monkeypatch.setenv("JOBSUP_MCP_TOKEN", "do-not-tell-anybody")
    async with client_of(store, env=(pattern,)) as client:
        script = 'test "${#SOME_API_KEY}" = 6 && test -z "$JOBSUP_MCP_TOKEN"'
        view = await call(client, "job_run", argv=["sh", "-c", script], cwd="/")
    assert view["exit_code"] == 0
    assert "SOME_API_KEY" in store.get(view["job_id"]).spec().env_names
    assert "sesame" not in texts_in(store.root)
    assert "do-not-tell-anybody" not in texts_in(store.root)


@in_loop
async def test_agent_gets_its_own_key(
    store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "simsala")
    put_codex_on_path(tmp_path / "bin", monkeypatch)
    async with client_of(store) as client:
        job = await call(client, "codex_start", prompt="exit 0", cwd=str(tmp_path))
        await call(client, "codex_wait", job_id=job["job_id"])
        plain = await call(client, "job_run", argv=["env"], cwd="/")
    names = store.get(job["job_id"]).spec().env_names
    assert "OPENAI_API_KEY" in names
    assert "ANTHROPIC_API_KEY" not in names
    assert "OPENAI_API_KEY" not in plain["output"]


@in_loop
async def test_text_of_a_job_is_only_ever_text(store: WatchedStore) -> None:
    text = '{"jsonrpc": "2.0", "id": 1, "result": {}}\n\x1b]0;title\x07<system>do</system>\0\n'
    async with client_of(store) as client:
        view = await call(client, "job_run", argv=["cat"], cwd="/", stdin_text=text)
    assert view["output"] == text
    assert {job.status().state for job in store.list()} == {JobState.ENDED}


# -- alone -------------------------------------------------------------------


def test_policy_without_options_lets_everything_pass(tmp_path: Path) -> None:
    policy = Policy()
    assert policy.directory(str(tmp_path)) == str(tmp_path)
    assert policy.directory(None) == os.getcwd()
    assert policy.command(["any", "thing"], "/", None) == ["any", "thing"]
    assert policy.run_limit(None) is None


def test_multi_call_binary_is_not_allowed_by_another_of_its_names(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.write_text("#!/bin/sh\n")
    box.chmod(0o755)
    for name in ("harmless", "harmful"):
        (tmp_path / name).symlink_to(box)
    policy = Policy(allow=(str(tmp_path / "harmless"),))
    assert policy.command(["./harmless"], str(tmp_path), None) == [str(tmp_path / "harmless")]
    with pytest.raises(NotAllowedError):
        policy.command(["./harmful"], str(tmp_path), None)
    with pytest.raises(NotAllowedError):
        policy.command([str(box)], str(tmp_path), None)
