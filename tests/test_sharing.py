"""What forks share: no count is written any more, pools are full, and all works on."""

from __future__ import annotations

import json
import subprocess
import sys

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
