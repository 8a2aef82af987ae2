"""Generates little projects: fixtures, parameters, marks and failures in a random mixture."""

import random
from collections.abc import Iterable
from pathlib import Path

_HEAD = """
import logging
import sys
import unittest
import warnings

import pytest


@pytest.fixture
def given(request):
    print("given", request.param)
    yield request.param
    print("gone", request.param)


def pytest_generate_tests(metafunc):
    if "made" in metafunc.fixturenames:
        metafunc.parametrize("made", range(2), scope="module")


class Base:
    def test_base(self):
        print("base", type(self).__name__)
"""
# Ways to write a test, beside functions and classes of them. BODY has the test's own lines, and
# FIXTURE is one of the module's.
_OTHERS = (
    """
def test_dynamic_NUMBER(request):
    request.getfixturevalue("FIXTURE")
    request.node.add_marker(pytest.mark.xfail(reason="late"))
    BODY
""",
    """
@pytest.mark.parametrize("given", ["x", "y"], indirect=True)
def test_indirect_NUMBER(given, FIXTURE):
    BODY
""",
    """
def test_made_NUMBER(made, FIXTURE):
    BODY
""",
    """
def test_final_NUMBER(request):
    request.addfinalizer(lambda: print("first"))
    request.node.addfinalizer(lambda: 1 / 0)
    BODY
""",
    """
class TestInherited_NUMBER(Base):
    def test_own(self, FIXTURE):
        BODY
""",
    """
class TestOuter_NUMBER:
    def setup_method(self):
        print("setup_method")

    def test_outer(self):
        pass

    class TestInner:
        def test_inner(self, FIXTURE):
            BODY
""",
    """
class TestSub_NUMBER(unittest.TestCase):
    def test_sub(self):
        for number in range(2):
            with self.subTest(number=number):
                BODY
""",
)
_SCOPES = ("session", "module", "class", "function")


def write(folder: Path, seed: int, widest: str) -> None:
    """Write two modules whose fixtures have the scope ``widest`` or one that is narrower.

    Each set-up, test and teardown prints its name, so a report's captured output tells their order.
    """
    source = random.Random(seed)
    for number in (1, 2):
        module = _Module(source, _SCOPES[_SCOPES.index(widest) :])
        (folder / f"test_{number}.py").write_text(module.text())


class _Module:
    def __init__(self, source: random.Random, scopes: tuple[str, ...]) -> None:
        self.source = source
        self.scopes = scopes
        self.fixtures: list[tuple[str, str]] = []

    def text(self) -> str:
        lines = [_HEAD]
        for number in range(self.source.randint(3, 6)):
            lines += self.fixture(number)
        for number in range(self.source.randint(4, 8)):
            kinds = (self.function, self.function, self.group, self.unittest, self.other)
            lines += self.source.choice(kinds)(number)
        return "\n".join(lines) + "\n"

    def chance(self, share: float) -> bool:
        return self.source.random() < share

    def some(self, names: Iterable[str], at_most: int) -> list[str]:
        names = sorted(names)
        return self.source.sample(names, min(len(names), self.source.randint(0, at_most)))

    def fixture(self, number: int) -> list[str]:
        name, scope = f"fixture_{number}", self.source.choice(self.scopes)
        # A fixture may use those of its own scope and of wider ones.
        wider = [
            other
            for other, others in self.fixtures
            if _SCOPES.index(others) <= _SCOPES.index(scope)
        ]
        used = self.some(wider, 2)
        options = [f'scope="{scope}"']
        if self.chance(0.25):
            used = ["request", *used]
            options.append("params=[1, 2]")
        if self.chance(0.1):
            options.append("autouse=True")
        self.fixtures.append((name, scope))
        return [
            f"@pytest.fixture({', '.join(options)})",
            f"def {name}({', '.join(used)}):",
            f'    print("up {name}"{", request.param" if "request" in used else ""})',
            *self.now_and_then(0.12, f"{name} at set-up"),
            f'    yield "{name}"',
            f'    print("down {name}")',
            *self.now_and_then(0.12, f"{name} at teardown"),
            "",
        ]

    def now_and_then(self, share: float, where: str) -> list[str]:
        if not self.chance(share):
            return []
        act = self.source.choice(
            (
                f'raise ValueError("{where}")',
                f'pytest.skip("{where}")',
                f'pytest.fail("{where}")',
                f'pytest.xfail("{where}")',
                f'assert "{where}" == ["a", "list"]',
            )
        )
        return [f"    {act}"]

    def marks(self) -> list[str]:
        marks = (
            'skip(reason="a mark")',
            'skipif(sys.platform == "linux", reason="here")',
            'skipif(sys.platform == "none", reason="elsewhere")',
            'xfail(reason="known")',
            "xfail(strict=True)",
            "xfail(raises=ValueError)",
            "xfail(run=False)",
            f'usefixtures("{self.source.choice(self.fixtures)[0]}")',
        )
        return [f"@pytest.mark.{mark}" for mark in self.some(marks, 3) if self.chance(0.3)]

    def function(self, number: int, method: bool = False) -> list[str]:
        used = self.some((name for name, _ in self.fixtures), 3)
        marks = self.marks()
        if self.chance(0.2):
            marks.append('@pytest.mark.parametrize("word", ["a b", "c[d]", "é"])')
            used.append("word")
        name = f"test_{number}"
        return [
            *marks,
            f"def {name}({', '.join(['self'] * method + used)}):",
            *self.body(name),
            "",
        ]

    def body(self, name: str) -> list[str]:
        said = (
            f'print("run {name}")',
            f'print("error {name}", file=sys.stderr)',
            f'logging.getLogger("mine").warning("log {name}")',
            f'warnings.warn("warned {name}")',
        )
        lines = [f"    {line}" for line in self.some(said, 4)]
        return ["    pass", *lines, *self.now_and_then(0.35, name)]

    def group(self, number: int) -> list[str]:
        lines = [*self.marks(), f"class TestGroup{number}:", "    common = []", ""]
        for member in range(self.source.randint(1, 4)):
            lines += [f"    {line}".rstrip() for line in self.function(member, method=True)]
        return lines

    def unittest(self, number: int) -> list[str]:
        lines = [f"class Test{number}(unittest.TestCase):"]
        for name, class_wide in (
            ("setUpClass", True), ("tearDownClass", True), ("setUp", False), ("tearDown", False),
        ):  # fmt: skip
            if self.chance(0.5):
                lines += ["    @classmethod"] * class_wide
                lines += [f"    def {name}({'cls' if class_wide else 'self'}):"]
                lines += [f'        print("{name}")']
                lines += [f"    {line}" for line in self.now_and_then(0.1, name)]
        for member in range(self.source.randint(1, 3)):
            lines += [f"    def test_{member}(self):"]
            lines += [f"    {line}" for line in self.body(f"test_{member}")]
        return [*lines, ""]

    def other(self, number: int) -> list[str]:
        text = self.source.choice(_OTHERS)
        for name, value in (
            ("NUMBER", str(number)), ("FIXTURE", self.source.choice(self.fixtures)[0]),
        ):  # fmt: skip
            text = text.replace(name, value)
        head, _, _ = text.partition("BODY")
        indent = head[head.rfind("\n") + 1 :]
        body = [f"{indent}{line.removeprefix('    ')}" for line in self.body(f"other_{number}")]
        return [*head.rstrip(" ").splitlines(), *body, ""]
