"""Time things, turn and turn about, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

Act = Callable[[], float]
"""Does something once, and says how many seconds the part that counts took."""


def timed(act: Callable[[], object]) -> Act:
    """All of *act* counts."""

    def measure() -> float:
        begun = time.perf_counter()
        act()
        return time.perf_counter() - begun

    return measure


def interleave(
    acts: Mapping[str, Act], rounds: int, *, rest: float = 0.0, warm_up: int = 1
) -> dict[str, list[float]]:
    """What each of *acts* took in each of *rounds*, turn and turn about.

    In another order each round: else each would always come after the same one,
    which has warmed or emptied the caches for it.

    Args:
        rest: Seconds before each act, for the last one's remains to settle.
        warm_up: Rounds that do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in acts}
    chance = random.Random(0)
    for number in range(warm_up + rounds):
        for name in chance.sample(list(acts), len(acts)):
            time.sleep(rest)
            value = acts[name]()
            if number >= warm_up:
                taken[name].append(value)
    return taken
