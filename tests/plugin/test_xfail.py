"""``@pytest.mark.gvisor(xfail={"ptrace": "reason"})``: a test that is to fail on a platform."""

import re

from tests.plugin.conftest import Project

RUN = """
    import pytest

    @pytest.mark.gvisor(xfail={"ptrace": "no such call"})
    def test_as_expected(gvisor):
        assert gvisor.platform == "systrap"

    @pytest.mark.gvisor(xfail={"ptrace": "is mended"})
    def test_passes_there(gvisor_platform):
        pass

    @pytest.mark.gvisor(xfail={"ptrace": "outer", "systrap": "outer"})
    class TestIt:
        @pytest.mark.gvisor(timeout=7)
        def test_it(self, gvisor_sandbox):
            assert False

        @pytest.mark.gvisor(xfail={"systrap": "inner"})
        def test_closest(self, gvisor_platform):
            assert gvisor_platform == "kvm"
"""

INSIDE = """
    import os
    import pytest
    from pytest_gvisor import is_gvisor_kernel

    @pytest.mark.gvisor(xfail={"ptrace": "no such call", "native": "needs gVisor"})
    def test_as_expected():
        assert is_gvisor_kernel(os.uname().release)

    @pytest.mark.gvisor(platform="ptrace", xfail={"ptrace": "is mended"})
    def test_passes_there():
        pass

    @pytest.mark.gvisor(platform="ptrace", xfail={"ptrace": "dies"})
    def test_that_fails():
        assert False

    @pytest.mark.gvisor(platform="ptrace", xfail={"ptrace": "other"})
    @pytest.mark.xfail(reason="its own")
    def test_its_own():
        assert False

    @pytest.mark.gvisor(platform="ptrace", xfail={"systrap": "elsewhere"})
    def test_elsewhere():
        pass
"""


def test_a_failure_on_that_platform_is_expected_and_a_pass_is_not(here: Project) -> None:
    """Strictly, with the reason, by the closest marker that says so; elsewhere it is a test."""
    ran = here.test(RUN).run("--gvisor-platform", "systrap,ptrace")
    assert ran.outcomes() == {"passed": 2, "xfailed": 5, "failed": 1}
    ran.shows("XFAIL test_it.py::test_as_expected[ptrace] - ptrace: no such call")
    ran.shows("XFAIL test_it.py::TestIt::test_closest[systrap] - systrap: inner")
    ran.shows("FAILED test_it.py::test_passes_there[ptrace] - [XPASS(strict)] ptrace: is mended")
    ran.shows("XFAIL test_it.py::TestIt::test_closest[ptrace] - ptrace: outer")
    listed = ran.output.partition("gVisor: platforms differ")[2]
    assert re.findall(r"(?m)^(test_it\S+): systrap", listed) == ["test_it.py::test_passes_there"]


def test_the_same_of_tests_inside(here: Project) -> None:
    """The marker's xfail works inside and on the host for ``native``; a test's own goes first."""
    here.test(INSIDE)
    ran = here.run("--in-gvisor", "--gvisor-platform", "native,systrap", "-v")
    assert ran.outcomes() == {"passed": 2, "xfailed": 3, "failed": 1}
    ran.shows("XFAIL test_it.py::test_as_expected[native] - native: needs gVisor")
    ran.shows("FAILED test_it.py::test_passes_there - [XPASS(strict)] ptrace: is mended")
    ran.shows("XFAIL test_it.py::test_that_fails - ptrace: dies")
    ran.shows("XFAIL test_it.py::test_its_own - its own")


SET_UP = """
    import os
    import pytest

    @pytest.fixture
    def broken_there(gvisor_platform):
        assert gvisor_platform == "systrap"

    @pytest.fixture
    def broken_first(request):
        assert "systrap" in request.node.name

    @pytest.mark.gvisor(xfail={"ptrace": "no fixture"})
    def test_fixture(broken_there):
        pass

    @pytest.mark.gvisor(xfail={"ptrace": "no fixture"})
    def test_before_the_platform(broken_first, gvisor_platform):
        pass

    @pytest.mark.parametrize("gvisor_platform", ["systrap", "ptrace"])
    @pytest.mark.gvisor(xfail={"ptrace": "no fixture"})
    def test_own_parameters(broken_first, gvisor):
        pass

    @pytest.mark.gvisor(xfail={"systrap": "elsewhere"})
    def test_elsewhere(broken_there):
        assert 0
"""


def test_a_failure_in_set_up_is_expected_too(here: Project) -> None:
    """A failure of any fixture is expected, also of one that runs before the platform's."""
    ran = here.test(SET_UP).run("--gvisor-platform", "systrap,ptrace")
    assert ran.outcomes() == {"passed": 3, "xfailed": 4, "errors": 1}
    ran.shows("XFAIL at setup of test_it.py::test_fixture[ptrace] - ptrace: no fixture")
    ran.shows("ERROR test_it.py::test_elsewhere[ptrace]")


def test_what_keeps_a_test_from_running_is_no_expected_failure(here: Project) -> None:
    """A missing image, a senseless setting or a failed start is no expected failure."""
    here.test("""
        import pytest

        xfail = {"systrap": "reason"}

        @pytest.mark.gvisor(platform="systrap", image="none.tar", xfail=xfail)
        def test_image(gvisor):
            assert 0

        @pytest.mark.xfail
        @pytest.mark.parametrize("gvisor_platform", ["nope"])
        def test_misuse(gvisor):
            assert 0

        @pytest.fixture
        def broken(gvisor):
            gvisor.run(["/no/such/program"])

        @pytest.mark.gvisor(platform="systrap", xfail=xfail)
        def test_runsc(broken):
            assert 0

        @pytest.fixture
        def fails(gvisor):
            gvisor.run(["false"], check=True)

        @pytest.mark.gvisor(platform="systrap", xfail=xfail)
        def test_workload(fails):
            assert 0

        @pytest.mark.in_gvisor
        @pytest.mark.gvisor(platform="systrap", xfail=xfail)
        def test_only_here():
            assert 0

        def pytest_generate_tests(metafunc):
            import os
            from pytest_gvisor import is_gvisor_kernel
            inside = is_gvisor_kernel(os.uname().release)
            if inside and metafunc.function.__name__ == "test_only_here":
                metafunc.fixturenames.append("x")
                metafunc.parametrize("x", [1])
    """)
    ran = here.run()
    assert ran.outcomes() == {"errors": 4, "xfailed": 1}
    ran.shows("XFAIL at setup of test_it.py::test_workload")


def test_a_platform_that_is_not_there_is_no_expected_failure(here: Project, no_kvm: str) -> None:
    """A missing platform is a skip, and under `--gvisor-strict` an error, as no test ran."""
    here.test(
        """
        import pytest

        @pytest.mark.gvisor(platform="kvm", xfail={"kvm": "reason"})
        def test_it(gvisor):
            assert False

        @pytest.mark.in_gvisor
        @pytest.mark.gvisor(platform="kvm", xfail={"kvm": "reason"})
        def test_inside():
            assert False
        """,
        conftest=no_kvm,
    )
    here.run().ends(skipped=2)
    here.run("--gvisor-strict").ends(errors=2)
