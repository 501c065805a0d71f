"""What a launcher and its monitors write for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from jobsup._board import Board


@pytest.fixture(params=["memfd_create", "TemporaryFile"])
def board(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    if request.param == "TemporaryFile":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("there is no memfd_create(2)")
    board = Board()
    yield board
    board.close()


def test_place_has_its_last_job(board: Board) -> None:
    assert board.look(3) is None
    board.put(3, "/" + "long/" * 700, "first")
    board.put(2, "/other", "another")
    board.put(3, os.fsdecode(b"/\xff"), "second")

    assert board.look(3) == (os.fsdecode(b"/\xff"), "second")
    assert board.look(2) == ("/other", "another")


def test_cleared_place_has_none(board: Board) -> None:
    board.put(1, "/root", "job")
    board.clear(1)

    assert board.look(1) is None


def test_short_slices_are_allowed_to_all_who_have_it(board: Board) -> None:
    board.put(1, "/root", "job")
    assert not board.allows_short_slices()
    pid = os.fork()
    if not pid:
        board.allow_short_slices()
        os._exit(0)
    os.waitpid(pid, 0)

    assert board.allows_short_slices()
    assert board.look(1) == ("/root", "job")


def test_command_gets_none_of_it(board: Board) -> None:
    assert not os.get_inheritable(board.fd)
