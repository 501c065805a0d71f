"""What jobs go through under fire: each scenario is a short life, from start to end.

A scenario runs in a process that may be killed at any moment; what must hold
afterwards is in `aftermath`.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import faulty
from conftest import Gate, files_in, kill_and_wait

from jobsup import Job, JobRecord, JobState, JobStore, JobsupError, ProcessIdentity, _launch
from jobsup._control import ALONG_BYTES
from jobsup._identity import is_alive
from jobsup._jobdir import StoreDir
from jobsup._ulid import new_id

CODE: Final = 7
"""What every command exits with that is let alone."""

UNTIL_EOF: Final = 'echo up >"$1"; cat; echo err >&2; echo over >"$3"; exit 7'
UNTIL_GATE: Final = 'echo up >"$1"; read x <"$2"; echo over >"$3"; exit 7'
STUBBORN: Final = """
trap "" TERM
setsid sh -c 'echo up >"$0"; exec sleep 90' "$1" &
sleep 90
"""
LEAVES_A_CHILD: Final = 'trap "" TERM; sleep 90 & echo up >"$1"; echo over >"$3"; exit 7'
LEAVES_A_WAITER: Final = '( read x <"$2" ) & echo up >"$1"; echo over >"$3"; exit 7'
CHATTY: Final = """
head -c 400000 /dev/zero
echo up >"$1"; read x <"$2"
head -c 400000 /dev/zero
echo over >"$3"; exit 7
"""


_PATIENCE: Final = 1.0


class Scene:
    """A store of a case's own, its gates, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = str(folder)  # nobody else is killed in the end
        self.store = JobStore(folder / "store")
        self.gate = Gate(folder / "gate")
        self.over = folder / "over"
        self.started: set[str] = set()
        self.records: list[JobRecord] = []
        self.wrong: list[str] = []
        self.raised: list[str] = []
        self.plan: faulty.Plan | None = None
        self.breaks_unlink = False

    def start(self, body: str, **kwargs: Any) -> Job | None:
        words = (self.gate.told, self.gate.opened, self.over)
        return self.start_argv(["sh", "-c", body, "sh", *map(str, words)], **kwargs)

    def start_argv(self, argv: list[str], **kwargs: Any) -> Job | None:
        try:
            job = self.store.start(argv, **kwargs)
        except JobsupError as error:
            self.raised.append(repr(error))
            left = [name for name in files_in(self.store) if name[-26:] not in self.started]
            if self.breaks_unlink:  # the marker cannot be removed; prune sweeps it
                left = [name for name in left if not name.startswith("active/")]
            if left:
                self.wrong.append(f"start() raised {error!r}, and left {left}")
            return None
        self.started.add(job.id)
        return job

    def tries(self, *verbs: Callable[[], Any]) -> None:
        """Each verb works, or says in a clear error why not."""
        for verb in verbs:
            try:
                seen = verb()
            except (JobsupError, OSError) as error:
                self.raised.append(repr(error))
            else:
                if isinstance(seen, JobRecord):
                    self.records.append(seen)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """What the scenario does behind jobsup's back does not fail."""
        if self.plan:
            self.plan.is_off = True
        try:
            yield
        finally:
            if self.plan:
                self.plan.is_off = False

    def is_up(self, job: Job) -> bool:
        """Once the command says so; False if it died before."""
        with self.unharmed():
            command = job.dir.read_record().command
        while True:
            if select.select([self.gate._told], [], [], 0.02)[0]:
                self.gate.wait()
                return True
            with self.unharmed():
                if command is None or not is_alive(command):
                    return False

    def let_go(self, count: int = 16) -> None:
        """Let so many commands pass that wait for a line, or come to wait for one."""
        os.write(self.gate._opened, b"\n" * count)

    def has_ended(self, job: Job) -> bool:
        return job.status().state is JobState.ENDED

    def kill_monitor(self, job: Job) -> ProcessIdentity | None:
        with self.unharmed():
            if monitor := job.dir.read_record().monitor:
                kill_and_wait(monitor)
            return monitor

    def loses_monitor(self, job: Job) -> None:
        """It is killed, and replaced, unless something fails."""
        killed = self.kill_monitor(job)
        deadline = time.monotonic() + _PATIENCE
        with self.unharmed():
            while time.monotonic() < deadline and job.dir.read_record().monitor == killed:
                time.sleep(0.005)

    def report(self) -> dict[str, Any]:
        return {
            "started": sorted(self.started),
            "wrong": self.wrong,
            "raised": self.raised,
            "ended": [record.state.value for record in self.records],
        }


# -- what happens --------------------------------------------------------------


def requests(scene: Scene) -> None:
    """A job is asked everything, and ends by itself."""
    job = scene.start(
        UNTIL_EOF,
        stdin=subprocess.PIPE,
        stderr="separate",
        timeout=60,
        output_limit=1 << 20,
        cwd=scene.folder,
        name="asked",
        labels={"a": "b"},
    )
    if job is None:
        return
    scene.is_up(job)
    store = scene.store
    scene.tries(
        lambda: job.write(b"hello\n"),
        job.pause,
        job.resume,
        lambda: job.send_signal("WINCH"),
        job.status,
        job.tail,
        lambda: job.read(limit=3),
        lambda: store.get("asked"),
        lambda: store.get(job.id[-8:]),
        lambda: store.list(limit=1),
        lambda: store.list(state="running", name="asked", labels={"a": "b"}),
        store.events,
        job.close_stdin,  # the first may fail
        job.close_stdin,
        lambda: job.wait(timeout=5),
        lambda: list(job.follow()) if scene.has_ended(job) else None,
        lambda: store.prune(max_bytes=1 << 30),
    )


def cancelled(scene: Scene) -> None:
    """A tree that heeds nothing but SIGKILL."""
    if job := scene.start(STUBBORN, grace=0.1):
        scene.is_up(job)
        scene.tries(job.cancel, lambda: job.cancel(grace=0.05), lambda: job.wait(timeout=5))


def signalled(scene: Scene) -> None:
    """SIGTERM to the monitor is a cancel too."""
    if job := scene.start(UNTIL_GATE):
        scene.is_up(job)
        # The first may fail.
        scene.tries(job._stop_without_words, job._stop_without_words, lambda: job.wait(timeout=5))


def timed_out(scene: Scene) -> None:
    if job := scene.start(STUBBORN, timeout=0.2, grace=0.05):
        scene.tries(lambda: job.wait(timeout=5))


def swept(scene: Scene) -> None:
    """The command leaves a child that has to be killed."""
    if job := scene.start(LEAVES_A_CHILD, grace=0.05):
        scene.tries(lambda: job.wait(timeout=5))


def waited_for(scene: Scene) -> None:
    """The command leaves a child that the job waits for."""
    if job := scene.start(LEAVES_A_WAITER, leftovers="wait"):
        scene.is_up(job)
        scene.let_go()
        scene.tries(lambda: job.wait(timeout=5))


def left_alone(scene: Scene) -> None:
    if job := scene.start(LEAVES_A_WAITER, leftovers="leave"):
        scene.tries(lambda: job.wait(timeout=5))
    scene.let_go()


def capped(scene: Scene) -> None:
    """More output than is kept; an adopter goes on where the first monitor stopped."""
    if job := scene.start(CHATTY, output_limit=200_000):
        scene.is_up(job)
        scene.kill_monitor(job)
        scene.tries(job.status, lambda: job.read(390_000), lambda: job.read(190_000))
        scene.let_go()
        scene.tries(lambda: job.wait(timeout=5), lambda: job.tail(1), job.read)
        scene.tries(lambda: list(job.follow_chunks()) if scene.has_ended(job) else None)


def owned(scene: Scene) -> None:
    """The job ends with the process that started it."""
    starter = os.fork()
    if starter == 0:
        status = 1
        try:
            scene.start(UNTIL_GATE, lifetime="owner", grace=0.05)
            status = 1 if scene.wrong else 0
        finally:
            os._exit(status)
    _, status = os.waitpid(starter, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        scene.wrong.append("start() raised what it does not promise, or left something")
    with scene.unharmed():
        jobs = scene.store.list()
    for job in jobs:
        scene.tries(partial(job.wait, timeout=5))


def adopted(scene: Scene) -> None:
    """Its monitor dies; the next one walks the whole plan."""
    if job := scene.start(STUBBORN, grace=0.1, stdin=subprocess.PIPE):
        scene.is_up(job)
        scene.kill_monitor(job)
        scene.tries(
            job.status,
            job.usage,
            job.pause,
            job.resume,
            job.cancel,
            lambda: job.wait(timeout=5),
        )


def adopted_and_let_alone(scene: Scene) -> None:
    """Its monitor dies; the next one reads the exit status though it is no parent."""
    if job := scene.start(UNTIL_GATE):
        scene.is_up(job)
        scene.kill_monitor(job)
        scene.tries(job.status)
        scene.let_go()
        scene.tries(lambda: job.wait(timeout=5))


def settled(scene: Scene) -> None:
    """Monitor and command die; whoever looks next writes the end."""
    if job := scene.start(UNTIL_GATE):
        scene.is_up(job)
        scene.kill_monitor(job)
        with scene.unharmed():
            kill_and_wait(job.dir.read_record().command)
        scene.tries(job.status, job.status, scene.store.list)


def pruned(scene: Scene) -> None:
    """Jobs that ended, a launch and a prune that crashed, and a marker of nothing."""
    jobs = [scene.start_argv(["sh", "-c", "exit 7"]) for _ in range(2)]
    for job in jobs:
        if job is not None:
            scene.tries(partial(job.wait, timeout=5))
    if None in jobs:
        return
    crashed = scene.start(UNTIL_GATE)
    if crashed is None:
        return
    scene.kill_monitor(crashed)
    directory = StoreDir(scene.store.root)
    with scene.unharmed():
        crashed.dir.path.rename(directory.unborn(crashed.id).path)
        half = directory.jobs / f".{new_id()}.del"
        half.mkdir()
        (half / "output").touch()
        (directory.jobs / f".{new_id()}.del").symlink_to(half)
        directory.mark_active(new_id())
        assert jobs[0] is not None
        directory.mark_active(jobs[0].id)
        born = directory.unborn(new_id())
        born.path.mkdir()
        lock = born.acquire()
        assert lock is not None
    scene.tries(
        lambda: scene.store.prune(keep=1),
        lambda: scene.store.prune(older_than=0),
    )
    os.close(lock)
    scene.tries(scene.store.prune)


def fed(scene: Scene) -> None:
    """Every kind of standard input."""
    text = scene.folder / "text"
    text.write_bytes(b"text")
    with open(text, "rb") as file:
        for stdin in (b"bytes", text, file):
            if job := scene.start_argv(["sh", "-c", "cat; exit 7"], stdin=stdin, cwd=scene.folder):
                scene.tries(partial(job.wait, timeout=5))
            else:
                return


def launched(scene: Scene) -> None:
    """By a launcher, which forks the monitors and replaces one that is killed."""
    os.environ[_launch.LAUNCHER] = "1"
    for _ in range(2):
        if job := scene.start(UNTIL_GATE):
            scene.is_up(job)
            scene.loses_monitor(job)
            scene.tries(job.status)  # adopts it, if it was not the launcher's: somebody must see
            scene.let_go(1)  # how the command exits, and the next job's is to wait
            scene.tries(partial(job.wait, timeout=5))


def reused(scene: Scene) -> None:
    """Monitors of short jobs take one after the other."""
    os.environ[_launch.LAUNCHER] = "1"
    for length in (1, 1, 1, ALONG_BYTES):
        argv = ["sh", "-c", 'echo over >"$0"; exit 7', str(scene.over)]
        if job := scene.start_argv(argv, env={"LONG": "x" * length}):
            scene.tries(partial(job.wait, timeout=5))


def not_found(scene: Scene) -> None:
    """No such program, and no such directory: nothing is left."""
    scene.start_argv(["no-such-program"])
    scene.start_argv(["/no/such/program"])
    scene.start_argv(["true"], cwd=scene.folder / "nowhere")


def hampered(scene: Scene) -> None:
    """By a host that ignores a signal which a monitor needs, and denies itself its own files."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    script = scene.folder / "script"
    script.write_text("#!/no/such/interpreter")
    script.chmod(0o700)
    scene.start_argv([str(script)])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    mask = os.umask(0o777)
    job = scene.start('echo over >"$3"; exit 7')
    os.umask(mask)
    if job:
        scene.tries(partial(job.wait, timeout=5))


SCENARIOS: Final[dict[str, Callable[[Scene], None]]] = {
    play.__name__: play
    for play in (
        *(requests, cancelled, signalled, timed_out, swept, waited_for, left_alone, capped),
        *(owned, adopted, adopted_and_let_alone, settled, pruned, fed, not_found),
        *(hampered, launched, reused),
    )
}
