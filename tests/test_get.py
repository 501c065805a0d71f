"""get(): a job by its id, by any unique part of it, or by its name; never outside the root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import sleeper
from conftest import TIMEOUT, Gate, WatchedStore, put

from jobsup import Job, JobNotFoundError

IDS = ["01m8263e42xq9v480e3fqrptp5", "01m8263ekahh70v6b1ddawbpjn", "01m8263et8vffyambtjra9kq8m"]


@pytest.fixture
def jobs(store: WatchedStore) -> list[Job]:
    return [put(store, job_id) for job_id in IDS]


@pytest.mark.parametrize("part", ["qrptp5", "tp5", "E42XQ", "xq9v480e3f", IDS[0], IDS[0].upper()])
def test_any_unique_part_finds_it(store: WatchedStore, jobs: list[Job], part: str) -> None:
    assert store.get(part) == jobs[0]


def test_short_form_that_people_see_finds_it(store: WatchedStore, jobs: list[Job]) -> None:
    for job in jobs:
        assert store.get(job.id[-6:]) == job


def test_part_that_fits_several_lists_them(store: WatchedStore, jobs: list[Job]) -> None:
    with pytest.raises(JobNotFoundError, match="fits 3 jobs") as caught:
        store.get("01m8263e")
    assert list(caught.value.candidates) == IDS
    for job_id in IDS:
        assert job_id in str(caught.value)


def test_many_candidates_are_counted(store: WatchedStore) -> None:
    for number in range(12):
        put(store, f"01m8263e42xq9v480e3fqrpt{number:02}")
    with pytest.raises(JobNotFoundError, match=r"fits 12 jobs .* and 2 more; give"):
        store.get("01m8263e42")


@pytest.mark.parametrize("part", ["zzzzzz", "nosuchname", IDS[0][:-1] + "0"])
def test_unknown_job(store: WatchedStore, jobs: list[Job], part: str) -> None:
    with pytest.raises(JobNotFoundError, match="no job") as caught:
        store.get(part)
    assert caught.value.job_id == part
    assert not caught.value.candidates


EVIL = [
    "",
    ".",
    "..",
    "/",
    "../jobs",
    f"../jobs/{IDS[0]}",
    f"./{IDS[0]}",
    f"{IDS[0]}/",
    f"{IDS[0]}/..",
    "/etc/passwd",
    "~",
    f".{IDS[0]}.new",
    f"{IDS[0]}\0",
    "\0",
    "x" * 5000,
    "*",
    "ü",
    "\udcff",
]


@pytest.mark.parametrize("part", EVIL, ids=lambda part: repr(part)[:40])
def test_nothing_leads_outside_the_root(store: WatchedStore, jobs: list[Job], part: str) -> None:
    hidden = put(store, IDS[0].replace("m", "n")).dir.path
    hidden.rename(hidden.with_name(f".{IDS[0]}.new"))
    with pytest.raises(JobNotFoundError):
        store.get(part)
    with pytest.raises(JobNotFoundError):
        store.wait([part], timeout=0)


@pytest.mark.parametrize("job_id", ["..", "../../elsewhere", "/elsewhere", "", "x\0"])
def test_handle_made_by_hand_does_not_lead_there_either(
    store: WatchedStore, tmp_path: Path, job_id: str
) -> None:
    put(store, IDS[0])
    elsewhere = put(WatchedStore(tmp_path / "other"), IDS[1]).dir.path
    elsewhere.rename(tmp_path / "elsewhere")
    with pytest.raises((JobNotFoundError, ValueError)):
        Job(job_id, store.root).status()


def test_empty_store(store: WatchedStore) -> None:
    with pytest.raises(JobNotFoundError, match="no job 'x'"):
        store.get("x")


# -- by name -----------------------------------------------------------------


def test_name_finds_the_newest_ended(store: WatchedStore) -> None:
    for job_id in IDS[:2]:
        put(store, job_id, "train")
    put(store, IDS[2], "other")
    assert store.get("train").id == IDS[1]


def test_name_finds_the_active_one_before_newer_ended_ones(store: WatchedStore, gate: Gate) -> None:
    active = store.start(sleeper(gate), name="train")
    store.start(["true"], name="train").wait(timeout=TIMEOUT)
    put(store, "7zzzzzzzzzzzzzzzzzzzzzzzzz", "train")
    assert store.get("train") == active


def test_name_of_two_active_jobs_lists_them(store: WatchedStore, gate: Gate) -> None:
    jobs = [store.start(sleeper(gate), name="train") for _ in range(2)]
    put(store, IDS[0], "train")
    with pytest.raises(JobNotFoundError, match="fits 2 jobs") as caught:
        store.get("train")
    assert list(caught.value.candidates) == [job.id for job in jobs]


def test_name_goes_before_a_part_of_an_id(store: WatchedStore) -> None:
    put(store, IDS[0])
    named = put(store, IDS[1], "tp5")
    assert store.get("tp5") == named


def test_names_differ_by_case(store: WatchedStore) -> None:
    put(store, IDS[0], "Train")
    assert store.get("Train").id == IDS[0]
    with pytest.raises(JobNotFoundError):
        store.get("train")


def test_damaged_spec_hides_no_other_name(store: WatchedStore) -> None:
    put(store, IDS[0], "train")
    put(store, IDS[1], "train").dir.spec.write_bytes(b"{")
    assert store.get("train").id == IDS[0]


def test_file_that_looks_like_a_job_is_none(store: WatchedStore) -> None:
    put(store, IDS[0])
    (store.root / "jobs" / IDS[1]).touch()
    with pytest.raises(JobNotFoundError):
        store.get(IDS[1]).status()


def test_link_out_of_the_root_is_not_a_job(store: WatchedStore, tmp_path: Path) -> None:
    """Whoever can make it there owns the store; all the same nothing is written elsewhere."""
    outside = put(WatchedStore(tmp_path / "other"), IDS[0])
    (store.root / "jobs").mkdir(parents=True)
    os.symlink(outside.dir.path, store.root / "jobs" / IDS[0])
    assert store.prune(keep=0).job_ids in ((), (IDS[0],))
    assert outside.status().exit_code == 0
