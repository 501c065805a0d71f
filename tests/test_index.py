"""The index: whatever becomes of it, and whoever writes to it at once, it hides no job."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import pytest
from conftest import TIMEOUT, WatchedStore, host, put, run_host
from test_disks import left, read_only

from jobsup import JobStore, SpawnError, _index
from jobsup._jobdir import StoreDir
from jobsup._ulid import new_id

COUNT = 12
NAMES = [f"01m8263e42xq9v480e3fqrpt{number:02}" for number in range(COUNT)]
NEWEST = NAMES[::-1]


@pytest.fixture
def indexed(store: WatchedStore) -> WatchedStore:
    """A store of some ended jobs, all of which the index names."""
    StoreDir(store.root).create()
    for name in NAMES:
        put(store, name)
    _index.rebuild(str(store.root))
    assert named(store) == {*NAMES}
    return store


def named(store: JobStore) -> set[str] | None:
    """Whom the index names; None if it is not to be trusted."""
    lines = _index._read(str(store.root))
    return None if lines is None else {*_index._sorted_ids(lines)}


def index_of(store: JobStore) -> Path:
    return store.root / "index"


def listed(store: JobStore, limit: int = 1000) -> list[str]:
    return [job.id for job in store.list(limit=limit)]


@pytest.fixture
def no_directory(indexed: WatchedStore) -> Iterator[None]:
    """Nobody may read the names of all jobs."""

    def refuse(_: object) -> list[str]:
        raise AssertionError("the directory was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index, "_listed", refuse)
        patch.setattr(StoreDir, "ids", refuse)
        yield


@pytest.mark.usefixtures("no_directory")
def test_jobs_are_found_without_reading_the_directory(indexed: WatchedStore) -> None:
    assert listed(indexed, 3) == NEWEST[:3]
    assert listed(indexed) == NEWEST
    assert indexed.get("qrpt07").id == NAMES[7]
    with pytest.raises(LookupError, match=f"fits {COUNT} jobs") as caught:
        indexed.get("01m8263e")
    assert list(caught.value.candidates) == NAMES  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_directory")
def test_who_is_gone_or_entered_twice_is_listed_once_or_not(indexed: WatchedStore) -> None:
    _index.append(str(indexed.root), NAMES[2])
    _index.append(str(indexed.root), new_id())
    shutil.rmtree(indexed.root / "jobs" / NEWEST[1])
    assert listed(indexed, 2) == [NEWEST[0], NEWEST[2]]
    assert listed(indexed) == [NEWEST[0], *NEWEST[2:]]


@pytest.mark.usefixtures("no_directory")
def test_order_is_that_of_the_ids_whoever_came_first(indexed: WatchedStore) -> None:
    """The clock may have been set back, and starters overtake each other."""
    for old in ("01m8263e42xq9v480e3fqrpa00", "01m8263e42xq9v480e3fqrpt0z"):
        put(indexed, old)
        _index.append(str(indexed.root), old)
    assert listed(indexed) == sorted([*NAMES, "01m8263e42xq9v480e3fqrpa00", old], reverse=True)


# -- what may be wrong with it -------------------------------------------------


def _cut(path: Path) -> None:
    os.truncate(path, 50)


def _of_another_boot(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text[:17] + text[17:53][::-1] + text[53:])


def _copied(path: Path) -> None:
    """As a backup does, that then misses who came later."""
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def _half_built(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b" + ", b" - ")[:110])


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other_jobs(path: Path) -> None:
    """The directory was put there from a backup."""
    shutil.copytree(path.with_name("jobs"), path.with_name("restored"))
    shutil.rmtree(path.with_name("jobs"))
    path.with_name("restored").rename(path.with_name("jobs"))


DAMAGES: list[Callable[[Path], object]] = [
    Path.unlink,
    _cut,
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(os.urandom(4000)),
    lambda path: path.write_bytes(path.read_bytes().replace(b"index 1", b"index 2")),
    _of_another_boot,
    _copied,
    _half_built,
    _link,
    _fifo,
    _other_jobs,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_good_one_all_is_as_true(
    indexed: WatchedStore, damage: Callable[[Path], object]
) -> None:
    damage(index_of(indexed))
    assert named(indexed) is None
    assert listed(indexed, 3) == NEWEST[:3]
    assert indexed.get("qrpt07").id == NAMES[7]
    job = indexed.start(["true"])
    job.wait(timeout=TIMEOUT)
    assert listed(indexed) == [job.id, *NEWEST]
    indexed.prune()  # leaves a true one
    assert named(indexed) == {job.id, *NAMES}


@pytest.mark.parametrize("damage", DAMAGES)
def test_who_reads_many_makes_it_anew(
    indexed: WatchedStore, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_index, "_FEW", 3)
    damage(index_of(indexed))
    assert listed(indexed, 3) == NEWEST[:3]
    assert named(indexed) == {*NAMES}


def test_directory_in_its_place_is_told(indexed: WatchedStore) -> None:
    index_of(indexed).unlink()
    index_of(indexed).mkdir()
    assert listed(indexed) == NEWEST
    with pytest.raises(SpawnError, match="Is a directory"):
        indexed.start(["true"])
    indexed.prune()
    assert listed(indexed) == NEWEST


@pytest.mark.parametrize("garbage", [b"\n01m82", b"x" * 5000, b"\n" * 90, b"\0" * 27, b"\n\xff~"])
@pytest.mark.usefixtures("no_directory")
def test_garbage_in_it_hides_nobody(indexed: WatchedStore, garbage: bytes) -> None:
    with open(index_of(indexed), "ab") as file:
        file.write(garbage)
    late = put(indexed, new_id()).id
    _index.append(str(indexed.root), late)
    assert listed(indexed) == [late, *NEWEST]
    assert indexed.get(late[-6:]).id == late


def test_dead_lines_are_dropped(indexed: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of starts that failed, say."""
    monkeypatch.setattr(_index, "_FEW", 3)
    for _ in range(40):
        _index.append(str(indexed.root), new_id())
    assert listed(indexed, 2) == NEWEST[:2]
    assert named(indexed) == {*NAMES}
    for _ in range(40):
        _index.append(str(indexed.root), new_id())
    assert len(indexed.prune(keep=2).job_ids) == COUNT - 2
    assert named(indexed) == {*NEWEST[:2]}


def test_who_was_put_there_by_hand_is_entered_by_prune(indexed: WatchedStore) -> None:
    late = put(indexed, new_id()).id
    indexed.prune()
    assert listed(indexed) == [late, *NEWEST]
    assert named(indexed) == {late, *NAMES}


# -- disks and users -----------------------------------------------------------


def test_line_that_a_full_disk_cut_short_hides_no_other(
    tmpfs: Path, make_store: Callable[[Path], WatchedStore]
) -> None:
    small = make_store(tmpfs / "store")
    StoreDir(small.root).create()
    root = str(small.root)
    entered: list[str] = []

    def enter_many() -> None:
        while True:
            entered.append(new_id())
            _index.append(root, entered[-1])

    with left(tmpfs, 1):
        with pytest.raises(OSError, match="No space left"):
            enter_many()
        with pytest.raises(SpawnError, match="No space left"):
            small.start(["true"])
    _index.append(root, last := new_id())
    names = {*_index._sorted_ids(index_of(small).read_bytes())}
    assert {*entered[:-1], last} <= names


def test_store_that_cannot_be_written_is_read(
    tmpfs: Path, make_store: Callable[[Path], WatchedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_index, "_FEW", 1)
    small = make_store(tmpfs / "store")
    for name in NAMES[:3]:
        put(small, name)
    with read_only(tmpfs):
        assert listed(small) == NAMES[2::-1]
    assert not index_of(small).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what is another user's")
def test_store_of_another_user_is_let_alone(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_index, "_FEW", 1)
    for name in NAMES[:3]:
        put(store, name)
    os.chown(store.root, 12345, 12345)
    assert listed(store) == NAMES[2::-1]
    assert not index_of(store).exists()
    os.chown(store.root, 0, 0)


# -- at once -------------------------------------------------------------------

BEAR = """
from jobsup import _index
from jobsup._ulid import new_id
root, count = str(store.root), int(sys.argv[1])
for _ in range(count):
    job_id = new_id()
    os.mkdir(f"{root}/jobs/.{job_id}.new")
    _index.append(root, job_id)
    os.rename(f"{root}/jobs/.{job_id}.new", f"{root}/jobs/{job_id}")
    print(job_id, flush=True)
"""
REBUILD = """
import random, time
from jobsup import _index
while True:
    time.sleep(random.random() / 100)
    _index.rebuild(str(store.root))
"""


def test_nobody_is_lost_while_it_is_made_anew(indexed: WatchedStore) -> None:
    """Each of four who are born is there as soon as it is published, with two at the index."""
    builders = [subprocess.Popen(host(indexed, REBUILD), text=True) for _ in range(2)]
    births = [
        subprocess.Popen(host(indexed, BEAR, 400), stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        born, trusted = set(NAMES), 0
        for each in zip(*(birth.stdout or [] for birth in births), strict=True):
            born |= {line.strip() for line in each}
            names = named(indexed)
            trusted += names is not None
            assert names is None or born <= names
    finally:
        for process in [*births, *builders]:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
    assert len(born) == COUNT + 1600
    _index.rebuild(str(indexed.root))
    assert named(indexed) == born
    assert trusted


def test_killed_as_it_is_made_anew(indexed: WatchedStore) -> None:
    born = [*NAMES]
    chance = random.Random()
    for _ in range(12):
        builder = subprocess.Popen(
            host(indexed, "print(flush=True)" + REBUILD), stdout=subprocess.PIPE
        )
        with builder:
            assert builder.stdout
            builder.stdout.readline()
            time.sleep(chance.random() * 0.03)  # any moment will do
            builder.send_signal(SIGKILL)
        born.append(put(indexed, new_id()).id)
        _index.append(str(indexed.root), born[-1])
        assert named(indexed) in (None, {*born})
        assert listed(indexed) == sorted(born, reverse=True)
    _index.rebuild(str(indexed.root))
    assert named(indexed) == {*born}
    assert not (indexed.root / "index.new").exists()


def test_starts_and_prunes_at_once(store: WatchedStore) -> None:
    starter = "for _ in range(12): print(store.start(['true']).id)"
    pruner = "import time\nfor _ in range(30): store.prune(keep=3); time.sleep(0.01)"
    starters = [
        subprocess.Popen(host(store, starter), stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    pruners = [subprocess.Popen(host(store, pruner), text=True) for _ in "ab"]
    started = {job_id for each in starters for job_id in each.communicate(timeout=60)[0].split()}
    assert [each.wait(timeout=60) for each in [*starters, *pruners]] == [0] * 4
    assert len(started) == 24
    store.wait(store.list(), timeout=TIMEOUT)
    assert listed(store) == [job.id for job in store.list()]
    store.prune(keep=2)
    assert {*listed(store)} <= started
    assert named(store) is not None
    assert {*listed(store)} <= (named(store) or set())


def test_start_enters_the_job(indexed: WatchedStore) -> None:
    told = run_host(indexed, "job = store.start(['true']); job.wait(timeout=50); print(job.id)")
    assert named(indexed) == {told.strip(), *NAMES}
    with pytest.raises(SpawnError):
        indexed.start(["/no/such/program"])
    assert listed(indexed) == [told.strip(), *NEWEST]
