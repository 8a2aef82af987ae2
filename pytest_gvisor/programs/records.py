"""Values that cannot change, for programs in whose start each millisecond counts.

`dataclasses` imports inspect, ast and dis, and `typing` makes hundreds of objects. Together they
would be a third of the time in which the keeper comes up. The methods here look at the fields.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 -- for importers
    from typing import Any
else:

    def dataclass(*, frozen: bool, kw_only: bool = False) -> Callable[[type], type]:
        """Return the decorator of `dataclasses`, for a class of values that cannot change.

        Functions of `dataclasses` do not know the class.
        """
        if not frozen:
            raise TypeError("a record cannot change")
        return _by_keywords if kw_only else _record


def _record(cls: Any) -> Any:
    cls.__init__, cls.__repr__, cls.__eq__, cls.__hash__ = _init, _repr, _eq, _hash
    cls.__setattr__ = cls.__delattr__ = _refuse
    return cls


def _by_keywords(cls: Any) -> Any:
    def init(self: Any, /, **given: Any) -> None:
        _init(self, **given)

    _record(cls).__init__ = init
    return cls


def _init(self: Any, /, *values: Any, **given: Any) -> None:
    cls = type(self)
    names = cls.__annotations__
    found = {**dict(zip(names, values)), **given}  # noqa: B905 -- counted below
    needed = {name for name in names if not hasattr(cls, name)}
    if len(found) != len(values) + len(given) or not needed <= found.keys() <= names.keys():
        raise TypeError(f"{cls.__name__} has {[*names]}, and got {values} and {[*given]}")
    for name in names:
        vars(self)[name] = found[name] if name in found else getattr(cls, name)


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
    return f"{type(self).__name__}({fields})"


def _eq(self: Any, other: object) -> Any:
    return vars(self) == vars(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(vars(self).values()))


def _refuse(self: Any, name: str, *_value: object) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")
