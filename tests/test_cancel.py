"""cancel(): ask, escalate, prove; the first cause stands, and the whole tree is gone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from signal import SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGUSR1, SIGWINCH

import pytest
from commands import (
    daemonizer,
    exits_with,
    forker,
    listener,
    polite,
    python,
    signal_names,
    sleeper,
    stubborn,
)
from conftest import (
    PROVES,
    TIMEOUT,
    UNPROVEN,
    Gate,
    WatchedStore,
    eventually,
    held,
    run_host,
    state_of,
)

from jobsup import JobState, Outcome, StopCause, StopPlan
from jobsup._identity import is_alive, send_verified


def test_cancel_asks_with_sigterm(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal, record.exit_code) == (Outcome.CANCELLED, SIGTERM, None)
    assert (record.stop_cause, record.reason, record.proved) == (StopCause.CANCEL, UNPROVEN, PROVES)


def test_request_is_on_record_when_cancel_returns(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=100)
    gate.wait()
    job.cancel()
    record = job.status()
    assert (record.state, record.stop_cause) == (JobState.STOPPING, StopCause.CANCEL)


@pytest.mark.parametrize("code", [0, 4])
def test_cancelled_is_cancelled_whatever_it_then_returned(
    store: WatchedStore, gate: Gate, code: int
) -> None:
    job = store.start(polite(code, gate))
    gate.wait()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, code)


def test_cancel_escalates_when_sigterm_is_ignored(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=0.1)
    gate.wait()  # SIGTERM is ignored from here on; sooner, it would just work

    job.cancel()
    record = job.wait(timeout=TIMEOUT)

    assert record.outcome is Outcome.CANCELLED
    assert record.signal is SIGKILL


def test_grace_of_zero_kills_at_once(store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [SIGTERM]), grace=100)
    gate.wait()
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert record.signal is SIGKILL
    assert job.tail() == ""  # nobody asked


def test_ladder_is_climbed_in_order(store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [SIGINT, SIGTERM]), stop="INT 0.2, TERM 0.2, KILL")
    gate.wait()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert signal_names(job.tail()) == [SIGINT, SIGTERM]
    assert (record.outcome, record.signal) == (Outcome.CANCELLED, SIGKILL)


def test_plan_of_the_call_goes_before_that_of_the_job(store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [SIGINT, SIGTERM, SIGUSR1]), stop="TERM 100, KILL")
    gate.wait()
    job.cancel(stop=StopPlan.parse("USR1 0.1, INT 0.1, KILL"))
    job.wait(timeout=TIMEOUT)
    assert signal_names(job.tail()) == [SIGUSR1, SIGINT]


def test_ladder_stops_climbing_when_the_command_ends(store: WatchedStore, gate: Gate) -> None:
    job = store.start(polite(0, gate, on=SIGINT), stop="INT 100, TERM 100, KILL")
    gate.wait()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 0)


# -- stopped -----------------------------------------------------------------


def test_paused_job_hears_the_signal(store: WatchedStore, gate: Gate) -> None:
    job = store.start(polite(4, gate), grace=100)
    gate.wait()
    job.pause()
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 4)


def test_job_that_stopped_itself_hears_the_signal(store: WatchedStore, gate: Gate) -> None:
    body = """
signal.signal(signal.SIGTERM, lambda *_: os._exit(4))
tell(sys.argv[1], os.getpid())
os.kill(os.getpid(), signal.SIGSTOP)
sleep()
"""
    job = store.start(python(body, gate.told), grace=100)
    (pid,) = gate.pids()
    eventually(lambda: state_of(pid) == "T", "the command stopped")
    job.cancel()
    assert job.wait(timeout=TIMEOUT).exit_code == 4


def test_paused_job_that_ignores_it_is_killed(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=0.1)
    gate.wait()
    job.pause()
    job.cancel()
    assert job.wait(timeout=TIMEOUT).signal is SIGKILL


# -- a second request --------------------------------------------------------


def test_second_cancel_shortens_the_first(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=100)
    gate.wait()
    job.cancel()
    assert job.status().state is JobState.STOPPING
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.signal) == (Outcome.CANCELLED, SIGKILL)


def test_second_cancel_does_not_ask_twice(store: WatchedStore, gate: Gate) -> None:
    job = store.start(listener(gate, [SIGTERM]), grace=100)
    gate.wait()
    job.cancel()
    eventually(job.tail, "the first signal")
    job.cancel()
    job.cancel(grace=0.1)
    job.wait(timeout=TIMEOUT)
    assert signal_names(job.tail()) == [SIGTERM]


def test_second_cancel_cannot_put_the_end_off(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=0.2)
    gate.wait()
    job.cancel()
    job.cancel(grace=100)
    assert job.wait(timeout=TIMEOUT).signal is SIGKILL


def test_many_cancel_at_once(store: WatchedStore, gate: Gate) -> None:
    job = store.start(stubborn(gate), grace=0.1)
    gate.wait()
    threads = [threading.Thread(target=job.cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.CANCELLED
    ends = [event for event in store.events().events if event.state is JobState.ENDED]
    assert len(ends) <= 1


def test_cancel_after_the_time_limit_keeps_its_cause(store: WatchedStore) -> None:
    job = store.start(["sleep", "100"], timeout=0.05, stop="WINCH 100, KILL")  # moves nobody
    eventually(lambda: job.status().state is JobState.STOPPING, "the time limit")
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.TIMED_OUT, StopCause.TIMEOUT)


# -- too late ----------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3])
def test_cancel_of_an_ended_job_changes_nothing(store: WatchedStore, code: int) -> None:
    job = store.start(exits_with(code))
    before = job.wait(timeout=TIMEOUT)
    job.cancel()
    job.cancel(grace=0)
    assert job.status() == before
    assert before.outcome is (Outcome.FAILED if code else Outcome.SUCCEEDED)


def test_cancel_of_the_sweep_keeps_the_command_s_own_outcome(
    store: WatchedStore, gate: Gate
) -> None:
    """The command ended by itself; what is cancelled is only the wait for its leftovers."""
    body = """
def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(sys.argv[1], os.getpid())
    sleep()
fork(stay)
wait_for(sys.argv[2])
os._exit(3)
"""
    job = store.start(python(body, gate.told, gate.opened), grace=100)
    child = held(gate.pids()[0])
    gate.open()
    eventually(lambda: job.status().state is JobState.STOPPING, "the sweep")
    assert job.status().exit_code == 3
    job.cancel(grace=0)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.stop_cause) == (Outcome.FAILED, 3, None)
    assert not is_alive(child)


# -- the whole tree ----------------------------------------------------------


@pytest.mark.parametrize("grace", [0, 0.2, 5])
def test_tree_is_gone_when_the_job_has_ended(store: WatchedStore, gate: Gate, grace: float) -> None:
    job = store.start(forker(gate, children=3), grace=grace)
    tree = [held(pid) for pid in gate.pids()]
    assert len(tree) == 6
    job.cancel()
    record = job.wait(timeout=TIMEOUT)
    assert not [identity for identity in tree if is_alive(identity)]
    assert (record.proved, record.survivors) == (PROVES, ())


def test_stubborn_tree_is_gone_when_the_job_has_ended(store: WatchedStore, gate: Gate) -> None:
    job = store.start(forker(gate, children=3, stubborn=True), grace=0.1)
    tree = [held(pid) for pid in gate.pids()]
    job.cancel()
    assert job.wait(timeout=TIMEOUT).signal is SIGKILL
    assert not [identity for identity in tree if is_alive(identity)]


def test_daemon_of_a_running_command_is_gone_too(
    store: WatchedStore, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    outer = make_gate()
    inner = daemonizer(gate)
    body = """
import subprocess
subprocess.run(sys.argv[2:])
tell(sys.argv[1])
sleep()
"""
    job = store.start(python(body, outer.told, *inner))
    daemon = held(gate.pids()[0])
    outer.wait()
    job.cancel()
    assert job.wait(timeout=TIMEOUT).proved is PROVES
    assert not is_alive(daemon)


# -- who asks ----------------------------------------------------------------


def test_another_process_cancels(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate), name="train")
    gate.wait()
    run_host(store, "store.get('train').cancel()")
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("times", [1, 3])
def test_sigterm_to_the_monitor_is_a_cancel(store: WatchedStore, gate: Gate, times: int) -> None:
    job = store.start(polite(4, gate))
    gate.wait()
    monitor = job.status().monitor
    assert monitor is not None
    for _ in range(times):
        send_verified(monitor, SIGTERM)
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 4)
    assert record.adoptions == 0


@pytest.mark.parametrize("number", [SIGHUP, SIGINT, SIGPIPE, SIGCHLD, SIGWINCH])
def test_signals_that_come_in_passing_do_not_move_the_monitor(
    store: WatchedStore, gate: Gate, number: int
) -> None:
    job = store.start(exits_with(3, gate))
    monitor = job.status().monitor
    assert monitor is not None
    send_verified(monitor, number)
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.exit_code, record.adoptions) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"grace": -1}, "grace"),
        ({"grace": math.inf}, "grace"),
        ({"grace": math.nan}, "grace"),
        ({"stop": "TERM 5"}, "KILL"),
        ({"stop": "nonsense"}, "bad step"),
        ({"grace": 1, "stop": "KILL"}, "not both"),
        ({"stop": "TERM 1, " * 500 + "KILL"}, "too long"),
    ],
)
def test_bad_plan_is_refused_and_nothing_is_sent(
    store: WatchedStore, gate: Gate, arguments: dict[str, object], match: str
) -> None:
    job = store.start(sleeper(gate))
    with pytest.raises(ValueError, match=match):
        job.cancel(**arguments)  # type: ignore[arg-type]
    assert job.status().state is JobState.RUNNING
