"""Records of the programs: values by field, which nobody changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_gvisor.programs import records


@records.dataclass(frozen=True)
class Little:
    """A record."""

    name: str
    size: int = 7


@records.dataclass(frozen=True)
class Other:
    """A record with the same fields."""

    name: str
    size: int = 7


@dataclasses.dataclass(frozen=True)
class Model:
    """The same of the standard library."""

    name: str
    size: int = 7


@pytest.mark.parametrize(
    ("values", "given"),
    [
        (("a",), {}), (("a", 3), {}), (("a",), {"size": 3}), ((), {"name": "a", "size": 3}),
        ((), {"size": 3, "name": "a"}),
    ],
)  # fmt: skip
def test_a_record_has_the_fields_that_the_standard_library_would_give_it(
    values: tuple[Any, ...], given: dict[str, Any]
) -> None:
    """Values by place or by name, and defaults."""
    assert vars(Little(*values, **given)) == vars(Model(*values, **given))


@pytest.mark.parametrize(
    ("values", "given"),
    [((), {}), (("a", 1, 2), {}), (("a",), {"name": "b"}), (("a",), {"x": 1}), ((), {"size": 1})],
)
def test_a_call_that_the_standard_library_would_refuse_is_refused(
    values: tuple[Any, ...], given: dict[str, Any]
) -> None:
    """A field that is missing, given twice, or not there."""
    for kind in (Model, Little):
        with pytest.raises(TypeError):
            kind(*values, **given)


def test_a_class_may_want_keywords() -> None:
    """Keywords keep fields of the same type apart."""

    @records.dataclass(frozen=True, kw_only=True)
    class Named:
        """A record."""

        name: str

    assert Named(name="a").name == "a"
    make: Any = Named
    with pytest.raises(TypeError):
        make("a")


def test_records_are_equal_by_class_and_fields() -> None:
    """And have a hash, for sets."""
    assert Little("a") == Little("a", 7) != Little("b")
    other: object = Other("a")
    assert Little("a") != other
    assert {Little("a"), Little("a")} == {Little("a")}
    assert repr(Little("a")) == "Little(name='a', size=7)"


def test_nobody_changes_a_record() -> None:
    """Neither a field nor another name."""
    little: Any = Little("a")
    for name in ("name", "other"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(little, name, "b")
        with pytest.raises(AttributeError, match="cannot be changed"):
            delattr(little, name)
    assert little == Little("a")


def test_a_record_that_could_change_is_refused() -> None:
    """The methods here are those of values that cannot."""
    decorate: Any = records.dataclass
    with pytest.raises(TypeError, match="cannot change"):
        decorate(frozen=False)
