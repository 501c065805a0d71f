"""What others write into the store, and into the monitor's ear: nobody hangs, lies or crashes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from commands import python, sleeper
from conftest import TIMEOUT, Gate, WatchedStore, eventually, kill_and_wait, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from witnesses import client

from jobsup import (
    Job,
    JobNotFoundError,
    JobRecord,
    JobSpec,
    JobState,
    JobStore,
    JobsupError,
    Outcome,
    RecordError,
    StopCause,
)
from jobsup._control import parse_request
from jobsup._events import JobEvent, has_event
from jobsup._model import from_json, now, to_json
from jobsup._ulid import is_id, new_id

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))
SOME = settings(
    max_examples=int(100 * SCALE), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(SOME, max_examples=int(15 * SCALE))

pytestmark = pytest.mark.timeout(120 + 120 * SCALE)

ID = "01m824xvfmbqf5yvhe8ja132s7"
NOBODY = 1 << 22
"""The number of no process: beyond the largest."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["running", "stopping", "ended", "TERM 5, KILL", "2026-01-01T00:00:00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def fields_of(value: JobRecord | JobSpec) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(to_json(value))
    return fields


def a_record(state: JobState = JobState.RUNNING) -> JobRecord:
    nobody = {"pid": NOBODY, "token": "nobody's"}
    return JobRecord(ID, state, created_at=now(), command=nobody, monitor=nobody)  # type: ignore[arg-type]


@st.composite
def documents(draw: st.DrawFn, value: JobRecord | JobSpec) -> bytes:
    """One of ours in which somebody replaced, dropped and added fields, or bytes."""
    fields = fields_of(value)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        fields[name] = draw(json_values)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=1)):
        fields.pop(name, None)
    data = bytearray(json.dumps(fields).encode())
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


# -- records, specs, ids, lines ------------------------------------------------


@SOME
@given(data=documents(a_record()))
def test_any_record_is_a_record_or_refused(data: bytes) -> None:
    with suppress(RecordError):
        record = from_json(JobRecord, data, Path("meta.json"))
        assert from_json(JobRecord, to_json(record), Path("meta.json")) == record


@SOME
@given(data=documents(JobSpec(["true"], stop="INT 5, KILL", labels={"a": "b"})))
def test_any_spec_is_a_spec_or_refused(data: bytes) -> None:
    with suppress(RecordError):
        assert isinstance(from_json(JobSpec, data, Path("spec.json")), JobSpec)


@FEW
@given(data=st.data(), state=st.sampled_from(list(JobState)))
def test_no_record_upsets_who_looks(store: WatchedStore, data: st.DataObject, state: str) -> None:
    """In the place of an ended job's, nobody holding the lock."""
    if not (store.root / "jobs" / ID).exists():
        put(store, ID, "train")
        healthy = put(store, new_id(), "other")
    else:
        [healthy] = [job for job in store.list() if job.id != ID]
    job = Job(ID, store.root)
    job.dir.meta.write_bytes(data.draw(documents(a_record(JobState(state)))))
    for look in (job.status, job.usage, job.tail, lambda: job.wait(timeout=0)):
        with suppress(JobsupError):
            look()
    assert healthy in store.list(outcome="succeeded")
    store.prune(older_than=1e6)
    assert healthy.status().outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("state", ["queued", "orphaned", "running", "stopping"])
def test_record_of_a_state_without_its_monitor_is_damaged(store: WatchedStore, state: str) -> None:
    job = put(store, ID)
    fields = fields_of(a_record(JobState(state)))
    job.dir.meta.write_text(json.dumps({**fields, "monitor": None}))
    with pytest.raises(RecordError, match="without a monitor"):
        job.status()
    assert store.prune(keep=0).job_ids == ()


@SOME
@given(text=st.text(max_size=30) | st.from_regex(r"[0-9a-z./]{1,30}", fullmatch=True))
def test_any_text_is_an_id_or_is_not_found(store: WatchedStore, text: str) -> None:
    with pytest.raises(JobNotFoundError):
        store.get(text)
    if not is_id(text):
        with pytest.raises(JobNotFoundError):
            Job(text, store.root)


@SOME
@given(
    fields=st.fixed_dictionaries(
        {"verb": st.sampled_from(["stop", "signal", "pause", "dance"]) | json_values},
        optional=dict.fromkeys(("plan", "signal", "reply", "other"), json_values),
    )
)
def test_any_control_line_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    request = parse_request(json.dumps(fields).encode())
    if request and request.verb == "signal":
        assert request.signal in signal.valid_signals()
    if request and request.reply is not None:
        assert "/" not in request.reply


EVENT: dict[str, Any] = {"job_id": ID, "sequence": 3, "state": "running", "at": now().isoformat()}


@st.composite
def event_lines(draw: st.DrawFn) -> bytes:
    fields: dict[str, Any] = dict(EVENT)
    for name in draw(st.lists(st.sampled_from(["job_id", "sequence", "at", "exit_code"]))):
        fields[name] = draw(json_values)
    return draw(st.binary(max_size=50)) if draw(st.booleans()) else json.dumps(fields).encode()


@SOME
@given(lines=st.lists(event_lines(), max_size=5))
def test_any_feed_is_read(store: WatchedStore, lines: list[bytes]) -> None:
    store.root.mkdir(exist_ok=True)
    feed = store.root / "events"
    feed.write_bytes(b"\n".join([*lines, json.dumps(EVENT).encode(), b""]))
    page = store.events()
    assert page.events[-1] == JobEvent(**EVENT)
    assert page.cursor == feed.stat().st_size
    assert has_event(feed, a_record())


@pytest.mark.parametrize("line", [b"[" * 50_000, b'{"job_id":"x"}', b'{"at":5}', b"7"])
def test_line_that_is_no_event_is_skipped(store: WatchedStore, line: bytes) -> None:
    store.root.mkdir()
    worse = {**EVENT, "at": 5}, {**EVENT, "sequence": "3"}
    text = [line, *(json.dumps(each).encode() for each in worse), json.dumps(EVENT).encode(), b""]
    (store.root / "events").write_bytes(b"\n".join(text))
    assert [event.sequence for event in store.events().events] == [3]
    assert has_event(store.root / "events", a_record())


# -- what somebody planted -----------------------------------------------------

NAMES = ("spec.json", "meta.json", "lock", "control", "output", "stdin", "monitor.log")
MORE_NAMES = ("meta.json.new", "meta.spare")
SHARED_NAMES = ("events", "store.lock")
KINDS = ("fifo", "link", "dangling", "directory", "device")


def plant(path: Path, kind: str, precious: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(precious if kind == "link" else precious.with_name("nowhere"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """What is not ours, and stays as it is."""
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


def look_at(store: JobStore, job: Job) -> None:
    """Every verb that reads; each does it or says why not."""
    for verb in (
        job.status,
        job.spec,
        job.usage,
        job.tail,
        job.read,
        job.pause,
        job.resume,
        store.list,
        lambda: store.list(state="running"),
        store.events,
        lambda: store.prune(older_than=1e6),
        lambda: job.wait(timeout=0),
    ):
        with suppress(JobsupError, OSError):
            verb()


@pytest.fixture
def alarm() -> Iterator[None]:
    """Who hangs in open(2) is interrupted, and the test fails."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, *SHARED_NAMES])
def test_thing_planted_in_an_ended_job_is_not_followed(
    store: WatchedStore, precious: Path, name: str, kind: str
) -> None:
    job, healthy = put(store, ID, "train"), put(store, new_id())
    folder = store.root if name in SHARED_NAMES else job.dir.path
    plant(folder / name, kind, precious)

    look_at(store, job)

    assert healthy.status().outcome is Outcome.SUCCEEDED
    assert precious.read_text() == "precious"
    assert not precious.with_name("nowhere").exists()
    with suppress(OSError):  # a directory stays
        store.prune(keep=0)
    assert precious.read_text() == "precious"


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("kind", ["fifo", "link", "dangling", "device"])
@pytest.mark.parametrize("name", [*NAMES, *MORE_NAMES, *SHARED_NAMES])
def test_thing_planted_under_a_live_monitor_does_not_stall_it(
    store: WatchedStore, gate: Gate, precious: Path, name: str, kind: str
) -> None:
    job = store.start(sleeper(gate), stdin=subprocess.PIPE, grace=0, timeout=1)
    gate.wait()
    monitor = job.status().monitor
    folder = store.root if name in SHARED_NAMES else job.dir.path
    plant(folder / name, kind, precious)
    try:
        eventually(lambda: ended_anyhow(job), "the job stopped at its time limit")
    finally:
        if name == "lock":
            kill_and_wait(monitor)

    assert precious.read_text() == "precious"
    assert not precious.with_name("nowhere").exists()


def ended_anyhow(job: Job) -> bool:
    """By the record, which a reader reaches in spite of a lock that is none."""
    with suppress(JobsupError, OSError):
        return job.dir.read_record().outcome is Outcome.TIMED_OUT
    return False


def test_link_in_place_of_a_job_is_none(store: WatchedStore, tmp_path: Path) -> None:
    real = put(JobStore(tmp_path / "elsewhere"), ID)
    put(store, new_id())
    (store.root / "jobs" / ID).symlink_to(real.dir.path)
    assert ID not in [job.id for job in store.list()]
    store.prune(keep=0)
    assert real.status().outcome is Outcome.SUCCEEDED


# -- a rogue at the control FIFO -------------------------------------------------

ROGUE = """
import os, signal, sys
signal.alarm(60)
path, what = sys.argv[1:]
fd = os.open(path, os.O_WRONLY)
data = {"garbage": b"x" * 65536, "newlines": b"\\n" * 65536, "half a line": b"x" * 100,
        "requests": b'{"verb":"resume"}\\n' * 3000, "nothing": b"", "zeros": bytes(65536)}[what]
written = 0
told = False
while written < (1 << 26) and what not in ("nothing", "half a line"):
    written += os.write(fd, data)
    if not told:
        told = True
        print("here", flush=True)
os.write(fd, data)
print("here", flush=True)
signal.pause()
"""


@contextmanager
def rogue(job: Job, what: str) -> Iterator[None]:
    """Somebody of the same user who holds the FIFO open and floods it, 64 MiB at most."""
    argv = [sys.executable, "-c", ROGUE, str(job.dir.control), what]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        try:
            yield
        finally:
            process.kill()


FLOODS = ["garbage", "newlines", "half a line", "requests", "nothing", "zeros"]


@pytest.mark.parametrize("what", FLOODS)
def test_flood_does_not_keep_the_monitor_from_the_clock(
    store: WatchedStore, gate: Gate, what: str
) -> None:
    job = store.start(sleeper(gate), timeout=1, grace=0)
    with rogue(job, what):
        assert job.wait(timeout=TIMEOUT).outcome is Outcome.TIMED_OUT
    assert job.dir.log.stat().st_size < 1 << 17 if job.dir.log.exists() else True


@pytest.mark.parametrize("what", FLOODS)
def test_flood_does_not_keep_anybody_from_cancelling(
    store: WatchedStore, gate: Gate, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("jobsup._control.ANSWER_SECONDS", 2.0)
    job = store.start(sleeper(gate), grace=0)
    gate.wait()
    with rogue(job, what):
        job.cancel()
        record = job.wait(timeout=TIMEOUT)
    assert (record.outcome, record.stop_cause) == (Outcome.CANCELLED, StopCause.CANCEL)


def test_half_a_line_spoils_nobody_else_s_request(store: WatchedStore, gate: Gate) -> None:
    job = store.start(sleeper(gate))
    gate.wait()
    with rogue(job, "half a line"):
        job.pause()
        assert job.status().state is JobState.PAUSED
        job.resume()
        assert job.status().state is JobState.RUNNING


def test_flood_does_not_keep_the_output_from_being_trimmed(store: WatchedStore, gate: Gate) -> None:
    body = """
for _ in range(200):
    os.write(1, b"x" * 100_000)
    time.sleep(0.002)
tell(sys.argv[1])
sleep()
"""
    job = store.start(python(body, gate.told), output_limit=1 << 20, grace=0)
    with rogue(job, "garbage"):
        gate.wait()
        eventually(lambda: job.dir.output.stat().st_blocks * 512 < 3 << 20, "the output trimmed")


# -- times that no system call takes -------------------------------------------


@pytest.mark.parametrize("longest", [30 * 86_400.0, 1e10, 1e300])
def test_no_time_is_too_long(store: WatchedStore, gate: Gate, longest: float) -> None:
    job = store.start(sleeper(gate), timeout=longest, output_limit=None)
    gate.wait()
    job.cancel(stop=f"WINCH {longest!r}, KILL")
    assert job.status().state is JobState.STOPPING
    kill_and_wait(job.status().command)
    record = job.wait(timeout=longest)
    assert (record.outcome, record.adoptions) == (Outcome.CANCELLED, 0)


# -- another user --------------------------------------------------------------

STRANGER = """
import os, sys
root, job_id = sys.argv[1:]
job = f"{root}/jobs/{job_id}"
for path in (root, f"{root}/jobs", job):
    for act in (os.listdir, lambda path: os.mkdir(f"{path}/mine")):
        try:
            act(path)
        except PermissionError:
            print("refused")
for name in ("meta.json", "spec.json", "output", "control", "lock"):
    for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK):
        try:
            os.close(os.open(f"{job}/{name}", flags))
        except PermissionError:
            print("refused")
"""


@pytest.mark.parametrize("mask", [0, 0o077])
def test_another_user_cannot_write_nor_read(
    store: WatchedStore, gate: Gate, tmp_path: Path, mask: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    before = os.umask(mask)
    try:
        job = store.start(sleeper(gate))
    finally:
        os.umask(before)
    gate.wait()
    home = tmp_path / "home"
    home.mkdir()
    for path in [store.root, *store.root.rglob("*")]:
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077 or "reply" in path.name, path
    # The stranger may search directories, to find the interpreter, but not write.
    refused = client(STRANGER, store.root, job.id, home=home).count("refused")
    assert refused >= 3 + 5
    assert job.status().state is JobState.RUNNING


def test_store_in_a_directory_of_another_user_s_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a directory away")
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(JobsupError, match="belongs to user 65534"):
        JobStore(tmp_path).start(["true"])
