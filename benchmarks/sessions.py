"""The rows that time whole pytest sessions of little projects."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.peers import install_forked
from benchmarks.plot import Curve
from benchmarks.results import Figure, Result, Unavailable
from benchmarks.timing import interleaved

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_IDLE_TESTS = 50
_INSIDE_TESTS = 1000
_FRESH_TESTS = 10
_NUMBERS = (1, 3, 10, 30, 100, 300, 1000, 3000)
_SETTINGS = ("PYTEST_", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
_DEADLINE = 120.0


def command(keep: Sequence[str] = ()) -> list[str]:
    """``python -m pytest`` with no plugin but this package's and those to ``keep``."""
    names = sorted({p.name for p in importlib.metadata.entry_points(group="pytest11")})
    others = [name for name in names if name not in {"gvisor", *keep}]
    return [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider",
            *(word for name in others for word in ("-p", f"no:{name}"))]  # fmt: skip


def environment() -> dict[str, str]:
    """This process's environment without settings of pytest, and with byte code."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}


def in_gvisor(bench: Bench) -> tuple[str, ...]:
    """The options for tests inside."""
    return "--in-gvisor", "--gvisor-strict", f"--gvisor-platform={bench.platform}"


class Project:
    """A project of trivial tests, with nothing of this process's settings and plugins."""

    def __init__(self, folder: str, tests: int, keep: Sequence[str] = ()) -> None:
        os.mkdir(folder)
        self.folder = folder
        with open(os.path.join(folder, "pytest.ini"), "w", encoding="utf-8") as file:
            file.write("[pytest]\n")
        with open(os.path.join(folder, "test_it.py"), "w", encoding="utf-8") as file:
            file.writelines(f"def test_{n}():\n    assert {n} == {n}\n\n" for n in range(tests))
        self._command = command(keep)
        # Compiled once for all rounds, as in any project, and not into this checkout.
        self._env = {**environment(), "PYTHONPYCACHEPREFIX": os.path.join(folder, "cache")}

    def run(self, *arguments: str, path: str = "") -> None:
        """Run pytest in it; ``path`` is a folder with more plugins. Raises CalledProcessError."""
        subprocess.run(
            [*self._command, *arguments],
            cwd=self.folder,
            env={**self._env, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_DEADLINE,
        )


def idle(bench: Bench, count: int) -> Iterator[Result]:
    """The cost of the installed plugin for a project that does not use it."""
    project = Project(os.path.join(bench.folder, "idle"), _IDLE_TESTS)
    series = interleaved(
        {
            "ours": lambda: project.run("--collect-only"),
            "peer": lambda: project.run("--collect-only", "-p", "no:gvisor"),
        },
        count,
        limit=12,
    )
    yield Result(
        row="idle", what=f"`pytest --collect-only` of {_IDLE_TESTS} tests, plugin unused",
        against="`-p no:gvisor`", figure=Figure.DIFFERENCE, **series, target=0.010,
    )  # fmt: skip


def inside(bench: Bench, count: int) -> Iterator[Result]:
    """Trivial tests inside, against one xdist worker and against a process a test on the host.

    And what one test inside costs more than on the host.
    """
    if importlib.util.find_spec("xdist") is None:
        raise Unavailable("pytest-xdist is not installed here")
    # Not in the session folder, which is not shown to any sandbox.
    with tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-") as folder:
        yield from _inside(bench, folder, count)


def _inside(bench: Bench, folder: str, count: int) -> Iterator[Result]:
    forked = os.path.join(folder, "forked")
    install_forked(forked)
    many = Project(os.path.join(folder, "many"), _INSIDE_TESTS, keep=("xdist",))
    one = Project(os.path.join(folder, "one"), 1)
    ours = in_gvisor(bench)
    peers = {
        "`pytest -n1` on the host": (1.2, count, lambda: many.run("-n1")),
        "`pytest --forked` on the host (pytest 8.4)": (
            0.45,
            min(count, 3),
            lambda: many.run("--forked", path=forked),
        ),
    }
    for against, (target, rounds, peer) in peers.items():
        contenders = {"ours": lambda: many.run(*ours), "peer": peer}
        yield Result(
            row="inside", what=f"{_INSIDE_TESTS} trivial tests, `pytest --in-gvisor`",
            against=against, figure=Figure.RATIO, **interleaved(contenders, rounds, limit=18),
            target=target,
        )  # fmt: skip
    contenders = {"ours": lambda: one.run(*ours), "peer": lambda: one.run(*ours, "--no-gvisor")}
    yield Result(
        row="inside", what="one test, `pytest --in-gvisor`", against="`--no-gvisor`",
        figure=Figure.DIFFERENCE, **interleaved(contenders, count, limit=15), target=0.350,
    )  # fmt: skip


def isolation(bench: Bench, count: int) -> Iterator[Result]:
    """The cost of one more fresh sandbox, where each test inside has its own."""
    with tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-") as folder:
        several = Project(os.path.join(folder, "several"), 1 + _FRESH_TESTS)
        one = Project(os.path.join(folder, "one"), 1)
        options = (*in_gvisor(bench), "--gvisor-isolation=test")
        contenders = {"ours": lambda: several.run(*options), "peer": lambda: one.run(*options)}
        series = interleaved(contenders, count, limit=30)
    yield Result(
        row="isolation", what=f"`--gvisor-isolation test`, each of {_FRESH_TESTS} more tests",
        against="one test alone, by as much", figure=Figure.DIFFERENCE,
        **{name: values.over(_FRESH_TESTS) for name, values in series.items()}, target=0.250,
    )  # fmt: skip


def curve(bench: Bench, count: int) -> Curve:
    """The time of whole sessions of trivial tests, by their number, in three ways."""
    ways = {"host": (), "-n1": ("-n1",), "inside": in_gvisor(bench)}
    points: dict[str, dict[int, float]] = {name: {} for name in ways}
    with tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-") as folder:
        for tests in _NUMBERS:
            project = Project(os.path.join(folder, str(tests)), tests, keep=("xdist",))
            contenders = {
                name: functools.partial(project.run, *options) for name, options in ways.items()
            }
            for name, series in interleaved(contenders, count, limit=9).items():
                points[name][tests] = series.median
    return points
