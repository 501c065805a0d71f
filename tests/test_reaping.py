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


MANY = """
import os, resource, signal
from jobsup._platform import become_subreaper
from jobsup._tree import OwnTree

signal.alarm(60)
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
assert become_subreaper()
read, write = os.pipe()

def sleeper(own_group):
    if os.fork() == 0:
        signal.alarm(60)
        if own_group:
            os.setsid()
        os.write(write, b"!")
        while True:
            signal.pause()

command = os.fork()
if command == 0:
    signal.alarm(60)
    os.setsid()
    for number in range(100):
        sleeper(own_group=number % 2)
    while True:
        signal.pause()
heard = 0
while heard < 100:
    heard += len(os.read(read, 100))
before = os.listdir("/proc/self/fd")
tree = OwnTree(command)
tree.pause()
print(len(tree.survivors()))
tree.send(signal.SIGTERM, signal.SIGCONT)
ended = 0
while True:
    try:
        ended += os.WTERMSIG(os.wait()[1]) == signal.SIGTERM
    except ChildProcessError:
        break
print(ended, os.listdir("/proc/self/fd") == before)
"""


def test_tree_of_more_processes_than_descriptors_is_signalled_whole() -> None:
    argv = [sys.executable, "-c", MANY]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("20\n101 True\n", "")
