"""What was asked for: `JobSpec`, and the checks of every argument. No I/O."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from jobsup._stopplan import (
    DEFAULT_STOP,
    ProcessIdentity,
    StopPlan,
    optional,
    optional_seconds,
)
from jobsup._typing import Any, ClassVar, Final, NoReturn
from jobsup._value import Value, fields_of

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

DEFAULT_OUTPUT_LIMIT: Final = 1 << 30
MIN_OUTPUT_LIMIT: Final = 64 * 1024
"""Holes are whole blocks of a file system, so less could not be kept."""


class Choice(enum.Enum):
    """An enum whose error says what was to be chosen from."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        what = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        words = ", ".join(repr(member.value) for member in cls)
        raise ValueError(f"{what} must be one of {words}, not {value!r}")


class Leftovers(Choice):
    """What becomes of descendants that outlive a command which exited by itself."""

    KILL = "kill"
    WAIT = "wait"
    LEAVE = "leave"


class Lifetime(Choice):
    """Whether the job outlives the process that started it."""

    PERSIST = "persist"
    OWNER = "owner"


class OnOutputLimit(Choice):
    """What happens when the output outgrows its limit."""

    TRIM = "trim"
    KILL = "kill"


class Stdin(Choice):
    """Where the command's standard input comes from."""

    NULL = "null"
    DATA = "data"
    FILE = "file"
    FIFO = "fifo"


def passable(what: str, *values: str) -> None:
    """Check that a system call can take the values; ValueError otherwise."""
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{what} must be text, not {value!r}")
        if "\0" in value:
            raise ValueError(f"{what} contains a NUL byte, which no system call takes: {value!r}")
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise ValueError(f"{what} cannot be encoded for the system: {value!r}") from None


def exactly(text: str) -> str:
    """Its characters alone, where it is of a subclass: an order carries nothing else."""
    return str.__str__(text)


def _argv(value: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"argv must be a list of strings, not the single string {value!r}; "
            'use ["program", "argument"] or ["bash", "-c", ...] for shell text'
        )
    try:
        words = tuple(exactly(os.fsdecode(word)) for word in value)
    except TypeError as error:
        raise TypeError(f"argv must be a list of strings: {error}") from None
    if not words or not words[0]:
        raise ValueError("argv is empty; its first word is the program to run")
    passable("argv", *words)
    return words


def _labels(value: Mapping[str, str] | None) -> dict[str, str]:
    labels = dict(value or {})
    for key, text in labels.items():
        if not isinstance(key, str) or not isinstance(text, str) or not key or "=" in key:
            raise ValueError(
                f"a label is a non-empty string without '=' and a string, not {key!r}: {text!r}"
            )
    if sum(len(key) + len(text) for key, text in labels.items()) > 4096:
        raise ValueError("labels are longer than 4096 characters together")
    return labels


def _env_names(value: Iterable[str]) -> tuple[str, ...]:
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not name or "=" in name:
            raise ValueError(
                f"an environment variable's name is non-empty and has no '=', not {name!r}"
            )
    passable("an environment variable's name", *names)
    return names


def _timeout(value: float | None) -> float | None:
    return optional_seconds(value, "timeout")


def _limit(value: int | None) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= MIN_OUTPUT_LIMIT):
        raise ValueError(
            f"output_limit must be None or a whole number of bytes >= {MIN_OUTPUT_LIMIT}, "
            f"not {value!r}"
        )
    return None if value is None else int(value)


class JobSpec(Value):
    """What was asked for, as `spec.json` keeps it. Seconds are float, sizes bytes.

    Raises:
        ValueError, TypeError: A field is wrong; the message says which and why.
    """

    argv: tuple[str, ...]
    name: str | None
    cwd: str | None
    """The command's working directory; None where the starter's own has no name."""
    env_names: tuple[str, ...]
    """Names of the overridden variables. Their values are kept nowhere."""
    clean_env: bool
    stdin: Stdin
    separate_stderr: bool
    timeout: float | None
    stop: StopPlan
    lifetime: Lifetime
    leftovers: Leftovers
    output_limit: int | None
    on_output_limit: OnOutputLimit
    labels: Mapping[str, str]
    owner: ProcessIdentity | None
    """Whose end ends the job, for ``lifetime="owner"``."""
    convert: ClassVar = {
        "argv": _argv,
        "env_names": _env_names,
        "stdin": Stdin,
        "timeout": _timeout,
        "stop": StopPlan.of,
        "lifetime": Lifetime,
        "leftovers": Leftovers,
        "output_limit": _limit,
        "on_output_limit": OnOutputLimit,
        "labels": _labels,
        "owner": optional(ProcessIdentity.of),
    }

    def __init__(
        self,
        argv: Sequence[str | bytes | os.PathLike[str]],
        name: str | None = None,
        cwd: str | None = None,
        env_names: Iterable[str] = (),
        clean_env: bool = False,
        stdin: Stdin | str = Stdin.NULL,
        separate_stderr: bool = False,
        timeout: float | None = None,
        stop: StopPlan | str = DEFAULT_STOP,
        lifetime: Lifetime | str = Lifetime.PERSIST,
        leftovers: Leftovers | str = Leftovers.KILL,
        output_limit: int | None = DEFAULT_OUTPUT_LIMIT,
        on_output_limit: OnOutputLimit | str = OnOutputLimit.TRIM,
        labels: Mapping[str, str] | None = None,
        owner: ProcessIdentity | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in fields_of(JobSpec)}
        super().__init__(**given)

    def _check(self) -> None:
        if self.name is not None and not (
            isinstance(self.name, str) and re.match(_NAME, self.name)
        ):
            raise ValueError(
                f"a job's name is 1 to 64 letters, digits, dots, dashes and underscores and "
                f"begins with a letter or digit, not {self.name!r}"
            )
        if self.cwd is not None:
            passable("cwd", self.cwd)
