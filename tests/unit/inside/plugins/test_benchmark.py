"""Benchmarks from inside become those of pytest-benchmark's session here, or an error."""

import array
import base64
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.plugins import Bridges, benchmark
from pytest_gvisor.inside.plugins.benchmark import Benchmarks
from tests.unit.inside.plugins.test_bridges import INNER, Host


class Metadata:
    """A stand-in for the class of pytest-benchmark."""

    def __init__(self, fixture: Any, iterations: int, options: dict[str, Any]) -> None:
        self.fixture = fixture
        self.iterations = iterations
        self.options = options
        self.stats = SimpleNamespace(data=[])


def encoded(*numbers: float) -> str:
    """Numbers as they come from inside."""
    return base64.b64encode(array.array("d", numbers)).decode()


ROW: dict[str, Any] = {
    "id": INNER, "group": None, "extra_info": {}, "options": {"timer": "perf"},
    "iterations": 3, "has_error": False, "count": 2, "rounds": encoded(0.5, 0.25),
    "cprofile_stats": None,
}  # fmt: skip


class Measuring(Host):
    """A session in which pytest-benchmark measures."""

    def __init__(self, item: pytest.Item, config: pytest.Config) -> None:
        super().__init__(item, config)
        self.session = SimpleNamespace(benchmarks=[], disabled=False)
        end = Benchmarks(self.session, Metadata, self.bounds).take
        self.bridges._ends["benchmark"] = end

    def add(self, **changes: Any) -> Any:
        """The benchmark of this row."""
        self.take("benchmark", {**ROW, **changes})
        return self.session.benchmarks[-1]


@pytest.fixture
def host(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Measuring:
    """A session in which pytest-benchmark measures."""
    return Measuring(request.node, pytester.parseconfig())


@pytest.mark.parametrize("parameter", [object()], ids=["shown"])
def test_the_host_knows_names_and_parameters(host: Measuring, parameter: object) -> None:
    """Its own objects are those of the test, which never travelled."""
    made = host.add()
    assert (made.fixture.name, made.fixture.fullname) == (host.item.name, host.item.nodeid)
    assert (made.fixture.param, made.fixture.params) == ("shown", {"parameter": parameter})
    assert (made.iterations, made.stats.data) == (3, [0.5, 0.25])
    assert made.options == {"timer": "perf"}


def test_texts_are_escaped_and_short(host: Measuring) -> None:
    """The table of the terminal shows names and groups, and a profile shows functions."""
    made = host.add(
        name="another",
        group="::error::\n1 passed in 1s" + "\x1b]0;x\x07" * 1000,
        extra_info={"\x1b": ["\x1b"]},
        cprofile_stats=[["a\x1b", 5, "::error::", 1, 2, 0.5, 0.25]],
    )
    assert made.fixture.name == host.item.name
    assert len(made.fixture.group) == 1000
    shown = repr(made.fixture)
    assert "\x1b" not in shown.replace("\\x1b", "")
    assert made.fixture.group.startswith("\\x3a:error::\n\\x31 passed in 1s")
    assert made.fixture.cprofile_stats.stats == {
        ("a\\x1b", 5, "\\x3a:error::"): (1, 2, 0.5, 0.25, {})
    }


def test_a_benchmark_without_a_round_has_an_error(host: Measuring) -> None:
    """The sum of nothing would break the session of the host."""
    assert host.add(count=0, rounds="").fixture.has_error


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "test_it.py::test_next"},
        {"id": None},
        {"rounds": encoded(float("nan")), "count": 1},
        {"rounds": encoded(float("inf")), "count": 1},
        {"rounds": encoded(1e300), "count": 1},
        {"rounds": "AAAA", "count": 0},
        {"rounds": "no base64"},
        {"rounds": [0.5, 0.25]},
        {"count": -1},
        {"count": 10**30},
        {"count": "2"},
        {"iterations": 10**400},
        {"iterations": -1},
        {"iterations": True},
        {"iterations": 1.5},
        {"options": [["a", "b"]]},
        {"options": {f"option{number}": 1 for number in range(1000)}},
        {"extra_info": []},
        {"cprofile_stats": 5},
        {"cprofile_stats": [[1]]},
        {"cprofile_stats": [["a", 1, "b", 1, 1, float("nan"), 1.0]]},
        {"cprofile_stats": [["a", 1, "b", 10**400, 1, 1.0, 1.0]]},
        {"cprofile_stats": [["a", 1, "b", 1, 1, 1.0, 1.0]] * 20_000},
    ],
)
def test_what_is_no_benchmark_is_an_error(changes: dict[str, Any], host: Measuring) -> None:
    """The sandbox ends with an error of the protocol, and the session has none of it."""
    with pytest.raises(ProtocolError, match="benchmark cannot take"):
        host.add(**changes)
    for missing in ROW:
        with pytest.raises(ProtocolError, match="benchmark cannot take"):
            host.take("benchmark", {name: ROW[name] for name in ROW.keys() - {missing}})
    assert host.session.benchmarks == []


def test_a_benchmark_belongs_to_a_test_that_runs(host: Measuring) -> None:
    """At the end of the session there is none."""
    with pytest.raises(ProtocolError, match="does not run"):
        host.bridges.take({"bridge": "benchmark", "data": ROW}, None)


def test_a_session_has_some_benchmarks_and_rounds(
    host: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning counts those beyond, and those that no message can hold."""
    monkeypatch.setattr(benchmark, "MOST_ROUNDS", 3 * benchmark._MORE + 6)
    host.add()
    host.add()
    host.add(count=10**6)
    host.add()
    assert len(host.session.benchmarks) == 2
    assert host.said() == ["2 benchmarks of too many rounds from inside were left out"]


def test_where_nothing_is_measured_there_is_no_bridge(host: Measuring) -> None:
    """Nor where the session has not the form that this bridge knows."""
    for session in (None, SimpleNamespace(), SimpleNamespace(benchmarks=[], disabled=True)):
        host.config._benchmarksession = session  # type: ignore[attr-defined]
        assert Bridges(host.config, host.bounds).names == []
