"""Dataclasses with keyword arguments, whose methods need no compiling.

`dataclasses` writes each method of a class as source text and compiles it. That would be nearly
half of the time in which a session imports the modules that start sandboxes. Here the classes share
methods that look at their fields. Functions of `dataclasses` know these classes.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Iterable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 -- for importers
else:

    def dataclass(*, kw_only: bool, frozen: bool = False) -> Callable[[type], type]:
        """Return the decorator of `dataclasses` for a class with keyword arguments."""
        if not kw_only:
            raise TypeError("the fields of a value are keyword arguments")
        return _frozen if frozen else _changeable


_PARAMETERS = "__dataclass_params__"
_FIELDS = "__gvisor_fields__"
_COMPARED, _HASHED = "__gvisor_compared__", "__gvisor_hashed__"
"""Attributes of a class that are functions: they return what ``==`` and `hash` look at."""


def _changeable(cls: type) -> Any:
    return _value(cls, frozen=False)


def _value(cls: type, *, frozen: bool) -> Any:
    gather = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, kw_only=True)
    above = [vars(base)[_PARAMETERS] for base in cls.__mro__[1:] if _PARAMETERS in vars(base)]
    if any(one.frozen is not frozen for one in above):
        raise TypeError("a value that can change and one that cannot are of no common class")
    # `dataclasses` compiles methods for a frozen class, so it gets none, and learns of it after.
    for one in above:
        one.frozen = False
    bare: Any = gather(cls)
    for one in (*above, vars(bare)[_PARAMETERS]):
        one.frozen = frozen
    fields = dataclasses.fields(bare)
    setattr(bare, _FIELDS, fields)
    setattr(bare, _COMPARED, _getter(field.name for field in fields if field.compare))
    hashed = (f.name for f in fields if (f.compare if f.hash is None else f.hash))
    setattr(bare, _HASHED, _getter(hashed))
    shared: dict[str, object] = {
        "__init__": _init,
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": None,
        "__signature__": _Signature(),
        "__match_args__": (),
    }
    for name, method in shared.items():
        if name not in bare.__dict__:
            setattr(bare, name, method)
    return bare


def _frozen(cls: type) -> Any:
    bare = _value(cls, frozen=True)
    if bare.__dict__["__hash__"] is None:
        bare.__hash__ = _hash
    names = frozenset(field.name for field in dataclasses.fields(bare))

    def set_attribute(self: Any, name: str, value: object) -> None:
        if type(self) is bare or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(bare, self).__setattr__(name, value)

    def delete_attribute(self: Any, name: str) -> None:
        if type(self) is bare or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(bare, self).__delattr__(name)

    bare.__setattr__, bare.__delattr__ = set_attribute, delete_attribute
    return bare


def _init(self: Any, /, **given: Any) -> None:
    values = self.__dict__
    for field in getattr(self, _FIELDS):
        name = field.name
        if name in given:
            values[name] = given.pop(name)
        elif field.default is not dataclasses.MISSING:
            values[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[name] = field.default_factory()
        else:
            raise TypeError(f"{type(self).__name__}() needs the keyword argument {name!r}")
    if given:
        name = next(iter(given))
        raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")


def _repr(self: Any) -> str:
    shown = (
        f"{field.name}={getattr(self, field.name)!r}"
        for field in getattr(self, _FIELDS)
        if field.repr
    )
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _getter(names: Iterable[str]) -> Callable[[object], object]:
    wanted = tuple(names)
    return operator.attrgetter(*wanted) if wanted else lambda _value: None


def _eq(self: Any, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    compared = getattr(self, _COMPARED)
    return compared(self) == compared(other)


def _hash(self: Any) -> int:
    return hash(getattr(self, _HASHED)(self))


class _Signature:
    """The signature of a class, for help texts: made when somebody asks."""

    def __get__(self, instance: object, cls: type) -> inspect.Signature:
        import inspect  # noqa: PLC0415 -- few ask

        parameters = []
        for field in getattr(cls, _FIELDS):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory
            elif default is dataclasses.MISSING:
                default = inspect.Parameter.empty
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=field.type,
                )
            )
        return inspect.Signature(parameters)
