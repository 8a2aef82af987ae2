"""``native`` among the platforms: tests inside run on the host as well, to compare with."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.plugin.conftest import Project

TESTS = """
    import os, unittest
    import pytest
    from pytest_gvisor import is_gvisor_kernel

    @pytest.fixture(scope="module")
    def where():
        return os.uname().release

    def test_it(where, request):
        native = "[native]" in os.environ["PYTEST_CURRENT_TEST"]
        assert native != is_gvisor_kernel(where)

    class Test(unittest.TestCase):
        def test_it(self):
            pass

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.gvisor(platform="ptrace")
    def test_marked(n):
        assert is_gvisor_kernel(os.uname().release)

    def test_a_sandbox(gvisor):
        assert gvisor.platform in {"systrap", "ptrace"}
"""


def test_a_test_inside_runs_on_the_host_and_on_each_platform(alone: Project) -> None:
    """Each test inside runs on the host and each platform, under ids of its own."""
    alone.test(TESTS)
    options = ("--in-gvisor", "--gvisor-platform", "native,systrap,ptrace")
    ran = alone.run("-v", "--junitxml=report.xml", *options).ends(passed=10)
    ran.shows("native, systrap, ptrace, network none")
    found = {case.get("name") for case in ran.junit().iter("testcase")}
    assert found == {
        "test_it[native]", "test_it[systrap]", "test_it[ptrace]", "test_marked[1]",
        "test_marked[2]", "test_a_sandbox[systrap]", "test_a_sandbox[ptrace]",
    }  # fmt: skip
    cases = [case.get("classname", "") for case in ran.junit().iter("testcase")]
    assert sorted(case for case in cases if case.endswith(".Test")) == ["test_it.Test"] * 3
    assert set(re.findall(r"test_it\.py::(\S+)", ran.output)) >= {"Test::test_it[native]"}


def test_the_host_s_copy_can_be_chosen(alone: Project) -> None:
    """The host's copy is last and can be chosen by -k; beside ``auto`` the other is ``[auto]``."""
    alone.test(TESTS)
    options = ("--in-gvisor", "-o", "gvisor_platform=native auto")
    ran = alone.run("--collect-only", "-q", *options).exits(0)
    assert re.findall(r"::((?:Test::)?test_it\S*)", ran.output) == [
        "test_it[auto]", "Test::test_it[auto]", "test_it[native]", "Test::test_it[native]",
    ]  # fmt: skip
    ran = alone.run("-v", "-k", "native", *options).exits(0)
    assert sorted(re.findall(r"::(\S+) PASSED", ran.output)) == [
        "Test::test_it[native]", "test_it[native]",
    ]  # fmt: skip


def test_the_host_s_copy_is_a_column_of_the_report(alone: Project) -> None:
    """The first column is the host's; differences are named with a command that repeats them."""
    alone.test(
        """
        import os
        from pytest_gvisor import is_gvisor_kernel

        def test_kernel():
            assert is_gvisor_kernel(os.uname().release)

        def test_same(): ...

        def test_a_sandbox(gvisor): ...
        """
    )
    options = (
        "--in-gvisor", "--gvisor-platform", "native,ptrace", "--gvisor-report", "report.json",
    )  # fmt: skip
    ran = alone.run(*options).ends(passed=4, failed=1)
    ran.shows("test_it.py::test_kernel: ptrace passed, native FAILED")
    ran.shows("native: 1 passed, 1 failed")
    report = json.loads((alone.folder / "report.json").read_text())
    assert [column["name"] for column in report["legs"][0]["platforms"]] == ["native", "ptrace"]
    cells = {row["test"]: [cell["platform"] for cell in row["cells"]] for row in report["tests"]}
    assert cells == {
        "test_it.py::test_kernel": ["ptrace", "native"],
        "test_it.py::test_same": ["ptrace", "native"],
        "test_it.py::test_a_sandbox": ["ptrace"],
    }
    for cell, verdict in zip(report["tests"][0]["cells"], ("1 passed", "1 failed"), strict=True):
        argv = [sys.executable, *shlex.split(cell["command"])[1:]]
        again = subprocess.run(argv, capture_output=True, text=True, cwd=alone.folder)
        assert f"{verdict} in " in again.stdout, argv


def test_a_shared_fixture_that_fails_on_the_host_is_the_host_s_failure(alone: Project) -> None:
    """An error of a fixture's teardown belongs to the platform on which it happens."""
    alone.test(
        """
        import os, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.fixture(scope="module")
        def shared():
            yield
            assert is_gvisor_kernel(os.uname().release)

        def test_it(shared): ...

        class TestMore:
            def test_more(self, shared): ...
        """
    )
    ran = alone.run("--in-gvisor", "--gvisor-platform", "native,ptrace").ends(passed=4, errors=1)
    ran.shows("test_it.py::TestMore::test_more: ptrace passed, native ERROR")


@pytest.mark.parametrize("options", [("--in-gvisor",), ()], ids=["all inside", "one here"])
def test_a_fixture_on_the_host_ends_where_it_does_without_copies(
    alone: Project, options: tuple[str, ...]
) -> None:
    """Neither pytest's order by parameters nor tests inside between those here change that."""
    alone.test(
        """
        import os, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.fixture(scope="module", params=[1, 2])
        def number(request): ...

        @pytest.fixture(scope="class")
        def shared():
            yield
            assert is_gvisor_kernel(os.uname().release)

        class TestC:
            @pytest.mark.in_gvisor
            def test_a(self, shared): ...

            def test_b(self, shared, number): ...

            @pytest.mark.in_gvisor
            def test_c(self, shared): ...

        @pytest.mark.in_gvisor
        def test_d(): ...
        """
    )
    ran = alone.run("-rE", *options, "--gvisor-platform", "native,ptrace").exits(1)
    assert re.findall(r"^ERROR test_it\.py::(\S+)", ran.output, re.MULTILINE) == [
        "TestC::test_c[native]"
    ]
