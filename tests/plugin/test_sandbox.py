"""The fixtures ``gvisor_sandbox`` and ``gvisor_sandboxes``."""

import pytest

from tests.plugin.conftest import Project


def test_a_sandbox_is_a_test_s_own_and_runs_on_each_platform(here: Project) -> None:
    """A test finds no file of another test in its sandbox; ids have the platform, markers apply."""
    here.test("""
        import pytest
        from pytest_gvisor import is_gvisor_kernel

        def test_one(gvisor_sandbox, gvisor_platform):
            done = gvisor_sandbox.exec(["uname", "-r"])
            assert is_gvisor_kernel(done.stdout.strip())
            assert done.platform == gvisor_platform
            gvisor_sandbox.put("/tmp/mine", "x")

        @pytest.mark.gvisor(timeout=0.5)
        def test_two(gvisor_sandbox):
            listed = gvisor_sandbox.exec(["ls", "/tmp"], timeout=60).stdout
            assert "mine" not in listed.split()
            with pytest.raises(TimeoutError):
                gvisor_sandbox.popen(["sleep", "900"]).wait()
    """)
    ran = here.run("-v", "--gvisor-platform", "systrap,ptrace").ends(passed=4)
    ran.shows("test_one[systrap]", "test_one[ptrace]", "test_two[systrap]", "test_two[ptrace]")


def test_a_session_shares_its_sandboxes(here: Project) -> None:
    """The same options share one sandbox, others get another; all are closed at the end."""
    here.test("""
        import os, pytest
        from pytest_gvisor import PytestGvisorWarning, SandboxCrashed, UsageError, empty

        made = []

        @pytest.fixture(scope="module")
        def box(gvisor_sandboxes):
            return gvisor_sandboxes(env={"A": "1"})

        def test_one(box, gvisor_sandboxes):
            box.put("/tmp/shared", "x")
            assert gvisor_sandboxes(env={"A": "1"}) is box
            assert gvisor_sandboxes(env={"A": "2"}) is not box
            made.append(box)

        def test_two(box, gvisor_platform, gvisor_sandboxes):
            assert box.get("/tmp/shared") == b"x"
            assert gvisor_sandboxes(gvisor_platform, env={"A": "1"}) is box
            with pytest.raises(UsageError, match="platform='nope'"):
                gvisor_sandboxes("nope")
            with pytest.raises(UsageError, match="'nope' is not a setting"):
                gvisor_sandboxes(nope=1)

        def test_roots_that_look_the_same(gvisor_sandboxes):
            one, two = (gvisor_sandboxes(rootfs=empty({"a": text})) for text in "12")
            assert (one.get("/a"), two.get("/a")) == (b"1", b"2")
            assert gvisor_sandboxes(rootfs=empty({"a": "1"})) is one

        def test_one_that_crashed_is_made_again(box, gvisor_sandboxes):
            with pytest.raises(SandboxCrashed):
                box.exec(["sh", "-c", "kill -9 1; sleep 9"])
            again = gvisor_sandboxes(env={"A": "1"})
            assert again is not box
            assert again.exec(["true"]).returncode == 0
            made.append(again)

        @pytest.fixture(scope="session", autouse=True)
        def closed_at_the_end():
            yield
            assert made[-1].alive  # set up before the factory, so torn down after it
    """)
    # The fixture above fails the last test's teardown, which shows that the factory has closed it.
    here.run().ends(passed=4, errors=1).shows("assert False")


def test_a_sandbox_that_nobody_closes_ends_with_its_test(here: Project) -> None:
    """A sandbox that a test made and left open ends with the test."""
    here.test("""
        made = []

        def test_one(gvisor):
            made.append(gvisor.sandbox())
            assert made[0].alive

        def test_two():
            assert not made[0].alive
    """)
    here.run().ends(passed=2)


def test_a_failed_test_shows_what_ran_in_its_sandbox(here: Project) -> None:
    """Each program's command and standard error are sections of the report, escaped."""
    here.test("""
        def test_it(gvisor_sandbox):
            gvisor_sandbox.exec(["sh", "-c", "printf 'bad\\\\033[31m' >&2; exit 4"], check=True)
    """)
    ran = here.run().ends(failed=1)
    ran.shows("exit status 4", "| bad\\x1b[31m").hides("\x1b[31mbad")


@pytest.mark.parametrize("strict", [False, True])
def test_a_platform_that_does_not_work_skips_or_fails(
    here: Project, no_kvm: str, *, strict: bool
) -> None:
    """A shared sandbox skips or fails with the reason, too."""
    here.test(
        """
        def test_own(gvisor_sandbox):
            pass

        def test_shared(gvisor_sandboxes):
            gvisor_sandboxes("kvm")
        """,
        conftest=no_kvm,
    )
    outcome = {"failed": 1, "errors": 1} if strict else {"skipped": 2}
    options = ["--gvisor-strict"] if strict else []
    ran = here.run("--gvisor-platform", "kvm", *options).ends(**outcome)
    ran.shows("platform kvm is not available here")


def test_a_session_makes_a_snapshot_once_and_each_test_has_a_copy(here: Project) -> None:
    """A copy whose test has other settings is an error that names them. Nothing is left."""
    here.test("""
        import os, pytest
        from pytest_gvisor import UsageError

        made = []

        def fill(sandbox):
            made.append(sandbox)
            sandbox.put("/data/file", "saved")

        @pytest.fixture
        def copy(gvisor, gvisor_snapshot):
            with gvisor.sandbox(snapshot=gvisor_snapshot(fill, gvisor.platform)) as sandbox:
                yield sandbox

        @pytest.mark.parametrize("number", range(2))
        def test_each(copy, number):
            assert copy.get("/data/file") == b"saved"
            copy.put("/data/file", "changed")
            assert len(made) == 1 and not made[0].alive

        def test_other_options_are_another_snapshot(gvisor_snapshot):
            assert gvisor_snapshot(fill) is gvisor_snapshot(fill)
            assert gvisor_snapshot(fill, env={"A": "1"}) is not gvisor_snapshot(fill)

        @pytest.mark.gvisor(network="host")
        def test_settings(gvisor, gvisor_snapshot):
            with pytest.raises(UsageError, match="network=.*host.* .saved with"):
                gvisor.sandbox(snapshot=gvisor_snapshot(fill))
    """)
    here.run().ends(passed=4)
