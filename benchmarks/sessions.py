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
from benchmarks.timing import Series, interleaved
from pytest_gvisor import bind

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_IDLE_TESTS = 50
_INSIDE_TESTS = 1000
_FRESH_TESTS = 10
_NUMBERS = (1, 3, 10, 30, 100, 300, 1000, 3000)
_SETTINGS = ("PYTEST_", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
_DEADLINE = 120.0
_MANY = f"{_INSIDE_TESTS} trivial tests, `pytest --in-gvisor`"


def command(keep: Sequence[str] = ()) -> list[str]:
    """``python -m pytest`` with no plugin but this package's and those to ``keep``."""
    names = sorted({p.name for p in importlib.metadata.entry_points(group="pytest11")})
    others = [*(name for name in names if name not in {"gvisor", *keep}), "cacheprovider"]
    return [sys.executable, "-m", "pytest", "--quiet",
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
        self.plain = [*command(), "-p", "no:gvisor"]
        """The command of a plain pytest."""
        # Compiled once for all rounds, as in any project, and not into this checkout.
        self.variables = {"PYTHONPYCACHEPREFIX": os.path.join(folder, "cache")}
        """Variables with which Python finds the byte code of a run on the host."""
        self._env = {**environment(), **self.variables}

    def run(self, *arguments: str, path: str = "") -> str:
        """Run pytest in it; ``path`` is a folder with more plugins. Raises CalledProcessError.

        Returns its output.
        """
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=self.folder,
            env={**self._env, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            timeout=_DEADLINE,
        )
        return done.stdout

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start pytest in it, whose output goes nowhere."""
        return subprocess.Popen(
            [*self._command, *arguments],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
        limit=40,
    )
    yield Result(
        row="idle", what=f"`pytest --collect-only` of {_IDLE_TESTS} tests, plugin unused",
        against="`-p no:gvisor`", figure=Figure.DIFFERENCE, **series, target=0.010,
    )  # fmt: skip


def inside(bench: Bench, count: int) -> Iterator[Result]:
    """Trivial tests inside, against one xdist worker and against a process a test on the host.

    And one test inside, against a plain pytest as the workload of bare runsc.
    """
    if importlib.util.find_spec("xdist") is None:
        raise Unavailable("pytest-xdist is not installed here")
    with projects() as folder:
        many = Project(os.path.join(folder, "many"), _INSIDE_TESTS, keep=("xdist",))
        yield _many(bench, count, many)
        one = Project(os.path.join(folder, "one"), 1)
        yield _one(bench, count, one)
        forked = os.path.join(folder, "forked")
        install_forked(forked)
        contenders = {
            "ours": lambda: many.run(*in_gvisor(bench)),
            "peer": lambda: many.run("--forked", path=forked),
        }
        yield Result(
            row="inside", what=_MANY, against="`pytest --forked` on the host (pytest 8.4)",
            figure=Figure.RATIO, **interleaved(contenders, min(count, 3), limit=18), target=0.45,
        )  # fmt: skip


def projects() -> tempfile.TemporaryDirectory[str]:
    """A folder for projects: the session folder is not shown to any sandbox."""
    return tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-")


def _many(bench: Bench, count: int, project: Project) -> Result:
    """Many tests inside, against one xdist worker."""
    contenders = {
        "ours": lambda: project.run(*in_gvisor(bench)),
        "peer": lambda: project.run("-n1"),
    }
    return Result(
        row="inside", what=_MANY, against="`pytest -n1` on the host", figure=Figure.RATIO,
        **interleaved(contenders, count, limit=25), target=1.85,
    )  # fmt: skip


def _one(bench: Bench, count: int, project: Project) -> Result:
    """One test inside, against a plain pytest as the workload of bare runsc."""
    project.run("-p", "no:gvisor")  # compiles what the sandbox cannot write
    # Tests inside have their folders below the root, which runsc caches.
    flags = ["file-access-mounts"] if "file-access-mounts" in bench.runsc.flags else []
    bare, config = bench.bare(
        "plain",
        [sys.executable, "-c", ""],
        flags=[f"--{flag}=exclusive" for flag in flags],
        mounts=[bind(project.folder, project.folder)],
        cwd=project.folder,
        env=project.variables,
    )
    config["process"]["args"] = project.plain
    bundle = bare.bundle("bundle", config)
    contenders = {
        "ours": lambda: project.run(*in_gvisor(bench)),
        "peer": lambda: bare.run(bundle),
    }
    return Result(
        row="inside", what="one test, `pytest --in-gvisor`",
        against="plain `pytest` by bare `runsc run`", figure=Figure.RATIO,
        **interleaved(contenders, count, limit=18), target=1.45,
    )  # fmt: skip


def isolation(bench: Bench, count: int) -> Iterator[Result]:
    """The cost of one more fresh sandbox, where each test inside has its own."""
    with projects() as folder:
        several = Project(os.path.join(folder, "several"), 1 + _FRESH_TESTS)
        one = Project(os.path.join(folder, "one"), 1)
        options = (*in_gvisor(bench), "--gvisor-isolation=test")
        contenders = {"ours": lambda: several.run(*options), "one": lambda: one.run(*options)}
        series = interleaved(contenders, count, limit=35)
    pairs = zip(series["ours"].values, series["one"].values, strict=True)
    yield Result(
        row="isolation", what=f"`--gvisor-isolation test`, each of {_FRESH_TESTS} more tests",
        against="one test alone, subtracted", figure=Figure.TIME,
        ours=Series(tuple(all_of_them - alone for all_of_them, alone in pairs)).over(_FRESH_TESTS),
        target=0.250,
    )  # fmt: skip


def curve(bench: Bench, count: int) -> Curve:
    """The time of whole sessions of trivial tests, by their number, in three ways."""
    ways = {"host": (), "-n1": ("-n1",), "inside": in_gvisor(bench)}
    points: dict[str, dict[int, float]] = {name: {} for name in ways}
    with projects() as folder:
        for tests in _NUMBERS:
            project = Project(os.path.join(folder, str(tests)), tests, keep=("xdist",))
            contenders = {
                name: functools.partial(project.run, *options) for name, options in ways.items()
            }
            for name, series in interleaved(contenders, count, limit=9).items():
                points[name][tests] = series.median
    return points
