"""``--gvisor-keep``: bundle, logs and a script that repeats the run, under pytest's base temp."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.schema import problems_of_file

TEST = """
    import pytest

    def test_passes(gvisor):
        gvisor.run(["echo", "passes"])

    def test_fails(gvisor):
        gvisor.run(["echo", "first"])
        done = gvisor.run(["sh", "-c", "cat; echo err >&2; exit 7"], input=b"a\\x00\\xffb\\n")
        assert done.returncode == 0

    @pytest.fixture
    def fails_later():
        yield
        raise RuntimeError

    def test_fails_in_teardown(fails_later, gvisor):
        gvisor.run(["echo", "teardown"])

    def test_runs_nothing(gvisor):
        assert 0
"""


def commands(kept: list[Path]) -> list[str]:
    """The last argument of each kept run's workload."""
    return sorted(
        json.loads((run / "bundle/config.json").read_text())["process"]["args"][-1] for run in kept
    )


def replay(run: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a kept script, with pipes, from somewhere else."""
    return subprocess.run(
        [run / "replay.sh"], stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=60
    )


def test_nothing_is_kept_unless_asked_for(here: Project) -> None:
    """Without the option no run is kept, and no report mentions one."""
    ran = here.test(TEST).run().hides("kept in")
    assert ran.kept() == []


def test_no_later_pytest_collects_what_was_kept(project: Project) -> None:
    """The base temp may lie in the project, and a root file system has links to the host's.

    The project may have a list of its own of folders that pytest does not enter.
    """
    [kept] = (
        project.test("def test_fails(gvisor): assert not gvisor.run(['false']).returncode")
        .run("--gvisor-keep", "failed")
        .kept()
    )
    config = json.loads((kept / "bundle/config.json").read_text())
    (kept / "bundle" / config["root"]["path"] / "test_it.py").write_text("def test_it(): pass")
    command = [sys.executable, "-m", "pytest", "-qp", "no:cacheprovider", "--collect-only"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", kept, "-o", "norecursedirs=build", kept],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    links = [path.relative_to(kept) for path in kept.rglob("*") if path.is_symlink()]
    assert {path.parts[:2] for path in links} == {("bundle", "rootfs")}
    assert replay(kept).returncode == 1


def test_failed_keeps_the_runs_of_tests_that_failed(project: Project) -> None:
    """All runs of a test that failed in any phase are kept and named in reports, and no others."""
    ran = project.test(TEST).run("--gvisor-keep", "failed").ends(passed=2, failed=2, errors=1)
    kept = ran.kept()
    assert commands(kept) == ["cat; echo err >&2; exit 7", "first", "teardown"]
    for run in kept:
        ran.shows(f"kept in {run}; repeat it with {run}/replay.sh")


def test_all_keeps_the_runs_of_every_test(here: Project, bundles_written: Path) -> None:
    """Each run is kept with bundle, runsc's log, input and script, for its user alone.

    A kept bundle is as its schema says, and so is each that ran (tests/bundlecheck.py).
    """
    ran = here.test(TEST).run("--gvisor-keep", "all").ends(passed=2, failed=2, errors=1)
    kept = ran.kept()
    assert commands(kept) == ["cat; echo err >&2; exit 7", "first", "passes", "teardown"]
    for run in kept:
        assert {"bundle", "log", "stdin", "replay.sh"} <= set(os.listdir(run))
        assert run.stat().st_mode & 0o777 == 0o700
        assert problems_of_file((run / "bundle/config.json").read_bytes()) == ()
    assert len(bundles_written.read_bytes().splitlines()) >= len(kept)


def test_the_script_repeats_the_run(here: Project) -> None:
    """The script gives the same bytes and status after the session, also in another folder."""
    ran = here.test(TEST).run("--gvisor-keep", "failed").exits(1)
    (run,) = (run for run in ran.kept() if (run / "stdin").read_bytes())
    moved = run.rename(here.folder / "moved and with spaces")
    for _ in range(2):
        done = replay(moved)
        assert (done.stdout, done.stderr, done.returncode) == (b"a\0\xffb\n", b"err\n", 7)
    assert sorted(os.listdir(moved)) == [
        "bundle", "log", "order.json", "panic", "replay.sh", "stdin",
    ]  # fmt: skip


def test_the_script_repeats_what_was_unusual_about_a_run(here: Project) -> None:
    """Another root filesystem, environment, user, mounts and platform are in the kept bundle."""
    here.test("""
        from pytest_gvisor import bind, empty, host

        def test_it(gvisor, request):
            folder = request.config.rootpath / "data it's"
            folder.mkdir()
            (folder / "file").write_text("content")
            done = gvisor.run(
                ["sh", "-c", 'cat /data/file; pwd; echo "$A"; cat /made'],
                rootfs=empty({"made": "made\\n"}), cwd="/data", env={"A": "it's $HOME"},
                mounts=[bind(folder, "/data"), *(bind(p, p) for p in ("/bin", "/usr", "/lib"))]
                + [bind("/lib64", "/lib64")],
            )
            assert done.stdout == "content/data\\nit's $HOME\\nmade\\n"
            assert 0
    """)
    ran = here.run("--gvisor-keep", "all", "--gvisor-platform", "ptrace").ends(failed=1)
    (run,) = ran.kept()
    done = replay(run)
    assert done.stdout == b"content/data\nit's $HOME\nmade\n", done.stderr
    assert "--platform ptrace" in (run / "replay.sh").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace is made")
def test_the_script_repeats_a_run_with_a_network_of_its_own(here: Project) -> None:
    """The script makes a network namespace for gVisor's own stack."""
    here.test("""
        import pytest

        @pytest.mark.gvisor(network="sandbox")
        def test_it(gvisor):
            done = gvisor.run(["sh", "-c", "cat /proc/net/dev; exit 5"])
            print(repr(done.stdout))
            assert done.returncode == 0
    """)
    ran = here.run("--gvisor-keep", "failed").ends(failed=1)
    (run,) = ran.kept()
    done = replay(run)
    assert done.returncode == 5, done.stderr
    assert b"lo:" in done.stdout


def test_a_run_that_runsc_could_not_start_is_kept(here: Project) -> None:
    """The script shows the same message and status as runsc did."""
    here.test("def test_it(gvisor): gvisor.run(['no-such-program'])")
    (run,) = here.run("--gvisor-keep", "failed").ends(failed=1).kept()
    assert "no-such-program" in (run / "log").read_text()
    done = replay(run)
    assert done.returncode == 128
    assert b'error finding executable "no-such-program"' in done.stderr


def test_logs_are_kept_where_there_are_any(here: Project) -> None:
    """With `--gvisor-debug` runsc's own logs are beside the bundle."""
    here.test("def test_it(gvisor): gvisor.run(['false'], check=True)")
    (run,) = here.run("--gvisor-keep=failed", "--gvisor-debug").ends(failed=1).kept()
    logs = {path.name.partition(".")[0]: path.read_text() for path in (run / "logs").iterdir()}
    assert {"boot", "gofer", "run"} <= logs.keys()
    assert "exit_group(0x1)" in logs["boot"]


def test_what_cannot_be_kept_is_a_warning_and_no_verdict(project: Project) -> None:
    """A disk that is full when a run is kept changes nothing about the run, and is not silent."""
    project.test(
        "def test_it(gvisor): assert gvisor.run(['echo', 'x']).stdout == 'x\\n'",
        conftest="""
        import errno, os
        import pytest_gvisor.run.kept

        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        pytest_gvisor.run.kept.keep = full
        """,
    )
    ran = project.run("--gvisor-keep=all", "-W", "default").ends(passed=1, warnings=1)
    ran.shows("PytestGvisorWarning: not kept: [Errno 28] No space left on device")
