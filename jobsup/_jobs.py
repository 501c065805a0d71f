"""`JobStore`: a directory of jobs, and the verbs on all of them."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from jobsup import _events, _index, _sweep, _wait
from jobsup._control import Order, Terms
from jobsup._events import EventPage
from jobsup._identity import identify_self
from jobsup._job import Job
from jobsup._jobdir import JobDir, StoreDir
from jobsup._launch import launch
from jobsup._model import JobRecord, JobState, Outcome, now, to_json
from jobsup._spec import DEFAULT_OUTPUT_LIMIT, JobSpec
from jobsup._start import (
    StdinLike,
    open_stdin,
    stdin_kind,
    whole_environment,
    working_directory,
)
from jobsup._stopplan import StopPlan, optional_seconds, seconds, stop_plan
from jobsup._ulid import SHORT, is_id, is_part, new_id
from jobsup._wait import Waited
from jobsup.errors import JobExistsError, JobNotFoundError, JobsupError, RecordError, SpawnError

if TYPE_CHECKING:
    from jobsup._prune import Pruned


def default_root() -> Path:
    """``$JOBSUP_HOME``, else ``$XDG_STATE_HOME/jobsup``, else ``~/.local/state/jobsup``."""
    if home := os.environ.get("JOBSUP_HOME"):
        return Path(home)
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says to ignore a relative one.  XDG Base Directory Specification
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "jobsup"


class JobStore:
    """A directory of jobs.  Nothing runs in it; make as many handles to it as you like."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        """*root* is made on the first start; None is `default_root`, looked up at each call."""
        self._root = None if root is None else Path(os.path.abspath(root))

    @property
    def root(self) -> Path:
        """The store's directory, absolute."""
        return self._root or Path(os.path.abspath(default_root()))

    @property
    def _dir(self) -> StoreDir:
        return StoreDir(self.root)

    def __repr__(self) -> str:
        return f"<JobStore {self.root}>"

    def start(
        self,
        argv: Sequence[str | bytes | os.PathLike[str]],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        clean_env: bool = False,
        stdin: StdinLike = None,
        stderr: Literal["merge", "separate"] = "merge",
        timeout: float | None = None,
        grace: float | None = None,
        stop: StopPlan | str | None = None,
        lifetime: Literal["persist", "owner"] = "persist",
        leftovers: Literal["kill", "wait", "leave"] = "kill",
        output_limit: int | None = DEFAULT_OUTPUT_LIMIT,
        on_output_limit: Literal["trim", "kill"] = "trim",
        labels: Mapping[str, str] | None = None,
    ) -> Job:
        """Start *argv* as a background job, and return once it was exec'd.

        The job outlives this process. It inherits what a `subprocess.Popen`
        here would have: cwd, umask, limits, priority, ignored signals.

        Args:
            argv: Program and arguments; no shell reads them.
            name: For people; need not be unique.
            cwd: Working directory; None is this process's own.
            env: Variables to set on top of this process's environment. Their
                values are written nowhere.
            clean_env: Start from an empty environment instead.
            stdin: None is /dev/null. Bytes are what the command reads. A path
                or an open file is read as it is. ``subprocess.PIPE`` leaves it
                open for `Job.write`; it closes when the job's monitor dies.
            stderr: Into the output, in order, or a file of its own.
            timeout: Seconds after which the job is stopped.
            grace: Seconds between SIGTERM and SIGKILL when it is stopped.
            stop: A whole plan instead, such as ``"INT 5, TERM 10, KILL"``.
            lifetime: ``"owner"`` stops the job when this process ends,
                however it ends.
            leftovers: What becomes of processes that outlive the command:
                stopped by the plan, waited for, or listed and left.
            output_limit: Bytes kept on disk, of which the first MiB and the
                newest rest; two streams share it. None is no limit.
            on_output_limit: Drop from the middle, or stop the job.
            labels: For `list` to filter by.

        Raises:
            ValueError, TypeError: An argument is wrong; nothing was started.
            SpawnError: The command could not be executed, or the job not be
                created; nothing is left of it.
        """
        if stderr not in ("merge", "separate"):
            raise ValueError(f"stderr must be 'merge' or 'separate', not {stderr!r}")
        kind = stdin_kind(stdin)
        try:
            owner = identify_self() if lifetime == "owner" else None
        except OSError as error:
            raise SpawnError("monitor", str(self.root), error.strerror or str(error)) from error
        spec = JobSpec(
            argv=argv,
            name=name,
            cwd=working_directory(cwd),
            env_names=tuple(env or ()),
            clean_env=clean_env,
            stdin=kind,
            separate_stderr=stderr == "separate",
            timeout=timeout,
            stop=stop_plan(stop, grace),
            lifetime=lifetime,
            leftovers=leftovers,
            output_limit=output_limit,
            on_output_limit=on_output_limit,
            labels=labels or {},
            owner=owner,
        )
        environment = whole_environment(env, clean_env)
        store = self._dir
        with ExitStack() as on_exit:
            try:
                store.create()
                stdin_fd = open_stdin(stdin, kind, store, on_exit)
            except OSError as error:
                raise SpawnError("store", str(store.root), error.strerror or str(error)) from error
            return self._launch(store, spec, environment, stdin_fd, enters_cwd=cwd is not None)

    def _launch(
        self,
        store: StoreDir,
        spec: JobSpec,
        environment: dict[str, str],
        stdin_fd: int | None,
        *,
        enters_cwd: bool,
    ) -> Job:
        job_id = new_id()
        record = JobRecord(job_id, JobState.RUNNING, created_at=now())
        order = Order(
            store.text,
            job_id,
            "start",
            spec.argv,
            environment,
            stdin_fd,
            spec.cwd if enters_cwd else None,
            to_json(spec),
            to_json(record),
            _events.line_of(record, None),
            Terms.of(spec),
        )
        try:
            launch(order)
        except SpawnError as error:
            if error.stage == "exists":
                raise JobExistsError(job_id, self.root) from error
            # A monitor that was killed could not undo its work: do it here,
            # unless it came as far as to publish the job.
            if error.stage != "monitor" or not self._dir.job(job_id).exists():
                self._undo(job_id)
                raise
        except BaseException:  # interrupted: the monitor sees it, or has published the job
            self._undo(job_id)
            raise
        return Job(job_id, self.root)

    def _undo(self, job_id: str) -> None:
        with suppress(OSError):
            _sweep.sweep_launch(self._dir, job_id, wait=1.0)

    def get(self, job: str) -> Job:
        """The job of that id, of that unique part of an id, or of that name.

        A name stands for the one active job that has it, or else for the
        newest ended one. A name goes before a part of an id.

        Raises:
            JobNotFoundError: There is none, or several; it lists them then.
        """
        store = self._dir
        if is_id(job) and store.job(job).exists():
            return Job(job, self.root)
        active = [job_id for job_id in store.active_ids() if self._is_active(job_id, job)]
        if not active:
            part = job.lower()
            matches = _index.containing(store.text, part) if is_part(part) else []
            # Ended names are a file each to read. Spare it where a long part
            # fits one id: that such a name were meant is one in a milliard.
            if len(matches) == 1 and len(part) >= SHORT:
                return Job(matches[0], self.root)
            ids = _index.newest_first(store.text)
            newest = next((job_id for job_id in ids if self._is_named(job_id, job)), None)
            active = [newest] if newest else matches
        if len(active) == 1:
            return Job(active[0], self.root)
        raise JobNotFoundError(job, self.root, active)

    def _is_active(self, job_id: str, name: str) -> bool:
        """Whether a marked job has the name, and had not ended: the marker goes last."""
        with suppress(OSError, RecordError):
            if self._is_named(job_id, name):
                return self._dir.job(job_id).read_record().state is not JobState.ENDED
        return False

    def _is_named(self, job_id: str, name: str) -> bool:
        try:
            return self._dir.job(job_id).read_spec().name == name
        except (OSError, RecordError):
            return False

    def list(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        outcome: Outcome | str | Iterable[Outcome | str] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> builtins.list[Job]:
        """The jobs that fit all that is given, newest first.

        A job with a damaged record is in an unfiltered list, and raises
        `RecordError` when it is looked at.

        Args:
            state: One state, or several.
            outcome: One outcome, or several.
            name: Exactly this name.
            labels: Labels that a job must have, with these values.
            limit: Stop after so many.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be >= 0, not {limit}")
        states = _members(JobState, state)
        outcomes = _members(Outcome, outcome)
        filtered = not (states is None and outcomes is None and name is None and not labels)
        store = self._dir
        only_active = states is not None and JobState.ENDED not in states
        ids: Iterable[str]
        if only_active:
            ids = reversed(store.active_ids())
        elif limit is None:  # all are looked at: the directory tells of them in one go
            ids = reversed(store.ids())
        else:
            ids = _index.newest_first(store.text)
        found: builtins.list[Job] = []
        for job_id in ids:
            if limit is not None and len(found) >= limit:
                break
            job = Job(job_id, self.root)
            try:
                if not filtered or job.fits(states, outcomes, name, labels or {}):
                    found.append(job)
            except (JobsupError, OSError):
                continue  # pruned while we looked, or damaged: nothing it could fit
        return found

    def wait(
        self,
        jobs: Iterable[Job | str],
        *,
        mode: Literal["any", "all"] = "all",
        timeout: float | None = None,
    ) -> Waited:
        """Block until any or all of *jobs* have ended, at most *timeout* seconds.

        Unlike `Job.wait` it returns when the time is up, and tells what ended
        and what is pending. Raises JobNotFoundError before it waits, or when
        one of them is pruned before its end was seen.
        """
        return _wait.wait(self._dirs(jobs, mode), mode, optional_seconds(timeout, "timeout"))

    async def wait_async(
        self,
        jobs: Iterable[Job | str],
        *,
        mode: Literal["any", "all"] = "all",
        timeout: float | None = None,
    ) -> Waited:
        """As `wait`, woken by the event loop."""
        return await _wait.wait_async(
            self._dirs(jobs, mode), mode, optional_seconds(timeout, "timeout")
        )

    def _dirs(self, jobs: Iterable[Job | str], mode: str) -> builtins.list[JobDir]:
        if mode not in ("any", "all"):
            raise ValueError(f"mode must be 'any' or 'all', not {mode!r}")
        found = [job if isinstance(job, Job) else self.get(job) for job in jobs]
        dirs = [job.dir for job in found]
        for job, job_dir in zip(found, dirs, strict=True):
            if not job_dir.exists():
                raise JobNotFoundError(job.id, job.root)
        return dirs

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Pruned:
        """Delete ended jobs, and what crashed launches left.  Active jobs are never touched.

        Args:
            older_than: Delete what ended more than so many seconds ago.
            keep: Delete all but so many, the newest.
            max_bytes: Delete the oldest until the rest takes no more on disk.
            dry_run: Only say what would be deleted.
            progress: Called some times a second with the number of jobs that
                are dealt with, and of all; in the end with the same twice.

        A job goes if any of the three rules it out. With none of them, only
        the remains of crashes go.
        """
        for what, value in (("keep", keep), ("max_bytes", max_bytes)):
            if value is not None and value < 0:
                raise ValueError(f"{what} must be >= 0, not {value}")
        if older_than is not None:
            seconds(older_than, "older_than")
        from jobsup import _prune  # noqa: PLC0415 - 25 ms for attrs, that only this needs

        return _prune.prune(
            self._dir,
            older_than=older_than,
            keep=keep,
            max_bytes=max_bytes,
            dry_run=dry_run,
            progress=progress,
        )

    def events(self, since: int = 0, limit: int = 1000) -> EventPage:
        """State changes of all jobs from the cursor *since* on, oldest first.

        Raises:
            ValueError: *since* is beyond the end of the feed.
        """
        return _events.read(self._dir.events, since, limit)


_Member = TypeVar("_Member", JobState, Outcome)


def _members(
    kind: type[_Member], value: _Member | str | Iterable[_Member | str] | None
) -> frozenset[_Member] | None:
    if value is None:
        return None
    several = [value] if isinstance(value, (str, JobState, Outcome)) else value
    return frozenset(kind(item) for item in several)


default_store: Final = JobStore()
