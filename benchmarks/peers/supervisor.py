"""supervisor: one process for all programs, asked over XML-RPC."""

from __future__ import annotations

import importlib.metadata
import subprocess
import xmlrpc.client
from importlib import import_module

from benchmarks.peers.base import Peer, beside_python, end, until
from benchmarks.timing import timed

_DAEMON = """
[supervisord]
nodaemon = true
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {directory}/pid
childlogdir = {directory}
minfds = {files}
minprocs = 200
[unix_http_server]
file = {sockets}/ask
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
_PROGRAM = """
[program:job-{number}]
command = {command}
autostart = false
autorestart = false
startsecs = 0
redirect_stderr = true
stdout_logfile = {directory}/job-{number}.log
"""


class Supervisor(Peer):
    """``supervisord``; its configuration has a program for each job that runs at a time."""

    name = "supervisor"
    what = "`startProcess` with startsecs=0 has been answered by a supervisord that was there"

    @classmethod
    def version(cls) -> str | None:
        try:
            version = importlib.metadata.version("supervisor")
        except importlib.metadata.PackageNotFoundError:
            return None
        return version if beside_python("supervisord") else None

    def open(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None
        self._started = 0
        config = self.directory / "supervisord.conf"
        programs = [
            _PROGRAM.format(number=number, command=" ".join(self.argv), directory=self.directory)
            for number in range(self.at_once)
        ]
        # Two pipes at most for each program, and its log.
        daemon = _DAEMON.format(
            directory=self.directory, sockets=self.sockets, files=100 + 5 * self.at_once
        )
        config.write_text(daemon + "".join(programs))
        program = beside_python("supervisord")
        assert program is not None
        self._daemon = subprocess.Popen(
            [program, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        transport = import_module("supervisor.xmlrpc").SupervisorTransport(
            None, None, f"unix://{self.sockets}/ask"
        )
        self._server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        until((self.sockets / "ask").exists, "supervisord listens")
        self._server.supervisor.getState()

    def start(self) -> float:
        name = f"job-{self._started % self.at_once}"
        self._started += 1
        until(lambda: not self._is_running(name), f"{name} has ended")
        # Not told to wait: it would call a command that has ended already an error.
        return timed(lambda: self._server.supervisor.startProcess(name, False))()

    def _is_running(self, name: str) -> bool:
        info = self._server.supervisor.getProcessInfo(name)
        return isinstance(info, dict) and info["statename"] == "RUNNING"

    def close(self) -> None:
        end(self._daemon)
