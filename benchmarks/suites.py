"""Rows about the suites of real projects, which scripts/suites fetches."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks import sessions
from benchmarks.floors import NAME
from benchmarks.results import Figure, Floored, Result, Unavailable
from benchmarks.timing import interleaved
from pytest_gvisor import bind

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_HERE = os.path.dirname(os.path.abspath(__file__))
_FETCHED = os.path.join(os.path.dirname(_HERE), ".build/suites")
_DEADLINE = 300.0
_LIMIT = 35.0
WORKERS = "click"
"""The suite that is run by two workers."""

_PLAIN = "plain `pytest`"
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

    def workload(self, bench: Bench, *arguments: str, keep: Sequence[str] = ()) -> None:
        """Run the suite by a plain pytest that is a workload in a fresh sandbox."""
        done = bench.gvisor.run(
            [*sessions.command(keep), "-p", "no:gvisor", *arguments],
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


def names() -> list[str]:
    """Return the names of all suites."""
    with open(os.path.join(_HERE, "suites.toml"), "rb") as file:
        return list(tomllib.load(file))


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Suite]:
    """Give a copy of a suite, which is removed afterwards. Raises `Unavailable`."""
    with tempfile.TemporaryDirectory(prefix="pytest-gvisor-bench-") as folder:
        yield Suite(name, folder)


def suites(bench: Bench, count: int) -> Iterator[Result]:
    """Each suite inside, against a plain pytest as a workload and against one xdist worker."""
    for name in names():
        with prepared(name) as suite:
            contenders = {
                "ours": lambda suite=suite: suite.host(*sessions.in_gvisor(bench)),
                "workload": lambda suite=suite: suite.workload(bench),
                "worker": lambda suite=suite: suite.host("-n1"),
            }
            series = interleaved(contenders, count, limit=_LIMIT, is_warm=True)
        peers = {
            f"{_PLAIN} as a workload in gVisor": (series["workload"], 1.15, None),
            "`pytest -n1` on the host": (series["worker"], 1.0, series["workload"]),
        }
        for against, (peer, target, floor) in peers.items():
            yield Floored(
                row="suites", what=f"the suite of {name}, `pytest --in-gvisor`", against=against,
                figure=Figure.RATIO, ours=series["ours"], peer=peer, target=target,
                floor=floor if bench.floors.wanted else None,
                floor_by=f"{_PLAIN} as a workload",
            )  # fmt: skip


def workers(bench: Bench, count: int) -> Iterator[Result]:
    """A suite inside by two workers, against two workers on the host."""
    with prepared(WORKERS) as suite:
        contenders = {
            "ours": lambda: suite.host("-n2", *sessions.in_gvisor(bench)),
            "peer": lambda: suite.host("-n2"),
        }
        if bench.floors.wanted:
            contenders[NAME] = lambda: suite.workload(bench, "-n2", keep=("xdist",))
        series = interleaved(contenders, count, limit=_LIMIT, is_warm=True)
    yield Floored(
        row="workers", what=f"the suite of {WORKERS}, `pytest --in-gvisor -n2`",
        against="`pytest -n2` on the host", figure=Figure.RATIO, **series, target=1.2,
        floor_by="plain `pytest -n2` as a workload",
    )  # fmt: skip
