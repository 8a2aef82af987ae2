"""The bounds of a session's memory of tests inside; the rest is counted."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gvisor.inside.wire import session_bounds as module
from pytest_gvisor.inside.wire.reports import warn
from pytest_gvisor.inside.wire.session_bounds import SessionBounds


def listened(pytester: pytest.Pytester) -> tuple[pytest.Config, list[str]]:
    """A configuration, and the texts of the warnings that it records."""
    config = pytester.parseconfig()
    texts: list[str] = []

    class Listener:
        def pytest_warning_recorded(self, warning_message: Any) -> None:
            texts.append(str(warning_message.message))

    config.pluginmanager.register(Listener())
    return config, texts


def test_what_was_left_out_is_said_once(pytester: pytest.Pytester) -> None:
    """Each name once, and no more than twenty."""
    config, said = listened(pytester)
    bounds = SessionBounds(config)
    for number in range(3):
        bounds.leave_out(f"field{n}" for n in range(number * 10, 1000))
    bounds.close()
    assert len(said) == 1
    assert "field0, field1, " in said[0]
    assert "field19, …" in said[0]
    assert "field20" not in said[0]


def test_what_is_said_at_the_end_is_no_error(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message is a line if warnings are errors, so that other sandboxes still end."""
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    SessionBounds(pytester.parseconfig()).say("a word")
    assert capsys.readouterr().err == "PytestGvisorWarning: a word\n"


@pytest.mark.parametrize(
    ("bounds", "texts", "taken"),
    [
        ({"MOST_WARNINGS": 3}, ["x"] * 5, 3),
        ({"MOST_TEXT": 100}, ["x" * 40] * 5, 2),
        ({"MOST_TEXT": 100}, ["x" * 101, "x", "\udcff" * 40, "x"], 2),
    ],
)
def test_warnings_beyond_a_bound_are_counted(
    bounds: dict[str, int],
    texts: list[str],
    taken: int,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warnings are bounded by number and by total size; one line counts the rest."""
    for name, bound in bounds.items():
        monkeypatch.setattr(module, name, bound)
    config, said = listened(pytester)
    kept = SessionBounds(config)
    for text in texts:
        warn(config, {"text": text, "location": None}, "x", kept)
    assert len(said) == taken
    kept.close()
    assert len(said) == taken + 1
    assert said[-1].startswith(f"{len(texts) - taken} more warnings from inside were left out")
