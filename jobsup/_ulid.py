"""Job ids: ULIDs in lower case, ordered by time and unguessable.  github.com/ulid/spec"""

from __future__ import annotations

import os
import time

from jobsup._typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH: Final = 26
SHORT: Final = 6
"""Characters of the short form, the last ones: the first ones are the time."""
_LETTERS: Final = frozenset(_ALPHABET)


def is_id(text: str) -> bool:
    return len(text) == LENGTH and _LETTERS.issuperset(text)


def is_part(text: str) -> bool:
    """Whether it may be a part of an id."""
    return 0 < len(text) <= LENGTH and _LETTERS.issuperset(text)


def new_id() -> str:
    """48 bits of milliseconds, 80 random bits."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH)))
