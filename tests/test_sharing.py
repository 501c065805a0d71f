"""What forks share: no count is written any more, pools are full, and all works on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import PROVES

PROGRAM = """
import gc, json, os, signal, sys
signal.alarm(100)
from jobsup import _sharing

class Node:
    def __init__(self, other=None):
        self.other = other

def words(number):
    return json.dumps({"number": number, "words": ["a", "b"] * number})

def frame():
    return sys._getframe()

held = frame()  # leads to all that is going on
things = [words, words.__code__, words.__code__.co_consts, Node, Node(), [1], {"a": 2.5}, json]
before = words(3)
counts = [sys.getrefcount(thing) for thing in things]
_sharing.immortalize()
_sharing.fill_pools()
after = [sys.getrefcount(thing) for thing in things]
gc.freeze()
for number in range(1000):
    node = Node(Node())
    node.other.other = node
    assert json.loads(words(number))["number"] == number
assert gc.collect() > 0, "what came later is not freed"
assert words(3) == before
assert sum(map(sys.getsizeof, _sharing._blocks)) < 16 << 20, "the pools are others than these"
print(json.dumps([counts, after, [sys.getrefcount(thing) for thing in things]]), flush=True)
os._exit(0)
"""


def test_nothing_is_counted_any_more_and_all_works_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=True
    )
    counts, after, in_the_end = json.loads(done.stdout)
    if sys.version_info >= (3, 12):
        assert min(after) >= 1 << 30
        assert in_the_end == after
    else:  # there is no such thing
        assert max(after) < 1 << 20
    assert max(counts) < 1 << 20


PACKED = """
import gc, json, os, signal, sys
signal.alarm(100)
from jobsup import _sharing

scattered, between = [], []
for number in range(100):
    text = f"def f{number}(*words, end={number}):\\n" + "    a = len(words)\\n" * (number % 7 + 20)
    text += "    return a + end\\n"
    names = {}
    exec(compile(text, f"made{number}", "exec"), names)
    scattered.append(names[f"f{number}"])
    between.append([bytearray(size) for size in range(600, 4096, 1024)])
del between[::2]

def raises():
    words = ["a"]

    raise LookupError(words)

def run():
    try:
        raises()
    except LookupError as error:
        line = error.__traceback__.tb_next.tb_lineno
    within = sum((lambda: each + line)() for each in range(line))
    return [line, within, *[function(1, 2) for function in scattered]]

def codes():
    return [function.__code__ for function in scattered]

def pages():
    return len({id(code) >> 12 for code in codes()})

gc.collect()
told, before = run(), pages()
_sharing.pack_code(run, [])
assert run() == told
assert [code.co_filename for code in codes()] == [f"made{number}" for number in range(100)]
print(json.dumps([before, pages()]), flush=True)
os._exit(0)
"""


def test_packed_code_lies_side_by_side_and_does_what_it_did() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PACKED], capture_output=True, timeout=60, check=True
    )
    before, after = json.loads(done.stdout)
    if sys.version_info >= (3, 12):
        assert after < before / 2
    else:
        assert after == before


def test_heap_that_is_ordered_otherwise_is_let_alone_soon() -> None:
    body = "from jobsup import _sharing as s; s._fill_heap(); print(sum(map(len, s._blocks)))"
    # Now each block is a mapping, and lies below the last one.
    otherwise = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=600"}
    for environment in (None, otherwise):
        done = subprocess.run(
            [sys.executable, "-c", body],
            capture_output=True,
            timeout=60,
            check=True,
            env=environment,
        )
        assert int(done.stdout) < 2 << 20


PREPARED = """
import os, signal, socket
signal.alarm(100)
from jobsup._board import Board
from jobsup._launcher import _Launcher
from jobsup._spawn import Inheritance

control, host = socket.socketpair()
launcher = _Launcher(control, 0, 0, Inheritance.take(), Board())
held = len(os.listdir("/proc/self/fd"))
for _ in launcher._prepare():
    pass
assert len(os.listdir("/proc/self/fd")) == held
os._exit(0)
"""


@pytest.mark.skipif(not PROVES, reason="the portable path has no launcher")
def test_launcher_can_be_prepared_and_holds_no_more_than_before() -> None:
    subprocess.run([sys.executable, "-c", PREPARED], timeout=60, check=True)
