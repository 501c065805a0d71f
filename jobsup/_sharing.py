"""Have forks share the memory of what they only read.

CPython keeps the count of an object's references in the object: a fork that
calls a function writes to the pages of its code, its constants and all that it
names, and so takes copies of them. It writes to the code itself, too, which lies
among what is never run. And what a fork makes lies in the gaps among what was
there before, an object to a page.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from opcode import opmap
from types import CodeType, FrameType, FunctionType, GeneratorType, ModuleType

from jobsup._typing import Final

_COUNT_BYTES: Final = 4
"""Of the count, the part that tells: the lower half of the object's first word."""
_IMMORTAL: Final = 1 << 30
"""No count that is a count comes so far."""
_GOING_ON: Final = (FrameType, GeneratorType)

# Objects/obmalloc.c of CPython: blocks of up to 512 bytes come out of pools, each of one size.
_STEP_BYTES: Final = 16
_SMALL_BYTES: Final = 512
_POOL_BYTES: Final = 16 * 1024
_POOL_HEAD_BYTES: Final = 48
_MOST_BYTES: Final = 1 << 20
"""Taken of one size of the pools, or of the heap, should they be others than these."""

# What is larger comes from malloc(3). The GNU C library's keeps the gaps that it may
# give again by their exact size, where that is small, and the others by about theirs.
_LARGE_BYTES: Final = 32 * 1024
_EXACT_BYTES: Final = 1100
_LARGE_BLOCKS: Final = 8

_blocks: Final[list[object]] = []
_NO_OPERATION: Final = bytes([opmap["NOP"], 0])


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
    reachable = _reachable()
    for address, count in zip(reachable, map(sys.getrefcount, reachable.values()), strict=True):
        if count < _IMMORTAL:
            memory[address // 4] = immortal


def pack_code(rehearse: Callable[[], object], more: Iterable[FunctionType]) -> None:
    """Lay what *rehearse* runs side by side, in the order in which it does; and *more* after it.

    The interpreter writes to what it runs (PEP 659), if only which way a branch
    went: a fork takes a copy of each page that has some of it.
    """
    if not _knows_immortals():  # then all is written to anyhow
        return
    run = _code_run_by(rehearse)
    users: dict[int, list[FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is FunctionType:
            users.setdefault(id(each.__code__), []).append(each)
    run.update((id(each.__code__), each.__code__) for each in more)
    _fill_heap()
    for address, code in run.items():
        if functions := users.get(address):  # else it lies within another's
            copy = _copy_of(code)
            for each in functions:
                each.__code__ = copy


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """Those that are defined there, methods among them."""
    for each in vars(module).values():
        members = vars(each).values() if isinstance(each, type) else [each]
        for member in members:
            if type(member) is FunctionType and member.__module__ == module.__name__:
                yield member


def _code_run_by(act: Callable[[], object]) -> dict[int, CodeType]:
    """By its address, in the order in which it first ran."""
    run: dict[int, CodeType] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            run.setdefault(id(frame.f_code), frame.f_code)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return run


def _copy_of(code: CodeType) -> CodeType:
    """One too large for the pools, of which each size has its own: it has to lie in the heap."""
    missing = max(0, _SMALL_BYTES + 1 - CodeType.__basicsize__ - len(code.co_code))
    within = [_copy_of(each) if type(each) is CodeType else each for each in code.co_consts]
    return code.replace(
        co_code=code.co_code + _NO_OPERATION * -(-missing // 2), co_consts=tuple(within)
    )


def _fill_heap() -> None:
    """Take the gaps between what malloc(3) has given, for good: what comes next lies in a row."""
    large = [_block(_LARGE_BYTES, 0) for _ in range(_LARGE_BLOCKS)]
    _blocks.extend(large)
    last = max(map(id, large))
    size, left = _LARGE_BYTES, _MOST_BYTES
    while size > _SMALL_BYTES:
        while left > 0:  # it may be another malloc(3), with no order that we know
            block = _block(size, 0)
            _blocks.append(block)
            left -= size
            if id(block) > last:  # there was no gap any more
                last = id(block)
                break
        size -= _STEP_BYTES if size <= _EXACT_BYTES else size // 4


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
    if size == 2 * _STEP_BYTES:
        return (1 << 40) + number
    # Not bytes(): it comes from calloc(3), which leaves alone what malloc(3) has at hand.
    return b"\0" * (size - sys.getsizeof(b""))


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
        # Where nothing is said of single objects there is no loop: there are thirty thousand.
        fresh = dict(zip(map(id, found), found, strict=True))
        for address in fresh.keys() & known.keys():
            del fresh[address]
        # Not what is going on: ours would lead to what is gathered here, without end.
        for address in [id(each) for each in fresh.values() if type(each) in _GOING_ON]:
            del fresh[address]
        known.update(fresh)
        found = gc.get_referents(*fresh.values())
        # Code does not tell the collector what it refers to.
        found += [each.co_consts for each in fresh.values() if type(each) is CodeType]
    return known
