"""Who may import whom, who may ask what, and that the README's examples run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TIMEOUT, WatchedStore

import jobsup
from jobsup import _launch, _platform

PACKAGE = Path(jobsup.__file__).parent
README = Path(__file__).parent.parent / "README.md"

# A module imports only from what stands above it, and never across the two sides.
SHARED = [
    "_typing",
    "errors",
    "_ulid",
    "_value",
    "_stopplan",
    "_spec",
    "_model",
    "_lifecycle",
    "_ladder",
    "_libc",
    "_linux",
    "_portable",
    "_platform",
    "_identity",
    "_jobdir",
    "_index",
    "_imposed",
    "_control",
    "_layout",
    "_events",
    "_tree",
    "_strays",
]
MONITOR = [
    "_spawn",
    "_outputcap",
    "_ledger",
    "_birth",
    "_monitor",
    "_monitor_main",
    "_rehearsal",
    "_sharing",
    "_slices",
    "_board",
    "_spare",
    "_launcher",
]
HOST = [
    "_surroundings",
    "_hostend",
    "_launch",
    "_output",
    "_adopt",
    "_usage",
    "_wait",
    "_sweep",
    "_prune",
    "_start",
    "_job",
    "_jobs",
    "__init__",
]
COMMAND_LINE = [
    "_cli_views",
    "_cli_text",
    "_cli_follow",
    "_cli_options",
    "_cli_look",
    "_cli_start",
    "_cli_act",
    "_cli_commands",
    "cli",
    "__main__",
]
ORDER = [*SHARED, *MONITOR, *HOST, *COMMAND_LINE]

PURE = ["_value", "_stopplan", "_spec", "_model", "_lifecycle", "_ladder"]
PURE_IMPORTS = {
    "__future__",
    "collections",
    "datetime",
    "enum",
    "json",
    "math",
    "os",  # what turns a path into text
    "pathlib",
    "re",
    "signal",
    "typing",
    "typing_extensions",  # for type checkers alone
}

HOST_ONLY = ("attrs", "psutil", "filelock", "asyncio", "click", "rich")


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imports_of(module: str) -> set[str]:
    """Every name imported anywhere in it, wherever it stands: ``jobsup._model``, ``psutil``."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            names = {f"jobsup.{alias.name}" for alias in node.names}
            found |= names if node.module == "jobsup" else {node.module}
    return found


def ours(module: str) -> set[str]:
    """The modules of the package that it imports; ``__init__`` for a public name."""
    found = set()
    for name in imports_of(module):
        top, _, rest = name.partition(".")
        if top == "jobsup":
            found.add(rest if rest in ORDER else "__init__")
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == sorted(path.stem for path in PACKAGE.glob("*.py"))


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_only_from_above(module: str) -> None:
    above = set(ORDER[: ORDER.index(module)])
    assert ours(module) <= above


@pytest.mark.parametrize("module", SHARED + MONITOR)
def test_monitor_s_side_knows_nothing_of_the_host_s(module: str) -> None:
    assert not ours(module) & {*HOST, *COMMAND_LINE}
    heavy = {name.partition(".")[0] for name in imports_of(module)} & {*HOST_ONLY}
    if module == "_portable":  # where there is no /proc, psutil reads the process table
        heavy -= {"psutil"}
    assert not heavy


@pytest.mark.parametrize("module", SHARED + HOST)
def test_host_s_side_knows_nothing_of_the_monitor_s(module: str) -> None:
    assert not ours(module) & {*MONITOR}


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_command_line_uses_the_public_names(module: str) -> None:
    assert ours(module) <= {"__init__", *COMMAND_LINE}


@pytest.mark.parametrize("module", PURE)
def test_core_does_no_input_or_output(module: str) -> None:
    outside = {name.partition(".")[0] for name in imports_of(module)} - {"jobsup"}
    assert outside <= PURE_IMPORTS
    calls = {
        node.func.id
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def attributes(module: str) -> set[str]:
    """Dotted names that it uses, such as ``os.kill``."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


@pytest.mark.parametrize("module", sorted({*ORDER} - {"_platform"}))
def test_nobody_else_asks_for_the_platform(module: str) -> None:
    asked = attributes(module) & {"sys.platform", "os.name", "os.uname"}
    if module == "_libc":  # which asks for the machine: it decides the numbers of system calls
        asked -= {"os.uname"}
    assert not asked
    assert "platform" not in imports_of(module)


@pytest.mark.parametrize("module", sorted({*ORDER} - {"_identity"}))
def test_nobody_else_sends_signals(module: str) -> None:
    sent = attributes(module) & {"os.kill", "os.killpg", "signal.pidfd_send_signal"}
    if module in ("_linux", "_portable"):  # the handle through which _identity sends
        sent -= {"signal.pidfd_send_signal", "os.kill"}
    assert not sent


@pytest.mark.parametrize("entry", ["_monitor_main", "_launcher"])
def test_monitor_loads_nothing_that_it_does_not_need(entry: str) -> None:
    """What it imports is what a job costs."""
    boot = _launch._BOOT.replace("if os.fork():\n    os._exit(0)\n", "")
    boot = boot.replace("sys.modules[entry].main()\n", "print(*sys.modules)")
    words = [f"jobsup.{entry}", "", "", *_launch._import_paths()]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", boot, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "jobsup._monitor_main" in loaded
    assert not loaded & {*HOST_ONLY, "pathlib", "subprocess", "tempfile", "concurrent", "site"}
    assert not {f"jobsup.{name}" for name in (*HOST, *COMMAND_LINE)} & loaded


HOST_DOES_WITHOUT = {*HOST_ONLY, "concurrent", "dataclasses", "importlib.metadata", "inspect"}
HOST_DOES_WITHOUT |= {"logging", "tempfile"}
LIST_DOES_WITHOUT = {"attrs", "psutil", "filelock", "asyncio", "rich", "concurrent", "logging"}
LIST_DOES_WITHOUT |= {"tempfile", "jobsup._cli_act", "jobsup._cli_follow", "jobsup._cli_start"}


def loaded_by(program: str, **environment: str) -> set[str]:
    """The modules that a fresh interpreter holds after it: those of *program* alone.

    Of what the interpreter brings by itself, such as for a coverage measurement, nothing is said;
    nor of the portable monitor's side, which reads processes through psutil.
    """
    whole = f"import sys; before = {{*sys.modules}}\n{program}\n"
    whole += "print(*{*sys.modules} - before, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", whole],
        env={**os.environ, _platform.PORTABLE: "", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.split())


def test_import_loads_nothing_that_only_some_need() -> None:
    loaded = loaded_by("import jobsup")
    assert "jobsup._jobs" in loaded
    assert not loaded & HOST_DOES_WITHOUT


def test_list_loads_nothing_that_only_other_commands_need(store: WatchedStore) -> None:
    """To a pipe, that is; on a terminal rich draws the table."""
    store.start(["true"]).wait(timeout=TIMEOUT)
    program = """
from jobsup.cli import main
sys.argv = ["jobsup", "list"]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
"""
    loaded = loaded_by(program, JOBSUP_HOME=str(store.root))
    assert "jobsup._cli_look" in loaded
    assert not loaded & LIST_DOES_WITHOUT


# -- the README --------------------------------------------------------------


def examples() -> list[str]:
    if not README.exists():
        return []
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(examples())))
def test_example_of_the_readme_runs(store: WatchedStore, tmp_path: Path, number: int) -> None:
    """With a stand-in for the programs that it starts."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "python", "train"):
        (programs / name).write_text("#!/bin/sh\necho built\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "JOBSUP_HOME": str(store.root),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "import signal; signal.alarm(60)\n" + examples()[number],
        ],
        env=environment,
        cwd=tmp_path,
        check=True,
        timeout=90,
    )
