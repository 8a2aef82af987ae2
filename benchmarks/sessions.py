"""The rows that time whole pytest sessions of little projects."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.peers import install_forked
from benchmarks.results import Figure, Result, Unavailable
from benchmarks.timing import interleaved

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_IDLE_TESTS = 50
_INSIDE_TESTS = 1000
_SETTINGS = ("PYTEST_", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
_DEADLINE = 120.0


class Project:
    """A project of trivial tests, with nothing of this process's settings and plugins."""

    def __init__(self, folder: str, tests: int, keep: Sequence[str] = ()) -> None:
        os.mkdir(folder)
        self.folder = folder
        with open(os.path.join(folder, "pytest.ini"), "w", encoding="utf-8") as file:
            file.write("[pytest]\n")
        with open(os.path.join(folder, "test_it.py"), "w", encoding="utf-8") as file:
            file.writelines(f"def test_{n}():\n    assert {n} == {n}\n\n" for n in range(tests))
        names = sorted({p.name for p in importlib.metadata.entry_points(group="pytest11")})
        others = [name for name in names if name not in {"gvisor", *keep}]
        self._command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider",
                         *(word for name in others for word in ("-p", f"no:{name}"))]  # fmt: skip
        # Compiled once for all rounds, as in any project, and not into this checkout.
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
        self._env["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "cache")

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
    )
    yield Result(
        row="idle", what=f"`pytest --collect-only` of {_IDLE_TESTS} tests, plugin unused",
        against="`-p no:gvisor`", figure=Figure.DIFFERENCE, **series, target=0.010,
    )  # fmt: skip


def inside(bench: Bench, count: int) -> Iterator[Result]:
    """Trivial tests inside, against one xdist worker and against a process a test on the host.

    And what one test inside costs more than on the host, against the import of pytest.
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
    ours = ("--in-gvisor", "--gvisor-strict", f"--gvisor-platform={bench.platform}")
    peers = {
        "`pytest -n1` on the host": (1.2, lambda: many.run("-n1")),
        "`pytest --forked` on the host (pytest 8.4)": (
            0.45,
            lambda: many.run("--forked", path=forked),
        ),
    }
    for against, (target, peer) in peers.items():
        series = interleaved({"ours": lambda: many.run(*ours), "peer": peer}, count)
        yield Result(
            row="inside", what=f"{_INSIDE_TESTS} trivial tests, `pytest --in-gvisor`",
            against=against, figure=Figure.RATIO, **series, target=target,
        )  # fmt: skip
    series = interleaved(
        {"ours": lambda: one.run(*ours), "peer": lambda: one.run(*ours, "--no-gvisor")}, count
    )
    yield Result(
        row="inside", what="one test, `pytest --in-gvisor` (at most 3 imports of pytest more)",
        against="`--no-gvisor`", figure=Figure.DIFFERENCE, **series, target=3 * _import(count),
    )  # fmt: skip


def _import(count: int) -> float:
    """Seconds that a new interpreter takes to import pytest, as a median."""

    def load() -> None:
        subprocess.run([sys.executable, "-c", "import pytest"], check=True, timeout=_DEADLINE)

    return interleaved({"import": load}, count)["import"].median
