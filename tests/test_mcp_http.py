"""HTTP: a loopback address only, and a bearer token, a Host and an Origin that are right."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import httpx2
import pytest
from commands import sleeper
from conftest import TIMEOUT, WatchedStore
from mcp_clients import (
    HANDSHAKE,
    MODERN,
    TOKEN,
    Tasks,
    ask_task,
    call,
    command_of,
    http_server,
    in_loop,
    on_http,
)

from jobsup import JobState

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Authorization": f"Bearer {TOKEN}",
}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": HANDSHAKE,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
DISCOVER: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "server/discover",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
MODERN_HEADERS = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "server/discover"}


def status_of(url: str, request: dict[str, Any], **changed: str | None) -> int:
    """Of a POST with these headers changed, or left out."""
    headers: dict[str, str | None] = {**HEADERS}
    if request is DISCOVER:
        headers |= MODERN_HEADERS
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    given = {name: value for name, value in headers.items() if value is not None}
    with httpx2.Client(timeout=TIMEOUT) as client:
        response = client.post(url, json=request, headers=given)
    return int(response.status_code)


@pytest.mark.parametrize("request_", [INITIALIZE, DISCOVER], ids=["handshake", "modern"])
def test_only_who_is_right_in_all_gets_in(store: WatchedStore, request_: dict[str, Any]) -> None:
    with http_server(store) as url:
        origin = url.removesuffix("/mcp")
        port = origin.rpartition(":")[2]
        assert status_of(url, request_) == 200
        assert status_of(url, request_, Origin=origin) == 200
        assert status_of(url, request_, Origin=f"http://localhost:{port}") == 200
        assert status_of(url, request_, Host=f"localhost:{port}") == 200

        for wrong in (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            assert status_of(url, request_, Authorization=wrong) == 401
        for wrong in ("http://evil.example.com", "null", f"https://127.0.0.1:{port}"):
            assert status_of(url, request_, Origin=wrong) == 403
        for wrong in ("evil.example.com", f"evil.example.com:{port}", "127.0.0.1:1"):
            assert status_of(url, request_, Host=wrong) == 421


def test_without_the_token_nothing_answers(store: WatchedStore) -> None:
    with http_server(store) as url, httpx2.Client(timeout=TIMEOUT) as client:
        base = url.removesuffix("/mcp")
        for method in ("GET", "POST", "DELETE", "OPTIONS", "PUT"):
            for path in ("/mcp", "/", "/sse", "/.well-known/oauth-protected-resource"):
                response = client.request(method, base + path)
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert TOKEN not in response.text


@pytest.mark.parametrize("token", [None, "", "short", "with a\ttab in it, long", "ü" * 20])
def test_no_service_without_a_good_token(store: WatchedStore, token: str | None) -> None:
    env = {key: value for key, value in os.environ.items() if key != "JOBSUP_MCP_TOKEN"}
    if token is not None:
        env["JOBSUP_MCP_TOKEN"] = token
    ran = subprocess.run(
        command_of(store, "--http", "0"),
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "JOBSUP_MCP_TOKEN" in ran.stderr
    assert not token or token not in ran.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--http", "0", "--host", "0.0.0.0"], "invalid choice"),
        (["--http", "0", "--host", "example.com"], "invalid choice"),
        (["--http", "many"], "invalid int"),
        (["--agent", "cobol"], "invalid choice"),
        (["--root", "/no/such/directory"], "is not a directory"),
        (["--max-jobs", "0"], "is not a number > 0"),
        (["--max-runtime", "-1"], "is not a number > 0"),
        (["--max-runtime", "inf"], "is not a number > 0"),
        (["--max-jobs", "few"], "invalid"),
        (["--max", "3"], "unrecognized"),
    ],
)
def test_wrong_options_are_refused(store: WatchedStore, options: list[str], says: str) -> None:
    ran = subprocess.run(
        command_of(store, *options), capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert says in ran.stderr


@in_loop
async def test_token_is_nowhere_to_be_seen(store: WatchedStore) -> None:
    with http_server(store, "--env", "*") as url:
        async with on_http(url, MODERN) as client:
            view = await call(client, "job_run", argv=["env"], cwd="/")
            assert "JOBSUP_TEST=" in view["output"]  # all the others are
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert files
    assert not any(TOKEN in path.read_text(errors="replace") for path in files)


@in_loop
async def test_tasks_are_routed_by_their_name(store: WatchedStore) -> None:
    job = store.start(sleeper())
    body = {**DISCOVER, "method": "tasks/get", "params": {"taskId": job.id, **DISCOVER["params"]}}
    capable: dict[str, dict[str, dict[str, str]]] = {"extensions": {Tasks.identifier: {}}}
    body["params"]["_meta"] = {
        **DISCOVER["params"]["_meta"],
        "io.modelcontextprotocol/clientCapabilities": capable,
    }
    with http_server(store) as url:
        async with on_http(url, MODERN, extensions=[Tasks()]) as client:
            assert (await ask_task(client.session, "get", job.id))["status"] == "working"
        with httpx2.Client(timeout=TIMEOUT) as http:
            for name, status in ((job.id, 200), ("another", 400), (None, 400)):
                headers = {**HEADERS, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tasks/get"}
                headers |= {"Mcp-Name": name} if name else {}
                response = http.post(url, json=body, headers=headers)
                assert response.status_code == status
                assert ("error" in response.json()) == (status == 400)


@in_loop
async def test_next_server_on_the_port_knows_the_jobs(store: WatchedStore) -> None:
    with http_server(store) as url:
        port = int(url.rpartition(":")[2].removesuffix("/mcp"))
        async with on_http(url, MODERN) as client:
            job = await call(client, "job_start", argv=sleeper(), cwd="/")
    with http_server(store, port=port) as url:
        async with on_http(url, MODERN) as client:
            view = await call(client, "job_status", job_id=job["job_id"])
    assert view["state"] == "running"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_server_on_http_ends_when_asked_and_its_jobs_do_not(
    store: WatchedStore, signum: signal.Signals
) -> None:
    job = store.start(sleeper())
    env = {**os.environ, "JOBSUP_MCP_TOKEN": TOKEN}
    argv = command_of(store, "--http", "0")
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr
        address = process.stderr.readline().split()[-1]
        assert status_of(address, INITIALIZE) == 200
        process.send_signal(signum)
        assert process.stderr.read() == ""
    assert process.returncode == -signum
    assert job.status().state is JobState.RUNNING


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_server_on_stdio_ends_when_asked(store: WatchedStore, signum: signal.Signals) -> None:
    with subprocess.Popen(
        command_of(store),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert '"id":1' in process.stdout.readline()
        process.send_signal(signum)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == -signum
