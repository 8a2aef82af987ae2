"""A test inside may replace functions that pytest and our worker need: its sandbox lives on."""

import pytest

from tests.inside.conftest import plain, run_both

# Where these two are broken, monkeypatch cannot undo what it has done, on the host either.
NOT_UNDONE = ("putenv", "unsetenv")
REPLACES = f"""
    import io, json, os, select, socket, struct, time
    import pytest

    CASES = {{
        f"{{module.__name__}}.{{name}}": (module, name)
        for module in (io, json, os, select, socket, struct, time)
        for name, value in sorted(vars(module).items())
        if callable(value) and not name.startswith("__") and name not in {NOT_UNDONE!r}
    }}

    class Replaced(Exception):
        pass

    @pytest.mark.parametrize(("module", "name"), CASES.values(), ids=CASES)
    def test_it(module, name, monkeypatch):
        def broken(*arguments, **options):
            raise Replaced(name)

        monkeypatch.setattr(module, name, broken)

    def test_another_process(monkeypatch):
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert os.getpid() == 1

    def test_not_for_this_test_alone(pytestconfig):
        patch = pytest.MonkeyPatch()
        patch.setattr(os, "getpid", lambda: 1)
        patch.setattr(os, "readv", None)
        patch.setattr(json, "loads", None)
        pytestconfig.add_cleanup(patch.undo)

    def test_last():
        assert os.getpid() == 1  # in the same process still
    """


SUBTESTS = """
    import os, unittest
    from unittest import mock

    class TestIt(unittest.TestCase):
        def test_it(self):
            for module, name in ((os, "fstat"), (os, "write"), (os.path, "samestat")):
                with mock.patch.object(module, name, side_effect=OSError), self.subTest(name):
                    self.fail()
    """


def outcomes(result: pytest.RunResult) -> list[str]:
    """The outcome of each test, with its cause."""
    return [line for line in result.outlines if line.startswith(("PASSED", "FAILED", "ERROR"))]


def test_whatever_a_test_replaces_its_outcome_is_the_host_s(project: pytest.Pytester) -> None:
    """Each function of seven modules raises while a report is made and sent."""
    project.makepyfile(REPLACES)
    both = run_both(project, "-q", "-rfEp", "--tb=line")
    assert outcomes(both.inside) == outcomes(both.host)
    assert both.outcomes()[0]["passed"] > 300


def test_a_subtest_fails_while_functions_are_replaced(project: pytest.Pytester) -> None:
    """pytest reports it in the midst of the test."""
    project.makepyfile(SUBTESTS)
    both = run_both(project, "-q", "-rA")
    assert plain(both.inside) == plain(both.host)
