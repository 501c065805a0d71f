"""Forks clients: each takes verbs of the API over a socket and answers.  Run by `clients`."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from jobsup import Job, JobRecord, JobStore, JobsupError
from jobsup._model import to_json

LIFE_SECONDS = 110
"""Without a word from those that use it, each process ends by itself."""

# -- the verbs -------------------------------------------------------------------


def plain(record: JobRecord) -> str:
    return to_json(record).decode()


def start(store: JobStore, argv: list[str], **options: Any) -> str:
    return store.start(argv, **options).id


def get(store: JobStore, job: str) -> str:
    return store.get(job).id


def status(store: JobStore, job: str) -> str:
    return plain(store.get(job).status())


def cancel(store: JobStore, job: str, grace: float | None) -> None:
    store.get(job).cancel(grace=grace)


def pause(store: JobStore, job: str) -> None:
    store.get(job).pause()


def resume(store: JobStore, job: str) -> None:
    store.get(job).resume()


def send_signal(store: JobStore, job: str, signum: int) -> None:
    store.get(job).send_signal(signum)


def wait(store: JobStore, job: str, timeout: float) -> str:
    return plain(store.get(job).wait(timeout))


def wait_any(store: JobStore, jobs: list[str], timeout: float) -> list[str]:
    return [plain(record) for record in store.wait(jobs, mode="any", timeout=timeout).ended]


def read(store: JobStore, job: str) -> str:
    """The output so far, in small bites."""
    handle, cursor, text = store.get(job), 0, b""
    while data := (chunk := handle.read(cursor, 5)).data:
        cursor, text = chunk.cursor, text + data
    return text.decode()


def ids(store: JobStore) -> list[str]:
    return [job.id for job in store.list()]


def active_ids(store: JobStore) -> list[str]:
    return [job.id for job in store.list(state=("running", "paused", "stopping"))]


def prune(store: JobStore, keep: int) -> list[str]:
    return [*store.prune(keep=keep).job_ids]


cursors: dict[str, int] = {}


def events(store: JobStore) -> list[list[Any]]:
    """All that came since this process asked last, a few at a time."""
    found: list[list[Any]] = []
    cursor = cursors.get(str(store.root), 0)
    while (page := store.events(cursor, limit=7)).events:
        cursor = page.cursor
        found += [[event.job_id, event.sequence, event.state.value] for event in page.events]
    cursors[str(store.root)] = cursor
    return found


def hammer(store: JobStore, seed: int, rounds: int) -> dict[str, Any]:
    """Many verbs in a row, on the jobs of all who do the same; what became of our own."""
    dice = random.Random(seed)
    ended: dict[str, str] = {}
    codes: dict[str, int] = {}
    looks = 0
    for _ in range(rounds):
        code = dice.randrange(3)
        job = store.start(["sh", "-c", f"exit {code}"], labels={"by": str(seed)})
        codes[job.id] = code
        looks += _look_around(store, dice)
        ended[job.id] = plain(job.wait(timeout=LIFE_SECONDS))
    return {"codes": codes, "ended": ended, "looks": looks}


def _look_around(store: JobStore, dice: random.Random) -> int:
    """A few looks at jobs, most of them started by others."""
    jobs = store.list(limit=20)
    looks: Any = [Job.status, Job.tail, Job.cancel, Job.spec, Job.read]
    chosen = dice.choices(looks, k=3)
    for look in chosen:
        if not jobs:
            break
        job = dice.choice(jobs)
        if look is Job.cancel and job.status().state.value != "ended":
            continue  # it is another's, who wants to see its own exit code
        look(job)
    store.list(state="running")
    store.events(limit=100)
    return len(chosen) + 2


VERBS: dict[str, Callable[..., Any]] = {
    verb.__name__: verb
    for verb in (
        *(start, get, status, cancel, pause, resume, send_signal, wait, wait_any),
        *(read, ids, active_ids, prune, events, hammer),
    )
}

# -- the process -----------------------------------------------------------------


def answer(line: str) -> dict[str, Any]:
    order = json.loads(line)
    arguments = order["arguments"]
    try:
        return {"value": VERBS[order["verb"]](JobStore(arguments.pop("root")), **arguments)}
    except JobsupError as error:
        return {"error": type(error).__name__, "text": str(error)}
    except Exception as error:
        return {"error": type(error).__name__, "text": traceback.format_exc()}


def serve(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.alarm(LIFE_SECONDS)
    with suppress(BrokenPipeError, ConnectionResetError), connection:
        connection.sendall(b"%d\n" % os.getpid())
        for line in connection.makefile():
            signal.alarm(LIFE_SECONDS)
            connection.sendall(json.dumps(answer(line)).encode() + b"\n")
    os._exit(0)


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody has to reap the clients
    signal.alarm(LIFE_SECONDS)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            sys.exit()
        signal.alarm(LIFE_SECONDS)
        if os.fork() == 0:
            control.close()
            serve(socket.socket(fileno=fds[0]))
        os.close(fds[0])


if __name__ == "__main__":
    main()
