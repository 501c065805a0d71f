"""Who is reaped, and when: the command's exit status is published before its zombie is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from jobsup._tree import OwnTree

def child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        body()
        os._exit(0)
    return pid

signal.alarm(60)
command, other = child(signal.pause), child(int)
waitid = os.waitid
waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)

def command_dies_after(kind, number, options):
    seen = waitid(kind, number, options)
    if kind == os.P_ALL and seen:
        os.kill(command, signal.SIGKILL)
        waitid(os.P_PID, command, os.WEXITED | os.WNOWAIT)
    return seen

os.waitid = command_dies_after
tree = OwnTree(command)
assert tree.peek() is None
if sys.argv[1] == "collect":
    assert not tree.collect()
else:
    tree.send(signal.SIGCONT)
print(tree.peek())
assert tree.collect()
"""


@pytest.mark.parametrize("act", ["collect", "send"])
def test_command_that_dies_as_another_is_reaped_keeps_its_status(act: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, act]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("Exit(exit_code=None, signal=9)\n", "")
