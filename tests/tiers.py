"""The tests of `make test` and of `make test-all`, as tiers.toml has them.

    python -m tests.tiers TIER GROUP

A group is what runs as one user, on one release, or in one machine. It has parts, each of which is
one pytest. A line is printed for each part, for a shell's ``eval``: the part's name, ``alone`` or
``beside``, and pytest's arguments. It is pytest's plugin too, for ``--sampled``.
"""

import functools
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
FILE = CHECKOUT / "tests/tiers.toml"
TIERS = ("test", "test-all")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One pytest: what it runs, and how."""

    name: str
    tests: tuple[str, ...]
    """Folders, files and node ids, from the folder of the checkout."""

    without: tuple[str, ...] = ()
    """Those that are left out."""

    relatives: Mapping[str, str] = field(default_factory=dict)
    """Attacks that are left out too, each with one that the same mend holds, and that is run."""

    platforms: str = ""
    workers: bool = False
    """Whether xdist's workers share the files; the script says how many they are."""

    alone: bool = False
    """Whether nothing else may run meanwhile."""

    options: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    """Folders and files of whose tests with parameters only the first of each fault is run."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """All that is not run, for whichever reason."""
        return (*self.without, *self.relatives)

    def line(self) -> str:
        """The part for a shell."""
        arguments = ["--gvisor-platform", self.platforms] if self.platforms else []
        arguments += [f"--{'deselect' if '::' in x else 'ignore'}={x}" for x in self.left_out]
        if self.sampled:
            arguments += ["-p", "tests.tiers", *(f"--sampled={path}" for path in self.sampled)]
        words = [self.name, "alone" if self.alone else "beside", *arguments, *self.options]
        # The shell knows the number of workers when the part begins.
        many = ' -n"${TESTS_AT_ONCE:-4}" --dist loadfile --no-loadscope-reorder'
        some = many if self.workers else ""
        return f"{shlex.join(words)}{some} {shlex.join(self.tests)}"

    def holds(self, test: str) -> bool:
        """Whether a file or a test ``file::function`` is among these."""
        return any(_within(test, path) for path in self.tests) and not any(
            _within(test, path) for path in self.left_out if "[" not in path
        )


def _within(test: str, path: str) -> bool:
    """Whether pytest takes the test for this argument, or a parameter of it."""
    path = path.partition("[")[0]
    return test == path or test.startswith((f"{path}/", f"{path}::"))


@functools.cache
def read(tier: str) -> Mapping[str, list[Part]]:
    """The groups of a tier, each with its parts in their order."""
    groups = tomllib.loads(FILE.read_text())[tier]
    return {group: [_part(entry) for entry in parts] for group, parts in groups.items()}


def _part(entry: Mapping[str, Any]) -> Part:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Part(**values)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sampled", action="append", default=[], metavar="PATH")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect every test that is another one, of the same faults, with other parameters."""
    paths: list[str] = config.getoption("--sampled")
    first: dict[tuple[str, ...], pytest.Item] = {}
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        faults = [case for mark in item.iter_markers("fault") for case in mark.args]
        sample = first.setdefault((item.nodeid.partition("[")[0], *faults), item)
        sampled = sample is not item and any(_within(item.nodeid, path) for path in paths)
        (others if sampled else kept).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


if __name__ == "__main__":
    for part in read(sys.argv[1]).get(sys.argv[2], ()):
        print(part.line())
