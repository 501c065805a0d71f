"""What a history knows of one job for itself: what was done to it, and what it wrote down."""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path

import attrs
from witnesses import living

from jobsup import JobRecord, JobState, Outcome, StopCause
from jobsup._platform import environ_of, processes

TOKEN = "JOBSUP_TEST_TOKEN"
"""In the environment of all processes of a job, with a value of its own."""


def living_with(token: str) -> set[int]:
    """The processes that have the *token*, and are no zombies."""
    mark = f"{TOKEN}={token}\0".encode()
    rows = [row for row in processes() if not row.is_zombie]
    return {each.pid for each in living(row.pid for row in rows if mark in environ_of(row.pid))}


@attrs.define(eq=False)
class ModelJob:
    """One job, as it ought to be."""

    folder: Path
    truth: Path
    """The program of `tests/data/truth.c`."""
    natural: int
    delay: int
    """Microseconds from its release to its end."""
    kind: str
    """``plain``, ``polite``: has an exit code for SIGTERM too, ``deaf``: ignores it, ``family``."""
    timeout: float | None
    token: str = attrs.field(factory=lambda: f"T-{secrets.token_hex(8)}")
    gate: int = -1
    job_id: str | None = None
    starter_died: bool = False
    was_released: bool = False
    cancels: int = 0
    cancelled: bool = False
    """A cancel came back."""
    signals: set[int] = attrs.field(factory=set)
    monitor_kills: int = 0
    newest: int = 0
    """The highest sequence number that anybody was shown."""
    end: JobRecord | None = None
    """The final record, as first shown."""
    was_pruned: bool = False
    may_be_pruned: bool = False
    """By a pruner that did not live to tell."""
    was_missed: bool = False

    def __attrs_post_init__(self) -> None:
        os.mkfifo(self.fifo)
        self.gate = os.open(self.fifo, os.O_RDWR | os.O_CLOEXEC)

    @property
    def fifo(self) -> Path:
        return self.folder / f"{self.token}.fifo"

    @property
    def told(self) -> Path:
        return self.folder / f"{self.token}.told"

    @property
    def argv(self) -> list[str]:
        polite = "1" if self.kind == "polite" else "0"
        words = [self.truth, self.told, self.natural, self.delay, polite, self.fifo]
        lines = [f"echo {self.token}"]
        if self.kind == "deaf":
            lines.append("trap '' TERM")
        if self.kind == "family":
            lines.append("sleep 100 & (setsid sleep 100 &)")
        lines.append(f"exec {shlex.join(map(str, words))}")
        return ["sh", "-c", "\n".join(lines)]

    @property
    def key(self) -> str:
        """What a client asks for it by: its name, as long as nobody told its id."""
        return self.job_id or self.token

    @property
    def is_mortal(self) -> bool:
        """Whether it may have ended by now, or may any time."""
        doomed = self.was_released or self.cancels or self.signals or self.timeout is not None
        return bool(doomed or self.end)

    def release(self) -> None:
        if not self.was_released:
            self.was_released = True
            os.write(self.gate, b"!")

    def close(self) -> None:
        os.close(self.gate)

    def processes(self) -> set[int]:
        """Those of the tree that live."""
        return living_with(self.token)

    def faults_of(self, record: JobRecord) -> list[str]:
        """What is wrong with the *record* of its end."""
        faults = []
        text = self.told.read_text() if self.told.exists() else ""
        told = int(text) if text else None  # it may have been killed before it wrote the number
        status = (record.exit_code, record.signal)
        if record.state is not JobState.ENDED:
            return [f"it is {record.state.value}"]
        if record.outcome is Outcome.LOST:
            if not self.monitor_kills:
                faults.append("lost, though nobody killed its monitor")
            if status != (None, None):
                faults.append(f"lost, with the status {status}")
        elif told is not None and status != (told, None):
            faults.append(f"wrote down {told}, has the status {status}")
        elif told is None and (record.signal is None or record.exit_code is not None):
            faults.append(f"wrote nothing down, has the status {status}")
        faults += self._faults_of_cause(record, told)
        return faults

    def _faults_of_cause(self, record: JobRecord, told: int | None) -> list[str]:
        cause = record.stop_cause
        allowed = {
            None: record.outcome is not Outcome.CANCELLED,
            StopCause.CANCEL: bool(self.cancels),
            StopCause.TIMEOUT: self.timeout is not None,
        }
        faults = [] if allowed.get(cause) else [f"nobody stopped it for the cause {cause}"]
        by_itself = self.was_released and told == self.natural
        touched = cause or self.signals or by_itself or record.outcome is Outcome.LOST
        if not touched:
            faults.append(f"ended by nobody's doing: {record}")
        return faults
