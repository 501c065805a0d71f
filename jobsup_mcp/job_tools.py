"""The tools for jobs of any command."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import attrs
from pydantic import Field
from typing_extensions import TypedDict

from jobsup import Job, JobsupError
from jobsup_mcp import views, waiting
from jobsup_mcp.desk import LABEL, Desk
from jobsup_mcp.views import JobView, OutcomeWord, OutputView, RunView, State

DEFAULT_OUTPUT_BYTES: Final = 8192
MAX_OUTPUT_BYTES: Final = 1 << 18
_SEND_SECONDS: Final = 10.0

JobId = Annotated[str, Field(description="The job's id as start gave it, or its exact name.")]
Argv = Annotated[
    list[str],
    Field(
        description="Program and arguments, one word each. No shell reads them: "
        'for shell syntax give ["bash", "-c", "..."].'
    ),
]
Cwd = Annotated[
    str | None, Field(description="Working directory; by default the server's own, or its root.")
]
Name = Annotated[
    str | None, Field(description="A name to find it by: letters, digits, dots, dashes.")
]
StdinText = Annotated[
    str | None, Field(description="What the command reads from its standard input.")
]
RunLimit = Annotated[
    float | None, Field(description="Seconds after which the job is stopped; none by default.")
]
WaitSeconds = Annotated[float, Field(description="Seconds to wait; 45 at most.")]
Limit = Annotated[
    int, Field(description="Bytes of output to return at most.", ge=4, le=MAX_OUTPUT_BYTES)
]


class WaitView(TypedDict):
    ended: list[JobView]
    pending: list[JobView]
    message: str


class ListView(TypedDict):
    jobs: list[JobView]
    damaged: list[str]
    next_cursor: str | None


class SentView(TypedDict):
    job_id: str
    sent_bytes: int
    stdin_open: bool


@attrs.frozen
class JobTools:
    """The docstrings are what the model reads."""

    desk: Desk

    def start(
        self,
        argv: Argv,
        cwd: Cwd = None,
        name: Name = None,
        timeout_seconds: RunLimit = None,
        stdin_text: StdinText = None,
        open_stdin: Annotated[
            bool, Field(description="Leave standard input open, for job_send.")
        ] = False,
        labels: Annotated[
            dict[str, str] | None, Field(description="For job_list to filter by.")
        ] = None,
    ) -> JobView:
        """Start a command as a background job, and return at once.

        The job runs on whatever becomes of this conversation or this server.
        Keep `job_id`: job_wait waits for it, job_output reads what it writes.
        """
        return views.job_view(
            self._start(argv, cwd, name, timeout_seconds, stdin_text, open_stdin, labels or {})
        )

    async def run(
        self,
        argv: Argv,
        cwd: Cwd = None,
        name: Name = None,
        timeout_seconds: RunLimit = None,
        stdin_text: StdinText = None,
        wait_seconds: WaitSeconds = 20,
        limit_bytes: Limit = DEFAULT_OUTPUT_BYTES,
    ) -> RunView:
        """Run a command as a job; show how it ended and what it wrote last.

        If it is not over after `wait_seconds` it runs on as a background job,
        and `state` is not "ended": then call job_wait with its `job_id`.
        """
        seconds = waiting.capped(wait_seconds, "wait_seconds")
        job = await waiting.in_thread(
            lambda: self._start(argv, cwd, name, timeout_seconds, stdin_text, False, {})
        )
        await waiting.wait(self.desk, [job], "all", seconds)
        view = views.run_view(job, limit_bytes)
        if view["state"] != "ended":
            view["message"] = f'still running; call job_wait with job_ids ["{job.id}"]'
        return view

    def _start(
        self,
        argv: list[str],
        cwd: str | None,
        name: str | None,
        timeout: float | None,
        stdin_text: str | None,
        open_stdin: bool,
        labels: Mapping[str, str],
    ) -> Job:
        if stdin_text is not None and open_stdin:
            raise ValueError("give stdin_text, or open_stdin and then job_send, not both")
        for key in labels:
            if key.startswith(LABEL):
                raise ValueError(f"labels that begin with {LABEL!r} are the server's own: {key!r}")
        stdin = subprocess.PIPE if open_stdin else None
        return self.desk.start(
            argv,
            cwd=cwd,
            name=name,
            timeout=timeout,
            stdin=stdin if stdin_text is None else stdin_text.encode(),
            labels=labels,
        )

    def status(self, job_id: JobId) -> JobView:
        """Show where a job stands: state, outcome, exit code or signal, times, sizes.

        outcome is null until state is "ended". "lost" means that nobody could
        learn how it ended. survivors are processes that could not be killed.
        stdin is "fifo" where job_send can write to it.
        """
        return views.job_view(self.desk.find(job_id))

    def list_jobs(
        self,
        state: Annotated[list[State] | None, Field(description="Only in these states.")] = None,
        outcome: Annotated[
            list[OutcomeWord] | None, Field(description="Only with these outcomes.")
        ] = None,
        name: Annotated[str | None, Field(description="Only of exactly this name.")] = None,
        labels: Annotated[
            dict[str, str] | None, Field(description="Only with these labels.")
        ] = None,
        limit: Annotated[int, Field(description="Jobs to return at most.", ge=0, le=1000)] = 20,
        cursor: Annotated[
            str | None, Field(description="`next_cursor` of the last reply, for the jobs after it.")
        ] = None,
    ) -> ListView:
        """List jobs, newest first; also those of earlier conversations and of the command line."""
        found = self.desk.store.list(
            state=state,
            outcome=outcome,
            name=name,
            labels=labels,
            limit=limit + 1 if cursor is None else None,
        )
        # Ids are in the order of their births, so an id is a cursor.
        page = [job for job in found if cursor is None or job.id < cursor]
        shown = page[:limit]
        view: ListView = {"jobs": [], "damaged": [], "next_cursor": None}
        for job in shown:
            try:
                view["jobs"].append(views.job_view(job))
            except JobsupError as error:
                view["damaged"].append(f"{job.id}: {error}")
        if shown and len(page) > limit:
            view["next_cursor"] = shown[-1].id
        return view

    async def wait(
        self,
        job_ids: Annotated[list[str], Field(description="One or more job ids.", min_length=1)],
        mode: Annotated[
            Literal["all", "any"], Field(description="Wait for all of them, or for the first.")
        ] = "all",
        timeout_seconds: WaitSeconds = 45,
    ) -> WaitView:
        """Wait until jobs have ended, and say where they stand.

        A job that still runs when the time is up is in `pending`: an answer,
        not an error. Call again to wait on. Giving up the wait stops no job.
        """
        seconds = waiting.capped(timeout_seconds)
        jobs = [self.desk.find(job_id) for job_id in job_ids]
        await waiting.wait(self.desk, jobs, mode, seconds)
        seen = [views.job_view(job) for job in jobs]
        ended = [view for view in seen if view["state"] == "ended"]
        pending = [view for view in seen if view["state"] != "ended"]
        over = f"{len(ended)} of {len(seen)} have ended"
        more = "; call job_wait again for the others" if pending else ""
        return {"ended": ended, "pending": pending, "message": over + more}

    def output(
        self,
        job_id: JobId,
        offset_bytes: Annotated[
            int | None,
            Field(description="Read from this byte on; by default the last lines.", ge=0),
        ] = None,
        limit_bytes: Limit = DEFAULT_OUTPUT_BYTES,
    ) -> OutputView:
        """Read what a job wrote to stdout and stderr.

        Without `offset_bytes` it shows the end. To follow, pass the last
        `next_offset_bytes`. `lost_bytes` before the output were dropped to keep
        the job's limit. `is_end`: the job has ended, and nothing comes after.
        """
        job = self.desk.find(job_id)
        if offset_bytes is None:
            return views.output_tail(job, limit_bytes)
        return views.output_from(job, offset_bytes, limit_bytes)

    async def cancel(self, job_id: JobId) -> JobView:
        """Stop a job and everything that it started; return when all of it is gone.

        Asks first, then kills (after 10 seconds, unless it was started
        otherwise). If `state` is not "ended", `survivors` could not be killed.
        A job that ended by itself keeps its own outcome.
        """
        job = self.desk.touch(job_id)
        await waiting.cancel(self.desk, job)
        return views.job_view(job)

    def send(
        self,
        job_id: JobId,
        text: Annotated[str, Field(description="Sent as it is: end a line with \\n.")] = "",
        close: Annotated[bool, Field(description="Then close it: end of file.")] = False,
    ) -> SentView:
        """Write to the standard input of a job that was started with open_stdin."""
        job = self.desk.touch(job_id)
        data = text.encode()
        if data:
            job.write(data, timeout=_SEND_SECONDS)
        if close:
            job.close_stdin()
        return {"job_id": job.id, "sent_bytes": len(data), "stdin_open": not close}

    def signal(
        self,
        job_id: JobId,
        signal: Annotated[str, Field(description='A name such as "HUP", or a number.')],
    ) -> JobView:
        """Send one signal to every process of a job. To stop it for good, use job_cancel."""
        job = self.desk.touch(job_id)
        job.send_signal(signal)
        return views.job_view(job)

    def pause(self, job_id: JobId) -> JobView:
        """Freeze every process of a job (SIGSTOP), until job_resume."""
        job = self.desk.touch(job_id)
        job.pause()
        return views.job_view(job)

    def resume(self, job_id: JobId) -> JobView:
        """Let a paused job run on (SIGCONT)."""
        job = self.desk.touch(job_id)
        job.resume()
        return views.job_view(job)
