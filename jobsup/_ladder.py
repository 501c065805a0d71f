"""Walking a stop plan: which signal is due, and when force begins. Pure."""

from __future__ import annotations

from jobsup._stopplan import StopPlan, StopStep


class Ladder:
    """A stop plan under way. Times are seconds of one monotonic clock."""

    def __init__(self, plan: StopPlan, now: float) -> None:
        self._steps = list(plan.steps)
        self._sent: set[int] = set()
        self.next_at = now
        """When the next step is due."""

    @property
    def is_forcing(self) -> bool:
        """The last step, SIGKILL, was taken."""
        return not self._steps

    @property
    def kill_at(self) -> float:
        return self.next_at + sum(step.grace for step in self._steps)

    def take(self, now: float) -> StopStep | None:
        """The step that is due, once."""
        if not self._steps or now < self.next_at:
            return None
        step = self._steps.pop(0)
        self._sent.add(step.signal)
        self.next_at = now + step.grace
        return step

    def shorten(self, plan: StopPlan, now: float) -> None:
        """Go on by *plan* if that kills sooner; a signal already sent is not sent again."""
        if self.is_forcing or now + plan.grace >= self.kill_at:
            return
        steps = list(plan.steps)
        self.next_at = now
        while steps[0].signal in self._sent:
            self.next_at += steps.pop(0).grace
        self._steps = steps
