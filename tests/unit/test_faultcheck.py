"""The list of faults, which tests carry which, and the table."""

import ast
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faultcheck import is_real, read_cases

TESTS = Path(__file__).parents[1]


def marked(path: Path) -> Iterator[tuple[str, str]]:
    """The cases that tests of a file carry, each with the test's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                    yield from ((str(ast.literal_eval(case)), node.name) for case in call.args)


def test_each_case_has_a_test_and_each_mark_is_a_case() -> None:
    """A fault without a test may have any effect."""
    found = Counter(case for path in TESTS.rglob("test_*.py") for case, _name in marked(path))
    assert sorted(set(read_cases()) - set(found)) == []
    assert sorted(set(found) - set(read_cases())) == []


@pytest.mark.parametrize(
    ("place", "fixtures", "real"),
    [
        ("runsc/test_status.py", (), True),
        ("cli/test_run.py", (), True),
        ("unit/runsc/test_locate.py", (), False),
        ("unit/cli/test_health.py", (), False),
        ("unit/runsc/test_binary.py", ("tmp_path", "runsc"), True),
        ("faults/test_host.py", ("gvisor",), True),
        ("faults/test_output.py", ("runs", "fake"), False),
        ("../vm/tests/test_other.py", (), False),
    ],
)
def test_what_starts_the_real_runsc_is_known_by_its_folder_in_tests_or_a_fixture(
    place: str, fixtures: tuple[str, ...], real: bool
) -> None:
    """The folders of `tests/unit` have the package's names, and start no runsc."""
    assert is_real(Path(os.path.normpath(TESTS / place)), fixtures) is real


INNER = """
    import os
    import pytest

    @pytest.mark.fault("A1", "A2")
    def test_held():
        pass

    @pytest.mark.fault("A2")
    @pytest.mark.parametrize("number", [1, 2])
    def test_one_of_two(number):
        if number == 2:
            pytest.skip("not here")

    @pytest.mark.fault("A3")
    def test_only_at_first(tmp_path_factory):
        path = tmp_path_factory.getbasetemp().parent / "seen"
        assert not path.exists()
        path.touch()

    @pytest.mark.fault("A4")
    def test_never():
        pytest.skip("not here")

    @pytest.mark.fault("A5")
    @pytest.mark.xfail
    def test_expected_to_fail():
        assert False

    @pytest.fixture
    def leaky():
        yield
        assert False

    @pytest.mark.fault("A6")
    def test_that_leaks(leaky):
        pass

    @pytest.fixture
    def runsc():
        pass

    @pytest.fixture
    def of_the_real_one(runsc):
        pass

    @pytest.mark.fault("A7")
    def test_on_the_real_one(of_the_real_one):
        pass

    @pytest.mark.fault("A7")
    def test_on_a_scripted_one():
        pass

    def test_without_a_case():
        pass
"""


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project whose tests carry cases."""
    pytester.makepyfile(INNER)
    pytester.makeconftest('pytest_plugins = ("tests.faultcheck",)')
    pytester.makeini(f"[pytest]\npythonpath = {TESTS.parent}\n")
    return pytester


OPTIONS = ("-p", "no:gvisor", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_the_table_counts_each_test_once_and_each_injection(
    inner: pytest.Pytester, workers: list[str]
) -> None:
    """A fault holds if it held each time; a skip is not run, and an expected failure does not hold.

    How often it was injected is counted apart for a scripted runsc, or none, and the real one.
    """
    args = [*OPTIONS, "--faults", "--faults-repeat=3,2", *workers]
    out = inner.runpytest_subprocess(*args).outlines
    start = next(index for index, line in enumerate(out) if line.startswith("case"))
    table = [line.replace("not run", "not-run").split()[:7] for line in out[start : start + 9]]
    assert table == [
        ["case", "tests", "held", "failed", "not-run", "scripted", "real"],
        ["A1", "1", "1", "0", "0", "3", "0"],
        ["A2", "3", "2", "0", "1", "6", "0"],
        ["A3", "1", "0", "1", "0", "3", "0"],
        ["A4", "1", "0", "0", "1", "0", "0"],
        ["A5", "1", "0", "1", "0", "3", "0"],
        ["A6", "1", "0", "1", "0", "3", "0"],
        ["A7", "2", "2", "0", "0", "3", "2"],
        ["A8", "0", "0", "0", "0", "0", "0"],
    ]
    (total,) = [line for line in out if line.startswith("all")]
    assert "3 of 88 cases held, 1 of these in part" in total
    assert total.split()[1:7] == ["9", "4", "3", "2", "18", "2"]


def test_a_case_that_is_not_listed_is_a_usage_error(inner: pytest.Pytester) -> None:
    """A misspelt mark would leave a fault without a test."""
    inner.makepyfile(test_more='import pytest\n\n@pytest.mark.fault("A99")\ndef test_x(): pass\n')
    result = inner.runpytest_subprocess(*OPTIONS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_more.py::test_x: 'A99'*"])


LEAVING = """
    import os
    import pathlib
    import tempfile
    import pytest

    @pytest.fixture(scope="module")
    def for_a_while():
        folder = tempfile.mkdtemp(prefix="fixture-")
        yield
        os.rmdir(folder)

    @pytest.mark.fault("A1")
    def test_tidy(for_a_while):
        pass

    @pytest.mark.fault("A2")
    def test_untidy():
        tempfile.mkdtemp(prefix="left-")
"""
CARELESS = """
    @pytest.mark.fault("A3")
    def test_careless():
        for folder in pathlib.Path(tempfile.gettempdir()).glob("canary-*"):
            (folder / "d/file").write_bytes(bytes(range(256)))
"""


@pytest.mark.parametrize("more", ["", CARELESS], ids=["untidy", "careless"])
def test_what_a_test_leaves_or_changes_fails_the_run_and_names_the_test(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: str
) -> None:
    """A fixture that lives for a module leaves nothing; the same bytes once more are a change."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    inner.makepyfile(test_leaving=LEAVING + more)
    args = [*OPTIONS, "--faults", "--faults-watch", "test_leaving.py"]
    result = inner.runpytest_subprocess(*args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    left = [line for line in result.outlines if " left temporary " in line]
    assert [line.split("/left-")[0] for line in left] == [
        f"test_leaving.py::test_untidy left temporary {tmp_path}"
    ]
    careless = "ERROR test_leaving.py::test_careless"
    assert any(line.startswith(careless) for line in result.outlines) == bool(more)
    result.assert_outcomes(passed=3 if more else 2, errors=1 if more else 0)
    assert [path.name[:5] for path in tmp_path.iterdir() if path.name[:3] != "pyt"] == ["left-"]
