"""Have forks share the memory of what they only read.

CPython keeps the count of an object's references in the object: a fork that
calls a function writes to the pages of its code, its constants and all that it
names, and so takes copies of them. And what a fork makes lies in the gaps among
what was there before, an object to a page.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FrameType
from typing import Final

_COUNT_BYTES: Final = 4
"""Of the count, the part that tells: the lower half of the object's first word."""
_IMMORTAL: Final = 1 << 30
"""No count that is a count comes so far."""

# Objects/obmalloc.c of CPython: blocks of up to 512 bytes come out of pools, each of one size.
_STEP_BYTES: Final = 16
_SMALL_BYTES: Final = 512
_POOL_BYTES: Final = 16 * 1024
_POOL_HEAD_BYTES: Final = 48
_MOST_BYTES: Final = 1 << 20
"""Taken of one size, should the pools be others than these."""

_blocks: Final[list[object]] = []


def immortalize() -> None:
    """Make all objects that exist immortal, where the interpreter knows such a thing.

    Since Python 3.12 there is a count that says so, and is not written to any
    more (PEP 683). For a process that ends by `os._exit`: nothing that it has
    now is freed.
    """
    if not _knows_immortals():
        return
    memory = (ctypes.c_uint32 * (sys.maxsize // 4)).from_address(0)
    immortal = memory[id(None) // 4]
    for address, each in _reachable().items():  # which keeps them until it is done
        if sys.getrefcount(each) < _IMMORTAL:
            memory[address // 4] = immortal


def fill_pools() -> None:
    """Take what is free in the memory pools in use, for good.

    What a fork makes of small objects lies side by side then, in pools of its own.
    """
    if not _knows_immortals():  # else this gains nothing
        return
    for size in range(_STEP_BYTES, _SMALL_BYTES + 1, _STEP_BYTES):
        before = 0
        for number in range(_MOST_BYTES // size):
            block = _block(size, number)
            _blocks.append(block)
            # The first blocks of a pool, in a row: there was none with a gap any more.
            is_first = before % _POOL_BYTES <= _POOL_HEAD_BYTES + 4 * size
            if is_first and before < id(block) <= before + 4 * size:
                break
            before = id(block)


def _block(size: int, number: int) -> object:
    """Something that takes a block of just this size."""
    if size == _STEP_BYTES:
        return object()
    return (1 << 40) + number if size == 2 * _STEP_BYTES else bytes(size - sys.getsizeof(b""))


def _knows_immortals() -> bool:
    """Whether it does, and an object begins with a count that we know how to read."""
    has_count_first = object.__basicsize__ == _STEP_BYTES and sys.byteorder == "little"
    if sys.implementation.name != "cpython" or not has_count_first:
        return False  # among others where there is no GIL
    probe = object()
    count = int.from_bytes(ctypes.string_at(id(probe), _COUNT_BYTES), "little")
    # The argument is one more, or is lent, as by later versions.
    reads = count in (sys.getrefcount(probe), sys.getrefcount(probe) - 1)
    return reads and sys.getrefcount(None) >= _IMMORTAL


def _reachable() -> dict[int, object]:
    """All objects, by their addresses."""
    known: dict[int, object] = {}
    found = gc.get_objects()
    while found:
        # Not a frame: ours would lead to what is gathered here, without end.
        news = (each for each in found if id(each) not in known and type(each) is not FrameType)
        fresh = {id(each): each for each in news}
        known.update(fresh)
        found = gc.get_referents(*fresh.values())
        for each in fresh.values():
            if type(each) is CodeType:  # it does not tell the collector what it refers to
                found.append(each.co_consts)
    return known
