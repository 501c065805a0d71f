"""Job ids: ULIDs in lower case, ordered by time and unguessable.  github.com/ulid/spec"""

from __future__ import annotations

import os
import re
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH: Final = 26
SHORT: Final = 6
"""Characters of the short form, the last ones: the first ones are the time."""
PART: Final = re.compile(f"[{_ALPHABET}]{{1,{LENGTH}}}\\Z")


def is_id(text: str) -> bool:
    return len(text) == LENGTH and PART.match(text) is not None


def new_id() -> str:
    """48 bits of milliseconds, 80 random bits."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH)))
