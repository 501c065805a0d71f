"""One history: several processes act on one store at once, and all they are told is checked."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

from clients import PATIENCE, ClientDiedError, ClientPool
from histories import all_events, faults_of, faults_of_end
from judge import Call, Judge
from launchers import launchers_of
from model_jobs import TOKEN, ModelJob

from jobsup import Job, JobNotFoundError, JobState, JobsupError, RecordError
from jobsup._identity import identify, send_verified
from jobsup._jobdir import StoreDir
from jobsup._sweep import sweep_launch

WORKERS: Final = 4
WAITERS: Final = 2
_LONG: Final = 50.0
"""Seconds of a wait that only the end of the job is to end."""


class History(Judge):
    """Acts through its clients, and ends what it began."""

    def __init__(self, pool: ClientPool, truth: Path, folder: Path) -> None:
        super().__init__(folder / "store")
        self._pool = pool
        self._truth = truth
        self._folder = folder
        self._clients = [pool.new() for _ in range(WORKERS + WAITERS)]
        self.pending = [None] * len(self._clients)
        self.calls = 0
        self.kills = 0
        self.drawn = ""

    def _draw(self, verb: str, client: int | None, *jobs: ModelJob) -> None:
        self.drawn += f"{verb} {client} {[self.jobs.index(job) for job in jobs]}\n"

    # -- what is done ----------------------------------------------------------

    def start(self, client: int, **options: Any) -> None:
        job = ModelJob(self._folder, self._truth, **options)
        self.jobs.append(job)
        self.call(
            client,
            "start",
            job,
            argv=job.argv,
            name=job.token,
            env={TOKEN: job.token},
            timeout=job.timeout,
            grace=1.0,
        )

    def call(self, client: int, verb: str, *jobs: ModelJob, **arguments: Any) -> None:
        """Send a verb and do not wait for its answer; that of the client's last one comes first."""
        self._draw(verb, client, *jobs)
        self.collect(client)
        known = [job for job in self.jobs if job.job_id]
        first = jobs[0] if jobs else None
        call = self.pending[client] = Call(
            verb,
            [*jobs],
            arguments,
            floor=first.newest if first else 0,
            had_ended=any(job.end for job in jobs),
            was_cancelled=bool(first and first.cancelled),
            had_id=all(job.job_id for job in jobs),
            listed=known,
        )
        if verb == "wait_any":
            arguments["jobs"] = [job.key for job in jobs]
        elif first and verb != "start":
            arguments["job"] = first.key
        if verb == "cancel":
            jobs[0].cancels += 1
        if verb == "send_signal":
            jobs[0].signals.add(arguments["signum"])
        self.calls += 1
        self.note(f"client {client}: {call}")
        self._clients[client].send(verb, root=str(self.root), **arguments)

    def is_busy(self, client: int) -> bool:
        return self.pending[client] is not None

    def wait_long(self, waiter: int, job: ModelJob) -> None:
        """Have a client wait until the job has ended; what it was told is checked at the end."""
        if not self.is_busy(WORKERS + waiter):
            self.call(WORKERS + waiter, "wait", job, timeout=_LONG)

    def kill_client(self, client: int) -> None:
        call = self.pending[client]
        self._draw("kill", client)
        self.kills += 1
        self.note(f"kill client {client} in {call or 'idleness'}")
        self._clients[client].kill()
        try:
            self.collect(client)
        except ClientDiedError:
            self.pending[client] = None
            for job in self.jobs:
                job.may_be_pruned |= call is not None and call.verb == "prune" and job.is_mortal
                job.starter_died |= call is not None and call.verb == "start" and job in call.jobs
        self._clients[client].close()
        self._clients[client] = self._pool.new()

    def release(self, job: ModelJob) -> None:
        self._draw("release", None, job)
        self.note(f"release {job.token}")
        job.release()

    def kill_monitor(self, job: ModelJob) -> None:
        self._draw("kill monitor", None, job)
        if job.job_id is None:
            return
        directory = Job(job.job_id, self.root).dir
        with suppress(OSError, RecordError), directory.pinned():
            record = directory.read_record()
            if record.state is JobState.ENDED:  # its monitor may have another job by now
                return
            assert record.monitor
            monitor = record.monitor
            refused = send_verified(monitor, SIGKILL)
            self.kills += not refused
            job.monitor_kills += not refused
            self.note(f"kill monitor {monitor.pid} of {job.token}: {refused or 'done'}")

    def kill_launcher(self, client: int) -> None:
        """That of a client, where it has one: what it asked for comes to pass all the same."""
        self._draw("kill launcher", client)
        for pid in launchers_of(self._clients[client].identity.pid):
            launcher = identify(pid)
            if launcher:
                refused = send_verified(launcher, SIGKILL)
                self.kills += not refused
                self.note(f"kill launcher {pid} of client {client}: {refused or 'done'}")

    def collect(self, client: int) -> None:
        """The answer to the client's call, if it has one on its way."""
        call = self.pending[client]
        if call is None:
            return
        try:
            reply = self._clients[client].receive()
        except TimeoutError:
            self.fail(f"no answer in {PATIENCE:g} s to: {call}")
        self.note(f"client {client}: {call.verb} -> {reply.error or reply.value} {reply.text}")
        self.pending[client] = None
        self.judge(self._clients[client], call, reply)

    # -- the end ---------------------------------------------------------------

    def finish(self) -> None:
        """End every job; then nothing may be missing, and nothing be left."""
        for worker in range(WORKERS):
            self.collect(worker)
        self._until(lambda: not self._unborn(), "every launch has succeeded or been undone")
        self.name_strangers()
        jobs = [job for job in self.jobs if job.job_id]
        random.shuffle(jobs)
        for job in jobs:
            self._end(job)
        for waiter in range(WORKERS, WORKERS + WAITERS):
            self.collect(waiter)
        for job in self.jobs:
            self.check(not job.processes(), f"processes of {job.token} are left")
            gone = job.was_pruned or job.may_be_pruned
            self.check(gone or not job.was_missed, f"{job.token} was missed, and pruned by nobody")
        self._check_feed(jobs)
        self._check_files(jobs)

    def _end(self, job: ModelJob) -> None:
        assert job.job_id
        handle = Job(job.job_id, self.root)
        try:
            job.cancels += 1
            handle.cancel(grace=0.2)
            record = handle.wait(PATIENCE)
            self.see(job, record, None)
            # The monitor tells the feed after the record.
            self._until(lambda: not handle.dir.is_held(), f"{job.token} has no monitor")
            handle.status()  # tells the feed of the end, if nobody else could
            if job.told.exists():
                self.check(handle.tail() == f"{job.token}\n", f"output of {job.token} is missing")
        except JobNotFoundError:
            self.check(self.may_be_gone(job), f"{job.token} has vanished")

    def _check_feed(self, jobs: list[ModelJob]) -> None:
        feed = all_events(self.store)
        self.check_known(set(feed))
        for job_id in {str(job.job_id) for job in jobs} | feed.keys():
            events = feed.get(job_id, [])
            faults = faults_of(events)
            for job in jobs:
                if job.job_id == job_id and job.end and events:
                    faults += faults_of_end(events[-1], job.end)
            self.check(not faults, f"{job_id}: {faults} in {events}")
        whole = [
            [event.job_id, event.sequence, event.state.value]
            for event in self.store.events(limit=1 << 20).events
        ]
        for seen in self.feeds.values():
            self.check(seen == whole[: len(seen)], f"a reader of the feed saw {seen} of {whole}")

    def _check_files(self, jobs: list[ModelJob]) -> None:
        left = {job.id for job in self.store.list()}
        must = {job.job_id for job in jobs if not (job.was_pruned or job.may_be_pruned)}
        may = must | {job.job_id for job in jobs if job.may_be_pruned and not job.was_pruned}
        self.check(must <= left <= may, f"{left} are left, of {must} to {may}")
        self.store.prune(keep=0)
        self._until(lambda: not self._files(), f"no file is left of {self._files()}")

    def _files(self) -> list[str]:
        return os.listdir(self.root / "jobs") + os.listdir(self.root / "active")

    def _unborn(self) -> list[str]:
        """Those that are being born yet; what a killed starter left is swept, as prune would."""
        names = [name for name in os.listdir(self.root / "jobs") if name.endswith(".new")]
        return [name for name in names if not sweep_launch(StoreDir(self.root), name[1:-4])]

    def _until(self, condition: Callable[[], bool], text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.check(time.monotonic() < deadline, f"after {PATIENCE:g} s still not: {text}")
            time.sleep(0.005)

    def close(self) -> None:
        """Leave nothing running, whatever went wrong."""
        for client in self._clients:
            client.kill()
            client.close()
        for job in self.store.list():
            with suppress(JobsupError, OSError):
                job.cancel(grace=0)
                job.wait(PATIENCE)
        for model in self.jobs:
            model.close()
