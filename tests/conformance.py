"""Run the MCP conformance suite against the server: ``python tests/conformance.py``.

Needs npm: it fetches the suite, and the Node.js that the suite wants, into a
directory (``--packages DIR`` keeps it). Prints one line for each scenario and
one for each check that did not pass; fails if that is not as `EXPECTED` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

SUITE: Final = "@modelcontextprotocol/conformance"
PACKAGES: Final = (f"{SUITE}@0.2.0-alpha.12", "node@22")

SCENARIOS: Final = (
    # Of any server. The others call tools and prompts of the suite's own that
    # show off features of an SDK, and have nothing to do with jobs.
    *("server-initialize", "server-session-lifecycle", "server-stateless", "ping"),
    *("tools-list", "resources-list", "resources-subscribe", "resources-unsubscribe"),
    *("prompts-list", "sep-2164-resource-not-found", "http-header-validation"),
    *("dns-rebinding-protection", "caching"),
    *("tasks-lifecycle", "tasks-capability-negotiation", "tasks-wire-fields"),
    *("tasks-request-state-removal", "tasks-mrtr-input", "tasks-request-headers"),
    *("tasks-dispatch-and-envelope", "tasks-status-notifications"),
    *("tasks-required-task-error", "tasks-mrtr-composition"),
)

EXPECTED: Final = {
    # No job ever asks its client for input, so these have no tool to call.
    "tasks-mrtr-input": "FAILURE",
    # The suite itself has not been written for the channel they now use.
    "tasks-status-notifications": "SKIPPED",
    # The tools and prompts of a server are fixed when it starts.
    "server-stateless": "WARNING",
}
"""The worst status of a check, where that is not SUCCESS."""

VERSIONS: Final = ("2025-06-18", "2025-11-25", "2026-07-28", "extension")
"""Of the protocol; each scenario is one of some of them, or of an extension."""

_WORST: Final = ("FAILURE", "SKIPPED", "WARNING")


@contextmanager
def server(store: str) -> Iterator[str]:
    """The address of a server on a store of its own."""
    script = Path(__file__).with_name("conformance_server.py")
    argv = [sys.executable, str(script), store]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def run(
    scenario: str, version: str, url: str, packages: Path, results: Path
) -> list[dict[str, Any]] | None:
    """The checks of one scenario; None if it is not one of that version."""
    modules = packages / "node_modules"
    argv = [str(modules / ".bin/node"), str(modules / SUITE / "dist/index.js"), "server"]
    argv += ["--url", url, "--scenario", scenario, "--output-dir", str(results)]
    if version != "extension":
        argv += ["--spec-version", version]
    elif not scenario.startswith("tasks-"):
        return None
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    found = list(results.glob(f"*{scenario}-*/checks.json"))
    if not found and ran.returncode == 0:
        return None
    if not found:
        raise SystemExit(f"{scenario}: no result\n{ran.stdout}\n{ran.stderr}")
    checks: list[dict[str, Any]] = json.loads(found[0].read_text())
    return checks


def report(scenario: str, version: str, checks: list[dict[str, Any]]) -> bool:
    """Print what came of it; whether it is what was expected."""
    counts = Counter(check["status"] for check in checks)
    worst = next((status for status in _WORST if counts[status]), "SUCCESS")
    if worst == "SKIPPED" and counts["SUCCESS"] and scenario not in EXPECTED:
        worst = "SUCCESS"  # a check that does not apply to us
    is_expected = worst == EXPECTED.get(scenario, "SUCCESS")
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    verdict = "as expected" if is_expected else "UNEXPECTED"
    print(f"{verdict:12} {version:10} {scenario:30} {summary}", flush=True)
    for check in checks:
        if check["status"] in _WORST:
            why = check.get("errorMessage") or check["description"]
            print(f"{'':12} - {check['status']} {check['id']}: {why}")
    return is_expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="where the suite is, or is to be kept")
    parser.add_argument("scenario", nargs="*", help="run only these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = options.packages or Path(scratch, "packages")
        if not (packages / "node_modules" / SUITE).exists():
            packages.mkdir(parents=True, exist_ok=True)
            npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(packages)]
            subprocess.run([*npm, *PACKAGES], check=True)
        results = Path(scratch, "results")
        with server(str(Path(scratch, "store"))) as url:
            passed = [
                report(scenario, version, checks)
                for version in VERSIONS
                for scenario in options.scenario or SCENARIOS
                if (checks := run(scenario, version, url, packages, results / version)) is not None
            ]
    print(f"{sum(passed)} of {len(passed)} scenarios as expected")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
