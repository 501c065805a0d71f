"""What the monitors of a launcher are at: a page for each, in a file without a name.

The launcher looks when one is killed. To tell it of each job would wake it as
often as all the rest of a short job wakes anybody.
"""

from __future__ import annotations

import os
from contextlib import suppress

from jobsup._typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import IO

_PAGE: Final = 4096
"""Longer than the root of any store, whose files must have paths, and an id.  PATH_MAX"""


class Board:
    """One that all forks have open.  The first page is what the launcher tells them."""

    def __init__(self) -> None:
        self._file: IO[bytes]
        if hasattr(os, "memfd_create"):
            self._file = os.fdopen(os.memfd_create("jobsup-launcher"), "rb+", buffering=0)
        else:
            import tempfile  # noqa: PLC0415 - only where the C library is from before 2.27

            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as we live
        self.fd = self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def allow_short_slices(self) -> None:
        with suppress(OSError):
            os.pwrite(self.fd, b"\1", 0)

    def allows_short_slices(self) -> bool:
        return os.pread(self.fd, 1, 0) == b"\1"

    def put(self, place: int, root: str, job_id: str) -> None:
        with suppress(OSError):  # whoever looks at the job next adopts it
            os.pwrite(self.fd, os.fsencode(f"{root}\0{job_id}\0"), place * _PAGE)

    def clear(self, place: int) -> None:
        with suppress(OSError):  # an adopter sees that the job has ended
            os.pwrite(self.fd, b"\0", place * _PAGE)

    def look(self, place: int) -> tuple[str, str] | None:
        """Root and job id, if it has a job."""
        root, _, rest = os.pread(self.fd, _PAGE, place * _PAGE).partition(b"\0")
        job_id = rest.partition(b"\0")[0]
        return (os.fsdecode(root), os.fsdecode(job_id)) if root else None
