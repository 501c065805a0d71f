"""What happens when the numbers of dead processes go to others: SCENARIOS, for `test_identity`.

Run as a program in a pid namespace of its own, where the next pid can be
chosen: ``pid_reuse.py SCENARIO DIRECTORY``. Whatever it leaves dies with the
namespace's first process.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn
from unittest import mock

from commands import daemonizer, python, sleeper
from conftest import TIMEOUT, Gate, eventually, held, kill_and_wait, state_of
from witnesses import living

from jobsup import (
    Job,
    JobEndedError,
    JobRecord,
    JobState,
    JobStore,
    Outcome,
    ProcessIdentity,
    _strays,
    _tree,
)
from jobsup._identity import Member, hold_child, identify, is_alive, open_process, send_verified
from jobsup._launch import LAUNCHER
from jobsup._model import Survivor, now
from jobsup._platform import ProcessRow, become_subreaper, processes
from jobsup._strays import StrayTree
from jobsup._tree import OwnTree
from jobsup._ulid import new_id

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TRIES = 100
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT)


LINGERER = """
def serve():
    tell(sys.argv[1], os.getpid())
    sleep()

def go_between():
    os.setsid()
    fork(serve)

os.waitpid(fork(go_between), 0)
wait_for(sys.argv[2])
"""
"""Leaves a daemon, as `daemonizer` does, but ends only when the gate is opened."""


class Bystander:
    """Leads a session and a group of its own, with a child in both, and hears every signal."""

    def __init__(self, pid: int) -> None:
        """It gets the number *pid*, which must be free."""
        self._heard, writer = os.pipe()
        os.set_blocking(self._heard, False)
        self.pid = fork_as(pid, lambda: self._live(writer))
        os.close(writer)
        self._child = int(eventually(self._read, "the bystander lives"))

    def _live(self, writer: int) -> NoReturn:
        def hear(number: int, _: object) -> None:
            os.write(writer, b"%d" % number)

        os.setsid()
        for number in HEARD:
            signal.signal(number, hear)
        child = os.fork()
        signal.alarm(60)
        if child:
            os.write(writer, b"%d" % child)
        while True:
            signal.pause()

    def _read(self) -> bytes:
        try:
            return os.read(self._heard, 100)
        except BlockingIOError:
            return b""

    def end(self) -> None:
        for pid in (self._child, self.pid):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._heard)

    def check_unharmed(self) -> None:
        assert self._read() == b"", "a bystander got a signal"
        assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "a bystander died"
        assert not {state_of(self.pid), state_of(self._child)} & set("TtZX")


def fork_as(pid: int, body: Callable[[], NoReturn]) -> int:
    """A child that has the number *pid*."""
    for _ in range(TRIES):
        LAST_PID.write_text(str(pid - 1))
        child = os.fork()
        if child == 0:
            try:
                if os.getpid() == pid:
                    body()
            finally:
                os._exit(1)
        if child == pid:
            return child
        os.waitpid(child, 0)  # somebody else was quicker
    raise AssertionError(f"no process got the number {pid} in {TRIES} tries")


def freed(identity: ProcessIdentity | None) -> int:
    """The number of a process, once it is reaped and nobody's session or group has it."""
    assert identity is not None
    pid = identity.pid

    def is_free() -> bool:
        rows = [ProcessRow.read(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        return not any(row and pid in (row.pid, row.group, row.session) for row in rows)

    eventually(is_free, f"the number {pid} is free")
    return pid


def check_deaf(job: Job) -> None:
    """No verb does anything for a job that has ended."""
    job.cancel()
    for act in (job.pause, job.resume, job.usage, lambda: job.send_signal("USR1")):
        try:
            act()
        except JobEndedError:
            continue
        raise AssertionError(f"{act} raised nothing")


def detached(job: Job) -> JobRecord:
    """The record once the command has ended."""

    def look() -> JobRecord | None:
        record = job.status()
        return record if record.command_exited else None

    record: JobRecord = eventually(look, "the command has ended")
    return record


def check_only_the_daemon_is_hit(job: Job, daemon: ProcessIdentity) -> None:
    """Every verb that signals or counts; the last one ends the job."""
    assert job.usage().processes == 1
    job.pause()
    eventually(lambda: state_of(daemon.pid) == "T", "the daemon is paused")
    job.resume()
    job.send_signal("CONT")
    job.send_signal(0x20 + 10)  # a real-time signal that a bystander would die of
    eventually(lambda: not is_alive(daemon), "the daemon died of the signal")
    job.cancel(grace=0.2)
    assert job.wait(timeout=TIMEOUT).state is JobState.ENDED


# -- the scenarios -------------------------------------------------------------


def monitor_and_command_are_dead(store: JobStore, gate: Gate) -> None:
    """Both numbers belong to others when the job is looked at again."""
    job = store.start(sleeper(gate))
    gate.wait()
    record = job.status()
    kill_and_wait(record.monitor)
    kill_and_wait(record.command)
    bystanders = [Bystander(freed(record.command)), Bystander(freed(record.monitor))]

    assert job.wait(timeout=TIMEOUT).outcome is Outcome.LOST
    check_deaf(job)
    assert store.prune(keep=0).job_ids == (job.id,)

    for bystander in bystanders:
        bystander.check_unharmed()


def monitor_is_dead_and_command_lives(store: JobStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), grace=0.2)
    gate.wait()
    record = job.status()
    kill_and_wait(record.monitor)
    bystander = Bystander(freed(record.monitor))

    assert job.status().adoptions == 1
    assert job.usage().processes == 1
    job.cancel()
    assert job.wait(timeout=TIMEOUT).outcome is not Outcome.SUCCEEDED

    bystander.check_unharmed()


def command_is_dead_and_daemon_lives(store: JobStore, gate: Gate) -> None:
    """The monitor reaped the command, and watches what it left."""
    job = store.start(daemonizer(gate), leftovers="wait")
    [daemon] = gate.pids()
    bystander = Bystander(freed(detached(job).command))

    check_only_the_daemon_is_hit(job, held(daemon))

    bystander.check_unharmed()


def command_dies_below_an_adopter(store: JobStore, gate: Gate) -> None:
    """An adopter watched the command, and now watches what it left."""
    job = store.start(python(LINGERER, gate.told, gate.opened), leftovers="wait")
    [daemon] = gate.pids()
    kill_and_wait(job.status().monitor)
    assert job.status().adoptions == 1
    gate.open()
    bystander = Bystander(freed(detached(job).command))

    check_only_the_daemon_is_hit(job, held(daemon))

    bystander.check_unharmed()


def command_is_dead_before_adoption(store: JobStore, gate: Gate) -> None:
    """Monitor and command are dead, a daemon of the job lives."""
    job = store.start(daemonizer(gate), leftovers="wait")
    [daemon] = gate.pids()
    record = detached(job)
    kill_and_wait(record.monitor)
    bystanders = [Bystander(freed(record.command)), Bystander(freed(record.monitor))]

    assert job.status().adoptions == 1
    check_only_the_daemon_is_hit(job, held(daemon))

    for bystander in bystanders:
        bystander.check_unharmed()


def launch_crashed(store: JobStore, gate: Gate) -> None:
    """A prune finds a half-born job, whose command's number has been reused."""
    job = store.start(sleeper(gate))
    gate.wait()
    record = job.status()
    kill_and_wait(record.monitor)
    kill_and_wait(record.command)
    hidden = store.root / "jobs" / f".{job.id}.new"
    shutil.move(store.root / "jobs" / job.id, hidden)
    os.utime(hidden, (0, 0))
    bystander = Bystander(freed(record.command))

    assert store.prune().swept == (job.id,)

    assert not hidden.exists()
    bystander.check_unharmed()


def owner_is_dead(store: JobStore, gate: Gate) -> None:
    """The job ends with its owner, though somebody has the owner's number."""
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        signal.alarm(60)
        os.write(writer, store.start(sleeper(gate), lifetime="owner").id.encode())
        signal.pause()
    job = store.get(os.read(reader, 100).decode())
    gate.wait()
    kill_and_wait(job.status().monitor)
    bystander = Bystander(killed(owner))

    record = job.wait(timeout=TIMEOUT)

    assert (record.state, record.reason) == (JobState.ENDED, "owner-died")
    bystander.check_unharmed()


def monitor_s_number_is_given_away_under_a_wait(store: JobStore, gate: Gate) -> None:
    """Who waits for one process is not held up by another of its number."""
    job = store.start(sleeper(gate))
    gate.wait()
    record = job.status()
    waiter = os.fork()
    if waiter == 0:
        signal.alarm(60)
        os._exit(job.wait(timeout=TIMEOUT).adoptions)
    kill_and_wait(record.monitor)
    bystander = Bystander(freed(record.monitor))
    eventually(lambda: job.status().adoptions == 1, "the job is adopted")
    kill_and_wait(record.command)

    assert os.waitpid(waiter, 0)[1] == 1 << 8

    bystander.check_unharmed()


def owner_s_number_is_given_away_beside_a_monitor(store: JobStore, gate: Gate) -> None:
    """A monitor that lives sees its owner die, whoever has the number next."""
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        signal.alarm(60)
        os.write(writer, store.start(sleeper(gate), lifetime="owner").id.encode())
        signal.pause()
    job = store.get(os.read(reader, 100).decode())
    gate.wait()
    bystander = Bystander(killed(owner))

    record = job.wait(timeout=TIMEOUT)

    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "owner-died")
    bystander.check_unharmed()


def verbs_of_an_adopter_meet_the_command_s_number(store: JobStore, gate: Gate) -> None:
    """The job is being stopped; its command is dead and its number, group and session reused."""
    job = store.start(python(LINGERER, gate.told, gate.opened), stop="WINCH 100, KILL")
    [daemon] = gate.pids()
    gate.open()
    record = detached(job)
    kill_and_wait(record.monitor)
    bystanders = [Bystander(freed(record.command)), Bystander(freed(record.monitor))]

    assert job.status().adoptions == 1
    assert job.usage().processes == 1
    job.send_signal("USR2")
    job.cancel(grace=0)
    assert job.wait(timeout=TIMEOUT).state is JobState.ENDED
    assert not living({daemon})

    for bystander in bystanders:
        bystander.check_unharmed()


def numbers_go_round_within_a_tick(store: JobStore, gate: Gate) -> None:
    """Two processes with one number and one start time are told apart."""
    for _ in range(TRIES):
        first = child()
        ticks = start_ticks(first.pid)
        bystander = Bystander(killed(first.pid))
        if start_ticks(bystander.pid) == ticks:
            assert identify(first.pid) != first
            assert open_process(first) is None
            assert not is_alive(first)
            assert send_verified(first, signal.SIGUSR1) == errno.ESRCH
            bystander.check_unharmed()
            return
        bystander.end()
    raise AssertionError("no two processes ever began within a tick")


def numbers_change_hands_amid_a_look(store: JobStore, gate: Gate) -> None:
    """Between two lines of an adopter a process dies, and its number is given away."""
    for act in (StrayTree.members, StrayTree.survivors, StrayTree.force, ask):
        member = child()
        known = Survivor(member.pid, "member", os.getuid(), "S", token=member.token)
        record = JobRecord(new_id(), JobState.ORPHANED, now(), survivors=(known,))
        with amid_a_look(partial(takes_over, member.pid)) as bystanders:
            act(StrayTree(record))
        [bystander] = bystanders
        bystander.check_unharmed()
        bystander.end()


def numbers_change_hands_as_a_monitor_looks(store: JobStore, gate: Gate) -> None:
    """A child that was listed dies, and its number is given away before its row is read."""
    victims, told = os.pipe()
    goes_on, go = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        signal.alarm(60)
        os._exit(0 if look_slowly(told, goes_on) else 1)
    bystander = Bystander(int(os.read(victims, 100)))
    os.write(go, b"!")

    assert os.waitpid(monitor, 0)[1] == 0

    bystander.check_unharmed()


def look_slowly(told: int, goes_on: int) -> bool:
    """Signal a tree of two; true if the child's number was given away in the midst of it."""
    assert become_subreaper()
    reader, writer = os.pipe()
    command = os.fork()
    if command == 0:
        os.setsid()
        signal.alarm(60)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombie
        os.write(writer, b"%d" % child().pid)
        while True:
            signal.pause()
    victim = int(os.read(reader, 100))
    hands: list[int] = []

    def hold_slowly(pid: int, parent: int) -> Member | None:
        if pid == victim and not hands:
            hands.append(pid)
            os.kill(pid, signal.SIGKILL)
            freed(ProcessIdentity(pid, "killed"))
            os.write(told, b"%d" % pid)
            os.read(goes_on, 1)
        return hold_child(pid, parent)

    with mock.patch.object(_tree, "hold_child", hold_slowly):
        OwnTree(command).send(signal.SIGUSR1, signal.SIGCONT)
    os.waitpid(command, 0)
    return hands == [victim]


def takes_over(pid: int) -> Bystander:
    return Bystander(killed(pid))


def ask(tree: StrayTree) -> None:
    tree.send(signal.SIGTERM)


@contextmanager
def amid_a_look(act: Callable[[], Bystander]) -> Iterator[list[Bystander]]:
    """Have *act* done once an adopter has begun to look, and before it reads the first row."""
    made: list[Bystander] = []

    def slow_processes() -> Iterator[ProcessRow]:
        if not made:
            made.append(act())
        yield from processes()

    with mock.patch.object(_strays, "processes", slow_processes):
        yield made


def child() -> ProcessIdentity:
    """A new process that leads a session and does nothing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.alarm(60)
        os.write(writer, b"!")
        while True:
            signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return held(pid)


def killed(pid: int) -> int:
    """The number of a child of ours, free again."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def start_ticks(pid: int) -> int:
    row = ProcessRow.read(pid)
    assert row is not None
    return row.start_ticks


SCENARIOS: dict[str, Callable[[JobStore, Gate], None]] = {
    scenario.__name__: scenario
    for scenario in (
        monitor_and_command_are_dead,
        monitor_is_dead_and_command_lives,
        command_is_dead_and_daemon_lives,
        command_dies_below_an_adopter,
        command_is_dead_before_adoption,
        launch_crashed,
        owner_is_dead,
        monitor_s_number_is_given_away_under_a_wait,
        owner_s_number_is_given_away_beside_a_monitor,
        verbs_of_an_adopter_meet_the_command_s_number,
        numbers_go_round_within_a_tick,
        numbers_change_hands_amid_a_look,
        numbers_change_hands_as_a_monitor_looks,
    )
}


def main() -> None:
    name, directory = sys.argv[1:]
    signal.alarm(110)
    os.environ[LAUNCHER] = "0"  # who kills a monitor here wants to see it dead
    gate = Gate(Path(directory) / "gate")
    SCENARIOS[name](JobStore(Path(directory) / "store"), gate)


if __name__ == "__main__":
    main()
