"""Who in jobsup_mcp may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import jobsup
import jobsup_mcp

PACKAGE = Path(jobsup_mcp.__file__).parent
KNOW_THE_SDK = {"resources", "server", "tasks"}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_core_is_used_through_its_public_names() -> None:
    for path in PACKAGE.glob("*.py"):
        names = {name for name in imports_of(path) if name.startswith("jobsup.")}
        assert names <= {f"jobsup.{name}" for name in jobsup.__all__}, path.name


def test_sdk_is_known_in_few_places() -> None:
    roots = {
        path.stem: {name.split(".")[0] for name in imports_of(path)}
        for path in PACKAGE.glob("*.py")
    }
    assert {name for name, found in roots.items() if found & {"mcp", "mcp_types"}} == KNOW_THE_SDK


def test_importing_the_package_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import jobsup_mcp; print(*set(sys.modules) - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["jobsup_mcp"]
    assert jobsup_mcp.__all__ == ["main"]
