"""`Job`: a handle to one job, and the verbs on it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Final, Literal

from jobsup import _control, _output, _wait
from jobsup._adopt import current_record
from jobsup._control import Request
from jobsup._identity import open_process, send_verified
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import JobRecord, JobState, Outcome
from jobsup._output import OutputChunk
from jobsup._spec import JobSpec, Stdin
from jobsup._stopplan import StopPlan, optional_seconds, parse_signal, seconds, stop_plan
from jobsup._ulid import is_id
from jobsup._value import Value, evolve
from jobsup._wait import Waited
from jobsup.errors import (
    JobEndedError,
    JobNotFoundError,
    JobsupError,
    RecordError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from jobsup._usage import TreeUsage

StreamName = Literal["output", "stderr"]

_ASK_SECONDS: Final = 20.0
"""How long a request is sent again, from the first look on, while monitors die unasked."""
_FOLLOW_SECONDS: Final = 0.1


class Job(Value):
    """A handle to one job.  It holds no state, so it is never stale, and works in any process."""

    id: str
    root: Path

    def _check(self) -> None:
        if not is_id(self.id):  # a path that leads out of the store, say
            raise JobNotFoundError(self.id, self.root)

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    @property
    def dir(self) -> JobDir:
        """The names of the job's files."""
        return StoreDir(self.root).job(self.id)

    @contextmanager
    def _found(self) -> Iterator[JobDir]:
        """The job's directory; that it is gone is told in our words."""
        job_dir = self.dir
        try:
            yield job_dir
        except (FileNotFoundError, NotADirectoryError) as error:
            raise job_dir.missing(error) from None

    # -- look ----------------------------------------------------------------

    def status(self) -> JobRecord:
        """Where the job stands.  Needs no lock and never blocks on the monitor.

        A job whose monitor died is adopted on the way, or settled as lost when
        nothing of it lives.

        Raises:
            JobNotFoundError: The job was pruned.
            RecordError: Its record is damaged or of a newer format.
        """
        with self._found() as job_dir:
            record = current_record(job_dir)
            if record.state is JobState.ENDED:
                return record
            files = (job_dir.output, job_dir.stderr)
            sizes = [os.stat(file).st_size for file in files if file.exists()]
            return evolve(record, output_bytes=sum(sizes))

    def spec(self) -> JobSpec:
        """What was asked for.  Raises as `status` does."""
        with self._found() as job_dir:
            return job_dir.read_spec()

    def usage(self) -> TreeUsage:
        """CPU and memory of the living processes.

        Raises:
            JobEndedError: There are none; see `JobRecord.usage`.
        """
        from jobsup._usage import tree_usage  # noqa: PLC0415 - 50 ms for attrs and psutil

        # Pinned: what is below the monitor is to be of this job.
        with self._found() as job_dir, job_dir.pinned():
            record = self.status()
            if record.state is JobState.ENDED:
                raise JobEndedError(self.id, "it has ended; its record has what it took")
            return tree_usage(record)

    def fits(
        self,
        states: Collection[JobState] | None,
        outcomes: Collection[Outcome] | None,
        name: str | None,
        labels: Mapping[str, str],
    ) -> bool:
        """Whether the job passes the filters of `JobStore.list`; None lets all pass."""
        if name is not None or labels:
            spec = self.spec()
            if name is not None and spec.name != name:
                return False
            if not labels.items() <= spec.labels.items():
                return False
        if states is None and outcomes is None:
            return True
        record = self.status()
        return (states is None or record.state in states) and (
            outcomes is None or record.outcome in outcomes
        )

    # -- read ----------------------------------------------------------------

    def _stream(self, stream: StreamName) -> Path:
        if stream not in ("output", "stderr"):
            raise ValueError(f"stream must be 'output' or 'stderr', not {stream!r}")
        path: Path = getattr(self.dir, stream)
        if stream == "stderr" and not self.spec().separate_stderr:
            raise ValueError("this job's stderr is in its output; start it with stderr='separate'")
        return path

    def read(
        self, cursor: int = 0, limit: int = 1 << 16, *, stream: StreamName = "output"
    ) -> OutputChunk:
        """Up to *limit* bytes of output from the byte offset *cursor* on."""
        with self._found():
            return _output.read_chunk(self._stream(stream), cursor, limit, self._has_ended)

    def _has_ended(self) -> bool:
        try:
            return self.status().state is JobState.ENDED
        except RecordError:  # the output needs no record; a free lock says that no more comes
            return not self.dir.is_held()

    def tail(self, lines: int = 20, *, stream: StreamName = "output") -> str:
        """The last lines, of at most the last MiB; invalid UTF-8 is replaced."""
        return self.tail_chunk(lines, stream=stream).data.decode("utf-8", "replace")

    def tail_chunk(self, lines: int = 20, *, stream: StreamName = "output") -> OutputChunk:
        """As `tail`, in bytes, with the cursor from which to read on."""
        with self._found():
            return _output.tail_chunk(self._stream(stream), lines, self._has_ended)

    def follow(self, cursor: int = 0, *, stream: StreamName = "output") -> Iterator[str]:
        """Text as it is written, from *cursor* until the job has ended.

        Invalid UTF-8 is replaced. Where output was dropped to keep its limit,
        a line ``[jobsup: N bytes lost]`` stands in its place.
        """
        return _output.decode(self.follow_chunks(cursor, stream=stream))

    def follow_chunks(
        self, cursor: int = 0, *, stream: StreamName = "output"
    ) -> Iterator[OutputChunk]:
        """As `follow`, in bytes, with the cursor of each piece and what was lost before it."""
        while True:
            chunk = self.read(cursor, stream=stream)
            cursor = chunk.cursor
            if chunk.data or chunk.lost_bytes or chunk.was_reset:
                yield chunk
            if chunk.eof:
                return
            if not chunk.data:
                # A regular file wakes nobody: look now and then, but at once
                # when the job has ended.
                with self._found() as job_dir:
                    _wait.wait([job_dir], "all", _FOLLOW_SECONDS)

    # -- wait ----------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> JobRecord:
        """Block until the job has ended, at most *timeout* seconds, and say how.

        Raises:
            WaitTimeoutError: It had not; it runs on.
            JobNotFoundError, RecordError: As `status`.
        """
        with self._found() as job_dir:
            return self._ended(
                _wait.wait([job_dir], "all", optional_seconds(timeout, "timeout")), timeout
            )

    async def wait_async(self, timeout: float | None = None) -> JobRecord:
        """As `wait`, without blocking the event loop, woken by it.  Needs no thread."""
        with self._found() as job_dir:
            waited = await _wait.wait_async([job_dir], "all", optional_seconds(timeout, "timeout"))
            return self._ended(waited, timeout)

    def _ended(self, waited: Waited, timeout: float | None) -> JobRecord:
        if waited.ended:
            return waited.ended[0]
        raise WaitTimeoutError(self.id, timeout or 0.0)

    # -- act -----------------------------------------------------------------

    def cancel(self, *, grace: float | None = None, stop: StopPlan | str | None = None) -> None:
        """Ask for the job to be stopped, with everything it spawned.

        Returns once its monitor has recorded the request; `wait` tells when
        the tree is gone. Cancelling an ended job does nothing. A second call
        may shorten the first one's plan, and changes nothing else.

        Args:
            grace: Seconds between SIGTERM and SIGKILL. Zero kills at once.
            stop: A whole plan, such as ``"INT 5, TERM 10, KILL"``. With
                neither, the plan that the job was started with.

        Raises:
            ValueError: *grace* is negative or not finite, or both are given.
            JobNotFoundError: The job was pruned in the meantime.
        """
        plan = None if grace is None and stop is None else stop_plan(stop, grace)
        self._ask(Request("stop", plan), if_ended="ignore")

    def send_signal(self, signum: int | str) -> None:
        """Send one signal to every process of the job; no plan, no escalation.

        SIGSTOP and SIGCONT are `pause` and `resume`.

        Raises:
            ValueError: There is no such signal.
            JobEndedError: Nothing is left to take it.
        """
        self._ask(Request("signal", signal=int(parse_signal(signum))))

    def pause(self) -> None:
        """Stop every process with SIGSTOP.  The job's `timeout` runs on.

        Raises:
            JobEndedError: It has ended.
            JobsupError: It is being stopped.
        """
        self._ask(Request("pause"))

    def resume(self) -> None:
        """Let a paused job run on, with SIGCONT.  Raises as `pause`."""
        self._ask(Request("resume"))

    def write(self, data: bytes | str, *, timeout: float | None = None) -> None:
        """Write all of *data* to the command's standard input; blocks while its pipe is full.

        Args:
            data: A str is encoded as UTF-8.
            timeout: Seconds to wait at most.

        Raises:
            JobEndedError: Nobody reads: the job has ended, or its stdin is closed.
            WaitTimeoutError: The command did not take all of it in time; how
                much it took is not known to it or us.
            JobsupError: The job was not started with ``stdin=subprocess.PIPE``.
        """
        left = memoryview(data.encode() if isinstance(data, str) else data)
        deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        with self._found():
            fd = self._open_stdin()
        try:
            while left:
                written = _control.write_some(fd, left, deadline)
                if not written:
                    raise WaitTimeoutError(self.id, timeout or 0.0)
                left = left[written:]
        except BrokenPipeError:
            raise JobEndedError(self.id, "nobody reads its standard input any more") from None
        finally:
            os.close(fd)

    def _open_stdin(self) -> int:
        self._need_open_stdin()
        try:
            fd = _control.open_for_write(self.dir.stdin)
        except FileNotFoundError:
            fd = None
        if fd is None:
            ended = self.status().state is JobState.ENDED
            raise JobEndedError(
                self.id, "it has ended" if ended else "its standard input is closed"
            )
        return fd

    def close_stdin(self) -> None:
        """Let the command read end-of-file.  A second call does nothing.

        Raises:
            JobEndedError: It has ended.
            JobsupError: The job was not started with ``stdin=subprocess.PIPE``.
        """
        self._need_open_stdin()
        self._ask(Request("close-stdin"))

    def _need_open_stdin(self) -> None:
        if self.spec().stdin is not Stdin.FIFO:
            raise JobsupError(
                f"job {self.id} has no open standard input; start it with stdin=subprocess.PIPE"
            )

    def _stop_without_words(self) -> bool:
        """SIGTERM to the monitor is a cancel too: for a FIFO that somebody else keeps full.

        False if the monitor died before it came.
        """
        with self.dir.pinned():
            record = self.status()
            if record.stop_cause or record.state is JobState.ENDED:
                return True
            return record.monitor is not None and send_verified(record.monitor, SIGTERM) is None

    @contextmanager
    def _watched(self, job_dir: JobDir) -> Iterator[int | None]:
        """What turns readable when the monitor dies, where there is such a thing."""
        with ExitStack() as on_exit:
            fd = None
            with suppress(OSError, RecordError):  # a request needs neither record nor handle
                monitor = job_dir.read_record().monitor
                if monitor and (handle := open_process(monitor)):
                    on_exit.callback(handle.close)
                    fd = handle.fileno()
            yield fd

    def _ask(self, request: Request, if_ended: Literal["raise", "ignore"] = "raise") -> None:
        with self._found() as job_dir:
            pause, deadline, seen = 0.001, math.inf, "unseen"
            while True:
                with self._watched(job_dir) as monitor:
                    answer = _control.ask(job_dir, request, monitor)
                if answer is not None:
                    if answer.error:
                        raise JobsupError(f"job {self.id}: {answer.error}")
                    if not answer.heard and if_ended == "raise":
                        raise JobsupError(
                            f"the monitor of job {self.id} does not answer; try again"
                        )
                    if answer.heard or self._stop_without_words():
                        return
                if time.monotonic() > deadline:
                    raise JobsupError(
                        f"job {self.id} is {seen} and has no monitor that listens; "
                        f"{job_dir.log} may say why"
                    )
                record = self.status()  # nobody listens: the job has ended, or is now adopted
                if record.state is JobState.ENDED:
                    if if_ended == "raise":
                        raise JobEndedError(self.id)
                    return
                seen = record.state.value
                # From here on: to adopt a large tree takes long.
                deadline = min(deadline, time.monotonic() + _ASK_SECONDS)
                # A dying monitor drops its FIFO some milliseconds before its lock.
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
