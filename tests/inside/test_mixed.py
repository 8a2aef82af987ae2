"""Tests inside and on the host in one run: each side's fixtures live as long as they should."""

import pytest

FILE = """
import pytest

@pytest.fixture(scope="module")
def shared():
    open({log!r}, "a").write("up {name}\\n")
    yield
    open({log!r}, "a").write("down {name}\\n")
    {after}

def test_host(shared):
    pass

@pytest.mark.in_gvisor
def test_inside():
    pass

@pytest.mark.in_gvisor
def test_inside_too():
    pass
"""


def test_what_the_host_has_set_up_is_torn_down_where_its_module_ends(
    project: pytest.Pytester,
) -> None:
    """The teardown runs after the module's last test, on either side; a failed one is an error."""
    log = str(project.path / "log")
    for name, after in (("a", "pass"), ("b", "pass"), ("c", "assert False")):
        path = project.path / f"test_{name}.py"
        path.write_text(FILE.format(log=log, name=name, after=after))
    result = project.runpytest_subprocess("-p", "no:xdist", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=9, errors=1)
    with open(log, encoding="utf-8") as file:
        assert file.read().split("\n")[:-1] == [
            "up a", "down a", "up b", "down b", "up c", "down c",
        ]  # fmt: skip


def test_a_fixture_on_the_host_ends_before_a_test_inside_that_does_not_need_it(
    project: pytest.Pytester,
) -> None:
    """pytest's order by parameters comes to a class twice, with a test inside in between."""
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="module", params=[1, 2])
        def number(request): return request.param

        @pytest.fixture(scope="class")
        def shared(): return []

        class TestC:
            def test_host(self, shared, number):
                shared.append(number)
                assert shared == [number]

            @pytest.mark.in_gvisor
            def test_inside(self, number): pass

        @pytest.mark.in_gvisor
        def test_other(number): pass
    """)
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=6)


def test_what_the_host_has_judged_is_not_judged_again_inside(project: pytest.Pytester) -> None:
    """A test inside is not skipped for a missing runsc or platform, and nothing looks for them."""
    project.makeconftest(
        """
        import os
        from pytest_gvisor import is_gvisor_kernel

        if is_gvisor_kernel(os.uname().release):
            from pytest_gvisor.plugin import header

            def line(config): raise AssertionError("looks for runsc inside")

            header.line = line
        """
    )
    project.makepyfile(
        """
        import os, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.mark.requires_runsc
        @pytest.mark.requires_platform("ptrace")
        def test_required(): assert is_gvisor_kernel(os.uname().release)

        @pytest.mark.parametrize("name", ["gvisor", "runsc", "gvisor_image"])
        def test_asks(name, request): request.getfixturevalue(name)
        """
    )
    result = project.runpytest_subprocess("--in-gvisor", "--gvisor-strict", "--gvisor-timeout=50")
    assert result.parseoutcomes() == {"passed": 1, "failed": 3}
    result.stdout.fnmatch_lines(["*runsc cannot be had inside gVisor*"])


def test_no_test_that_is_skipped_on_the_host_runs_ahead_inside(project: pytest.Pytester) -> None:
    """A teardown of the last fixtures that fails is an error of the last test that runs."""
    project.makeconftest(
        """
        import functools
        from pytest_gvisor.runsc import platforms

        platforms.probe = functools.partial(platforms.probe, kvm_device="/nonexistent/kvm")
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def shared():
            yield
            raise ValueError("in the last teardown")

        def test_first(shared): pass

        @pytest.mark.requires_kvm
        def test_last(): pass
        """
    )
    result = project.runpytest_subprocess("--in-gvisor")
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "skipped": 1}


@pytest.mark.parametrize("arguments", ["True", "frehs=True", "fresh='yes'"])
def test_a_marker_that_cannot_be_meant_is_refused(project: pytest.Pytester, arguments: str) -> None:
    """A misspelt argument of the marker is refused, because it would have no effect."""
    project.makepyfile(f"import pytest\n@pytest.mark.in_gvisor({arguments})\ndef test_it(): pass\n")
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_it*: write @pytest.mark.in_gvisor(fresh=True)*"])


def test_the_last_failure_tears_down_what_tests_on_the_host_have_set_up(
    project: pytest.Pytester,
) -> None:
    """With ``-x``, a failure inside ends the session after the fixtures on the host, and an error
    of theirs is in the summary.
    """
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def shared():
            yield
            assert 0, "torn down"

        def test_here(shared): pass

        @pytest.mark.in_gvisor
        def test_there(): assert 0

        def test_later(shared): pass
    """)
    result = project.runpytest_subprocess("-x", "-p", "no:cacheprovider", "--gvisor-strict")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["E *AssertionError: torn down", "ERROR *::test_there*"])
