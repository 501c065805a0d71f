"""Keep the reference counts of what lives for ever out of the memory that forks share.

CPython keeps the count of an object's references in the object: a fork that
calls a function writes to the pages of its code, its constants and all that it
names, and so takes copies of them. Since Python 3.12 a count of a certain size
says that the object is immortal, and is not written to any more.  PEP 683
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


def immortalize() -> None:
    """Make all objects that exist immortal, where the interpreter knows such a thing.

    For a process that ends by `os._exit`: nothing of it is freed any more.
    """
    if not _is_possible():
        return
    memory = (ctypes.c_uint32 * (sys.maxsize // 4)).from_address(0)
    immortal = memory[id(None) // 4]
    for address in _addresses_of_mortals():
        memory[address // 4] = immortal


def _is_possible() -> bool:
    """Whether an object begins with a count that we know how to read."""
    has_count_first = object.__basicsize__ == 16 and sys.byteorder == "little"
    if sys.implementation.name != "cpython" or not has_count_first:
        return False  # among others where there is no GIL
    probe = object()
    count = int.from_bytes(ctypes.string_at(id(probe), _COUNT_BYTES), "little")
    # The argument is one more, or is lent, as by later versions.
    reads = count in (sys.getrefcount(probe), sys.getrefcount(probe) - 1)
    return reads and sys.getrefcount(None) >= _IMMORTAL


def _addresses_of_mortals() -> list[int]:
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
    return [address for address, each in known.items() if sys.getrefcount(each) < _IMMORTAL]
