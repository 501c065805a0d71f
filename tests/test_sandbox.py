"""What a host changed after it had a launcher reaches the command all the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import PROVES, WatchedStore, eventually, run_host, without_privilege
from launchers import WARM
from sandboxes import SANDBOXES
from test_start import CHANGES, COMPARE, REPORT, as_root, compare, each_change

from jobsup._launch import LAUNCHER

pytestmark = pytest.mark.skipif(not PROVES, reason="the portable path has no launcher")


@pytest.fixture(autouse=True)
def launcher_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)


@each_change
def test_change_reaches_the_command_as_a_plain_popen_would_have_given_it(
    store: WatchedStore, tmp_path: Path, name: str
) -> None:
    plain = tmp_path / "plain"
    job_id = run_host(store, WARM + COMPARE, REPORT, CHANGES[name], plain)
    compare(store, job_id, plain)


BOTH = """
def both(argv):
    "What a plain child says, and what the command of a job does."
    plain = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
    job = store.start(argv)
    job.wait(timeout=30)
    print(json.dumps([plain, job.tail()]))
"""


def both(store: WatchedStore, body: str, *arguments: object, **how: object) -> tuple[str, str]:
    """What was said to a warm host: by a plain child, and by a job's command."""
    plain, got = json.loads(run_host(store, WARM + BOTH + body, *arguments, **how))
    return plain, got


def test_mask_reaches_the_command(store: WatchedStore) -> None:
    body = """
signal.pthread_sigmask(signal.SIG_SETMASK, [1, 10, 12, 15, 17, 18, 40])
both(["grep", "SigBlk", "/proc/self/status"])
"""
    plain, got = both(store, body)
    assert got == plain == "SigBlk:\t0000008000034a01\n"


def test_deleted_working_directory_reaches_the_command(store: WatchedStore, tmp_path: Path) -> None:
    body = """
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
both(["readlink", "/proc/self/cwd"])
"""
    (tmp_path / "gone").mkdir()
    plain, got = both(store, body, tmp_path / "gone")
    assert got == plain == f"{tmp_path}/gone (deleted)\n"


def test_working_directory_that_cannot_be_entered_again(
    store: WatchedStore, tmp_path: Path
) -> None:
    body = """
os.chdir(sys.argv[1])
os.chmod(".", 0)
both(["readlink", "/proc/self/cwd"])
"""
    (tmp_path / "closed").mkdir()
    plain, got = both(store, body, tmp_path / "closed", preexec_fn=without_privilege)
    assert got == plain == f"{tmp_path}/closed\n"


STDIN = """
with open(sys.argv[1], "w+b") as file:
    file.write(b"a file\\n")
    file.seek(0)
    read, write = os.pipe()
    os.write(write, b"a pipe\\n")
    os.close(write)
    from pathlib import Path
    jobs = [store.start(["cat"], stdin=stdin) for stdin in (
        None, b"bytes\\n", Path(sys.argv[1]), file, open(read), subprocess.PIPE)]
    jobs[-1].write(b"FIFO\\n")
    jobs[-1].close_stdin()
    for job in jobs:
        job.wait(timeout=30)
    print(json.dumps([job.tail() for job in jobs]))
    assert len(launchers_of()) == 1
"""


def test_standard_input_of_each_kind(store: WatchedStore, tmp_path: Path) -> None:
    said = json.loads(run_host(store, WARM + STDIN, tmp_path / "file"))
    assert said == ["", "bytes\n", "a file\n", "a file\n", "a pipe\n", "FIFO\n"]


def test_clean_environment(store: WatchedStore) -> None:
    body = """
job = store.start(["/usr/bin/env"], env={"ONE": "1"}, clean_env=True)
job.wait(timeout=30)
print(job.tail().replace(job.id, "<id>"))
"""
    assert sorted(run_host(store, WARM + body).split()) == ["JOBSUP_JOB_ID=<id>", "ONE=1"]


def test_order_of_any_length(store: WatchedStore) -> None:
    """A short one goes to the launcher in one message, a longer one after it."""
    body = """
from jobsup._control import ALONG_BYTES
lengths = [*range(ALONG_BYTES - 4000, ALONG_BYTES + 10, 50), 100_000]
for length in lengths:
    job = store.start(["sh", "-c", "echo ${#LONG}"], env={"LONG": "x" * length}, clean_env=True)
    job.wait(timeout=30)
    assert job.tail() == f"{length}\\n", (length, job.tail())
assert len(launchers_of()) == 1
"""
    run_host(store, WARM + body)


# -- a sandbox entered late ----------------------------------------------------

ENTER = f"""
{WARM.splitlines()[1]}
from sandboxes import SANDBOXES
sandbox = SANDBOXES[sys.argv[1]]
def plain():
    run = subprocess.run(sandbox.probe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.stdout
try:
    sandbox.prepare(store.root)
    before = plain()
    {"    ".join(WARM.splitlines(keepends=True)[2:])}
    sandbox.enter(store.root)
except OSError as error:
    print(json.dumps([str(error)]))
    sys.exit()
job = store.start(sandbox.probe)
job.wait(timeout=30)
print(json.dumps([None, before, plain(), job.tail()]))
"""


@as_root
@pytest.mark.parametrize("name", SANDBOXES)
def test_no_command_is_outside_of_its_host_s_sandbox(
    store: WatchedStore, tmp_path: Path, cgroup: None, name: str
) -> None:
    lacks, *said = json.loads(run_host(store, ENTER, name, cwd=tmp_path))
    if lacks:
        pytest.skip(f"no {name} can be had here: {lacks}")
    before, plain, got = said
    assert got == plain != before


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[None]:
    """A link to a control group that a host may join, where one can be made."""
    link = tmp_path / "cgroup"
    for parent in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        with suppress(OSError):
            group = Path(parent) / f"jobsup-test-{os.getpid()}"
            group.mkdir()
            link.symlink_to(group)
            break
    yield
    if link.is_symlink():
        eventually(lambda: removed(link.resolve()), "the control group is empty")


def removed(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


IN_THREADS = """
import threading
from sandboxes import SANDBOXES
def see(sandbox):
    plain = subprocess.run(sandbox.probe, stdout=subprocess.PIPE, text=True).stdout
    job = store.start(sandbox.probe)
    job.wait(timeout=30)
    said.append([plain, job.tail()])
def enter(sandbox):
    try:
        sandbox.enter(store.root)
    except OSError as error:
        said.append([str(error)])
    else:
        see(sandbox)
said = []
for name in sys.argv[1:]:
    thread = threading.Thread(target=enter, args=[SANDBOXES[name]])
    thread.start()
    thread.join()
see(SANDBOXES[sys.argv[1]])
print(json.dumps(said))
"""


@as_root
@pytest.mark.parametrize(
    "names", [["Landlock"], ["seccomp filter", "other seccomp filter"]], ids=["Landlock", "seccomp"]
)
def test_each_thread_s_sandbox_is_its_own(
    store: WatchedStore, tmp_path: Path, names: list[str]
) -> None:
    """The last to start something is a thread that entered none."""
    said = json.loads(run_host(store, WARM + IN_THREADS, *names, cwd=tmp_path))
    if len(said[0]) == 1:
        pytest.skip(f"no {names[0]} can be had here: {said[0][0]}")
    assert [plain for plain, _ in said] == [got for _, got in said]
    assert said[0] != said[-1]
