"""Short time slices for a monitor, which its command does not inherit.

A monitor works for a moment, for somebody who waits, and next to a command that
has just begun. With a slice like all others it would wait for its turn until
that has used up its own, or ended, even where another core has nothing to do.
"""

from __future__ import annotations

import os
import struct

from jobsup._libc import name_process, reschedule, scheduling
from jobsup._typing import Final

_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQII")
"""size, policy, flags, nice, priority, runtime, deadline, period, and two more: sched_setattr(2)"""
_RESET_ON_FORK: Final = 0x01
"""A child is scheduled as if nobody had asked: not with a negative nice value, however."""
_SLICE_NANOSECONDS: Final = 100_000
"""The shortest that there is.  Linux, Documentation/scheduler/sched-eevdf.rst"""


def take_short_slices() -> bool:
    """Ask for them, for this process alone, since Linux 6.12; False if it cannot be had."""
    told = scheduling()
    if told is None:
        return False
    size, policy, flags, nice, *_ = _ATTRIBUTES.unpack(told)
    if policy != os.SCHED_OTHER or flags or nice < 0:
        return False
    wanted = (size, policy, _RESET_ON_FORK, nice, 0, _SLICE_NANOSECONDS, 0, 0, 0, 0)
    if not reschedule(_ATTRIBUTES.pack(*wanted)):
        return False
    return bool(_ATTRIBUTES.unpack(scheduling() or told)[5] == _SLICE_NANOSECONDS)


def can_take_short_slices() -> bool:
    """Whether a fork of this process can, and has children that are scheduled as this one is."""
    ours = scheduling()
    try:
        fork = os.fork()
    except OSError:
        return False
    if fork:
        return os.waitpid(fork, 0)[1] == 0
    try:
        name_process("jobsup-probe")
        if take_short_slices():
            child = os.fork()
            if not child:
                os._exit(0 if scheduling() == ours else 1)
            os._exit(os.waitpid(child, 0)[1] != 0)
    finally:
        os._exit(1)
