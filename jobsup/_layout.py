"""The directory of a job that is being born, laid out before a monitor takes it up.

The host does it, whose code is warm, and the monitor only where the host may
not: what a monitor does costs memory for as long as the job lives.
"""

from __future__ import annotations

import os
from contextlib import suppress

from jobsup import _index
from jobsup._control import Order
from jobsup._jobdir import DIR_MODE, FILE_MODE, JobDir, StoreDir
from jobsup._spec import Leftovers
from jobsup._typing import Final

_NAMES: Final = (
    *("lock", "control", "stdin", "output", "stderr"),
    *("spec.json", "meta.json", "meta.spare"),
)


def lay_out(order: Order) -> None:
    """Make all that can be made ahead, the room for the final record above all; or nothing.

    Raises:
        OSError: It cannot be made; FileExistsError if there is such a job.
    """
    store = StoreDir(order.root)
    unborn = store.unborn(order.job_id)
    os.mkdir(unborn.text, DIR_MODE)
    try:
        masked = os.stat(unborn.text).st_mode & 0o777 != DIR_MODE
        if masked:  # by a umask that takes even its owner's rights
            os.chmod(unborn.text, DIR_MODE)
        os.mkfifo(unborn.at("control"), FILE_MODE)
        if order.terms.stdin_is_open:
            os.mkfifo(unborn.at("stdin"), FILE_MODE)
        unborn.write_spec(order.spec)
        unborn.write_draft(order.record)
        unborn.reserve_spare(for_survivors=order.terms.leftovers == Leftovers.LEAVE.value)
        if masked:
            for entry in os.scandir(unborn.text):
                os.chmod(entry.path, FILE_MODE)
        store.mark_active(order.job_id)
        _index.append(store.text, order.job_id)
    except BaseException:
        take_down(unborn)
        raise


def take_down(unborn: JobDir) -> None:
    """Undo it, and what a monitor adds.  What the system will not have undone, prune sweeps."""
    with suppress(OSError):  # before the directory, which tells of it to whoever goes on
        unborn.store.unmark_active(unborn.id)
    for name in _NAMES:  # not as they are listed: that takes a descriptor, and there may be none
        with suppress(OSError):
            os.unlink(unborn.at(name))
    with suppress(OSError):
        os.rmdir(unborn.text)
