"""What clients were told must fit what is known of the jobs."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs
from clients import Client, Reply
from model_jobs import ModelJob

from jobsup import JobNotFoundError, JobRecord, JobState, JobStore
from jobsup._model import from_json

_MISSING: Final = "JobNotFoundError"
_MAY_RAISE: Final = {
    "get": {_MISSING},
    "status": {_MISSING},
    "read": {_MISSING},
    "cancel": {_MISSING},
    "wait": {_MISSING, "WaitTimeoutError"},
    "wait_any": {_MISSING},
    "pause": {_MISSING, "JobEndedError", "JobsupError"},
    "resume": {_MISSING, "JobEndedError", "JobsupError"},
    "send_signal": {_MISSING, "JobEndedError", "JobsupError"},
}
"""What each verb documents for a job that others stop and prune meanwhile."""


class HistoryError(AssertionError):
    """Something happened that must not, with all that came before."""


@attrs.define(eq=False)
class Call:
    """One verb on its way, and what was known when it was sent."""

    verb: str
    jobs: list[ModelJob]
    arguments: dict[str, Any]
    floor: int
    had_ended: bool
    was_cancelled: bool
    had_id: bool
    listed: list[ModelJob]
    """Those that a list must hold, unless they are pruned meanwhile."""

    def __str__(self) -> str:
        words = {key: value for key, value in self.arguments.items() if key not in ("root", "argv")}
        return f"{self.verb} {' '.join(job.token for job in self.jobs)} {words or ''}".strip()


class Judge:
    """Checks every answer, and remembers it for the checks to come."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = JobStore(root)
        self.jobs: list[ModelJob] = []
        self.pending: list[Call | None] = []
        """What each client is at."""
        self.feeds: dict[Client, list[Any]] = {}
        self.strangers: set[str] = set()
        """Pruned before anybody could tell which job that was."""
        self.failure: str | None = None
        self._begun = time.monotonic()
        self._lines: list[str] = []

    def note(self, text: str) -> None:
        self._lines.append(f"{time.monotonic() - self._begun:8.4f} {text}")

    def fail(self, text: str) -> None:
        self.note(f"FAILED: {text}")
        self.failure = "\n".join([text, f"in {self.root}:", *self._lines])
        raise HistoryError(self.failure)

    def check(self, is_true: object, text: str) -> None:
        if not is_true:
            self.fail(text)

    def judge(self, client: Client, call: Call, reply: Reply) -> None:
        if reply.error:
            self._judge_error(call, reply.error, reply.text)
        elif call.verb in ("status", "wait"):
            self.see(call.jobs[0], _record(reply.value), call)
        elif call.verb == "wait_any":
            for text in reply.value:
                record = _record(text)
                known = [job for job in call.jobs if job.job_id == record.job_id]
                for job in known or [job for job in call.jobs if job.job_id is None][:1]:
                    self.see(job, record, None)
            self.check(reply.value or not call.had_ended, "wait missed a job that had ended")
        elif call.verb == "start":
            self._learn(call.jobs[0], reply.value)
        elif call.verb == "cancel":
            call.jobs[0].cancelled = True
        elif call.verb == "read":
            self.check(f"{call.jobs[0].token}\n".startswith(reply.value), "read what none wrote")
        elif call.verb in ("ids", "active_ids"):
            self._judge_list(call, reply.value)
        elif call.verb == "prune":
            self._judge_prune(reply.value)
        elif call.verb == "events":
            self.feeds.setdefault(client, []).extend(reply.value)

    def _judge_error(self, call: Call, error: str, text: str) -> None:
        self.check(error in _MAY_RAISE.get(call.verb, ()), f"{call}: {error} {text}")
        if error == _MISSING and call.had_id:
            for job in call.jobs:
                job.was_missed = len(call.jobs) == 1
                self.check(self.may_be_gone(job) or len(call.jobs) > 1, f"{call}: {text}")
        if error == "WaitTimeoutError":
            self.check(not call.had_ended, f"missed that the job had ended: {call}")
        if error == "JobEndedError":
            self.check(call.jobs[0].is_mortal, f"{call}: {text}")
        if error == "JobsupError":
            died = call.jobs[0].monitor_kills and "does not answer" in text
            self.check("is being stopped" in text or died, f"{call}: {text}")

    def may_be_gone(self, job: ModelJob) -> bool:
        pruners = any(call and call.verb == "prune" for call in self.pending)
        return job.was_pruned or job.may_be_pruned or (pruners and job.is_mortal)

    def _learn(self, job: ModelJob, job_id: str) -> None:
        self.check(job.job_id in (None, job_id), f"{job.token} is two jobs")
        job.job_id = job_id
        if job_id in self.strangers:
            self.strangers.remove(job_id)
            job.was_pruned = True

    def see(self, job: ModelJob, record: JobRecord, call: Call | None) -> None:
        """Somebody was shown this *record*."""
        self._learn(job, record.job_id)
        job.newest = max(job.newest, record.sequence)
        if call:
            self.check(record.sequence >= call.floor, f"an older record came back: {record}")
            ended = record.state is JobState.ENDED
            self.check(ended or not call.had_ended, f"it rose from the dead: {record}")
            acts = record.state in (JobState.RUNNING, JobState.PAUSED)
            self.check(not (call.was_cancelled and acts), f"its cancel was forgotten: {record}")
            self.check(ended or call.verb != "wait", f"wait() came back too early: {record}")
        if record.state is not JobState.ENDED:
            return
        if job.end is None:
            job.end = record
            faults = job.faults_of(record)
            self.check(not faults, f"{job.token}: {'; '.join(faults)}")
            left = job.processes()
            self.check(not left, f"{job.token} has ended, its processes {left} live")
        self.check(record == job.end, f"a second end, {record}, after {job.end}")

    def _judge_list(self, call: Call, ids: list[str]) -> None:
        self.check(len(ids) == len(set(ids)), f"a job twice in {ids}")
        for job in call.listed:
            changed = job.is_mortal or job.monitor_kills
            may_lack = self.may_be_gone(job) or (call.verb == "active_ids" and changed)
            self.check(job.job_id in ids or may_lack, f"{job.token} is not in the {call.verb}")
        self.check_known(set(ids))

    def check_known(self, ids: set[str]) -> None:
        """No job may be one that nobody started."""
        strangers = ids - {job.job_id for job in self.jobs}
        nameless = [job for job in self.jobs if job.job_id is None]
        self.check(len(strangers | self.strangers) <= len(nameless), f"nobody started {strangers}")

    def _judge_prune(self, ids: list[str]) -> None:
        for job_id in ids:
            self.name_strangers()
            found = [job for job in self.jobs if job.job_id == job_id]
            for job in found:
                self.check(not job.was_pruned, f"{job.token} was pruned twice")
                self.check(job.is_mortal, f"{job.token} was pruned alive")
                job.was_pruned = True
            if not found:
                self.check(job_id not in self.strangers, f"{job_id} was pruned twice")
                self.strangers.add(job_id)

    def name_strangers(self) -> None:
        """Learn the ids of jobs whose starters were killed before they could tell."""
        tokens = {job.token: job for job in self.jobs if job.job_id is None}
        for job in self.store.list() if tokens else ():
            with suppress(JobNotFoundError):
                name = job.spec().name
                if name in tokens:
                    self._learn(tokens[name], job.id)


def _record(text: str) -> JobRecord:
    return from_json(JobRecord, text.encode(), Path("of a client"))
