"""A job's directory: who may write, what a failed write leaves, what a reader refuses."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import raising

from jobsup import JobRecord, JobSpec, JobState, RecordError
from jobsup._jobdir import JobDir, StoreDir
from jobsup._model import to_json
from jobsup._value import evolve

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
ONE, TWO = "01m8263e42xq9v480e3fqrptp5", "01m8263ekahh70v6b1ddawbpjn"


@contextmanager
def locked(job_dir: JobDir) -> Iterator[int]:
    fd = job_dir.acquire()
    assert fd is not None
    try:
        yield fd
    finally:
        os.close(fd)


# -- records -----------------------------------------------------------------


def test_record_is_read_as_written(job_dir: JobDir, record: JobRecord) -> None:
    job_dir.write_record(record)
    assert job_dir.read_record() == record


def test_final_record_is_read_as_written(job_dir: JobDir, record: JobRecord) -> None:
    job_dir.write_record(record)
    job_dir.reserve_spare()
    ended = evolve(record, state=JobState.ENDED)
    job_dir.write_final_record(ended)
    assert job_dir.read_record() == ended
    assert not job_dir.spare.exists()


def test_final_record_needs_no_spare(job_dir: JobDir, record: JobRecord) -> None:
    """Somebody may have deleted it."""
    job_dir.write_final_record(record)
    assert job_dir.read_record() == record


def test_spare_has_its_blocks(job_dir: JobDir) -> None:
    job_dir.reserve_spare()
    status = job_dir.spare.stat()
    assert status.st_blocks * 512 >= status.st_size >= 4096
    job_dir.reserve_spare(for_survivors=True)
    status = job_dir.spare.stat()
    assert status.st_blocks * 512 >= status.st_size >= 16 * 1024


@pytest.mark.parametrize("reserved", [True, False])
def test_record_ahead_is_found_by_who_holds_the_one_before(
    job_dir: JobDir, record: JobRecord, reserved: bool
) -> None:
    job_dir.write_record(record)
    if reserved:
        job_dir.reserve_spare()
    assert job_dir.ahead_of(record) is None
    ahead = evolve(record, exit_code=7, sequence=record.sequence + 1)
    job_dir.write_ahead(ahead)
    assert job_dir.read_record() == record
    assert job_dir.ahead_of(record) == ahead
    assert job_dir.ahead_of(ahead) is None
    ended = evolve(ahead, state=JobState.ENDED, sequence=ahead.sequence + 1)
    job_dir.write_final_record(ended)
    assert job_dir.read_record() == ended
    assert job_dir.ahead_of(record) is None


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 4096, b"{", b'{"format":1}\n', b"garbage\n", "other"]
)
def test_damaged_record_ahead_is_none(
    job_dir: JobDir, record: JobRecord, damage: bytes | str
) -> None:
    if isinstance(damage, str):
        job_dir.write_ahead(evolve(record, job_id="0" * 26, sequence=9))
    else:
        job_dir.spare.write_bytes(damage)
    assert job_dir.ahead_of(record) is None


def test_final_record_that_the_power_cut_off_from_its_name(
    job_dir: JobDir, record: JobRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_dir.write_record(record)
    job_dir.reserve_spare()
    ended = evolve(record, state=JobState.ENDED, sequence=record.sequence + 1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", raising(NO_SPACE))
        with pytest.raises(OSError, match="No space left"):
            job_dir.write_final_record(ended)
    ahead = job_dir.ahead_of(job_dir.read_record())
    assert ahead == ended
    job_dir.write_final_record(ahead)
    assert job_dir.read_record() == ended


def test_spec_is_read_as_written(job_dir: JobDir) -> None:
    spec = JobSpec(["ls", "caf\udce9"], labels={"a": "b"})
    job_dir.write_spec(to_json(spec))
    assert job_dir.read_spec() == spec


@pytest.mark.parametrize("call", ["open", "write", "replace"])
def test_failed_write_keeps_the_previous_record(
    job_dir: JobDir, record: JobRecord, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job_dir.write_record(record)
    with monkeypatch.context() as broken:
        broken.setattr(os, call, raising(NO_SPACE))
        with pytest.raises(OSError, match="No space left"):
            job_dir.write_record(evolve(record, state=JobState.ENDED))

    assert job_dir.read_record() == record
    assert not list(job_dir.path.glob("*.new"))


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fdatasync", "replace"])
def test_failed_final_write_keeps_the_previous_record(
    job_dir: JobDir, record: JobRecord, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job_dir.write_record(record)
    job_dir.reserve_spare()
    ended = evolve(record, state=JobState.ENDED)
    with monkeypatch.context() as broken:
        broken.setattr(os, call, raising(NO_SPACE))
        with pytest.raises(OSError, match="No space left"):
            job_dir.write_final_record(ended)

    assert job_dir.read_record() == record
    job_dir.write_final_record(ended)  # the monitor tries again for a while
    assert job_dir.read_record() == ended


def test_short_writes_are_completed(
    job_dir: JobDir, record: JobRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pwrite = os.write, os.pwrite
    with monkeypatch.context() as slow:
        slow.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
        slow.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:7]), at))
        job_dir.write_record(record)
        assert job_dir.read_record() == record
        job_dir.write_final_record(record)
    assert job_dir.read_record() == record


def test_reader_never_sees_a_torn_record(job_dir: JobDir, record: JobRecord) -> None:
    long = evolve(record, note="x" * 20_000)
    job_dir.write_record(record)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            job_dir.write_record(long)
            job_dir.write_record(record)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {job_dir.read_record().note for _ in range(1000)}
    finally:
        stop.set()
        writer.join()
    assert seen <= {None, long.note}


# -- what a reader refuses ---------------------------------------------------


def test_missing_record_is_a_missing_file(job_dir: JobDir) -> None:
    with pytest.raises(FileNotFoundError):
        job_dir.read_record()


def test_record_of_another_job_is_refused(job_dir: JobDir, record: JobRecord) -> None:
    job_dir.write_record(evolve(record, job_id=ONE))
    with pytest.raises(RecordError, match="another job"):
        job_dir.read_record()


def test_record_of_a_job_being_born_is_its_own(job_dir: JobDir, record: JobRecord) -> None:
    hidden = job_dir.store.unborn(record.job_id)
    hidden.path.mkdir()
    hidden.write_record(record)
    assert hidden.read_record() == record


def test_fifo_in_place_of_a_record_does_not_hang(job_dir: JobDir) -> None:
    os.mkfifo(job_dir.meta)
    with pytest.raises(RecordError, match="not a regular file"):
        job_dir.read_record()


def test_directory_in_place_of_a_record_is_refused(job_dir: JobDir) -> None:
    job_dir.meta.mkdir()
    with pytest.raises(RecordError, match="not a regular file"):
        job_dir.read_record()


def test_link_in_place_of_a_record_is_not_followed(
    job_dir: JobDir, record: JobRecord, tmp_path: Path
) -> None:
    job_dir.write_record(record)
    elsewhere = tmp_path / "elsewhere"
    job_dir.meta.rename(elsewhere)
    job_dir.meta.symlink_to(elsewhere)
    with pytest.raises(RecordError, match="symbolic link"):
        job_dir.read_record()


def test_giant_in_place_of_a_record_is_not_read(job_dir: JobDir) -> None:
    with open(job_dir.meta, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecordError, match="damaged"):
        job_dir.read_record()


# -- the lock ----------------------------------------------------------------


def test_lock_is_held_until_it_is_closed(job_dir: JobDir) -> None:
    with locked(job_dir):
        assert job_dir.is_held()
        assert job_dir.acquire() is None
    assert not job_dir.is_held()
    with locked(job_dir):
        pass


def test_two_who_look_do_not_see_each_other(
    job_dir: JobDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(job_dir):
        pass
    seen = []
    close = os.close

    def look_again_first(fd: int) -> None:
        with monkeypatch.context() as plain:
            plain.setattr(os, "close", close)
            seen.append(job_dir.is_held())  # while the first probe still has its lock
        close(fd)

    with monkeypatch.context() as nested:
        nested.setattr(os, "close", look_again_first)
        seen.append(job_dir.is_held())
    assert seen == [False, False]


def test_acquire_waits_for_who_lets_go(job_dir: JobDir) -> None:
    fd = job_dir.acquire()
    assert fd is not None
    timer = threading.Timer(0.05, os.close, [fd])
    timer.start()
    later = job_dir.acquire(wait=10.0)
    timer.join()
    assert later is not None
    os.close(later)


def test_lock_is_not_inherited(job_dir: JobDir) -> None:
    with locked(job_dir) as fd:
        assert not os.get_inheritable(fd)


def test_lock_that_is_a_link_is_not_followed(job_dir: JobDir, tmp_path: Path) -> None:
    job_dir.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        job_dir.acquire()
    assert not (tmp_path / "elsewhere").exists()


# -- the store ---------------------------------------------------------------


def test_store_is_made_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = StoreDir(tmp_path / "deep" / "store")
        store.create()
        store.create()
        store.mark_active(ONE)
    finally:
        os.umask(before)
    for path in (store.root, store.jobs, store.active):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.active / ONE).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_store_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to user 65534"):
        StoreDir(tmp_path).create()


def test_ids_are_ordered_and_hidden_ones_are_not_among_them(tmp_path: Path) -> None:
    store = StoreDir(tmp_path)
    assert store.ids() == store.active_ids() == []
    store.create()
    for name in (TWO, f".{ONE}.new", f".{ONE}.del", ONE):
        (store.jobs / name).mkdir()
    assert store.ids() == [ONE, TWO]


def test_what_is_no_job_is_not_among_the_ids(tmp_path: Path) -> None:
    store = StoreDir(tmp_path)
    store.create()
    (store.jobs / "lost+found").mkdir()
    (store.jobs / "README").touch()
    (store.active / "README").touch()
    assert store.ids() == []
    assert store.active_ids() == []


def test_marks_come_and_go(tmp_path: Path) -> None:
    store = StoreDir(tmp_path)
    store.create()
    store.mark_active(TWO)
    store.mark_active(ONE)
    store.mark_active(ONE)
    assert store.active_ids() == [ONE, TWO]
    store.unmark_active(ONE)
    store.unmark_active(ONE)
    assert store.active_ids() == [TWO]


def test_removed_directory_spares_what_is_below_it(job_dir: JobDir, record: JobRecord) -> None:
    job_dir.write_record(record)
    job_dir.reserve_spare()
    job_dir.remove()
    assert not job_dir.exists()
    job_dir.remove()

    job_dir.path.mkdir()
    (job_dir.path / "mine").mkdir()
    (job_dir.path / "mine" / "precious").touch()
    job_dir.remove()
    assert (job_dir.path / "mine" / "precious").exists()
