"""Frozen classes of values, for what a monitor imports.

attrs does this better, and serves where nobody waits for it. Here it costs
25 ms to import and 0.7 ms a class, twice what all the rest of a monitor takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobsup._typing import Any, ClassVar, NoReturn, TypeVar, dataclass_transform

_V = TypeVar("_V", bound="Value")
Converter = Callable[[Any], Any]


@dataclass_transform(frozen_default=True)
class Value:
    """Frozen, and compared by its fields: the annotated names of the class, in order.

    `convert` names what makes a field's value of what was given for it, or
    raises ValueError or TypeError.
    """

    convert: ClassVar[Mapping[str, Converter]] = {}
    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _converters: ClassVar[tuple[tuple[str, Converter, bool], ...]] = ()
    """With each whether None is taken as it is: it is the default. Most of a record is none."""

    def __init_subclass__(cls) -> None:
        own = [name for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)]
        cls._names = (*cls._names, *(name for name in own if name not in cls._names))
        given = {name: cls.__dict__[name] for name in own if name in cls.__dict__}
        cls._defaults = {**cls._defaults, **given}
        cls._converters = tuple(
            (name, convert, cls._defaults.get(name, ...) is None)
            for name, convert in cls.convert.items()
        )

    def __init__(self, *values: Any, **fields: Any) -> None:
        names = self._names
        for name, value in zip(names, values, strict=False):
            if name in fields:
                raise TypeError(f"{type(self).__name__} was given {name!r} twice")
            fields[name] = value
        if len(values) > len(names) or not fields.keys() <= set(names):
            unknown = sorted(fields.keys() - set(names)) or values[len(names) :]
            raise TypeError(f"{type(self).__name__} has no field for {unknown}")
        whole = {**self._defaults, **fields}
        try:
            whole = {name: whole[name] for name in names}
        except KeyError as missing:
            raise TypeError(f"{type(self).__name__} needs a {missing.args[0]!r}") from None
        for name, convert, may_be_none in self._converters:
            value = whole[name]
            if value is not None or not may_be_none:
                whole[name] = convert(value)
        self.__dict__.update(whole)
        self._check()

    def _check(self) -> None:
        """For a subclass: raise ValueError where the fields do not go together."""

    def __setattr__(self, name: str, _: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen; evolve() makes a changed copy")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


def evolve(value: _V, **changes: Any) -> _V:
    """A copy of *value* with some fields changed, of which alone the values are converted again."""
    unknown = changes.keys() - value.__dict__.keys()
    if unknown:
        raise TypeError(f"{type(value).__name__} has no field for {sorted(unknown)}")
    copy = object.__new__(type(value))
    copy.__dict__.update(value.__dict__)
    for name, change in changes.items():
        convert = value.convert.get(name)
        copy.__dict__[name] = convert(change) if convert else change
    copy._check()
    return copy


def fields_of(cls: type[Value]) -> tuple[str, ...]:
    """The names of its fields, in order."""
    return cls._names


def as_dict(value: Value) -> dict[str, Any]:
    """Its fields by name, nested ones as they are."""
    return dict(value.__dict__)
