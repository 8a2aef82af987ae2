"""The configuration of the pytest inside: functions of which each test is deselected."""

from __future__ import annotations

import pytest

from pytest_gvisor.inside.configuration import note_deselected, unwanted


def test_a_function_with_a_selected_test_is_wanted(pytester: pytest.Pytester) -> None:
    """A function with a part of its tests is wanted, and one without any is not."""
    items, _ = pytester.inline_genitems(
        pytester.makepyfile(
            """
            import pytest

            @pytest.mark.parametrize("number", range(3))
            def test_part(number): pass

            @pytest.mark.parametrize("number", range(3))
            def test_all(number): pass

            class TestIt:
                def test_all(self): pass
            """
        )
    )
    config, path = items[0].config, items[0].path.name
    assert unwanted(items) == []
    assert unwanted([]) == []
    items[0].session.items = [items[0]]
    note_deselected(config, items[1:])
    assert unwanted(items[:1]) == [f"{path}::TestIt::test_all", f"{path}::test_all"]
