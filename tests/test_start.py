"""start(): a whole job or nothing, as a plain subprocess.Popen would have run it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
from commands import exits_with, python, sleeper
from conftest import (
    TIMEOUT,
    Gate,
    WatchedStore,
    eventually,
    files_in,
    held,
    host,
    kill_and_wait,
    run_host,
    state_of,
    wait_gone,
    without_privilege,
)
from launchers import open_files

from jobsup import Job, JobState, JobStore, Outcome, SpawnError, StopCause

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change this")


# -- a whole job -------------------------------------------------------------


def test_command_was_executed_when_start_returns(store: WatchedStore) -> None:
    job = store.start(["sleep", "100"])
    command = job.status().command
    assert command is not None
    assert Path(f"/proc/{command.pid}/cmdline").read_bytes() == b"sleep\x00100\x00"
    assert sorted(os.listdir(store.root / "jobs")) == [job.id]
    assert os.listdir(store.root / "active") == [job.id]


def test_directory_is_the_owner_s_alone(store: WatchedStore, gate: Gate) -> None:
    before = os.umask(0)
    try:
        job = store.start(sleeper(gate), stdin=subprocess.PIPE, stderr="separate")
    finally:
        os.umask(before)
    gate.wait()
    assert job.dir.path.stat().st_mode & 0o777 == 0o700
    for entry in job.dir.path.iterdir():
        assert entry.stat().st_mode & 0o777 == 0o600, entry.name


def test_command_has_a_session_and_a_marker_of_its_own(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    (pid,) = gate.pids()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"JOBSUP_JOB_ID={job.id}".encode() in environ


def test_spec_is_what_was_asked_for(store: WatchedStore) -> None:
    job = store.start(
        exits_with(0),
        name="train",
        timeout=60,
        stop="INT 5, TERM 10, KILL",
        labels={"team": "blue"},
        leftovers="wait",
        stderr="separate",
        env={"ONE": "1"},
    )
    spec = job.spec()
    assert spec.argv == tuple(exits_with(0))
    assert (spec.name, spec.timeout, spec.separate_stderr) == ("train", 60, True)
    assert (str(spec.stop), spec.labels) == ("INT 5, TERM 10, KILL", {"team": "blue"})
    assert spec.env_names == ("ONE",)


def test_two_starts_are_two_jobs(store: WatchedStore) -> None:
    jobs = [store.start(["true"], name="same") for _ in range(3)]
    assert len({job.id for job in jobs}) == 3
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)


def test_many_threads_start_at_once(store: WatchedStore) -> None:
    codes: dict[int, int | None] = {}

    def start(code: int) -> None:
        codes[code] = store.start(exits_with(code)).wait(timeout=60).exit_code

    threads = [threading.Thread(target=start, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {code: code for code in range(8)}


def test_starter_keeps_no_child_and_no_descriptor(store: WatchedStore, gate: Gate) -> None:
    body = """
store.start(["true"]).wait(timeout=10)  # what is opened once and kept
before = os.listdir("/proc/self/fd")
job = store.start(["sleep", "100"])
assert os.listdir("/proc/self/fd") == before, os.listdir("/proc/self/fd")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
job.cancel(grace=0)
job.wait(timeout=10)
"""
    assert run_host(store, body) == "no child\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2), (2,)])
def test_starter_without_standard_streams(store: WatchedStore, closed: tuple[int, ...]) -> None:
    body = """
for fd in map(int, sys.argv[1:]):
    os.close(fd)
record = store.start(["sh", "-c", "cat; echo out; echo error >&2; exit 3"]).wait(timeout=10)
os._exit(record.exit_code)
"""
    done = subprocess.run(
        host(store, body, *closed), stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 3
    (job,) = store.list()
    assert job.tail() == "out\nerror\n"


# -- as a plain Popen would have run it --------------------------------------

REPORT = r"""
at=/proc/$$
section() { echo "== $1"; }
section environ; tr '\0' '\n' < $at/environ
section cwd; readlink $at/cwd
section limits; cat $at/limits
section fds; ls $at/fd
section priority; cut -d' ' -f18,19,40,41 $at/stat
section oom; cat $at/oom_score_adj
section cgroup; cat $at/cgroup
section namespaces; readlink $at/ns/*
section misc; cat $at/timerslack_ns $at/coredump_filter $at/personality
section status; grep -E \
'^(Umask|Uid|Gid|Groups|SigIgn|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Mems_allowed|THP)' $at/status
"""

COMPARE = """
report = sys.argv[1]
change = sys.argv[2]
exec(change)
environ = os.environb.copy()
with open("/dev/null") as null, open(sys.argv[3], "wb") as out:
    subprocess.run(["sh", "-c", report], stdin=null, stdout=out, stderr=out)
job = store.start(["sh", "-c", report])
job.wait(timeout=30)
os.write(1, job.id.encode())
"""

CHANGES = {
    "nothing": "",
    "surroundings": r"""
os.environ["ONE"] = "two"
os.environb[b"CAF\xe9"] = b"\xff"
del os.environ["HOME"]
os.chdir("/usr")
os.umask(0o27)
open("/proc/self/oom_score_adj", "w").write("500")
open("/proc/self/coredump_filter", "w").write("0x5")
""",
    "priority": """
import ctypes
os.nice(5)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
ctypes.CDLL(None).prctl(29, 123456, 0, 0, 0)  # PR_SET_TIMERSLACK
""",
    "limits": """
import resource
for name, soft in (("NOFILE", 99), ("FSIZE", 1 << 24), ("CPU", 50), ("CORE", 0),
                   ("STACK", 4 << 20), ("AS", 4 << 30), ("DATA", 3 << 30)):
    kind = getattr(resource, "RLIMIT_" + name)
    resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
""",
    "hard limits": """
import resource
for name, both in (("NOFILE", 99), ("FSIZE", 1 << 24), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (both, both))
""",
    "ignored signals": """
for number in (1, 2, 3, 10, 13, 15, 17, 20, 25, 40):
    signal.signal(number, signal.SIG_IGN)
""",
    "handled signals": """
for number in (1, 2, 3, 10, 13, 15, 17, 25):
    signal.signal(number, lambda *_: None)
""",
    "default signals": """
for number in (2, 13, 25):
    signal.signal(number, signal.SIG_DFL)
""",
    "descriptors": """
for fd in (3, 7, 30):
    os.dup2(0, fd, inheritable=True)
""",
    "flags": """
import ctypes
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
libc.personality(0x0040000)  # ADDR_NO_RANDOMIZE
""",
    "what only root may": """
import ctypes
libc = ctypes.CDLL(None)
os.setgroups([7, 8, 9])
os.nice(-3)
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
assert libc.unshare(0x04000000) == 0  # CLONE_NEWUTS
libc.prctl(24, 25, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_TIME
""",
}


each_change = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=as_root if "root" in name else ()) for name in CHANGES],
)


@each_change
def test_command_gets_what_a_plain_popen_would_have_given(
    store: WatchedStore, tmp_path: Path, name: str
) -> None:
    plain = tmp_path / "plain"
    job_id = run_host(store, COMPARE, REPORT, CHANGES[name], plain)
    compare(store, job_id, plain)


def compare(store: WatchedStore, job_id: str, plain: Path) -> None:
    """What the job's command reported with what a plain child of its host did."""
    output = store.get(job_id).dir.output.read_bytes()
    expected, got = sections(plain.read_bytes()), sections(output)
    assert len(expected) == 10
    got["environ"].remove(f"JOBSUP_JOB_ID={job_id}")
    assert sorted(got.pop("environ")) == sorted(expected.pop("environ"))
    assert got == expected


def sections(report: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in report.decode("latin-1").splitlines():
        name, _, value = line.partition(":\t")
        if line.startswith("== "):
            current = found.setdefault(line[3:], [])
        elif name == "SigIgn":  # but for glibc's own, which posix_spawn(3) leaves ignored
            current.append(f"{name} {int(value, 16) & ~(0b11 << 31):x}")
        else:
            current.append(line)
    return found


def test_command_gets_the_mask_that_a_plain_popen_would_have_given(store: WatchedStore) -> None:
    """Without a shell between, which has a mask of its own."""
    body = """
import threading
signal.pthread_sigmask(signal.SIG_SETMASK, [1, 10, 12, 15, 17, 18, 40])
threading.Thread(target=signal.sigwait, args=([12],), daemon=True).start()
argv = ["grep", "SigBlk", "/proc/self/status"]
plain = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
job = store.start(argv)
job.wait(timeout=30)
print(plain, job.tail(), sep="", end="")
"""
    plain, got = run_host(store, body).splitlines()
    assert got == plain == "SigBlk:\t0000008000034a01"


def test_working_directory_that_was_deleted_is_inherited(
    store: WatchedStore, tmp_path: Path
) -> None:
    body = """
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
print(store.start(["readlink", "/proc/self/cwd"]).wait(timeout=10).exit_code)
"""
    (tmp_path / "gone").mkdir()
    assert run_host(store, body, tmp_path / "gone") == "0\n"
    (job,) = store.list()
    assert job.tail().endswith("/gone (deleted)\n")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with executables that are found in several ways."""
    scripts = {"say": "#!/bin/sh\necho said\n", "here/say": "#!/bin/sh\necho here\n"}
    for name, text in scripts.items():
        path = tmp_path / "programs" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        path.chmod(0o755)
    refused = tmp_path / "programs" / "refused"
    refused.mkdir()
    (refused / "say").write_text("#!/bin/sh\necho refused\n")
    return tmp_path / "programs"


def test_program_is_found_as_popen_finds_it(store: WatchedStore, programs: Path) -> None:
    cases: list[tuple[list[Any], dict[str, Any]]] = [
        (["say"], {"env": {"PATH": f"{programs}"}}),
        (["say"], {"env": {"PATH": f"{programs}/refused:{programs}/none:{programs}"}}),
        (["here/say"], {"cwd": programs}),
        (["./say"], {"cwd": programs}),
        ([programs / "say"], {}),
        ([os.fsencode(programs / "say")], {}),
        (["sh", "-c", "echo $0 $1", "zero", "ü\udcff"], {}),
    ]
    for argv, options in cases:
        plain_options = dict(options)
        if "env" in plain_options:
            plain_options["env"] = {**os.environ, **plain_options["env"]}
        plain = subprocess.run(argv, **plain_options, stdout=subprocess.PIPE, check=False)
        job = store.start(argv, **options)
        record = job.wait(timeout=TIMEOUT)
        assert (record.exit_code, job.dir.output.read_bytes()) == (plain.returncode, plain.stdout)


def test_variables_are_set_on_top_of_ours(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("CHANGED", "old")
    job = store.start(["env"], env={"CHANGED": "new", "ADDED": "line\nline"})
    job.wait(timeout=TIMEOUT)
    output = job.tail(1000)
    for expected in ("KEPT=kept\n", "CHANGED=new\n", "ADDED=line\nline\n"):
        assert expected in output


def test_clean_environment_has_what_was_given(store: WatchedStore) -> None:
    job = store.start(["/usr/bin/env"], env={"ONE": "1"}, clean_env=True)
    job.wait(timeout=TIMEOUT)
    assert sorted(job.tail().split()) == sorted([f"JOBSUP_JOB_ID={job.id}", "ONE=1"])


def test_values_of_variables_are_never_on_disk(store: WatchedStore, gate: Gate) -> None:
    secret = "s3cr3t-" + os.urandom(8).hex()
    job = store.start(sleeper(gate), env={"TOKEN": secret}, name="secret")
    gate.wait()
    job.pause()
    job.cancel(grace=0)
    job.wait(timeout=TIMEOUT)
    with pytest.raises(SpawnError):
        store.start(["/no/such/program"], env={"TOKEN": secret})
    assert job.spec().env_names == ("TOKEN",)
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert secret.encode() not in path.read_bytes(), path


def test_command_holds_its_three_files_and_no_lock(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    (pid,) = gate.pids()
    expected = sorted(["/dev/null", str(job.dir.output), str(job.dir.output)])
    # It may still be closing the gate that it told.
    eventually(lambda: open_files(pid) == expected, f"it has open only {expected}")


# -- or nothing --------------------------------------------------------------


@pytest.fixture
def obstacles(tmp_path: Path) -> Path:
    path = tmp_path / "obstacles"
    path.mkdir()
    (path / "directory").mkdir()
    (path / "text").write_text("hello\n")
    (path / "script").write_text("echo no first line\n")
    (path / "script").chmod(0o755)
    (path / "orphan").write_text("#!/no/such/interpreter\n")
    (path / "orphan").chmod(0o755)
    (path / "loop").symlink_to("loop")
    (path / "closed").mkdir(0o000)
    return path


OBSTACLES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "missing": ("exec", ["/no/such/program"], {}),
    "missing in PATH": ("exec", ["no-such-program"], {}),
    "not executable": ("exec", ["{}/text"], {}),
    "a directory": ("exec", ["{}/directory"], {}),
    "no format": ("exec", ["{}/script"], {}),
    "no interpreter": ("exec", ["{}/orphan"], {}),
    "a loop": ("exec", ["{}/loop"], {}),
    "below a file": ("exec", ["{}/text/program"], {}),
    "long name": ("exec", ["x" * 300], {}),
    "too long": ("exec", ["true", "x" * (1 << 20)], {}),
    "cwd missing": ("cwd", ["true"], {"cwd": "/no/such/directory"}),
    "cwd a file": ("cwd", ["true"], {"cwd": "{}/text"}),
    "cwd a loop": ("cwd", ["true"], {"cwd": "{}/loop"}),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_system_s_reason_comes_back_and_nothing_is_left(
    store: WatchedStore, obstacles: Path, name: str
) -> None:
    stage, argv, options = OBSTACLES[name]
    argv = [word.replace("{}", str(obstacles)) for word in argv]
    options = {key: value.replace("{}", str(obstacles)) for key, value in options.items()}
    with pytest.raises(OSError) as plain:  # noqa: PT011 - any, to be compared with ours
        subprocess.run(argv, **options, check=False)  # type: ignore[call-overload]

    with pytest.raises(SpawnError) as caught:
        store.start(argv, **options)

    error = caught.value
    assert error.stage == stage
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == plain.value.errno
    assert str(plain.value.strerror) in str(error)
    assert "no job was created" in str(error)
    assert files_in(store) == []
    assert store.events().events == []


REFUSED = """
try:
    store.start(["sleep", "100"], cwd=(*sys.argv, None)[1])
except SpawnError as error:
    print(error.stage, error.__cause__.errno)
"""


def test_directory_that_may_not_be_entered(store: WatchedStore, obstacles: Path) -> None:
    told = run_host(store, REFUSED, obstacles / "closed", preexec_fn=without_privilege)
    assert told == "cwd 13\n"
    assert files_in(store) == []


WRONG: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "empty argv": (ValueError, "empty", {"argv": []}),
    "str argv": (TypeError, "bash", {"argv": "ls -l"}),
    "NUL in argv": (ValueError, "NUL", {"argv": ["ls", "a\0b"]}),
    "NUL in cwd": (ValueError, "NUL", {"cwd": "/tmp\0"}),
    "NUL in env": (ValueError, "NUL", {"env": {"A": "\0"}}),
    "NUL in an env name": (ValueError, "NUL", {"env": {"A\0": "x"}}),
    "= in an env name": (ValueError, "variable", {"env": {"A=B": "x"}}),
    "number in env": ((ValueError, TypeError), "A", {"env": {"A": 1}}),  # type: ignore[dict-item]
    "negative timeout": (ValueError, "timeout", {"timeout": -1}),
    "infinite timeout": (ValueError, "timeout", {"timeout": math.inf}),
    "no number": (ValueError, "timeout", {"timeout": math.nan}),
    "negative grace": (ValueError, "grace", {"grace": -1}),
    "infinite grace": (ValueError, "grace", {"grace": math.inf}),
    "grace and stop": (ValueError, "not both", {"grace": 1, "stop": "KILL"}),
    "stop without KILL": (ValueError, "KILL", {"stop": "TERM 5"}),
    "bad name": (ValueError, "name", {"name": "a/b"}),
    "bad label": (ValueError, "label", {"labels": {"a": 1}}),
    "bad stderr": (ValueError, "stderr", {"stderr": "file"}),
    "bad lifetime": (ValueError, "lifetime", {"lifetime": "long"}),
    "bad leftovers": (ValueError, "leftovers", {"leftovers": "keep"}),
    "small output_limit": (ValueError, "output_limit", {"output_limit": 1}),
    "text stdin": (TypeError, "stdin", {"stdin": "text"}),
    "odd stdin": (TypeError, "stdin", {"stdin": 3.5}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_refused_before_anything_exists(store: WatchedStore, name: str) -> None:
    error, match, arguments = WRONG[name]
    with pytest.raises(error, match=match):
        store.start(**{"argv": ["true"], **arguments})
    assert not store.root.exists()


def test_words_and_numbers_of_subclasses_are_taken_for_what_they_are(store: WatchedStore) -> None:
    class Word(str, Enum):
        ECHO = "sh"
        NAME = "A"
        VALUE = "7"

    class Seconds(float):
        pass

    class Bytes(IntEnum):
        LIMIT = 1 << 20

    job = store.start(
        [Word.ECHO, "-c", "exit $A"],
        env={Word.NAME: Word.VALUE},
        timeout=Seconds(60),
        grace=Seconds(1),
        output_limit=Bytes.LIMIT,
    )
    assert job.wait(timeout=TIMEOUT).exit_code == 7
    assert job.spec().argv == ("sh", "-c", "exit $A")


def test_missing_stdin_file(store: WatchedStore) -> None:
    with pytest.raises(SpawnError, match="standard input") as caught:
        store.start(["cat"], stdin=Path("/no/such/file"))
    assert caught.value.stage == "stdin"
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert files_in(store) == []


@pytest.mark.parametrize("in_the_way", ["store", "store/jobs", "store/active"])
def test_store_that_cannot_be_made(store: WatchedStore, in_the_way: str) -> None:
    path = store.root.parent / in_the_way
    path.parent.mkdir(exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(SpawnError) as caught:
        store.start(["true"])
    assert caught.value.stage == "store"
    assert str(store.root) in str(caught.value)


def test_store_that_may_not_be_made(store: WatchedStore) -> None:
    parent = store.root.parent / "closed"
    parent.mkdir(0o500)
    told = run_host(JobStore(parent / "store"), REFUSED, preexec_fn=without_privilege)
    assert told == "store 13\n"


@pytest.mark.parametrize("closed", ["jobs", "active"])
def test_store_that_cannot_be_written(store: WatchedStore, closed: str) -> None:
    store.start(["true"]).wait(timeout=TIMEOUT)
    before = files_in(store)
    directory = store.root / closed
    directory.chmod(0o500)
    try:
        assert run_host(store, REFUSED, preexec_fn=without_privilege) == "store 13\n"
    finally:
        directory.chmod(0o700)
    assert [name for name in files_in(store) if name not in before] == []


def test_store_on_a_read_only_disk(tmpfs: Path, make_store: Callable[[Path], WatchedStore]) -> None:
    store = make_store(tmpfs / "store")
    store.start(["true"]).wait(timeout=TIMEOUT)
    eventually(lambda: not os.listdir(store.root / "active"), "the job's marker gone")
    before = files_in(store)
    # The monitor is on its way out; while it holds files the disk is busy.
    remount = ["mount", "-o", "remount,ro", str(tmpfs)]
    eventually(
        lambda: subprocess.run(remount, capture_output=True, check=False).returncode == 0,
        "a read-only disk",
    )
    with pytest.raises(SpawnError, match="Read-only") as caught:
        store.start(["true"])
    assert caught.value.stage == "store"
    assert [job.status().outcome for job in store.list()] == [Outcome.SUCCEEDED]
    assert files_in(store) == before


@pytest.mark.parametrize("left", [0, 4096, 8192, 12288, 16384, 24576])
def test_store_on_a_full_disk(
    tmpfs: Path, make_store: Callable[[Path], WatchedStore], left: int
) -> None:
    store = make_store(tmpfs / "store")
    filler = open(tmpfs / "filler", "wb", buffering=0)  # noqa: SIM115 - closed below
    with filler:
        usage = os.statvfs(tmpfs)
        os.posix_fallocate(filler.fileno(), 0, usage.f_bavail * usage.f_frsize - left)
        if left > 8192:  # room for the spare of the final record, and little else
            with suppress(SpawnError):
                store.start(["sleep", "100"]).cancel(grace=0)
            return
        with pytest.raises(SpawnError, match="No space left") as caught:
            store.start(["sleep", "100"])
        assert caught.value.stage == "store"
        assert files_in(store) == []


def test_too_many_open_files(store: WatchedStore) -> None:
    """Whatever call is the one too many: a job or a clear error."""
    body = """
import resource
store.start(["true"]).wait(timeout=10)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for limit in range(3, 24):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        job = store.start(["sleep", "100"])
    except SpawnError as error:
        resource.setrlimit(resource.RLIMIT_NOFILE, (99, hard))
        assert "Too many open files" in str(error), error
        assert len(os.listdir(store.root / "jobs")) == 1, limit
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (99, hard))
        job.cancel(grace=0)
        print(job.wait(timeout=10).outcome.value)
        break
"""
    assert run_host(store, body) == "cancelled\n"


@pytest.mark.parametrize("most", [0, 512, 8192])
def test_host_that_may_write_less_than_a_job_has(store: WatchedStore, most: int) -> None:
    """A monitor, which keeps no such limit, makes the files then; the command keeps it."""
    body = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), hard))
job = store.start(["sh", "-c", "ulimit -f >&2; exec 2>&-; exit 7"] if sys.argv[1] != "0" else
                  ["sh", "-c", "exit 7"])
print(job.wait(timeout=30).exit_code, job.tail())
"""
    said = run_host(store, body, most).split()
    assert said[0] == "7"
    assert said[1:] == ([str(most // 512)] if most else [])
    assert [name for name in files_in(store) if name.endswith(".new")] == []


def test_no_more_processes(store: WatchedStore) -> None:
    """RLIMIT_NPROC does not bind root, so the fork itself is made to fail."""
    body = """
import _posixsubprocess
def fork_exec(*_):
    raise BlockingIOError(11, "Resource temporarily unavailable")
_posixsubprocess.fork_exec = subprocess._fork_exec = fork_exec
subprocess._USE_POSIX_SPAWN = subprocess._USE_VFORK = False
try:
    store.start(["true"])
except SpawnError as error:
    print(error.stage, error.__cause__.errno)
"""
    assert run_host(store, body) == "monitor 11\n"
    assert files_in(store) == []


@pytest.mark.usefixtures("no_launcher")
def test_interpreter_that_is_gone(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(SpawnError) as caught:
            store.start(["true"])
    assert caught.value.stage == "monitor"
    assert files_in(store) == []


# -- who started it ----------------------------------------------------------

START = """
job = store.start(sys.argv[1:])
print(job.id, flush=True)
"""
ENDS = {
    "exits": "",
    "crashes": "os.abort()",
    "raises": "raise RuntimeError",
    "is killed": "os.kill(os.getpid(), 9)",
    "is killed with its group": "os.killpg(0, 9)",
    "is interrupted with its group": "signal.signal(2, signal.SIG_DFL); os.killpg(0, 2)",
    "is hung up with its group": "os.killpg(0, 1)",
}


@pytest.mark.parametrize("end", ENDS)
def test_job_outlives_a_starter_that(store: WatchedStore, gate: Gate, end: str) -> None:
    starter = subprocess.run(
        host(store, START + ENDS[end], *exits_with(7, gate)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    job = store.get(starter.stdout.strip())
    assert job.status().state is JobState.RUNNING
    gate.open()
    record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.exit_code, record.adoptions) == (Outcome.FAILED, 7, 0)


def test_job_s_processes_have_left_the_starter_s_session(store: WatchedStore) -> None:
    body = START + "print(os.getsid(0))"
    job_id, session = run_host(store, body, "sleep", "100").split()
    record = store.get(job_id).status()
    for identity in (record.command, record.monitor):
        assert identity is not None
        assert os.getsid(identity.pid) != int(session)


OWN = """
store.start(sys.argv[1:], lifetime="owner", grace=5)
signal.pause()
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_owned_job_ends_with_its_owner(
    store: WatchedStore, gate: Gate, signum: signal.Signals
) -> None:
    owner = subprocess.Popen(host(store, OWN, *sleeper(gate)))
    try:
        gate.wait()
        (job,) = store.list()
        assert job.status().state is JobState.RUNNING
        owner.send_signal(signum)
        owner.wait(TIMEOUT)
        record = job.wait(timeout=TIMEOUT)
    finally:
        owner.kill()
        owner.wait()
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "owner-died")
    assert record.stop_cause is StopCause.OWNER_DIED
    assert record.signal is signal.SIGTERM


@pytest.mark.usefixtures("no_launcher")
def test_owned_job_ends_with_its_owner_also_after_its_monitor_was_killed(
    store: WatchedStore, gate: Gate
) -> None:
    owner = subprocess.Popen(host(store, OWN, *sleeper(gate)))
    try:
        gate.wait()
        (job,) = store.list()
        kill_and_wait(job.status().monitor)
        owner.kill()
        owner.wait(TIMEOUT)
        record = job.wait(timeout=TIMEOUT)
    finally:
        owner.kill()
        owner.wait()
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "owner-died")


def test_owned_job_that_ends_first_keeps_its_outcome(store: WatchedStore) -> None:
    body = """
job = store.start(sys.argv[1:], lifetime="owner")
print(job.wait(timeout=10).exit_code)
"""
    assert run_host(store, body, *exits_with(3)) == "3\n"


def test_thread_that_started_it_may_end(store: WatchedStore, gate: Gate) -> None:
    """The owner is the process."""
    thread = threading.Thread(target=lambda: store.start(exits_with(3, gate), lifetime="owner"))
    thread.start()
    thread.join(TIMEOUT)
    (job,) = store.list()
    gate.open()
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.FAILED


def test_monitor_keeps_nothing_of_its_starter(store: WatchedStore, tmp_path: Path) -> None:
    """No descriptor, no directory: a mount that the starter used can be unmounted."""
    body = """
os.chdir(sys.argv.pop(1))
held = os.open(".", os.O_RDONLY)
os.set_inheritable(held, True)
print(store.start(["sleep", "100"], cwd="/").id)
"""
    mine = tmp_path / "mine"
    mine.mkdir()
    monitor = store.get(run_host(store, body, mine).strip()).status().monitor
    assert monitor is not None
    at = Path(f"/proc/{monitor.pid}")
    eventually(lambda: os.readlink(at / "cwd") == "/", "the monitor in /")
    targets = [os.readlink(fd) for fd in (at / "fd").iterdir()]
    assert not [target for target in targets if target.startswith(str(mine))]
    # One leads to the starter and one to its launcher, who are both gone.
    assert len([target for target in targets if target.startswith("socket:")]) <= 2


def test_job_of_a_stopped_starter_runs_on(store: WatchedStore, gate: Gate) -> None:
    starter = subprocess.Popen(
        host(store, START + "signal.pause()", *exits_with(0, gate)), stdout=subprocess.PIPE
    )
    try:
        assert starter.stdout is not None
        job = store.get(starter.stdout.readline().decode().strip())
        starter.send_signal(signal.SIGSTOP)
        eventually(lambda: state_of(starter.pid) == "T", "the starter stopped")
        gate.open()
        assert job.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED
    finally:
        starter.kill()
        starter.communicate()


def test_job_starts_a_job_of_its_tree(store: WatchedStore) -> None:
    """A nested job belongs to the tree that started it, and goes with it."""
    body = START + "signal.pause()"
    outer = store.start(host(store, body, "sleep", "99"))
    inner_id = eventually(lambda: outer.tail().strip(), "the inner job")
    inner = store.get(inner_id).status()
    assert inner.command is not None
    command = held(inner.command.pid)
    outer.cancel(grace=0)
    outer.wait(timeout=TIMEOUT)
    wait_gone(command)
    assert store.get(inner_id).wait(timeout=TIMEOUT).state is JobState.ENDED


def test_default_store_is_looked_up_at_each_call(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import jobsup  # noqa: PLC0415 - the functions of the module are what is tested

    monkeypatch.setenv("JOBSUP_HOME", str(store.root))
    job = jobsup.start(["true"])
    assert job.root == store.root
    assert job.wait(timeout=TIMEOUT).outcome is Outcome.SUCCEEDED
    assert jobsup.list() == jobsup.list(state="ended") == [Job(job.id, store.root)]
    assert jobsup.get(job.id) == job
    monkeypatch.setenv("JOBSUP_HOME", str(tmp_path / "other"))
    assert jobsup.list() == []


def test_python_program_may_be_anything(store: WatchedStore) -> None:
    """The monitor's own interpreter shares nothing with the command's."""
    job = store.start(python("sys.stdout.write(sys.argv[1])", "hello"))
    job.wait(timeout=TIMEOUT)
    assert job.tail() == "hello"
