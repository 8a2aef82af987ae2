"""Values cannot be changed, and their fields are named where they are made."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytest_gvisor
from pytest_gvisor.values import dataclass

PACKAGE = Path(pytest_gvisor.__file__).parent
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))

COUNTING = {
    "Budget", "CellInMaking", "Group", "Progress", "Record", "Tally", "_Arriving", "_Budget",
    "_Node", "_Stored",
}  # fmt: skip
"""Classes that count or gather."""

ORDERED = {"Lookup", "Node", "Trust", "Way", "_Budget", "_Partly", "_Stored"}
"""Classes of a few fields in a plain order."""

LINES = "programs/proc.py"
"""The module whose values are lines of files, with fields in their order."""


@pytest.mark.parametrize("module", MODULES)
def test_a_value_is_frozen_and_made_by_keywords(module: str) -> None:
    """A frozen value cannot change after its check, and keywords keep arguments apart."""
    tree = ast.parse((PACKAGE / module).read_text())
    for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for decorator in map(ast.unparse, made.decorator_list):
            if "dataclass" in decorator:
                assert ("frozen=True" in decorator) is (made.name not in COUNTING), made.name
                ordered = made.name in ORDERED or module == LINES
                assert ("kw_only=True" in decorator) is not ordered, made.name


COMPILED = ("slots=", "eq=")
"""Arguments that neither `values.dataclass` nor that of programs/records.py knows."""


@pytest.mark.parametrize("module", MODULES)
def test_the_methods_of_a_value_need_no_compiling(module: str) -> None:
    """A session imports some seventy of these classes before it starts a sandbox."""
    tree = ast.parse((PACKAGE / module).read_text())
    for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for decorator in map(ast.unparse, made.decorator_list):
            if "dataclass" in decorator:
                # Without one, dataclasses makes one of the signature, which takes milliseconds.
                assert ast.get_docstring(made), made.name
                plain = "kw_only=True" in decorator or module.startswith("programs/")
                compiled = not plain or any(word in decorator for word in COMPILED)
                assert decorator.startswith("dataclass(") is not compiled, made.name


class Plain:
    """A class that is made a value in three ways."""

    name: str
    size: int = 0
    parts: list[str] = dataclasses.field(default_factory=list, compare=False)
    secret: str = dataclasses.field(default="", repr=False)
    table: dict[str, int] = dataclasses.field(default_factory=dict, hash=False, repr=False)


def made(decorator: Callable[[type], type], name: str = "Plain") -> Any:
    """Return a new class of `Plain`'s fields under a decorator."""
    body = {key: value for key, value in vars(Plain).items() if key[:2] != "__"}
    body |= {
        "__annotations__": Plain.__annotations__,
        "__doc__": "A value.",
        "__module__": __name__,
    }
    return decorator(type(name, (), body))


FROZEN = dataclasses.FrozenInstanceError
OURS = made(dataclass(frozen=True, kw_only=True))
THEIRS = made(dataclasses.dataclass(frozen=True, kw_only=True))
OURS_CHANGING = made(dataclass(kw_only=True))
THEIRS_CHANGING = made(dataclasses.dataclass(kw_only=True))
BOTH = pytest.mark.parametrize("cls", [OURS, THEIRS])
CHANGING = pytest.mark.parametrize("cls", [OURS_CHANGING, THEIRS_CHANGING])


@BOTH
def test_a_value_has_its_fields_and_defaults(cls: Any) -> None:
    """Each value has a default of its own that a factory makes, and attributes in their order."""
    one, two = cls(name="a"), cls(name="a")
    assert vars(one) == {"name": "a", "size": 0, "parts": [], "secret": "", "table": {}}
    assert [*vars(cls(secret="s", name="a"))] == ["name", "size", "parts", "secret", "table"]
    assert one.parts is not two.parts


@BOTH
@pytest.mark.parametrize("given", [{}, {"size": 1}, {"name": "a", "colour": "red"}])
def test_a_value_refuses_other_arguments(cls: Any, given: dict[str, object]) -> None:
    """A missing or unknown name is a type error, and so is a value without a name."""
    with pytest.raises(TypeError, match=r"name|colour"):
        cls(**given)
    with pytest.raises(TypeError):
        cls("a")


@BOTH
def test_a_value_shows_and_compares_what_its_fields_allow(cls: Any) -> None:
    """A field may be left out of the text, or of the comparison."""
    one = cls(name="a", secret="x")
    assert repr(one) == "Plain(name='a', size=0, parts=[])"
    assert one == cls(name="a", secret="x", parts=["b"])
    assert hash(one) == hash(cls(name="a", secret="x", parts=["b"]))
    assert one != cls(name="a", secret="y")
    assert one != cls(name="a", secret="x", table={"b": 1})
    assert hash(one) == hash(cls(name="a", secret="x", table={"b": 1}))
    assert one != made(dataclass(frozen=True, kw_only=True))(name="a", secret="x")
    assert one != "a"


@BOTH
def test_a_value_cannot_be_changed(cls: Any) -> None:
    """Neither a field nor any other attribute is set or deleted."""
    one = cls(name="a")
    for name in ("name", "other"):
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"
        ):
            setattr(one, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(one, name)


@BOTH
def test_a_class_that_inherits_from_a_value_may_have_other_attributes(cls: Any) -> None:
    """Its fields stay as they are."""
    one = type("Below", (cls,), {})(name="a")
    one.other = 1
    del one.other
    with pytest.raises(FROZEN):
        one.name = "b"


@BOTH
@pytest.mark.parametrize("decorate", [dataclass, dataclasses.dataclass])
def test_a_class_below_a_value_is_a_value_too(cls: Any, decorate: Any) -> None:
    """Such a value cannot change either, whichever decorator makes its class."""

    class Below(cls):  # type: ignore[misc]
        """A value with one more field."""

        depth: int = 1

    with pytest.raises(TypeError):
        decorate(kw_only=True)(Below)
    below = decorate(frozen=True, kw_only=True)(Below)
    one = below(name="a", depth=2)
    assert (one.name, one.size, one.depth) == ("a", 0, 2)
    for name in ("name", "depth"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, "b")
    assert one == dataclasses.replace(below(name="b", depth=2), name="a")
    assert hash(one) != hash(below(name="a"))


@BOTH
def test_functions_of_dataclasses_know_a_value(cls: Any) -> None:
    """Values are replaced, listed and copied as usual."""
    one = cls(name="a", parts=["b"])
    assert dataclasses.replace(one, size=2) == cls(name="a", size=2)
    assert dataclasses.asdict(one) == {
        "name": "a",
        "size": 0,
        "parts": ["b"],
        "secret": "",
        "table": {},
    }
    assert copy.deepcopy(one) == one
    assert [str(p) for p in inspect.signature(cls).parameters.values()][:2] == [
        "name: 'str'", "size: 'int' = 0",
    ]  # fmt: skip


@CHANGING
def test_a_class_that_gathers_changes_and_is_no_key(cls: Any) -> None:
    """Equal ones may differ later."""
    one = cls(name="a")
    one.size = 3
    assert one == cls(name="a", size=3)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_only_keyword_arguments_make_a_value() -> None:
    """The decorator makes no class of another kind."""
    with pytest.raises(TypeError, match="keyword"):
        dataclass(frozen=True, kw_only=False)
