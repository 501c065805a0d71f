"""Play a scenario under fire in a fork, and look at what is left: the truth, or nothing.

Run as a program: takes cases, one JSON line each, on its standard input, and
answers each with a line. It lives on from case to case, so that it is the
fresh process that looks when another has been killed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import faulty
from conftest import eventually, files_in
from scenarios import CODE, SCENARIOS, Scene

from jobsup import (
    Job,
    JobRecord,
    JobState,
    JobsupError,
    Outcome,
    _control,
    _launch,
    _libc,
    _linux,
    _sweep,
)
from jobsup._identity import identify, send_verified
from jobsup._jobdir import JobDir, StoreDir
from jobsup._platform import environ_of, processes

HANG_SECONDS: Final = 40
_MARK: Final = "LC_JOBSUP_TEST"  # of the kind that monitors and launchers keep


class Inspection:
    """What a fresh process finds when it is all over."""

    def __init__(self, scene: Scene, case: dict[str, Any], report: dict[str, Any] | None) -> None:
        self._scene = scene
        self._store = scene.store
        self._case = case
        self._report = report
        self._was_killed = case.get("action", "").startswith("kill") or case["scenario"] in (
            "settled",
            "pruned",
        )
        self._fired_pid = int(text) if (text := _read(case["fired"])) else None
        self.wrong: list[str] = list(report["wrong"]) if report else []

    def hold(self) -> None:
        directory = StoreDir(self._store.root)
        if not directory.jobs.is_dir():
            self._is_usable()
            return
        self._expects(
            lambda: all(map(_is_free, map(JobDir, directory.jobs.glob(".*.new")))),
            "half-born jobs that nobody holds",
        )
        if self._report and self._case["scenario"] != "owned":
            started = {job.id for job in self._store.list()}
            if more := started - set(self._report["started"]):
                self.wrong.append(f"start() raised, and left {more}")
        # A monitor whose host was killed may come to its directory only now.
        self._expects(lambda: self._sweeps(directory), "prune leaves nothing half-born")
        jobs = self._store.list()
        records = [self._ended(job) for job in jobs]
        if self._case["scenario"] == "left_alone":
            self._scene.let_go()
        self._expects(lambda: not living(self._scene.mark), "no process left", living_of=True)
        self._store.prune()
        if left := os.listdir(directory.active):
            self.wrong.append(f"markers left: {left}")
        for job in jobs:
            self._expects(partial(_is_free, job.dir), f"the lock of {job.id} free")
        self._check_feed([record for record in records if record])
        self._is_usable()

    def _sweeps(self, directory: StoreDir) -> bool:
        self._store.prune()
        return not any(name.startswith(".") for name in os.listdir(directory.jobs))

    def _expects(
        self, condition: Callable[[], bool], what: str, *, living_of: bool = False
    ) -> None:
        try:
            eventually(condition, what, timeout=15)
        except AssertionError as error:
            more = f": {describe(self._scene.mark)}" if living_of else ""
            self.wrong.append(f"{error}{more}")

    def _ended(self, job: Job) -> JobRecord | None:
        try:
            record = job.status()
            if record.state is not JobState.ENDED and self._scene.over.exists():
                with suppress(JobsupError):  # it ends by itself, but for what it left behind
                    record = job.wait(timeout=0 if self._case["scenario"] == "waited_for" else 10)
            if record.state is not JobState.ENDED:
                job.cancel(grace=0)
                record = job.wait(timeout=20)
        except Exception:
            self.wrong.append(f"{job.id}: {traceback.format_exc()}")
            return None
        if untrue := self._untruth(record):
            self.wrong.append(f"{untrue}: {record}")
        log = _read(job.dir.log)
        # Before its loop a monitor that gets no descriptor dies, and is replaced.
        if "Traceback" in log and "monitor = Monitor(job, wakeup)" not in log:
            self.wrong.append("its monitor died of an error: " + log[log.index("Traceback") :])
        return record

    def _untruth(self, record: JobRecord) -> str | None:
        says = (record.exit_code, record.signal)
        lone = self._case["scenario"] in ("pruned", "fed", "not_found")
        was_over = self._scene.over.exists() or lone
        killed_us = record.command is not None and record.command.pid == self._fired_pid
        if record.exit_code is not None:
            if record.exit_code != CODE:
                return "an exit code that no command has"
            if not was_over:
                return "an exit code, of a command that did not exit"
        if record.signal is not None and not (
            record.stop_cause or killed_us or self._case["scenario"] in ("settled", "pruned")
        ):
            return "killed, and nobody did it"
        if says == (None, None):
            if record.outcome is not Outcome.LOST:
                return "no exit status, and not lost"
            if not self._was_killed:
                return "lost, though nobody was killed"
        elif record.outcome is Outcome.LOST:
            return "lost, with an exit status"
        return None

    def _check_feed(self, records: list[JobRecord]) -> None:
        page = self._store.events()
        counts = Counter((event.job_id, event.sequence) for event in page.events)
        if doubles := [event for event, count in counts.items() if count > 1]:
            self.wrong.append(f"events told twice: {doubles}")
        told = {event.job_id: event.exit_code for event in page.events if event.exit_code}
        if forgotten := [r for r in records if told.get(r.job_id, r.exit_code) != r.exit_code]:
            self.wrong.append(f"an exit code that was on record is no more: {forgotten}")
        ended = {event.job_id for event in page.events if event.state is JobState.ENDED}
        missing = [record.job_id for record in records if record.job_id not in ended]
        if missing and self._case.get("action", "").startswith(
            "kill"
        ):  # else the disk refused the line
            self.wrong.append(f"the feed does not tell of the end of {missing}")

    def _is_usable(self) -> None:
        try:
            job = self._store.start(["true"])
            record = job.wait(timeout=20)
            if record.outcome is not Outcome.SUCCEEDED:
                self.wrong.append(f"another job failed: {record}")
            eventually(
                lambda: self._store.prune(keep=0) and not files_in(self._store), "all pruned", 10
            )
        except Exception:
            left = files_in(self._store)
            self.wrong.append(f"the store is not usable ({left}): {traceback.format_exc()}")
        more = {*os.listdir(self._store.root)} - {"jobs", "active", "events", "index", "store.lock"}
        if more:
            self.wrong.append(f"left in the root: {more}")


def _is_free(job_dir: JobDir) -> bool:
    try:
        return not job_dir.is_held()
    except FileNotFoundError:
        return True


def _read(path: str | Path) -> str:
    with suppress(FileNotFoundError):
        return Path(path).read_text()
    return ""


def living(mark: str) -> list[int]:
    wanted = f"{_MARK}={mark}\0".encode()
    return [row.pid for row in processes() if not row.is_zombie and wanted in environ_of(row.pid)]


def describe(mark: str) -> str:
    told = []
    for pid in living(mark):
        words = _read(f"/proc/{pid}/cmdline").replace("\0", " ")[-100:]
        told.append(f"{pid} {words!r} in {_read(f'/proc/{pid}/wchan')}")
    return "; ".join(told)


def kill_living(mark: str) -> None:
    for pid in living(mark):
        if identity := identify(pid):
            send_verified(identity, signal.SIGKILL)


# -- one case ------------------------------------------------------------------


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Play the case's scenario in a fork of this process, and look at what is left."""
    folder = Path(case["folder"])
    folder.mkdir()
    case["fired"] = str(folder / "fired")
    scene = Scene(folder)
    os.environ[_MARK] = scene.mark
    report_read, report_write = os.pipe()
    player = os.fork()
    if player == 0:
        _play(scene, case, report_write)
    os.close(report_write)
    report, hung = _wait_for(player, report_read)
    os.close(report_read)
    wrong = []
    if hung:
        wrong.append(f"the scenario hung: {_read(folder / 'hang')}")
    elif report is None and not case.get("action", "").startswith("kill"):
        wrong.append("the scenario died")
    try:
        inspection = Inspection(scene, case, report)
        inspection.hold()
        wrong += inspection.wrong
    except Exception:
        wrong.append(traceback.format_exc())
    kill_living(scene.mark)
    scene.gate.close()
    fired = bool(_read(case["fired"]))
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return {"wrong": wrong, "fired": fired, "raised": report["raised"] if report else []}


def _play(scene: Scene, case: dict[str, Any], out: int) -> None:
    """In the fork: the scenario, under fire."""
    try:
        os.setsid()
        hang = open(scene.folder / "hang", "w")  # noqa: SIM115 - for the rest of our life
        faulthandler.dump_traceback_later(HANG_SECONDS - 10, file=hang)
        signal.alarm(HANG_SECONDS + 20)
        plan: dict[str, Any] = {
            key: case.get(key) for key in ("package", "calls", "fired", "trace")
        }
        plan["point"], plan["action"] = case.get("point"), case.get("action", "")
        scene.breaks_unlink = ".unlink@_jobdir" in (plan["point"] or "")
        _launch._BOOT = _boot({**plan, "role": "monitor"})  # type: ignore[misc]
        _control.ask.__defaults__ = (3.0,)
        _sweep._BIRTH_SECONDS = -1.0  # type: ignore[misc]
        _libc._libc.cache_clear()
        _linux.boot_id.cache_clear()
        _linux._shift_ticks.cache_clear()
        scene.plan = faulty.Plan(**plan, role="host")
        scene.plan.install()
        SCENARIOS[case["scenario"]](scene)
        os.write(out, json.dumps(scene.report()).encode())
    except BaseException:
        scene.wrong.append(traceback.format_exc())
        os.write(out, json.dumps(scene.report()).encode())
    finally:
        os._exit(0)


def _boot(plan: dict[str, Any]) -> str:
    """The text that becomes a monitor, with the plan installed at its very beginning."""
    source = Path(faulty.__file__)
    prelude = (
        "import types as _t; _m = _t.ModuleType('faulty'); "
        f"exec(compile(open({str(source)!r}).read(), {str(source)!r}, 'exec'), _m.__dict__); "
        f"_m.Plan(**{plan!r}).install()"
    )
    assert _launch._BOOT.startswith("\n")  # so that its lines keep their numbers
    return prelude + _launch._BOOT


def _wait_for(player: int, report: int) -> tuple[dict[str, Any] | None, bool]:
    """What it reported, None if it was killed; and whether it had to be."""
    data = b""
    pidfd = os.pidfd_open(player)
    hung = not select.select([pidfd], [], [], HANG_SECONDS)[0]
    if hung:
        os.kill(player, signal.SIGKILL)
    os.waitpid(player, 0)
    os.close(pidfd)
    os.set_blocking(report, False)
    with suppress(BlockingIOError):
        data = os.read(report, 1 << 20)
    return (json.loads(data) if data else None), hung


def main() -> None:
    _sweep._BIRTH_SECONDS = -1.0  # type: ignore[misc]
    for line in sys.stdin:
        signal.alarm(110)
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
