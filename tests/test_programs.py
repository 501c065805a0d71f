"""Real programs, from start to a cancel that leaves nothing of them."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from conftest import TIMEOUT, eventually, kill_and_wait
from guard import kill_users_of, users_of
from witnesses import client, still_there, tree_below

from jobsup import Job, JobRecord, JobState, JobStore, Outcome

GUARD = Path(__file__).with_name("guard.py")

START = """
import json, sys, jobsup
argv, how = json.loads(sys.argv[1])
print(jobsup.JobStore("store").start(argv, **how).id)
"""
RUN = "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
CANCEL = """
import sys, jobsup
job = jobsup.JobStore("store").get(sys.argv[1])
job.cancel()
job.wait(timeout=20)
"""


def program(name: str, package: str, also_in: str = "") -> str:
    """Where a program is; without it the test is skipped by its name."""
    path = shutil.which(name) or next(iter(sorted(glob.glob(f"{also_in}/{name}"))), None)
    if path is None:
        pytest.skip(f"needs {name} (Debian: {package})")
    return path


class Lair:
    """A directory with a short name, which all that a test runs works in, and a store in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = JobStore(path / "store")
        self.is_unprivileged = False
        """Whether the jobs are started and cancelled by a user without privileges."""
        self._elsewhere = Path(tempfile.mkdtemp(prefix="bystander-"))
        self._bystanders: list[subprocess.Popen[bytes]] = []

    def start(self, argv: list[str], **how: object) -> Job:
        """A job, and beside it a process of our own session by the same name as its program."""
        copy = shutil.copy(program("sleep", "coreutils"), self._elsewhere / Path(argv[0]).name)
        self._bystanders.append(subprocess.Popen([copy, "100"]))
        if self.is_unprivileged:
            order = json.dumps([argv, how])
            return self.store.get(client(START, order, home=self.path).strip())
        return self.store.start(argv, cwd=self.path, **how)  # type: ignore[arg-type]

    def cancel(self, job: Job) -> JobRecord:
        """Cancel, and see that it is true what the record then says."""
        before = job.status()
        tree = tree_below(before.monitor) - {before.monitor}
        if self.is_unprivileged:
            client(CANCEL, job.id, home=self.path)
        else:
            job.cancel()
        record = job.wait(timeout=TIMEOUT)
        self.check_gone(record)
        assert still_there(tree) == set()
        assert record.proved
        return record

    def check_gone(self, record: JobRecord) -> None:
        """No process works here any more, but the monitor may be on its way out."""
        assert record.monitor
        assert users_of(str(self.path)) - {record.monitor.pid} == set()
        assert self.bystanders_live()
        assert (record.state, record.survivors) == (JobState.ENDED, ())

    def bystanders_live(self) -> bool:
        return all(bystander.poll() is None for bystander in self._bystanders)

    def close(self) -> None:
        for bystander in self._bystanders:
            bystander.kill()
            bystander.wait()
        shutil.rmtree(self._elsewhere)
        shutil.rmtree(self.path)


@pytest.fixture
def lair() -> Iterator[Lair]:
    # Not in tmp_path: the name of a socket has 107 bytes at most.  unix(7)
    path = Path(tempfile.mkdtemp(prefix="jobsup-"))
    guard = subprocess.Popen([sys.executable, GUARD], stdin=subprocess.PIPE, text=True)
    assert guard.stdin
    guard.stdin.write(f"{path}\n")
    guard.stdin.flush()
    made = Lair(path)
    yield made
    try:
        eventually(lambda: not users_of(str(path)), "every process of the test has ended")
        assert made.bystanders_live(), "a bystander was hit"
    finally:
        kill_users_of(str(path))
        guard.communicate()
        made.close()


def printed(job: Job, pattern: str) -> re.Match[str]:
    """The first match in what the job wrote, once it is there."""

    def look() -> re.Match[str] | None:
        assert job.status().state is not JobState.ENDED, job.tail(50)
        return re.search(pattern, job.tail(200))

    match: re.Match[str] = eventually(look, f"{pattern} is printed", timeout=30)
    return match


def fetch(url: str) -> IO[bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    response: IO[bytes] = opener.open(url, timeout=TIMEOUT)
    return response


# -- make ----------------------------------------------------------------------

MAKEFILE = """
objects = $(patsubst %.c,%.o,$(wildcard *.c))
main: $(objects)
\tcc -o $@ $^
%.o: %.c
\tcc -c -o $@ $<
"""
FILES = 4


@pytest.fixture
def sources(lair: Lair) -> Lair:
    program("cc", "gcc")
    program("make", "make")
    (lair.path / "Makefile").write_text(MAKEFILE)
    calls = "".join(f"int f{n}(void); " for n in range(FILES))
    total = " + ".join(f"f{n}()" for n in range(FILES))
    (lair.path / "main.c").write_text(f"{calls}int main(void) {{ return {total}; }}\n")
    for n in range(FILES):
        (lair.path / f"f{n}.c").write_text(f'#include "f{n}.h"\nint f{n}(void) {{ return N; }}\n')
    return lair


def test_parallel_make_builds_a_program(sources: Lair) -> None:
    for n in range(FILES):
        (sources.path / f"f{n}.h").write_text(f"#define N {n}\n")

    job = sources.start(["make", "-j", str(FILES)])
    record = job.wait(timeout=60)

    assert record.outcome is Outcome.SUCCEEDED, job.tail()
    assert job.tail(100).count("cc -c") == FILES + 1
    assert subprocess.run([sources.path / "main"], check=False).returncode == sum(range(FILES))
    sources.check_gone(record)


def feeder(fifo: Path) -> int | None:
    """The write end, once somebody waits at the other."""
    with suppress(OSError):  # ENXIO
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def test_parallel_make_is_cancelled_amid_its_compilers(sources: Lair) -> None:
    # A header that is a FIFO without a writer: each compiler stays where we want it.
    headers = [sources.path / f"f{n}.h" for n in range(FILES)]
    for header in headers:
        os.mkfifo(header)
    job = sources.start(["make", "-j", str(FILES)])
    writers = [eventually(partial(feeder, header), "a compiler reads it") for header in headers]
    assert job.usage().processes > 2 * FILES  # make, and cc and cc1 for each

    record = sources.cancel(job)

    assert record.outcome is Outcome.CANCELLED
    assert not list(sources.path.glob("f*.o"))
    for writer in writers:
        os.close(writer)


# -- python -m http.server -----------------------------------------------------


def test_python_http_server(lair: Lair) -> None:
    (lair.path / "hello").write_text("here I am")
    argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]

    job = lair.start(argv)
    port = printed(job, r"port (\d+)")[1]
    with fetch(f"http://127.0.0.1:{port}/hello") as response:
        assert response.read() == b"here I am"
    printed(job, '"GET /hello HTTP/1.[01]" 200')
    record = lair.cancel(job)

    assert (record.outcome, record.signal) == (Outcome.CANCELLED, signal.SIGTERM)


# -- nginx ---------------------------------------------------------------------

NGINX = """
error_log error.log;
pid nginx.pid;
events {{ }}
http {{
    access_log access.log;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    server {{
        listen unix:{0}/socket;
        location / {{ return 200 "here I am"; }}
    }}
}}
"""


@pytest.fixture
def nginx(lair: Lair) -> list[str]:
    """nginx that puts itself in the background, with all that is its own in the lair."""
    path = program("nginx", "nginx-light", also_in="/usr/sbin")
    (lair.path / "nginx.conf").write_text(NGINX.format(lair.path))
    return [path, "-p", str(lair.path), "-e", "error.log", "-c", "nginx.conf"]


def says_hello(lair: Lair) -> bool:
    with socket.socket(socket.AF_UNIX) as browser:
        browser.settimeout(TIMEOUT)
        browser.connect(str(lair.path / "socket"))
        browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return browser.makefile("rb").read().endswith(b"here I am")


def detached(job: Job) -> JobRecord | None:
    record = job.status()
    return record if record.command_exited else None


def test_nginx_daemon_is_waited_for_and_cancelled(lair: Lair, nginx: list[str]) -> None:
    job = lair.start(nginx, leftovers="wait")
    record = eventually(lambda: detached(job), "nginx is in the background")

    assert (record.state, record.exit_code) == (JobState.RUNNING, 0)
    assert says_hello(lair)
    assert job.usage().processes >= 2  # master and worker
    record = lair.cancel(job)

    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 0)


def test_nginx_daemon_is_waited_for_until_it_quits(lair: Lair, nginx: list[str]) -> None:
    job = lair.start(nginx, leftovers="wait")
    eventually(lambda: detached(job), "nginx is in the background")
    assert says_hello(lair)

    subprocess.run([*nginx, "-s", "quit"], cwd=lair.path, check=True, timeout=TIMEOUT)
    record = job.wait(timeout=TIMEOUT)

    assert (record.outcome, record.proved) == (Outcome.SUCCEEDED, True)
    lair.check_gone(record)


def test_nginx_daemon_is_swept(lair: Lair, nginx: list[str]) -> None:
    job = lair.start(nginx)  # leftovers="kill"

    record = job.wait(timeout=TIMEOUT)

    assert (record.outcome, record.proved) == (Outcome.SUCCEEDED, True)
    lair.check_gone(record)


@pytest.mark.usefixtures("no_launcher")
def test_nginx_daemon_is_found_without_its_monitor(lair: Lair, nginx: list[str]) -> None:
    job = lair.start(nginx, leftovers="wait")
    record = eventually(lambda: detached(job), "nginx is in the background")
    kill_and_wait(record.monitor)

    assert job.status().state is JobState.RUNNING
    assert says_hello(lair)
    job.cancel()
    record = job.wait(timeout=TIMEOUT)

    lair.check_gone(record)
    assert (record.outcome, record.exit_code, record.proved) == (Outcome.CANCELLED, 0, False)


# -- PostgreSQL ----------------------------------------------------------------

DEBIAN = "/usr/lib/postgresql/*/bin"


@pytest.fixture
def postgres(lair: Lair) -> Lair:
    """A lair with a database cluster; PostgreSQL refuses to run as root."""
    lair.is_unprivileged = True
    initdb = program("initdb", "postgresql", DEBIAN)
    arguments = [initdb, "-D", "data", "-A", "trust", "-U", "somebody", "--no-sync"]
    client(
        "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)",
        *arguments,
        home=lair.path,
    )
    return lair


def connected(lair: Lair) -> socket.socket:
    """A session of our own with the server, which then has a backend process for it."""
    backend = socket.socket(socket.AF_UNIX)
    backend.settimeout(TIMEOUT)
    backend.connect(str(lair.path / ".s.PGSQL.5432"))
    words = b"\0\3\0\0user\0somebody\0database\0postgres\0\0"
    backend.sendall((len(words) + 4).to_bytes(4, "big") + words)
    assert backend.recv(1) == b"R"  # AuthenticationOk
    return backend


def server(lair: Lair) -> list[str]:
    path = program("postgres", "postgresql", DEBIAN)
    return [path, "-D", "data", "-k", str(lair.path), "-h", "", "-F"]


def test_postgres_is_cancelled_amid_a_session(postgres: Lair) -> None:
    job = postgres.start(server(postgres))
    printed(job, "ready to accept connections")
    with connected(postgres):
        record = postgres.cancel(job)

    assert record.outcome is Outcome.CANCELLED
    assert "database system is shut down" in job.tail(50)
    assert record.exit_code == 0


def test_postgres_daemon_is_waited_for_and_cancelled(postgres: Lair) -> None:
    pg_ctl = program("pg_ctl", "postgresql", DEBIAN)
    options = f"-k {postgres.path} -h '' -F"
    argv = [pg_ctl, "start", "-D", "data", "-l", "server.log", "-o", options]

    job = postgres.start(argv, leftovers="wait")
    record = eventually(lambda: detached(job), "the server is in the background", timeout=30)
    assert (record.state, record.exit_code) == (JobState.RUNNING, 0), job.tail()
    assert "server started" in job.tail()
    with connected(postgres):
        record = postgres.cancel(job)

    assert (record.outcome, record.exit_code) == (Outcome.CANCELLED, 0)
    assert "database system is shut down" in (postgres.path / "server.log").read_text()


# -- Chromium ------------------------------------------------------------------

CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)


def test_headless_chromium(lair: Lair) -> None:
    path = program("chromium", "chromium")
    profile = lair.path / "profile"
    profile.mkdir()
    (lair.path / "page.html").write_text("<title>here I am</title>")

    job = lair.start(
        [path, *CHROMIUM, f"--user-data-dir={profile}", f"file://{lair.path}/page.html"],
        env={"HOME": str(lair.path)},
    )
    port = printed(job, r"DevTools listening on ws://127\.0\.0\.1:(\d+)/")[1]

    def has_page() -> bool:
        with fetch(f"http://127.0.0.1:{port}/json/list") as response:
            return any(page["title"] == "here I am" for page in json.load(response))

    eventually(has_page, "the page is shown")
    assert job.usage().processes > 3  # browser, zygotes, renderer
    record = lair.cancel(job)

    assert record.outcome is Outcome.CANCELLED
