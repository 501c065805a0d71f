"""pause(), resume() and send_signal(): the whole tree, and only while there is one."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGKILL, SIGSEGV, SIGTERM, SIGUSR1

import pytest
from commands import forker, listener, python, signal_names, sleeper, stubborn
from conftest import (
    PROVES,
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    kill_and_wait,
    run_host,
    state_of,
)

from jobsup import JobEndedError, JobState, JobsupError, Outcome


def are_stopped(pids: list[int]) -> bool:
    return {state_of(pid) for pid in pids} == {"T"}


def run(pids: list[int]) -> bool:
    return "T" not in {state_of(pid) for pid in pids}


def test_whole_tree_is_paused_and_resumed(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3))
    pids = gate.pids()
    assert len(pids) == 6
    job.pause()
    assert job.status().state is JobState.PAUSED
    eventually(lambda: are_stopped(pids), "every process stopped")
    assert store.list(state="paused") == [job]
    job.resume()
    assert job.status().state is JobState.RUNNING
    eventually(lambda: run(pids), "every process running")


def test_paused_job_makes_no_progress(store: WatchedStore, gate: Gate) -> None:
    job = store.start(python("tell(sys.argv[1])\nwhile True: os.write(1, b'x')", gate.told))
    gate.wait()
    job.pause()
    pid = job.status().command
    assert pid is not None
    eventually(lambda: state_of(pid.pid) == "T", "the command stopped")
    before = job.status().output_bytes
    assert job.read(before).data == b""
    job.resume()
    eventually(lambda: job.status().output_bytes > before, "more output")
    job.cancel(grace=0)
    job.wait(timeout=TIMEOUT)


def test_tree_that_forks_all_the_time_is_paused(store: WatchedStore, gate: Gate) -> None:
    """A child that is born while we look is found by looking again."""
    body = """
def child():
    signal.alarm(3)
    sleep()
tell(sys.argv[1], os.getpid())
end = time.monotonic() + 20
while time.monotonic() < end:
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os._exit(0) if os.getpid() % 3 else child()
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
"""
    job = store.start(python(body, gate.told))
    (pid,) = gate.pids()
    job.pause()
    eventually(lambda: state_of(pid) == "T", "the forker stopped")
    assert job.status().state is JobState.PAUSED
    job.cancel(grace=0)
    assert job.wait(timeout=TIMEOUT).proved is PROVES


def test_pause_and_resume_twice(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    (pid,) = gate.pids()
    job.pause()
    job.pause()
    eventually(lambda: are_stopped([pid]), "the command stopped")
    job.resume()
    job.resume()
    assert job.status().state is JobState.RUNNING
    eventually(lambda: run([pid]), "the command running")


def test_another_process_pauses(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), name="train")
    (pid,) = gate.pids()
    run_host(store, "store.get('train').pause()")
    eventually(lambda: are_stopped([pid]), "the command stopped")
    run_host(store, "store.get('train').resume()")
    eventually(lambda: run([pid]), "the command running")
    assert job.status().state is JobState.RUNNING


@pytest.mark.usefixtures("no_launcher")
def test_adopted_job_is_still_paused_and_can_be_resumed(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate))
    pids = gate.pids()
    job.pause()
    kill_and_wait(job.status().monitor)
    record = job.status()
    assert (record.state, record.adoptions) == (JobState.PAUSED, 1)
    eventually(lambda: are_stopped(pids), "every process stopped")
    job.resume()
    eventually(lambda: run(pids), "every process running")


# -- signals -----------------------------------------------------------------


def test_signal_reaches_the_whole_tree(
    store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    hears = make_gate()
    body = """
def hear(*_):
    tell(sys.argv[2], os.getpid())

def child(own_session):
    if own_session:
        os.setsid()
    signal.signal(signal.SIGUSR1, hear)
    tell(sys.argv[1], os.getpid())
    sleep()

fork(child, False)
fork(child, True)
child(False)
"""
    job = store.start(python(body, gate.told, hears.told))
    pids = {gate.pids()[0] for _ in range(3)}
    job.send_signal(SIGUSR1)
    assert {hears.pids()[0] for _ in range(3)} == pids
    assert job.status().state is JobState.RUNNING


@pytest.mark.parametrize("word", [SIGUSR1, "USR1", "sigusr1", 10])
def test_signal_goes_by_name_and_number(store: WatchedStore, gate: Gate, word: str | int) -> None:
    job = store.start(listener(gate, [SIGUSR1]))
    gate.wait()
    job.send_signal(word)
    eventually(lambda: signal_names(job.tail()) == [SIGUSR1], "the signal")


@pytest.mark.parametrize("word", ["NOPE", "", 0, -1, 65, 32])
def test_unknown_signal_is_refused(store: WatchedStore, gate: Gate, word: str | int) -> None:
    job = store.start(sleeper(gate))
    with pytest.raises(ValueError, match="no signal"):
        job.send_signal(word)


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL, SIGSEGV])
def test_signal_that_kills_is_no_cancel(store: WatchedStore, gate: Gate, number: int) -> None:
    """There is no plan and no stop on record: the command died of a signal."""
    job = store.start(sleeper(gate))
    gate.wait()
    job.send_signal(number)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.KILLED, number)
    assert record.stop_cause is None


def test_signal_does_not_escalate(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate))
    gate.wait()
    job.send_signal(SIGTERM)
    job.send_signal(SIGTERM)
    assert job.status().state is JobState.RUNNING


def test_stop_and_continue_are_pause_and_resume(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    (pid,) = gate.pids()
    job.send_signal("STOP")
    assert job.status().state is JobState.PAUSED
    eventually(lambda: are_stopped([pid]), "the command stopped")
    job.send_signal("CONT")
    assert job.status().state is JobState.RUNNING


def test_kill_ends_a_paused_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    job.pause()
    job.send_signal("KILL")
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.KILLED


def test_children_that_live_on_after_the_signal_are_swept(store: WatchedStore, gate: Gate) -> None:
    """SIGTERM ends the command; the child that ignored it is a leftover."""
    body = """
def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(sys.argv[1], os.getpid())
    sleep()
fork(stay)
sleep()
"""
    job = store.start(python(body, gate.told), grace=0.1)
    gate.wait()
    job.send_signal("TERM")
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.proved) == (Outcome.KILLED, PROVES)


# -- too late ----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pause", "resume", "send_signal"])
def test_ended_job_takes_no_signal(store: WatchedStore, verb: str) -> None:
    job = store.start(["true"])
    job.wait(timeout=TIMEOUT)
    with pytest.raises(JobEndedError, match="it has ended"):
        getattr(job, verb)(*(["TERM"] if verb == "send_signal" else []))


def test_job_that_is_being_stopped_cannot_be_paused(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=100)
    gate.wait()
    job.cancel()
    with pytest.raises(JobsupError, match="being stopped"):
        job.pause()
    with pytest.raises(JobsupError, match="being stopped"):
        job.send_signal("STOP")
    job.resume()  # harmless, and leaves the stop under way
    assert job.status().state is JobState.STOPPING
    job.cancel(grace=0)
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.CANCELLED


def test_job_that_is_being_stopped_takes_other_signals(store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [SIGTERM, SIGUSR1]), grace=100)
    gate.wait()
    job.cancel()
    job.send_signal("USR1")
    eventually(lambda: SIGUSR1 in signal_names(job.tail()), "the signal")
