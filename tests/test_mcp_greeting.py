"""The first reply comes before the SDK is loaded, and says what the SDK says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import WatchedStore
from mcp_clients import command_of, server_of
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from jobsup_mcp import greeting
from jobsup_mcp.greeting import HANDSHAKES, MODERN, answer

CLIENT = {"name": "test", "version": "1"}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def initialize(version: str, **more: Any) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT, **more}
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def discover(**more: Any) -> dict[str, Any]:
    params = {"_meta": {**ENVELOPE, **more}}
    return {"jsonrpc": "2.0", "id": "first", "method": "server/discover", "params": params}


def said_by_sdk(request: dict[str, Any], store: WatchedStore) -> dict[str, Any]:
    """The reply of the server itself, which has no part in greeting."""
    code = """
import io, sys, anyio
from jobsup import JobStore
from jobsup_mcp.desk import Desk
from jobsup_mcp.greeting import Wire
from jobsup_mcp.policy import Policy
from jobsup_mcp.presets import AGENTS
from jobsup_mcp.server import build
server = build(Desk(JobStore(sys.argv[1]), Policy()), [AGENTS["codex"]])
anyio.run(server.serve_wire, Wire(sys.stdin, sys.stdout, False))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(store.root)],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reply: dict[str, Any] = json.loads(ran.stdout)
    return reply


@pytest.mark.parametrize(
    "request_",
    [
        *(initialize(version) for version in HANDSHAKES),
        initialize("1999-01-01", capabilities={"roots": {"listChanged": True}, "sampling": {}}),
        discover(),
    ],
    ids=[*HANDSHAKES, "unknown", "discover"],
)
def test_greeting_is_what_the_sdk_says(request_: dict[str, Any], store: WatchedStore) -> None:
    assert answer(json.dumps(request_).encode()) == said_by_sdk(request_, store)


def test_versions_are_those_of_the_sdk() -> None:
    assert HANDSHAKES == HANDSHAKE_PROTOCOL_VERSIONS
    assert (MODERN,) == MODERN_PROTOCOL_VERSIONS


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b"{" * 100_000,
        json.dumps({**initialize(MODERN), "jsonrpc": "1.0"}).encode(),
        json.dumps({**initialize(MODERN), "id": None}).encode(),
        json.dumps({**initialize(MODERN), "id": True}).encode(),
        json.dumps({**initialize(MODERN), "method": ["x"]}).encode(),
        json.dumps({**initialize(MODERN), "method": "tools/list"}).encode(),
        json.dumps(initialize(MODERN, clientInfo={"name": "x"})).encode(),
        json.dumps(initialize(MODERN, clientInfo=None)).encode(),
        json.dumps(initialize(MODERN, capabilities={"roots": 5})).encode(),
        json.dumps(initialize(MODERN, capabilities=[])).encode(),
        json.dumps(initialize(MODERN, protocolVersion=7)).encode(),
        json.dumps(discover(**{"io.modelcontextprotocol/protocolVersion": "2030-01-01"})).encode(),
        json.dumps(discover(**{"io.modelcontextprotocol/clientCapabilities": None})).encode(),
    ],
)
def test_what_is_not_as_it_should_be_is_left_to_the_sdk(line: bytes) -> None:
    assert answer(line) is None


def test_nothing_heavy_is_loaded_before_the_greeting() -> None:
    code = """
import sys
from jobsup_mcp import command, greeting
command._parser().parse_args(["--max-jobs", "3"])
reply = greeting.answer(sys.stdin.buffer.read())
heavy = {"mcp", "pydantic", "jobsup", "asyncio", "attrs"}
print(bool(reply), *heavy & set(sys.modules))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(initialize("2025-06-18")),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split() == ["True"]


def test_requests_sent_in_one_go_are_each_answered_once(store: WatchedStore) -> None:
    lines = [
        initialize("2025-06-18"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    with subprocess.Popen(
        command_of(store), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        process.stdin.flush()
        replies = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.stdin.close()
        rest = (process.stdout.read(), process.stderr.read())
    assert sorted(reply["id"] for reply in replies) == [0, 1, 2]
    assert replies[0]["result"]["protocolVersion"] == "2025-06-18"
    assert (process.returncode, rest) == (0, (b"", b""))


def test_client_that_goes_away_at_once_costs_nothing(store: WatchedStore) -> None:
    ran = subprocess.run(
        command_of(store), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
    )
    assert (ran.stdout, ran.stderr) == (b"", b"")


def test_first_line_may_come_in_pieces_and_be_no_request(store: WatchedStore) -> None:
    with subprocess.Popen(
        command_of(store), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        line = json.dumps(initialize("2025-06-18")).encode() + b"\n"
        for part in (b"no json\n", line[:20], line[20:]):
            process.stdin.write(part)
            process.stdin.flush()
        replies = [json.loads(process.stdout.readline())]
        while replies[-1].get("id") != 0:
            replies.append(json.loads(process.stdout.readline()))
        process.stdin.close()
    assert replies[-1]["result"]["protocolVersion"] == "2025-06-18"


def test_standard_streams_are_the_sdks_alone(tmp_path: Path) -> None:
    code = """
import os, subprocess
from jobsup_mcp.greeting import greet
wire = greet()
print("stray")
subprocess.run(["sh", "-c", "echo stray; cat"])
os.write(1, b"stray")
wire.stdout.write(wire.stdin.read()); wire.stdout.flush()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=b"first\nsecond\n",
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert ran.stdout == b"first\nsecond\n"
    assert ran.stderr.count(b"stray") == 3


def test_instructions_are_one_text(store: WatchedStore) -> None:
    assert server_of(store).instructions == greeting.INSTRUCTIONS
