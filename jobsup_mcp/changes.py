"""What changed in the store, for those who watch it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import anyio

from jobsup import JobStore, JobsupError
from jobsup_mcp.desk import ACTIVE

_LOOK_SECONDS: Final = 0.5


def job_uri(job_id: str) -> str:
    return f"job://{job_id}"


def output_uri(job_id: str) -> str:
    return f"job://{job_id}/output"


class Watch:
    """What the store looked like at the last look."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._cursor = 0
        self._known: set[str] = set()
        self._sizes: dict[str, int] = {}
        self.look()

    def look(self) -> tuple[set[str], bool]:
        """URIs of what changed since the last look, and whether there are new jobs."""
        changed: set[str] = set()
        is_new = False
        while (page := self._store.events(self._cursor)).events:
            self._cursor = page.cursor
            for event in page.events:
                changed.add(job_uri(event.job_id))
                is_new |= event.job_id not in self._known
                self._known.add(event.job_id)
        sizes = {}
        for job in self._store.list(state=ACTIVE):
            with suppress(JobsupError, OSError):
                sizes[job.id] = job.status().output_bytes
        for job_id in sizes.keys() | self._sizes.keys():
            # Gone from the active ones: it ended, and may have written until then.
            if sizes.get(job_id) != self._sizes.get(job_id, 0):
                changed.add(output_uri(job_id))
        self._sizes = sizes
        return changed, is_new

    async def changes(self) -> AsyncIterator[tuple[set[str], bool]]:
        """Each look that found something, for ever.

        The one loop here that polls: output is a plain file, which wakes
        nobody, and so is the feed of state changes.
        """
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            changed, is_new = self.look()
            if changed:
                yield changed, is_new
