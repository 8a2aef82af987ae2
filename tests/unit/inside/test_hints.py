"""The hints on a failure inside, with a link that is none."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.inside.hints import Hints
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.wire.link import Link
from pytest_gvisor.inside.wire.reports import made_up

REFUSED = "E   URLError: https://example.org:443/ : [Errno 101] Network is unreachable"


def hints_of(item: pytest.Item, **settings: Any) -> Hints:
    """The hints for one test, from which two variables are held back."""
    inside = Inside(held_back=("SECRET", "TOKEN"))
    return Hints(config=item.config, items=[item], inside=inside, settings=Settings(**settings))


def titles(report: pytest.TestReport) -> list[str]:
    """The titles of a report's sections."""
    return [title for title, _text in report.sections]


def test_a_failure_has_a_section_for_each_hint_and_none_without(
    request: pytest.FixtureRequest,
) -> None:
    """The variables that it missed come first, what it did comes last."""
    plain, told = (made_up(request.node, "call", "AssertionError", 0.1) for _ in range(2))
    hints = hints_of(request.node)
    quiet: Any = SimpleNamespace(did=lambda _title: {})
    hints.add(plain, cast("Link", quiet), ["OTHER"])
    assert titles(plain) == []
    busy: Any = SimpleNamespace(did=lambda title: {title: "connected: 127.0.0.1:9"})
    hints.add(told, cast("Link", busy), ["TOKEN"])
    assert titles(told) == ["gvisor: environment", "gvisor: what it did"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "--gvisor-network=host"),
        ({"allow": ("example.com:443",)}, "--gvisor-allow=example.com:443,example.org:443"),
        ({"network": Network.HOST}, None),
    ],
)
def test_a_refused_connection_has_its_remedy(
    request: pytest.FixtureRequest, settings: dict[str, Any], expected: str | None
) -> None:
    """The remedy is the option of the network, or the whole list that helps."""
    report = made_up(request.node, "call", REFUSED, 0.1)
    hints_of(request.node, **settings).add_network(report)
    assert titles(report) == ([] if expected is None else ["gvisor: network"])
    assert expected is None or expected in report.sections[0][1]


def test_a_failure_that_names_no_hidden_file_stays_as_it_is(
    request: pytest.FixtureRequest,
) -> None:
    """Nothing is looked up for a text without a path."""
    assert hints_of(request.node).explained("it is gone") == "it is gone"
