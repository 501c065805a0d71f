"""Where the tools start, find and touch jobs: the store, as the policy lets it be used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs

from jobsup import Job, JobNotFoundError, JobState, JobStore
from jobsup_mcp.policy import NotAllowedError, Policy

LABEL: Final = "jobsup_mcp"
"""Of every job that was started through a server. Other labels that begin so are servers' own."""

ACTIVE: Final = tuple(state for state in JobState if state is not JobState.ENDED)


@attrs.frozen
class Desk:
    """Holds nothing but store and policy: a new server knows all that an old one knew."""

    store: JobStore
    policy: Policy

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None,
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        env: Sequence[str] = (),
        **options: Any,
    ) -> Job:
        """Start a job within the policy.

        Args:
            env: Patterns of variables that it gets besides the usual ones.
            options: As for `JobStore.start`.

        Raises:
            NotAllowedError: The policy forbids it; nothing was started.
            ValueError, TypeError, SpawnError: As `JobStore.start`.
        """
        directory = self.policy.directory(cwd)
        environment = self.policy.environment(env)
        command = self.policy.command(argv, directory, environment.get("PATH"))
        with self._slot():
            return self.store.start(
                command,
                cwd=directory,
                env=environment,
                clean_env=True,
                timeout=self.policy.run_limit(timeout),
                labels={**(labels or {}), LABEL: "1"},
                **options,
            )

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Room for one more job, which no other server can take meanwhile."""
        limit = self.policy.max_jobs
        if limit is None:
            yield
            return
        from filelock import FileLock  # noqa: PLC0415 - 35 ms that only this needs

        os.makedirs(self.store.root, mode=0o700, exist_ok=True)
        with FileLock(self.store.root / "mcp.lock", fallback_to_soft=False):
            active = self.store.list(state=ACTIVE, labels={LABEL: "1"}, limit=limit)
            if len(active) >= limit:
                raise NotAllowedError(
                    f"{len(active)} jobs are running, and this server allows {limit}; "
                    "wait for one or cancel one"
                )
            yield

    def find(self, job_id: str) -> Job:
        """The job of exactly that id or name: a model's slip must not hit another job.

        Raises:
            JobNotFoundError: There is none, or several of that name.
        """
        job = self.store.get(job_id)
        if job.id != job_id and job.spec().name != job_id:
            raise JobNotFoundError(job_id, self.store.root)
        return job

    def touch(self, job_id: str) -> Job:
        """`find`, for what changes the job.

        Raises:
            NotAllowedError: Commands are limited, and the job was not started
                under such a limit: its standard input may be a shell's.
        """
        job = self.find(job_id)
        if self.policy.allow and LABEL not in job.spec().labels:
            raise NotAllowedError(
                f"job {job.id} was not started through this server, which may run "
                "certain commands only; it can be read, not changed"
            )
        return job
