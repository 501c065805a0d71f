"""The monitor's bookkeeping: the record it alone writes, the feed, and its log."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property

from jobsup import _events
from jobsup._jobdir import FILE_MODE, JobDir
from jobsup._lifecycle import ENDED, CommandExited, Event, TreeEmptied, advance
from jobsup._model import JobRecord, Survivor, now
from jobsup._outputcap import OutputCap
from jobsup._typing import Final
from jobsup._value import evolve

_APPEND: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
)
_LOG_BYTES: Final = 64 * 1024
_FINAL_SECONDS: Final = 60.0
"""How long the final record is tried on a disk that refuses it."""


_ORDINARY: Final = (CommandExited, TreeEmptied)
"""What the record tells all of, unless it was we who brought it about."""


class Ledger:
    """A job's record, in memory ahead of the disk where the disk refuses it."""

    def __init__(
        self, job_dir: JobDir, first: Callable[[], JobRecord], caps: list[OutputCap]
    ) -> None:
        self._first = first
        self._job_dir = job_dir
        self._caps = caps
        self._untold = b""
        self.has_ended = False

    @cached_property
    def record(self) -> JobRecord:
        """Where the job stands: at first as it was handed to us, read when it is asked for."""
        return self._first()

    def note(self, event: Event) -> None:
        """Advance the record where only an adopter sees it, until `apply` or `publish`.

        For what is to be known before it is acted on, and may be followed by the
        final record at once.
        """
        self._advance(event)
        try:
            self._job_dir.write_ahead(self.record)
        except OSError:
            self.publish()

    def apply(self, event: Event) -> None:
        """Advance the record, write it, and tell the feed; the last one is written for good."""
        self._advance(event)
        self.publish()

    def publish(self) -> None:
        """Write the record and tell the feed, unless that was done."""
        if not self._untold:
            return
        self._save()
        lines, self._untold = self._untold, b""
        with suppress(OSError):  # the feed may lose a line to a full disk
            _events.append_line(self._job_dir.store.at("events"), lines)

    def _advance(self, event: Event) -> None:
        self.record = advance(self.record, event)
        self.has_ended = self.record.state is ENDED
        self._untold += _events.line_of(self.record, now())
        if self.record.stop_cause or not isinstance(event, _ORDINARY):
            log(self._job_dir, f"{type(event).__name__}: {self.record.state.value}")

    def name(self, survivors: tuple[Survivor, ...]) -> None:
        """Say who lives on: could not be killed so far, or is waited for.

        An adopter begins with these, and may not find all of them otherwise.
        """
        known = {(each.pid, each.token, each.errno) for each in self.record.survivors}
        if known != {(each.pid, each.token, each.errno) for each in survivors}:
            self.record = evolve(self.record, survivors=survivors)
            log(self._job_dir, f"alive: {', '.join(map(str, survivors))}")
            self._save()

    def _save(self) -> None:
        self._add_output()
        if self.has_ended:
            self._save_final()
            return
        try:
            self._job_dir.write_record(self.record)
        except OSError as error:  # we still know; the next change, or the final record, tells
            log(self._job_dir, f"cannot write the record: {error}")

    def _add_output(self) -> None:
        with suppress(OSError):
            for cap in self._caps:
                cap.trim()
            refusals = sorted({cap.refusal for cap in self._caps if cap.refusal})
            self.record = evolve(
                self.record,
                output_bytes=sum(map(self._job_dir.size_of, ("output", "stderr"))),
                output_lost_bytes=sum(cap.lost_bytes for cap in self._caps),
                note="; ".join(refusals) or self.record.note,
            )

    def _save_final(self) -> None:
        """The last word.  On a disk that refuses it, hold the lock and try again for a while."""
        deadline = time.monotonic() + _FINAL_SECONDS
        while True:
            try:
                self._job_dir.write_final_record(self.record)
                return
            except OSError as error:
                log(self._job_dir, f"cannot write the final record: {error}")
                # ENOENT: somebody deleted the directory; there is nobody left to tell.
                if error.errno == errno.ENOENT or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)


def log(job_dir: JobDir, text: str) -> None:
    """Say why, for people; bounded, and never in the way."""
    with suppress(OSError):
        fd = os.open(job_dir.at("monitor.log"), _APPEND, FILE_MODE)
        try:
            if os.fstat(fd).st_size < _LOG_BYTES:
                os.write(fd, f"{now().isoformat()} {text}\n".encode())
        finally:
            os.close(fd)
