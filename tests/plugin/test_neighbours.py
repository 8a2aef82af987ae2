"""Other plugins: without pytest's own ones, and with those that stop a session early."""

import pytest

from tests.plugin.conftest import Project

TEST = """
    import pytest

    def test_it(gvisor):
        assert gvisor.run(["echo", "hello"]).stdout == "hello\\n"

    @pytest.mark.gvisor(timeout=50)
    @pytest.mark.requires_runsc
    def test_fails(gvisor):
        assert gvisor.run(["sh", "-c", "echo reason >&2; exit 3"]).returncode == 0

    @pytest.mark.requires_kvm
    def test_skips(gvisor):
        pass
"""

WITHOUT = ["cacheprovider", "logging", "tmpdir", "junitxml", "warnings", "assertion", "subtests"]


def test_it_works_without_all_of_them(project: Project, no_kvm: str) -> None:
    """All of them may be missing at once."""
    args = [word for plugin in WITHOUT for word in ("-p", f"no:{plugin}")]
    ran = project.test(TEST, conftest=no_kvm).run(*args, "-W", "default")
    ran.ends(passed=1, failed=1, skipped=1).shows(" gvisor: sh -c ", "| reason")


def test_keep_needs_the_temporary_folders_of_pytest(alone: Project) -> None:
    """``--gvisor-keep`` and ``oci_bundle`` with ``-p no:tmpdir`` name the missing plugin."""
    alone.test("""
        def test_it(gvisor):
            pass

        def test_bundle(oci_bundle):
            pass
    """)
    ran = alone.run("-p", "no:tmpdir", "--gvisor-keep=all").ends(errors=2)
    ran.shows("--gvisor-keep needs pytest's tmpdir plugin", "fixture 'tmp_path_factory' not found")


def test_a_test_may_replace_what_tells_the_kernel(alone: Project) -> None:
    """A report of a test that patches `os.uname` for longer than its own phases is made."""
    alone.test("""
        import os

        def test_it():
            os.uname = None

        def test_after():
            pass
    """)
    alone.run().ends(passed=2)


def test_another_plugin_may_report_a_lost_test_like_xdist(alone: Project) -> None:
    """A child that pytest-forked has lost is a failed test, and the session goes on."""
    conftest = """
        import pytest

        def pytest_runtest_protocol(item):
            if item.name != "test_lost":
                return None
            lost = pytest.TestReport(item.nodeid, item.location, {}, "failed", "crashed", "???")
            item.ihook.pytest_runtest_logreport(report=lost)
            return True
    """
    alone.test(
        """
        def test_lost(): ...

        def test_after(): ...
        """,
        conftest=conftest,
    )
    alone.run().ends(passed=1, failed=1)


def test_the_plugin_can_be_switched_off(project: Project) -> None:
    """With `-p no:gvisor` there are no options, markers and fixtures of the plugin."""
    project.test("""
        def test_it():
            pass

        def test_gvisor(gvisor):
            pass
    """)
    project.run("-p", "no:gvisor").ends(passed=1, errors=1).shows("fixture 'gvisor' not found")
    ran = project.run("-p", "no:gvisor", "--gvisor-strict").exits(pytest.ExitCode.USAGE_ERROR)
    ran.shows("unrecognized arguments: --gvisor-strict")


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_a_session_that_stops_early_stops_cleanly(project: Project, option: str) -> None:
    """After the first failure pytest ends as usual, and nothing is left (the leak check looks)."""
    project.test("""
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_it(gvisor, n):
            gvisor.run(["false"], check=True)
    """)
    ran = project.run(option).exits(1 if not project.distributed else 2)
    assert ran.outcomes()["failed"] in (1, 2)
    ran.hides("INTERNALERROR", "Traceback (most")
