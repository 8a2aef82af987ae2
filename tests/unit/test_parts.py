"""The plugin that makes the end of `make test`'s log tell which tests failed in each part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import parts

SUITE = r"""
    import os, pytest

    def test_passes():
        assert not {"PYTEST_GVISOR_TESTS_FAILED", "PYTEST_GVISOR_TESTS_PARTS"} & set(os.environ)

    def test_fails():
        assert 0, "\x1b[31mred\nand a second line"

    @pytest.fixture
    def broken():
        raise ValueError("x" * 1000)

    def test_is_not_set_up(broken):
        pass
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_each_failed_test_is_noted_with_one_line_of_its_cause(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    """The file keeps what it had; the pytests that a test starts see no variable."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    noted = pytester.path / "noted"
    noted.write_text("of a pytest before\n")
    monkeypatch.setenv(parts.FAILED, str(noted))
    monkeypatch.setenv(parts.ENDED, "make test: one: passed in 3 s\nmake test: two: FAILED\n  x\n")
    pytester.makepyfile(test_it=SUITE, test_more="import no_such_module")
    options = ["-p", "tests.parts", "--continue-on-collection-errors"]
    result = pytester.runpytest_subprocess(*options, *workers)
    result.assert_outcomes(passed=1, failed=1, errors=2)
    lines = noted.read_text().splitlines()
    assert lines[0] == "of a pytest before"
    assert sorted(lines[1:]) == [
        r"test_it.py::test_fails - AssertionError: \x1b[31mred",
        f"test_it.py::test_is_not_set_up - ValueError: {'x' * 188}",
        "test_more.py - E   ModuleNotFoundError: No module named 'no_such_module'",
    ]
    result.stdout.fnmatch_lines(
        ["make test: one: passed in 3 s", "make test: two: FAILED", "  x", "*short test summary*"],
    )
