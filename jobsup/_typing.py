"""What a monitor's modules name of typing, which to import takes a tenth of a first start.

A type checker reads the real one. With ``from __future__ import annotations``
nothing of ours does, but for `NamedTuple`; `typing.get_type_hints` of our classes
lists their class variables, too.
"""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker takes it for true all the same

if TYPE_CHECKING:
    from typing import Any, ClassVar, Final, NamedTuple, NoReturn, Protocol, TypeVar

    from typing_extensions import dataclass_transform
else:
    from collections import namedtuple

    class _Name:
        """Something to be written in an annotation, or a base class that adds nothing."""

        def __init__(self, *_: object, **__: object) -> None:
            """As of a type variable."""

        def __class_getitem__(cls, _: object) -> type:
            return cls

    Any = ClassVar = Final = NoReturn = Protocol = TypeVar = _Name

    def dataclass_transform(**_: object):
        return lambda cls: cls

    class _Named(type):
        """Makes of a class of annotated fields what the real one does."""

        def __new__(mcs, name, bases, body):
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = body.get("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            base = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            return type(name, (base,), {"__slots__": (), **body})

    class NamedTuple(metaclass=_Named):
        pass


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "Final",
    "NamedTuple",
    "NoReturn",
    "Protocol",
    "TypeVar",
    "dataclass_transform",
]
