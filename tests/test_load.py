"""Load, at the size of every day; `benchmarks.soak` runs the same at full size."""

from __future__ import annotations

import os
import random

import pytest
from clients import ClientPool
from conftest import WatchedStore
from load import at_once, hammer, in_a_row

SCALE = float(os.environ.get("JOBSUP_TEST_SCALE", "1"))

pytestmark = pytest.mark.timeout(120 + 240 * SCALE)


def test_many_jobs_at_once(store: WatchedStore) -> None:
    print(at_once(store, int(60 * SCALE)))


def test_many_processes_use_one_store(store: WatchedStore) -> None:
    with ClientPool() as pool:
        print(hammer(pool, store, processes=16, rounds=int(4 * SCALE), seed=random.randrange(1000)))


def test_many_jobs_in_a_row(store: WatchedStore) -> None:
    print(in_a_row(store, int(200 * SCALE)))
