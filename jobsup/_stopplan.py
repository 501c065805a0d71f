"""Signals, the plan by which a tree is stopped, and the identity of a process."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from signal import Signals

from jobsup._typing import ClassVar, Final, TypeVar
from jobsup._value import Converter, Value

_T = TypeVar("_T")


def whole(what: str) -> Converter:
    """A converter that takes an int, and no bool."""

    def check(value: object) -> object:
        if type(value) is not int and not isinstance(value, Signals):
            raise TypeError(f"{what} must be a whole number, not {value!r}")
        return value

    return check


def only(kind: type, what: str) -> Converter:
    """A converter that takes a *kind* as it is."""

    def check(value: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"{what} must be of type {kind.__name__}, not {value!r}")
        return value

    return check


def optional(convert: Converter) -> Converter:
    """What *convert* does, and None stays None."""
    return lambda value: None if value is None else convert(value)


def as_signal(number: int) -> int:
    """The `Signals` member where there is one; a real-time signal stays a number.

    Raises:
        ValueError: It is no signal of this system.
    """
    # 32 and 33 are the C library's own: nobody can send them by name, but a
    # command can die of them, and records say what happened.
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= 64:
        raise ValueError(f"no signal {number!r}")
    try:
        return Signals(number)
    except ValueError:
        return number


def parse_signal(word: str | int) -> int:
    """``"TERM"``, ``"sigterm"``, ``"15"`` or 15 as a signal number.

    Raises:
        ValueError: There is no such signal.
    """
    if isinstance(word, int) or word.isdigit():
        if int(word) in signal.valid_signals():
            return as_signal(int(word))
    else:
        name = word.upper()
        for candidate in (name, f"SIG{name}"):
            if candidate in Signals.__members__:
                return Signals[candidate]
    raise ValueError(f"no signal {word!r}; give a name such as TERM, or a number")


def signal_name(number: int) -> str:
    """``"TERM"`` for 15; a signal without a name is its number."""
    known = as_signal(number)
    return known.name.removeprefix("SIG") if isinstance(known, Signals) else str(known)


def seconds(value: float, what: str) -> float:
    """*value* as a finite, non-negative number of seconds, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{what} must be a finite number of seconds >= 0, not {value!r}")
    return float(value)


def optional_seconds(value: float | None, what: str) -> float | None:
    return None if value is None else seconds(value, what)


def nested(cls: type[_T], value: object) -> _T:
    """*value* as a *cls*: it is one, or the JSON object of one."""
    made = cls(**value) if isinstance(value, dict) else value
    if not isinstance(made, cls):
        raise TypeError(f"{value!r} is not a {cls.__name__}")
    return made


class ProcessIdentity(Value):
    """A process, not a pid: pids are reused, start tokens are not.

    *token* is opaque except to `jobsup._platform`: on Linux the boot id, the
    pid namespace, the start time (field 22 of proc_pid_stat(5)) and the inode
    of the pidfd, which since Linux 6.9 is unique for a boot.
    """

    pid: int
    token: str
    convert: ClassVar = {"pid": whole("pid"), "token": only(str, "token")}

    def _check(self) -> None:
        if self.pid < 1:
            raise ValueError(f"pid must be >= 1, not {self.pid}")

    @classmethod
    def of(cls, value: object) -> ProcessIdentity:
        """*value* itself, or the one that its JSON object describes."""
        return nested(cls, value)


def _grace(value: float) -> float:
    return seconds(value, "grace")


class StopStep(Value):
    """Send *signal*, then give the tree *grace* seconds."""

    signal: int
    grace: float
    convert: ClassVar = {"signal": parse_signal, "grace": _grace}

    def __init__(self, signal: int | str, grace: float = 0.0) -> None:
        super().__init__(signal, grace)

    @classmethod
    def of(cls, value: object) -> StopStep:
        """*value* itself, or the one that its JSON object describes."""
        return nested(cls, value)


def _steps(value: Iterable[object]) -> tuple[StopStep, ...]:
    return tuple(StopStep.of(step) for step in value)


class StopPlan(Value):
    """How to stop a tree: ask with each signal in turn, then SIGKILL.

    The last step, and only the last, is SIGKILL: without it nothing could be
    promised. ``StopPlan.parse("INT 5, TERM 10, KILL")`` reads the usual form.
    """

    steps: tuple[StopStep, ...]
    convert: ClassVar = {"steps": _steps}

    def __init__(self, steps: Iterable[object]) -> None:
        super().__init__(steps)

    def _check(self) -> None:
        kills = [at for at, step in enumerate(self.steps) if step.signal == Signals.SIGKILL]
        if kills != [len(self.steps) - 1]:
            raise ValueError("a stop plan ends with KILL and has it nowhere else")
        if any(step.signal in (Signals.SIGSTOP, Signals.SIGCONT) for step in self.steps):
            raise ValueError("SIGSTOP and SIGCONT stop nothing for good; use other signals")

    @classmethod
    def of(cls, value: object) -> StopPlan:
        """*value* itself, or what its text or JSON object describes."""
        return cls.parse(value) if isinstance(value, str) else nested(cls, value)

    @classmethod
    def with_grace(cls, grace: float) -> StopPlan:
        """SIGTERM, *grace* seconds, SIGKILL; zero kills at once."""
        kill = StopStep(Signals.SIGKILL)
        return cls((StopStep(Signals.SIGTERM, grace), kill) if seconds(grace, "grace") else (kill,))

    @classmethod
    def parse(cls, text: str) -> StopPlan:
        """Read ``"INT 5, TERM 10, KILL"``: signals with seconds, KILL last."""
        steps = []
        for part in text.split(","):
            word, _, grace = part.strip().partition(" ")
            try:
                steps.append(
                    StopStep(parse_signal(word), float(grace.strip().removesuffix("s") or 0))
                )
            except ValueError as error:
                raise ValueError(
                    f"bad step {part.strip()!r} in stop plan {text!r}: {error}; "
                    "write it like 'INT 5, TERM 10, KILL'"
                ) from None
        return cls(steps)

    @property
    def grace(self) -> float:
        """Seconds from the first signal to SIGKILL."""
        return sum(step.grace for step in self.steps)

    def __str__(self) -> str:
        return ", ".join(
            f"{signal_name(step.signal)} {step.grace:g}" if step.grace else signal_name(step.signal)
            for step in self.steps
        )


DEFAULT_STOP: Final = StopPlan.with_grace(10.0)


def stop_plan(stop: StopPlan | str | None, grace: float | None) -> StopPlan:
    """The plan that is meant, `DEFAULT_STOP` where neither is given."""
    if stop is not None and grace is not None:
        raise ValueError("give either grace or a whole stop plan, not both")
    if stop is not None:
        return StopPlan.of(stop)
    return DEFAULT_STOP if grace is None else StopPlan.with_grace(grace)
