"""Everything jobsup raises on purpose.

A wrong argument is a plain ValueError or TypeError. The fields of each error
are its arguments, so all of them pickle.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobsup._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class JobsupError(Exception):
    """Base of all errors below; catch this at an edge."""


class JobNotFoundError(JobsupError, LookupError):
    """Not exactly one job goes by that id, part of an id, or name.

    *candidates* holds the ids that the part fits, when there is more than one.
    """

    def __init__(self, job_id: str, root: Path, candidates: Sequence[str] = ()) -> None:
        super().__init__(job_id, root, candidates)
        self.job_id = job_id
        self.root = root
        self.candidates = candidates

    def __str__(self) -> str:
        if self.candidates:
            shown = ", ".join(self.candidates[:10])
            more = f" and {len(self.candidates) - 10} more" if len(self.candidates) > 10 else ""
            return (
                f"{self.job_id!r} fits {len(self.candidates)} jobs in {self.root}: "
                f"{shown}{more}; give more of the id"
            )
        return f"no job {self.job_id!r} in {self.root}; 'jobsup list' shows the jobs there"


class JobExistsError(JobsupError):
    """The id is taken."""

    def __init__(self, job_id: str, root: Path) -> None:
        super().__init__(job_id, root)
        self.job_id = job_id
        self.root = root

    def __str__(self) -> str:
        return f"job {self.job_id!r} already exists in {self.root}; start it under another id"


class SpawnError(JobsupError):
    """The command could not be executed; nothing was left behind.

    ``__cause__`` is the OSError where the system gave a reason. *stage* tells
    what failed: ``"exec"`` the program, ``"cwd"`` its working directory,
    ``"stdin"`` its input file, ``"store"`` the job's directory, ``"monitor"``
    the job's monitor.
    """

    def __init__(self, stage: str, subject: str, reason: str) -> None:
        super().__init__(stage, subject, reason)
        self.stage = stage
        self.subject = subject
        self.reason = reason

    def __str__(self) -> str:
        return f"{_STAGES[self.stage].format(self.subject)}: {self.reason}; no job was created"


_STAGES = {
    "exec": "cannot run {!r}",
    "cwd": "cannot enter the working directory {!r}",
    "stdin": "cannot open {!r} as standard input",
    "store": "cannot create a job in {}",
    "monitor": "the monitor of the job in {} failed",
}


class WaitTimeoutError(JobsupError, TimeoutError):
    """The job had not ended in time; it runs on."""

    def __init__(self, job_id: str, timeout: float) -> None:
        super().__init__(job_id, timeout)
        self.job_id = job_id
        self.timeout = timeout

    def __str__(self) -> str:
        return f"job {self.job_id} had not ended after {self.timeout:g} s; it runs on"


class JobEndedError(JobsupError):
    """A signal or input for a job that is over, or no longer takes it."""

    def __init__(self, job_id: str, reason: str = "it has ended") -> None:
        super().__init__(job_id, reason)
        self.job_id = job_id
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.job_id} cannot take this: {self.reason}"


class RecordError(JobsupError):
    """A record is damaged, or was written by a newer jobsup."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    @classmethod
    def of(cls, path: str | Path, reason: str) -> RecordError:
        from pathlib import Path  # noqa: PLC0415 - 5 ms that no monitor needs

        return cls(Path(path), reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
