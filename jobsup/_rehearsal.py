"""A monitor's life gone through without doing anything.

Python prepares what it runs as it runs it: it writes to code, types and caches.
What was prepared before a fork is shared by all forks and copied by none; and
what each fork writes to, a spare has copied before the order comes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from jobsup._birth import Supervised, who_we_are
from jobsup._control import Order
from jobsup._jobdir import StoreDir
from jobsup._model import fill, now
from jobsup._platform import obstacle
from jobsup._spawn import Command, Inheritance, SpawnFailedError, spawn

_NOWHERE: Final = "/proc/0"
"""No process has this number: nothing below is ever there, nor can be made."""
_JOB_ID: Final = "0" * 26


def rehearse_birth(inherited: Inheritance) -> None:
    """From the order to the command."""
    order = Order(_NOWHERE, _JOB_ID, "start", (_NOWHERE + "/x",), {"PATH": "/"}, record=b"null")
    order = Order.from_bytes(order.to_bytes())
    obstacle()
    unborn = StoreDir(order.root).unborn(order.job_id)
    with suppress(OSError):
        unborn.acquire()
    with suppress(SpawnFailedError):
        spawn(Command(order.argv, {**(order.environment or {}), "A": "b"}, (0, 1, 2)), inherited)
    fill(order.record, at=now().isoformat().encode(), monitor=who_we_are(os.getpid()))
    Supervised(unborn, order.terms, order.record, is_adopted=False)
