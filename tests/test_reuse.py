"""A monitor whose job was short takes the next one, and is then as new."""

from __future__ import annotations

import shutil

import pytest
from conftest import KERNEL, PROVES, WatchedStore, run_host, wait_gone
from launchers import WARM
from test_start import as_root

from jobsup import Outcome
from jobsup._launch import LAUNCHER

pytestmark = pytest.mark.skipif(not PROVES, reason="the portable path has no launcher")


@pytest.fixture(autouse=True)
def launcher_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)


REUSED = (
    WARM
    + """
from contextlib import suppress
from conftest import eventually, wait_gone
from launchers import open_files

seen = set()

def start_reused(argv, **options):
    "A job of a monitor that had one before, and that monitor."
    for _ in range(100):  # whether it is back in time for the next start is its affair
        job = store.start(argv, **options)
        monitor = job.status().monitor
        if monitor in seen:
            return job, monitor
        seen.add(monitor)
        job.cancel(grace=0)
        job.wait(timeout=30)
    raise AssertionError("no monitor took a second job")
"""
)


def test_short_jobs_share_monitors(store: WatchedStore) -> None:
    body = """
monitors = {store.start(["true"]).wait(timeout=30).monitor for _ in range(30)}
assert len(monitors) < 30, monitors
"""
    run_host(store, WARM + body)
    assert len(store.list(outcome=Outcome.SUCCEEDED)) == len(store.list()) == 31


def test_reused_monitor_holds_what_a_new_one_does(store: WatchedStore) -> None:
    body = """
def held_by(job):
    return [name.replace(job.id, "ID").partition(":[")[0]
            for name in open_files(job.status().monitor.pid)]

def settled(job):  # it opens the last ones after the report
    return eventually(lambda: any("output" in name for name in held_by(job))
                      and held_by(job), "it watches the output")

first = store.start(["sleep", "100"])
expected = sorted(settled(first))
again, monitor = start_reused(["sleep", "100"])
assert sorted(settled(again)) == expected, (settled(again), expected)
assert os.readlink(f"/proc/{monitor.pid}/cwd") == "/"
"""
    run_host(store, REUSED + body)


def test_order_of_any_length_finds_a_monitor_of_the_launcher(store: WatchedStore) -> None:
    body = """
from jobsup._control import ALONG_BYTES
from jobsup._platform import ProcessRow
for length in [1, *range(ALONG_BYTES - 4000, ALONG_BYTES + 400, 400), 1 << 20]:
    parts = {f"LONG{at}": "x" * min(1 << 16, length - at) for at in range(0, length, 1 << 16)}
    look = ["sh", "-c", "echo $LONG0 | wc -c; read line"]
    job = store.start(look, env=parts, clean_env=True, stdin=subprocess.PIPE)
    assert [ProcessRow.read(job.status().monitor.pid).parent] == launchers_of(), length
    job.close_stdin()
    assert job.wait(timeout=30) and int(job.tail()) == min(1 << 16, length) + 1, length
"""
    run_host(store, REUSED + body)


def test_host_keeps_few_descriptors_of_its_jobs(store: WatchedStore) -> None:
    body = """
before = len(os.listdir("/proc/self/fd"))
jobs = [store.start(["sleep", "100"]) for _ in range(12)]
more = len(os.listdir("/proc/self/fd")) - before
assert more <= 4, (more, open_files(os.getpid()))
for job in jobs:
    job.cancel(grace=0)
"""
    run_host(store, REUSED + body)


def test_fork_of_the_host_holds_no_monitor(store: WatchedStore) -> None:
    body = """
start_reused(["sleep", "100"])
start_reused(["true"])[0].wait(timeout=30)
child = os.fork()
if not child:
    names = [name for name in open_files(os.getpid()) if name.startswith("socket:")]
    os.write(1, b"%a" % names)
    os._exit(0)
os.waitpid(child, 0)
for job in store.list(state="running"):
    job.cancel(grace=0)
"""
    assert run_host(store, REUSED + body) == "[]"


def test_monitor_without_a_job_ends_after_a_while(store: WatchedStore) -> None:
    body = """
job, monitor = start_reused(["true"])
job.wait(timeout=30)
wait_gone(monitor)
assert store.start(["true"]).wait(timeout=30).outcome is Outcome.SUCCEEDED
"""
    run_host(store, REUSED + body)


def test_descriptors_closed_behind_our_back_are_left_alone(store: WatchedStore) -> None:
    body = """
start_reused(["true"])[0].wait(timeout=30)
mine = [number for number in map(int, os.listdir("/proc/self/fd")) if number > 2]
launcher, *lines = mine  # in the order in which they were opened
for number in lines:
    with suppress(OSError):  # that of the listing
        os.close(number)
ours, theirs = zip(*(os.pipe() for _ in range(8)))
for reader, writer in zip(ours, theirs):
    os.write(writer, b"x")
assert store.start(["true"]).wait(timeout=30).outcome is Outcome.SUCCEEDED
assert [os.read(reader, 9) for reader in ours] == [b"x"] * 8
"""
    run_host(store, REUSED + body)


SLICES = """
from jobsup._libc import scheduling
from jobsup._slices import _ATTRIBUTES, _SLICE_NANOSECONDS
look = [sys.executable, "-c", "from jobsup._libc import scheduling; print(scheduling())"]
wanted = subprocess.run(look, capture_output=True, text=True).stdout

def has_short_slices():
    job, monitor = start_reused(["sleep", "100"])
    told = _ATTRIBUTES.unpack(scheduling(monitor.pid))
    job.cancel(grace=0)
    job.wait(timeout=30)
    return told[5] == _SLICE_NANOSECONDS

def looks_the_same():
    job, _ = start_reused(look)
    job.wait(timeout=30)
    assert job.tail() == wanted, (job.tail(), wanted)
"""


@pytest.mark.skipif(KERNEL < (6, 12), reason="needs Linux 6.12")
def test_monitor_has_short_slices_and_its_command_has_not(store: WatchedStore) -> None:
    body = """
eventually(has_short_slices, "the monitors have short slices")
for _ in range(3):
    looks_the_same()
"""
    run_host(store, REUSED + SLICES + body)


@as_root
def test_monitor_that_would_take_a_priority_from_its_command_has_no_short_slices(
    store: WatchedStore,
) -> None:
    body = """
os.nice(-5)
wanted = subprocess.run(look, capture_output=True, text=True).stdout
for _ in range(5):
    looks_the_same()
    assert not has_short_slices()
"""
    run_host(store, REUSED + SLICES + body)


def test_command_is_identified_as_everybody_identifies_it(store: WatchedStore) -> None:
    body = """
from jobsup._identity import identify
for _ in range(30):  # over some ticks of 10 ms
    job, _ = start_reused(["sleep", "100"])
    command = job.status().command
    assert identify(command.pid) == command, (identify(command.pid), command)
    job.cancel(grace=0)
    job.wait(timeout=30)
"""
    run_host(store, REUSED + body)


def test_command_of_a_reused_monitor_gets_what_its_caller_has(store: WatchedStore) -> None:
    body = """
look = "umask; pwd; echo $X; grep SigBlk /proc/self/status; ls /proc/self/fd"
argv = ["sh", "-c", look]
for number, mask in enumerate([0o027, 0o077, 0o002]):
    os.umask(mask)
    os.chdir("/proc" if number % 2 else "/")
    os.environ["X"] = str(number)
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1] if number else [])
    wanted = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    job, _ = start_reused(argv)
    job.wait(timeout=30)
    assert job.tail(50) == wanted, (job.tail(50), wanted)
"""
    run_host(store, REUSED + body)


def test_monitor_that_left_something_takes_no_other_job(store: WatchedStore) -> None:
    body = """
job = store.start(["sh", "-c", "sleep 100 & echo $!"], leftovers="leave")
record = job.wait(timeout=30)
assert record.survivors, record
wait_gone(record.monitor)
os.kill(int(job.tail()), signal.SIGKILL)
"""
    run_host(store, REUSED + body)


def test_monitor_takes_no_other_job_while_somebody_may_signal_it(store: WatchedStore) -> None:
    body = """
job, monitor = start_reused(["sleep", "100"])
with job.dir.pinned():
    job.cancel(grace=0)
    job.wait(timeout=30)
    wait_gone(monitor)
"""
    run_host(store, REUSED + body)


def test_killed_reused_monitor_is_replaced_before_anybody_looks(store: WatchedStore) -> None:
    body = """
wait = "until [ -e events.go ]; do sleep 0.05; done; exit 7"
job, monitor = start_reused(["sh", "-c", wait], cwd=store.root)
os.kill(monitor.pid, signal.SIGKILL)
eventually(lambda: job.dir.read_record().adoptions, "it is adopted")
(store.root / "events.go").touch()
record = job.wait(timeout=30)
assert record.adoptions == 1 and record.exit_code in (7, None), record
"""
    run_host(store, REUSED + body)


def test_signal_between_two_jobs_ends_neither(store: WatchedStore) -> None:
    body = """
for _ in range(20):
    job, monitor = start_reused(["true"])
    job.wait(timeout=30)
    with suppress(ProcessLookupError):  # or it was one too many
        os.kill(monitor.pid, signal.SIGTERM)
    assert store.start(["true"]).wait(timeout=30).outcome is Outcome.SUCCEEDED
"""
    run_host(store, REUSED + body)


def test_monitor_ends_with_its_job_once_its_host_is_gone(store: WatchedStore) -> None:
    body = """
job, monitor = start_reused(["sleep", "100"])
print(job.id, flush=True)
"""
    job_id = run_host(store, REUSED + body).strip()
    job = store.get(job_id)
    monitor = job.status().monitor
    assert monitor is not None
    job.cancel(grace=0)
    job.wait(timeout=30)
    wait_gone(monitor)


SPOIL = "import os, resource, subprocess; from pathlib import Path; monitor = os.getppid()\n"
SPOILS = {
    "priority": "os.setpriority(os.PRIO_PROCESS, monitor, 7)",
    "policy": "os.sched_setscheduler(monitor, os.SCHED_BATCH, os.sched_param(0))",
    "cores": "os.sched_setaffinity(monitor, {max(os.sched_getaffinity(0))})",
    "limits": "resource.prlimit(monitor, resource.RLIMIT_MEMLOCK, (4096, 8192))",
    "out of memory": "Path(f'/proc/{monitor}/oom_score_adj').write_text('500')",
    "core dumps": "Path(f'/proc/{monitor}/coredump_filter').write_text('1')",
    "timer slack": "Path(f'/proc/{monitor}/timerslack_ns').write_text('70000')",
    "input and output": "subprocess.run(['ionice', '-c', '3', '-p', str(monitor)], check=True)",
}
LOOK = """
import os, shutil, subprocess
read = lambda name: open(f"/proc/self/{name}").read()
print([os.nice(0), os.sched_getscheduler(0), os.sched_getaffinity(0), read("oom_score_adj"),
       read("coredump_filter"), read("timerslack_ns"), read("limits"),
       shutil.which("ionice") and subprocess.run(["ionice"], capture_output=True).stdout])
"""


NEEDS = {
    "timer slack": as_root,
    "input and output": pytest.mark.skipif(
        not shutil.which("ionice"), reason="needs ionice (Debian: util-linux)"
    ),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, ())) for name in SPOILS])
def test_what_a_command_does_to_its_monitor_stays_with_that(store: WatchedStore, name: str) -> None:
    body = """
spoil, look = ([sys.executable, "-c", text] for text in sys.argv[1:])
wanted = subprocess.run(look, capture_output=True, text=True).stdout
for _ in range(3):
    spoilt = store.start(spoil)
    assert spoilt.wait(timeout=30).exit_code == 0, spoilt.tail()
    for _ in range(3):
        job = store.start(look)
        job.wait(timeout=30)
        assert job.tail() == wanted, (job.tail(), wanted)
"""
    run_host(store, REUSED + body, SPOIL + SPOILS[name], LOOK)


def test_killed_monitor_that_waits_again_does_not_cost_the_launcher(store: WatchedStore) -> None:
    body = """
before = launchers_of()
for _ in range(5):
    job, monitor = start_reused(["true"])
    job.wait(timeout=30)
    with suppress(ProcessLookupError):  # or it was one too many
        os.kill(monitor.pid, signal.SIGKILL)
    wait_gone(monitor)
    assert store.start(["true"]).wait(timeout=30).outcome is Outcome.SUCCEEDED
assert launchers_of() == before, (launchers_of(), before)
"""
    run_host(store, REUSED + body)
