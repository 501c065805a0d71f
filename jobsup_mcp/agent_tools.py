"""The tools of codex-async-mcp: same names, arguments and replies, for any agent."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, cast

import attrs
from typing_extensions import NotRequired, TypedDict

from jobsup import Job, JobNotFoundError, JobsupError, Outcome, RecordError
from jobsup_mcp import views, waiting
from jobsup_mcp.desk import Desk
from jobsup_mcp.presets import LABEL, Agent
from jobsup_mcp.views import AgentStatus

_LISTED_PROMPT: Final = 80


class StartReply(TypedDict):
    job_id: str
    status: AgentStatus
    pid: int | None


class PollReply(TypedDict):
    job_id: str
    status: AgentStatus
    exit_code: int | None
    output: str
    started_at: str | None
    finished_at: str | None
    prompt: str
    cwd: str | None


class WaitReply(TypedDict):
    """As that of poll; or, of a job that still runs, what to do next."""

    job_id: str
    status: AgentStatus
    message: NotRequired[str]
    exit_code: NotRequired[int | None]
    output: NotRequired[str]
    started_at: NotRequired[str | None]
    finished_at: NotRequired[str | None]
    prompt: NotRequired[str]
    cwd: NotRequired[str | None]


class ListedJob(TypedDict):
    job_id: str
    status: AgentStatus
    prompt: str
    cwd: str | None
    started_at: str | None
    finished_at: str | None


class CancelReply(TypedDict):
    job_id: str
    status: AgentStatus
    killed: NotRequired[bool]
    message: NotRequired[str]


class AgentJobNotFoundError(JobsupError):
    """No job of that id, or it is not one of this agent."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"Job '{self.job_id}' not found"


@attrs.frozen
class AgentTools:
    """The docstrings are what the model reads; ``{agent}`` stands for the agent's name."""

    desk: Desk
    agent: Agent

    def start(self, prompt: str, cwd: str, approval_policy: str = "suggest") -> StartReply:
        """Start {agent} on a task in the background, and return at once.

        It works on in `cwd` whatever becomes of this conversation. Keep
        `job_id`: {agent}_wait waits for it, {agent}_poll shows its output.

        approval_policy: "suggest" only reads, "auto-edit" may edit files in
        `cwd`, "full-auto" may do anything, without a sandbox.
        """
        job = self.desk.start(
            self.agent.argv(prompt, approval_policy),
            cwd=cwd,
            labels={LABEL: self.agent.name},
            env=self.agent.env,
            stop=self.agent.stop,
        )
        record = job.status()
        return {
            "job_id": job.id,
            "status": views.agent_status(record),
            "pid": views.pid_of(record),
        }

    def poll(self, job_id: str, tail_lines: int = 100) -> PollReply:
        """Show where a {agent} job stands, and the last lines of its output.

        status: running, done (exit code 0), error (any other end), cancelled,
        lost (nobody could learn how it ended), queued. exit_code -N means that
        it died of signal N. Of the output at most 8000 characters.
        """
        return self._poll(self._find(job_id), tail_lines)

    def list_jobs(self, limit: int = 20) -> list[ListedJob]:
        """List the {agent} jobs, newest first, also those of earlier conversations."""
        if limit < 0:
            raise ValueError(f"limit must be >= 0, not {limit}")
        jobs = self.desk.store.list(labels={LABEL: self.agent.name}, limit=limit)
        return [self._listed(job) for job in jobs]

    async def cancel(self, job_id: str) -> CancelReply:
        """Stop a {agent} job and everything that it started.

        Asks it first, forces it after 15 seconds, and returns when all of its
        processes are gone. A job that ended by itself keeps its own status.
        """
        job = self._find(job_id)
        if waiting.has_ended(record := job.status()):
            return self._not_running(job, views.agent_status(record))
        record = await waiting.cancel(self.desk, job)
        if not waiting.has_ended(record):
            left = views.survivors_text(record) or "its processes"
            message = f"could not be killed (yet): {left}; call {self.agent.name}_poll later"
            return {"job_id": job.id, "status": "running", "killed": False, "message": message}
        if record.outcome is not Outcome.CANCELLED:  # it ended before the request came
            return self._not_running(job, views.agent_status(record))
        return {"job_id": job.id, "status": "cancelled", "killed": True}

    async def wait(self, job_id: str, timeout_seconds: float = 45) -> WaitReply:
        """Wait until a {agent} job has ended, and show it as {agent}_poll does.

        A job that still runs when the time is up is an answer, not an error:
        call again. One call waits for 45 seconds at most.
        """
        job = self._find(job_id)
        seconds = waiting.capped(timeout_seconds)
        if not await waiting.wait(self.desk, [job], "all", seconds):
            return cast("WaitReply", self._poll(job, 100))
        name = self.agent.name
        return {
            "job_id": job.id,
            "status": "running",
            "message": (
                f"still running after {seconds:g} s; call {name}_wait again, "
                f"{name}_poll for its output so far, or {name}_cancel"
            ),
        }

    def _find(self, job_id: str) -> Job:
        try:
            job = self.desk.find(job_id)
        except JobNotFoundError:
            raise AgentJobNotFoundError(job_id) from None
        if job.spec().labels.get(LABEL) != self.agent.name:
            raise AgentJobNotFoundError(job_id)
        return job

    def _listed(self, job: Job) -> ListedJob:
        spec = job.spec()
        prompt = self.agent.prompt_of(spec.argv)
        listed: ListedJob = {
            "job_id": job.id,
            "status": "lost",
            "prompt": prompt if len(prompt) <= _LISTED_PROMPT else prompt[:_LISTED_PROMPT] + "...",
            "cwd": spec.cwd,
            "started_at": None,
            "finished_at": None,
        }
        with suppress(RecordError):  # damaged: nobody can learn more of it
            record = job.status()
            listed["status"] = views.agent_status(record)
            listed["started_at"] = views.time_text(record.started_at)
            listed["finished_at"] = views.time_text(record.ended_at)
        return listed

    def _poll(self, job: Job, tail_lines: int) -> PollReply:
        record, spec = job.status(), job.spec()
        return {
            "job_id": job.id,
            "status": views.agent_status(record),
            "exit_code": views.agent_exit_code(record),
            "output": views.poll_text(job, tail_lines),
            "started_at": views.time_text(record.started_at),
            "finished_at": views.time_text(record.ended_at),
            "prompt": self.agent.prompt_of(spec.argv),
            "cwd": spec.cwd,
        }

    def _not_running(self, job: Job, status: AgentStatus) -> CancelReply:
        return {"job_id": job.id, "status": status, "message": "Job is not running"}
