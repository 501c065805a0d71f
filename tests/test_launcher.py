"""The launcher's own life: whom it serves, when it goes, and what its death costs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from commands import exits_with, sleeper
from conftest import (
    PROVES,
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    files_in,
    held,
    host,
    kill_and_wait,
    run_host,
    wait_gone,
)
from launchers import TESTS, WARM, open_files, spares
from test_trees import EXIT_STATUS_SURVIVES
from witnesses import living, tree_below

from jobsup import Job, JobRecord, JobState, Outcome, ProcessIdentity
from jobsup._identity import is_alive
from jobsup._launch import LAUNCHER
from jobsup._platform import ProcessRow, children_of

pytestmark = pytest.mark.skipif(not PROVES, reason="the portable path has no launcher")


@pytest.fixture(autouse=True)
def launcher_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)


def parent_of(process: ProcessIdentity | None) -> int:
    assert process is not None
    row = ProcessRow.read(process.pid)
    assert row is not None
    return row.parent


@contextmanager
def warm_host(
    store: WatchedStore, *argv: str, then: str = "sys.stdin.read()"
) -> Iterator[tuple[subprocess.Popen[str], ProcessIdentity, Job]]:
    """A host, its launcher, and a job that it started.  It does *then*."""
    body = WARM + "print(store.start(sys.argv[1:]).id, *launchers_of(), flush=True)\n" + then
    with subprocess.Popen(
        host(store, body, *argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            job_id, launcher = process.stdout.readline().split()
            yield process, held(int(launcher)), store.get(job_id)
        finally:
            process.kill()


# -- one serves many -----------------------------------------------------------


def test_one_launcher_forks_all_monitors(store: WatchedStore) -> None:
    body = """
jobs = [store.start(["sleep", "100"]) for _ in range(3)]
parents = {ProcessRow.read(job.status().monitor.pid).parent for job in jobs}
assert sorted(parents) == launchers_of(), (parents, launchers_of())
"""
    run_host(store, WARM + "from jobsup._platform import ProcessRow\n" + body)


def test_one_launcher_serves_eight_threads(store: WatchedStore) -> None:
    body = """
def work(code):
    for _ in range(4):
        job = store.start(["sh", "-c", f"exit {code}"])
        codes.append((code, job.wait(timeout=60).exit_code))
codes, before = [], launchers_of()
threads = [threading.Thread(target=work, args=[code]) for code in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(codes) == 32 and all(wanted == got for wanted, got in codes), codes
assert launchers_of() == before, (launchers_of(), before)
"""
    run_host(store, WARM + body)
    assert len(store.list(state="ended")) == 33


def test_signal_handler_may_start_a_job_while_one_is_started(store: WatchedStore) -> None:
    body = """
jobs = []
signal.signal(signal.SIGVTALRM, lambda *_: jobs.append(store.start(["true"])))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.004, 0.004)
for _ in range(60):
    jobs.append(store.start(["true"]))
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
assert len(jobs) > 60, len(jobs)
assert {job.wait(timeout=30).outcome for job in jobs} == {Outcome.SUCCEEDED}
"""
    run_host(store, WARM + body)


RAISED = """
import random, time
def give_up(*_):
    global is_starting
    if is_starting:
        is_starting = False
        raise error
def work():
    for _ in range(200):
        time.sleep(random.uniform(0, 0.003))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
def start_while_raising(argv_of):
    "What start() raised while a signal handler raises the error now and then."
    global is_starting
    count, told, thread = 0, [], threading.Thread(target=work)
    signal.signal(signal.SIGUSR1, give_up)
    thread.start()
    while thread.is_alive():
        count += 1
        try:
            is_starting = True
            store.start(argv_of(count), cwd=store.root)
            is_starting = False
        except (KeyboardInterrupt, TimeoutError, SpawnError) as raised:
            told.append(type(raised))
    thread.join()
    assert error in told, (told, "it came too late each time")
    return told
is_starting = False
"""


def test_timeout_of_a_signal_handler_runs_nothing_twice(store: WatchedStore) -> None:
    body = """
error = TimeoutError
told = start_while_raising(lambda count: ["sh", "-c", f"echo {count} >> runs"])
assert set(told) <= {TimeoutError, SpawnError}, told
store.wait(store.list(), timeout=30)
runs = (store.root / "runs").read_text().split()
assert len(runs) == len(set(runs)), sorted(runs)
"""
    run_host(store, WARM + RAISED + body)


def test_interrupted_start_keeps_no_line_to_a_monitor(store: WatchedStore) -> None:
    body = """
from launchers import open_files
error = KeyboardInterrupt
told = start_while_raising(lambda count: ["true"])
assert set(told) == {KeyboardInterrupt}, told
lines = [name for name in open_files(os.getpid()) if name.startswith("socket:")]
assert len(lines) <= 1 + 4, (lines, len(told))  # the launcher's, too
"""
    run_host(store, WARM + RAISED + body)


def test_launcher_serves_an_event_loop(store: WatchedStore) -> None:
    body = """
import asyncio
async def main():
    jobs = [store.start(["true"]) for _ in range(3)]
    jobs += await asyncio.gather(*(asyncio.to_thread(store.start, ["true"]) for _ in range(8)))
    records = await asyncio.gather(*(job.wait_async(timeout=30) for job in jobs))
    assert [record.exit_code for record in records] == [0] * 11
before = launchers_of()
asyncio.run(main())
assert launchers_of() == before, (launchers_of(), before)
"""
    run_host(store, WARM + body)


def test_threads_with_surroundings_of_their_own_get_them(store: WatchedStore) -> None:
    body = """
import threading
argv = ["sh", "-c", "cut -d' ' -f19 /proc/$$/stat; grep Cpus_allowed: /proc/$$/status"]
def work(number):
    os.nice(number)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-(number % 2)]})
    plain = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
    for _ in range(2):
        job = store.start(argv)
        job.wait(timeout=30)
        said.append((plain, job.tail()))
said = []
threads = [threading.Thread(target=work, args=[number]) for number in range(7)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(said) == 14 and all(plain == got for plain, got in said), said
assert len({plain for plain, _ in said}) == 7
assert len(launchers_of()) <= 4, launchers_of()
"""
    run_host(store, WARM + body)


# -- gone when the host is -----------------------------------------------------

ENDS = {
    "ends": "",
    "calls _exit": "os._exit(0)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "becomes another program": "os.execvp('cat', ['cat'])",
}


@pytest.mark.parametrize("end", ENDS)
def test_launcher_goes_with_a_host_that(store: WatchedStore, gate: Gate, end: str) -> None:
    with warm_host(store, *exits_with(7, gate), then="sys.stdin.readline()\n" + ENDS[end]) as warm:
        process, launcher, job = warm
        spare = living(spares() & {identity.pid for identity in tree_below(launcher)})
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        for identity in (launcher, *spare):
            wait_gone(identity)
        if end == "becomes another program":
            assert process.poll() is None
    monitor = job.status().monitor
    assert monitor is not None
    assert is_alive(monitor)
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 0)


# -- a fork of the host --------------------------------------------------------

FORK = """
import multiprocessing
def child():
    assert not launchers_of()
    assert store.start(["true"]).wait(timeout=30).exit_code == 0
    assert len(launchers_of()) == 1 and launchers_of() != before
def by_os():
    pid = os.fork()
    if not pid:
        try:
            child()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]
def by_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode
"""


@pytest.mark.parametrize("way", ["by_os", "by_multiprocessing"])
def test_fork_gets_a_launcher_of_its_own(store: WatchedStore, way: str) -> None:
    body = f"""
before = launchers_of()
assert {way}() == 0
assert store.start(["true"]).wait(timeout=30).exit_code == 0
assert launchers_of() == before, (launchers_of(), before)
"""
    run_host(store, WARM + FORK + body)


def test_fork_while_a_thread_starts_jobs(store: WatchedStore) -> None:
    body = """
import warnings
warnings.simplefilter("ignore")  # Python's own, of a fork with threads
def work():
    while not stop.is_set():
        assert store.start(["true"]).wait(timeout=30).exit_code == 0
        starts.append(1)
before, stop, starts = launchers_of(), threading.Event(), []
thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    assert by_os() == 0
stop.set()
thread.join()
assert starts and launchers_of() == before, (launchers_of(), before)
print(len(starts) + 1 + 10)
"""
    count = int(run_host(store, WARM + FORK + body))
    assert len(store.list(outcome="succeeded")) == count


def test_fork_does_not_hide_the_death_of_what_was_launched(store: WatchedStore) -> None:
    """A thread forks while another hands an order to a monitor that dies at once."""
    body = """
import shutil, time
from jobsup import _launch
def run_and_fork(*arguments):
    run(*arguments)
    pids.append(os.fork())
    if not pids[0]:
        time.sleep(20)
        os._exit(0)
run, _launch._run_interpreter, pids = _launch._run_interpreter, run_and_fork, []
sys.executable = shutil.which("true")
os.environ["JOBSUP_LAUNCHER"] = "0"
try:
    store.start(["true"])
except SpawnError as error:
    print(error.stage, os.waitpid(pids[0], os.WNOHANG))
os.kill(pids[0], signal.SIGKILL)
"""
    assert run_host(store, body) == "monitor (0, 0)\n"


# -- a killed launcher ---------------------------------------------------------


def test_killed_launcher_costs_a_retry(store: WatchedStore) -> None:
    body = """
for _ in range(3):
    [launcher] = launchers_of()
    os.kill(launcher, signal.SIGKILL)
    # It may yet seem to live, with spares that serve; or a start is done without one.
    for _ in range(50):
        assert store.start(["true"]).wait(timeout=30).exit_code == 0
        if launchers_of() not in ([], [launcher]):
            break
    else:
        raise AssertionError(launchers_of())
"""
    run_host(store, WARM + body)


KILLS = """
import random, time
rounds = int(sys.argv[1])
ready, done, again = os.pipe(), os.pipe(), random.Random(sys.argv[2])
killer = os.fork()
if not killer:
    os.close(ready[1])
    while order := os.read(ready[0], 32):
        launcher, nap = map(int, order.split())
        until = time.perf_counter() + nap / 1e6
        while time.perf_counter() < until: pass
        os.kill(launcher, signal.SIGKILL)
        os.write(done[1], b"!")
    os._exit(0)
for number in range(rounds):
    [launcher] = launchers_of() or [None]
    if launcher is None:
        assert store.start(["true"]).wait(timeout=30).exit_code == 0
        [launcher] = launchers_of()
    os.write(ready[1], b"%d %d" % (launcher, again.randrange(4000)))
    job = store.start(["sh", "-c", f"echo {number} >> {sys.argv[3]}; exit 3"])
    record = job.wait(timeout=30)
    assert record.exit_code == 3 and not record.adoptions, record
    os.read(done[0], 1)
os.close(ready[1])
os.waitpid(killer, 0)
"""


def test_launcher_killed_as_it_begins_is_tried_again(store: WatchedStore) -> None:
    body = """
from jobsup import _launch
real, tries = _launch.HostEnd, []
def killed_once(*arguments):
    tries.append(arguments)
    if len(tries) == 1:
        raise ConnectionAbortedError("it died")
    return real(*arguments)
_launch.HostEnd = killed_once
sys.path.append(sys.argv[1])
from launchers import launchers_of
for expected in (0, 1):
    assert store.start(["true"]).wait(timeout=30).exit_code == 0
    assert len(launchers_of()) == expected, (launchers_of(), tries)
"""
    run_host(store, body, TESTS)


def test_launcher_killed_at_any_moment_costs_no_job(store: WatchedStore, tmp_path: Path) -> None:
    rounds = int(60 * float(os.environ.get("JOBSUP_TEST_SCALE", "1")))
    seed = os.environ.get("JOBSUP_TEST_SEED") or os.urandom(4).hex()
    print(f"JOBSUP_TEST_SEED={seed}")
    run_host(store, WARM + KILLS, rounds, seed, tmp_path / "said")
    assert (tmp_path / "said").read_text() == "".join(f"{n}\n" for n in range(rounds))
    jobs = store.list()
    assert all(job.status().state is JobState.ENDED for job in jobs)
    eventually(lambda: files_in(store) == sorted(f"jobs/{job.id}" for job in jobs), "no remains")


# -- descriptors ---------------------------------------------------------------


def test_daemon_that_closes_all_descriptors(store: WatchedStore) -> None:
    """And opens others in their numbers: nobody writes to those, nor closes them."""
    body = """
import socket
used = sorted(map(int, os.listdir("/proc/self/fd")))
os.closerange(3, 1024)
pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(used[-1])]
assert store.start(["true"]).wait(timeout=30).exit_code == 0
for ends in pairs:
    for end in ends:
        end.setblocking(False)
        try:
            raise AssertionError(end.recv(1000))
        except BlockingIOError:
            pass
assert len(launchers_of()) == 1
"""
    run_host(store, WARM + body)


HOLDS = """
mine = open("mine", "w+b")
os.set_inheritable(mine.fileno(), True)
os.lockf(mine.fileno(), os.F_LOCK, 0)
store.start(["sleep", "100"], stdin=mine)
store.start(["sleep", "100"], stdin=subprocess.PIPE, stderr="separate")
print(flush=True)
sys.stdin.read()
"""


def test_launcher_holds_nothing_of_host_or_jobs(
    store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warm_host(store, "true", then=HOLDS) as (process, launcher, _):
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        kinds = ["/dev/null"] * 3 + ["/memfd:jobsup-launcher (deleted)", "anon_inode:[pidfd]"]
        kinds += ["pipe"] * 2 + ["socket"] * 3
        eventually(lambda: kinds_of(launcher.pid) == kinds, f"it has open only {kinds}")
        assert os.readlink(f"/proc/{launcher.pid}/cwd") == "/"


def kinds_of(pid: int) -> list[str]:
    """What each descriptor is; sockets and pipes without their numbers."""
    return [re.sub(r"^(socket|pipe):.*", r"\1", name) for name in open_files(pid)]


def test_command_holds_its_three_files(store: WatchedStore, gate: Gate) -> None:
    with warm_host(store, *sleeper(gate)) as (_, _, job):
        [pid] = gate.pids()
        expected = sorted(["/dev/null", str(job.dir.output), str(job.dir.output)])
        # It may still be closing the gate that it told.
        eventually(lambda: open_files(pid) == expected, f"it has open only {expected}")


# -- a killed monitor ----------------------------------------------------------


def adopted(job: Job, times: int) -> JobRecord | None:
    """The record once it says so, read by nobody who would adopt the job."""
    record = job.dir.read_record()
    return record if record.adoptions == times else None


def test_killed_monitor_is_replaced_before_anybody_looks(store: WatchedStore, gate: Gate) -> None:
    with warm_host(store, *exits_with(7, gate)) as (_, launcher, job):
        for times in range(1, 4):
            kill_and_wait(job.dir.read_record().monitor)
            record = eventually(partial(adopted, job, times), "it is adopted")
            assert parent_of(record.monitor) == launcher.pid
        gate.open()
        record = job.wait(timeout=TIMEOUT)
    assert record.adoptions == 3
    if EXIT_STATUS_SURVIVES:
        assert (record.outcome, record.exit_code) == (Outcome.FAILED, 7)


def test_timeouts_of_the_host_s_sockets_are_not_ours(store: WatchedStore) -> None:
    body = """
import socket
socket.setdefaulttimeout(0.0001)
for length in (1, 100_000):  # in one message, and in a stream after it
    job = store.start(["sh", "-c", "exit 7"], env={"LONG": "x" * length})
    assert job.wait(timeout=30).exit_code == 7
    os.environ["JOBSUP_LAUNCHER"] = "0"
assert len(store.list()) == 2
"""
    run_host(store, body)


def test_rehearsal_without_descriptors_is_over_at_once(store: WatchedStore) -> None:
    """Not after the minute for which a final record is tried; the host is heard all the same."""
    body = """
import resource
from jobsup._rehearsal import rehearse_life
from jobsup._spawn import Inheritance
inherited = Inheritance.take()
rehearse_life(inherited)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
rehearse_life(inherited)
"""
    run_host(store, body)


def test_monitor_that_ended_is_reaped(store: WatchedStore) -> None:
    with warm_host(store, "true") as (_, launcher, _):
        waiting = partial(spares_below, launcher.pid)
        eventually(waiting, "its children are spares, and one of them the monitor that was")


def spares_below(launcher: int) -> bool:
    children = children_of(launcher)
    return 0 < len(children) <= 2 and spares().issuperset(children)


def test_settled_jobs_leave_their_reader_no_descriptor(store: WatchedStore) -> None:
    body = """
os.environ["JOBSUP_LAUNCHER"] = "0"  # nobody adopts them at once
def settled():
    job = store.start(["sleep", "100"])
    record = job.status()
    os.kill(record.monitor.pid, signal.SIGKILL)
    os.kill(record.command.pid, signal.SIGKILL)
    assert job.wait(timeout=30).outcome is not None
    return len(os.listdir("/proc/self/fd"))
first = settled()
assert [settled() for _ in range(5)][-1] <= first
"""
    run_host(store, body)


# -- none ----------------------------------------------------------------------

NONE = {
    "is told to": "os.environ['JOBSUP_LAUNCHER'] = '0'",
    "cannot tell its surroundings": "_launch.surroundings = lambda: None",
    "cannot have a pidfd": "os.pidfd_open = lambda _: os.open('/no/such/file', 0)",
}


@pytest.mark.parametrize("reason", NONE)
def test_no_launcher_for_a_host_that(store: WatchedStore, reason: str) -> None:
    body = f"""
from jobsup import _launch
sys.path.append({str(TESTS)!r})
from launchers import launchers_of
{NONE[reason]}
assert store.start(["sh", "-c", "exit 3"]).wait(timeout=30).exit_code == 3
assert not launchers_of()
"""
    run_host(store, body)


# -- not the host's child ------------------------------------------------------

CHILDREN = """
def children():
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG) or "some"
    except ChildProcessError:
        return None
"""


def test_launcher_is_no_child_of_its_host(store: WatchedStore) -> None:
    body = """
assert children() is None
os.kill(*launchers_of(), signal.SIGKILL)
assert store.start(["true"]).wait(timeout=30).exit_code == 0
assert children() is None
"""
    run_host(store, WARM + CHILDREN + body)


def test_host_that_is_a_subreaper_gets_the_launcher_as_a_child(store: WatchedStore) -> None:
    """As it does every daemon below it, and with it the monitors that a killed one leaves."""
    body = (
        """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
"""
        + WARM
        + CHILDREN
        + """
[launcher] = launchers_of()
os.kill(launcher, signal.SIGKILL)
ended = dict(os.wait() for _ in iter(children, None))
assert ended[launcher] == signal.SIGKILL, ended
"""
    )
    run_host(store, body)


# -- a job within a job --------------------------------------------------------

INNER = """
job = store.start(["sleep", "100"])
print(job.id, *launchers_of(), flush=True)
sys.stdin.read()
"""


def nested(store: WatchedStore, **how: object) -> tuple[Job, Job, ProcessIdentity]:
    """A job, the job that its command started before it waits, and the launcher of that command."""
    argv = host(store, WARM + INNER)
    outer = store.start(argv, stdin=subprocess.PIPE, **how)
    inner_id, launcher = eventually(outer.tail, "the inner job").split()
    return outer, store.get(inner_id), held(int(launcher))


def test_cancel_takes_the_launcher_of_a_nested_host_along(store: WatchedStore) -> None:
    outer, inner, launcher = nested(store)
    outer.cancel(grace=0)
    assert outer.wait(timeout=TIMEOUT).proved
    assert not is_alive(launcher)
    assert inner.wait(timeout=TIMEOUT).state is JobState.ENDED


def test_launcher_of_a_nested_host_is_not_what_it_leaves(store: WatchedStore) -> None:
    """A host that ends as programs do waits for it; of one that is killed it may be listed."""
    outer, inner, launcher = nested(store, leftovers="leave")
    before = inner.status()
    outer.close_stdin()
    record = outer.wait(timeout=TIMEOUT)
    wait_gone(launcher)
    left = {survivor.pid for survivor in record.survivors}
    assert before.command
    assert before.monitor
    assert left == {before.command.pid, before.monitor.pid}
