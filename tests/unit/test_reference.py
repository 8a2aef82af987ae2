"""The docstrings of the Python API, which are pages of the site."""

import ast
import functools
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest_gvisor
from pytest_gvisor.plugin import hookspecs
from scripts import prose

PACKAGE = Path(pytest_gvisor.__file__).parent
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
EXPORTED = [getattr(pytest_gvisor, name) for name in pytest_gvisor.__all__]
HOOKS = [value for name, value in vars(hookspecs).items() if name.startswith("pytest_gvisor_")]
PUBLIC = {one.__name__: one.__module__ for one in [*EXPORTED, *HOOKS] if callable(one)}
"""The module of each; errors and results name the package."""


@functools.cache
def definitions() -> list[tuple[str, Definition]]:
    """The classes and functions that the package exports, and the specifications of its hooks."""
    return list(_definitions())


def _definitions() -> Iterator[tuple[str, Definition]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        here = {"pytest_gvisor", ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)}
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, Definition) and PUBLIC.get(node.name) in here:
                yield node.name, node


def docstrings(node: Definition) -> Iterator[str]:
    """The docstrings of a definition, of its public members, and of its attributes."""
    yield ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, Definition) and member.name[0] != "_":
                yield ast.get_docstring(member) or ""
    for above in ast.walk(node):
        body = getattr(above, "body", [])
        for field, text in itertools.pairwise(body) if isinstance(body, list) else ():
            match field, text:
                case ast.Assign() | ast.AnnAssign(), ast.Expr(ast.Constant(str(value))):
                    yield inspect.cleandoc(value)


def test_each_public_definition_is_read() -> None:
    """An exported name that is a class or a function is found by its name."""
    assert sorted(name for name, _ in definitions()) == sorted(PUBLIC)
    texts = {text for _, node in definitions() for text in docstrings(node)}
    assert len(texts) > 150


def test_the_docstrings_of_the_reference_have_the_english_of_pages() -> None:
    """All of them: ``make lint`` reads the summaries of others, and no docstring of a field."""
    found = [
        (name, find)
        for name, node in definitions()
        for text in docstrings(node)
        for paragraph in re.split(r"\n\s*\n", text)
        for find in prose.broken(paragraph, prose.PAGES)
    ]
    assert found == []
