"""Rows about the suites of real projects, which scripts/suites fetches."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks import sessions
from benchmarks.results import Figure, Result, Unavailable
from benchmarks.timing import interleaved
from pytest_gvisor import bind

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_HERE = os.path.dirname(os.path.abspath(__file__))
_FETCHED = os.path.join(os.path.dirname(_HERE), ".build/suites")
_DEADLINE = 300.0
_LIMIT = 35.0
_PASSED = re.compile(r"(\d+) passed")


class Suite:
    """A project's suite, in a copy that has its byte code after a first run on the host."""

    def __init__(self, name: str, folder: str) -> None:
        fetched = os.path.join(_FETCHED, name)
        if not os.path.exists(os.path.join(fetched, "wanted")):
            raise Unavailable(f"the suite of {name} is not here: run scripts/suites bench")
        self._folder = os.path.join(folder, name)
        shutil.copytree(os.path.join(fetched, "source"), self._folder)
        self._site = os.path.join(fetched, "site")
        self._env = {**sessions.environment(), "PYTHONPATH": self._site}
        self._passed = 0
        self.host("-p", "no:gvisor")

    def host(self, *arguments: str) -> None:
        """Run the suite by a pytest on the host, with these options."""
        done = subprocess.run(
            [*sessions.command(keep=("xdist",)), *arguments],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE,
        )
        self._judge(done.stdout)

    def workload(self, bench: Bench) -> None:
        """Run the suite by a plain pytest that is a workload in a fresh sandbox."""
        done = bench.gvisor.run(
            [*sessions.command(), "-p", "no:gvisor"],
            mounts=[bind(path, path) for path in (self._folder, self._site)],
            cwd=self._folder,
            env={"PYTHONPATH": self._site},
            timeout=_DEADLINE,
        )
        self._judge(done.stdout)

    def _judge(self, output: str) -> None:
        """Hold a run to the first one: some tests are skipped or fail in a sandbox, and few."""
        found = _PASSED.search(output)
        passed = int(found[1]) if found else 0
        self._passed = self._passed or passed
        if passed < max(1, 0.95 * self._passed):
            raise RuntimeError(f"{passed} tests passed of {self._passed}: {output[-500:]}")


def suites(bench: Bench, count: int) -> Iterator[Result]:
    """Each suite inside, against a plain pytest as a workload."""
    with open(os.path.join(_HERE, "suites.toml"), "rb") as file:
        names = list(tomllib.load(file))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-") as folder:
            suite = Suite(name, folder)
            contenders = {
                "ours": lambda suite=suite: suite.host(*sessions.in_gvisor(bench)),
                "peer": lambda suite=suite: suite.workload(bench),
            }
            series = interleaved(contenders, count, limit=_LIMIT, is_warm=True)
        yield Result(
            row="suites", what=f"the suite of {name}, `pytest --in-gvisor`",
            against="plain `pytest` as a workload in gVisor", figure=Figure.RATIO, **series,
            target=1.2,
        )  # fmt: skip
