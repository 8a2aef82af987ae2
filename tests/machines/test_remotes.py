"""xdist's workers on other machines, by ssh: each machine is as good as this one."""

import json
import os
import signal
import subprocess

import pytest

from pytest_gvisor.report.model import State
from tests.machines.conftest import Fleet
from tests.machines.machines import ROOTS, run

EACH = """
    import os
    import pytest

    def test_workload(gvisor):
        assert gvisor.run(["echo", "hello"]).stdout == "hello\\n"

    @pytest.mark.in_gvisor
    def test_inside():
        assert os.path.exists("/proc/version")

    def test_warm(gvisor_sandbox):
        assert gvisor_sandbox.exec(["cat", "/proc/version"]).returncode == 0
"""
HANGING = """
    import os, pathlib, time
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_workload(gvisor, number):
        if {hangs} and not pathlib.Path("/tmp/hangs").exists():
            pathlib.Path("/tmp/hangs").touch()
            gvisor.run(["sleep", "100"], timeout=90)
        gvisor.run(["sleep", "0.5"])

    @pytest.mark.in_gvisor
    @pytest.mark.parametrize("number", range(6))
    def test_inside(number):
        time.sleep(0.5)
"""
NAME = "os.uname().nodename"


def test_every_mode_works_on_every_machine(fleet: Fleet) -> None:
    """Workloads, warm sandboxes and tests inside, on two platforms, two releases and for a user."""
    session = fleet.start(
        EACH, "--dist=each", "--gvisor-strict", "--gvisor-platform=systrap,ptrace"
    )
    output = session.end()
    assert "18 passed" in output
    assert "gvisor: systrap, ptrace, network none, strict, runsc of each machine" in output
    for name, version in ("alpha", "20260905"), ("beta", "20240729"), ("gamma", "20260905"):
        assert f"gVisor: on {name}: runsc {version}" in output
    report = session.report
    assert report.hosts == ("alpha", "beta", "gamma")
    assert [leg.python[:4] for leg in report.legs] == ["3.11", "3.13", "3.13"]
    everywhere = [(host, State.PASSED) for host in report.hosts for _platform in range(2)]
    assert session.states() == dict.fromkeys(
        ("test_workload", "test_inside", "test_warm"), everywhere
    )


def test_all_tests_run_inside_on_every_machine(fleet: Fleet) -> None:
    """``--in-gvisor`` holds for each worker."""
    tests = """
        import os

        def test_kernel():
            assert os.uname().release.startswith("4.")
    """
    assert "3 passed" in fleet.start(tests, "--dist=each", "--in-gvisor").end()


def test_an_archive_is_unpacked_once_on_each_machine(fleet: Fleet) -> None:
    """The archive travels with the project. Two workers of one machine share what was unpacked."""
    tests = """
        import pathlib
        import pytest

        IMAGE = str(pathlib.Path(__file__).with_name("app.tar"))

        @pytest.mark.gvisor(image=IMAGE)
        def test_marker(gvisor):
            assert gvisor.run(["busybox", "echo", "hello"]).stdout == "hello\\n"

        def test_fixture(gvisor, gvisor_image):
            rootfs = gvisor_image(IMAGE)
            assert gvisor.run(["busybox", "true"], rootfs=rootfs).returncode == 0
    """
    each = tuple(fleet.ssh(name) for name in ("alpha", "alpha", "beta", "gamma"))
    archive = ROOTS.parent / "images/busybox.tar"
    assert "8 passed" in fleet.start(tests, "--dist=each", tx=each, archive=archive).end()
    homes = {"alpha": "/root", "beta": "/root", "gamma": "/home/tester"}
    for machine in fleet.machines:
        cache = f"{homes[machine.name]}/.cache/pytest-gvisor"
        unpacked = machine.run("find", cache, "-name", "rootfs", "-type", "d")
        assert len(unpacked.split()) == 1


def test_coverage_of_every_machine_is_combined(fleet: Fleet) -> None:
    """Lines of tests inside, with a line that each machine alone has run, and one that none has."""
    app = """
        def run(version):
            if version == 11:
                return "alpha"
            if version == 13:
                return "gamma"
            return "none"
    """
    tests = """
        import sys
        import app

        def test_it():
            assert app.run(sys.version_info.minor) != "none"
    """
    machines = (fleet.ssh("alpha"), fleet.ssh("gamma"))
    more = (
        "--in-gvisor", "--dist=each", "--cov=project", "--cov-config=project/coverage.ini",
        "--cov-branch", f"--cov-report=json:{fleet.folder}/coverage.json", "--max-worker-restart=1",
    )  # fmt: skip
    maps = "[paths]\nsource =\n    project\n    */pyexecnetcache/project\n"
    extra = {"app.py": app, "coverage.ini": maps}
    session = fleet.start(tests, *more, tx=machines, extra=extra, cwd=fleet.folder)
    output = session.end()
    assert "2 passed" in output
    assert "corrupted" not in output
    files = json.loads((fleet.folder / "coverage.json").read_text())["files"]
    assert sorted(files) == ["project/app.py", "project/test_it.py"]
    assert files["project/app.py"]["missing_lines"] == [7]
    assert files["project/test_it.py"]["missing_lines"] == []


def test_files_that_come_back_are_named_with_their_machine(fleet: Fleet) -> None:
    """Files land on the machine of the test, so the same path with other content is no conflict."""
    tests = """
        import os, pathlib

        def test_it(pytestconfig):
            place = pytestconfig.rootpath / "build/name.json"
            place.parent.mkdir(exist_ok=True)
            place.write_text(os.urandom(4).hex())
    """
    more = ("--in-gvisor", "--dist=each", "-o", "gvisor_returns=build")
    output = fleet.start(tests, *more, tx=(fleet.ssh("alpha"), fleet.ssh("beta"))).end()
    for name in ("alpha", "beta"):
        path = "/root/pyexecnetcache/project/build/name.json"
        assert f"gvisor:   {name}:{path}" in output
        assert len(fleet[name].run("cat", path)) == 8
    assert "ERROR" not in output


def test_a_test_that_differs_between_machines_shows_as_such(fleet: Fleet) -> None:
    """The summary has the machines of the test, and no other test."""
    tests = f"""
        import os

        def test_it(gvisor):
            assert {NAME} != "beta"

        def test_other(gvisor):
            pass
    """
    session = fleet.start(tests, "--dist=each")
    output = session.end(1)
    assert " gVisor: platforms or machines differ " in output
    assert "test_it.py::test_it: systrap FAILED on beta, passed on alpha, passed on gamma" in output
    assert [row.test for row in session.report.differing] == ["test_it.py::test_it"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_machine_without_runsc_skips_or_fails_its_tests(fleet: Fleet, strict: bool) -> None:
    """The reason names what is missing, and the report names the machine."""
    fleet["gamma"].run("mv", "/usr/local/bin/runsc", "/root/runsc")
    try:
        more = ["--gvisor-strict"] if strict else []
        session = fleet.start(EACH, "--dist=each", "-rs", "--gvisor-platform=systrap", *more)
        output = session.end(1 if strict else 0)
    finally:
        fleet["gamma"].run("mv", "/root/runsc", "/usr/local/bin/runsc")
    assert ("6 passed, 3 errors" if strict else "6 passed, 3 skipped") in output
    assert "systrap cannot be used: on gamma: runsc was not found" in output
    state = State.ERROR if strict else State.UNAVAILABLE
    for found in session.states().values():
        assert found == [("alpha", State.PASSED), ("beta", State.PASSED), ("gamma", state)]
    assert session.report.differing == ()


def test_a_machine_without_power_costs_its_test_alone(fleet: Fleet) -> None:
    """Its test is an error on that machine; the others run the rest, and it is clean afterwards."""
    session = fleet.start(HANGING.format(hangs=f'{NAME} == "beta" and number > 1'))
    beta = fleet["beta"]
    session.until(beta.hangs)
    beta.off()
    output = session.end(1)
    assert "1 failed, 11 passed" in output
    (lost,) = [
        (test, at) for test, ((at, state),) in session.states().items() if state is State.ERROR
    ]
    assert lost[1] == "beta"
    assert f"crashed while running 'test_it.py::{lost[0]}' on beta" in output
    assert all(
        state is State.PASSED
        for test, ((_at, state),) in session.states().items()
        if test != lost[0]
    )
    beta.join()
    again = fleet.start(EACH, "--dist=each")
    assert "9 passed" in again.end()


def test_without_a_machine_the_session_ends_with_the_reason(fleet: Fleet) -> None:
    """The lost test is in the report, and pytest names the machine: no internal error of xdist."""
    session = fleet.start(HANGING.format(hangs="number == 2"), tx=(fleet.ssh("beta"),))
    beta = fleet["beta"]
    session.until(beta.hangs)
    beta.off()
    output = session.end(2)
    assert "no machine is left for xdist's workers: beta does not answer any more" in output
    assert "crashed while running 'test_it.py::test_workload[2]' on beta" in output
    assert "INTERNALERROR" not in output
    assert session.states()["test_workload[2]"] == [("beta", State.ERROR)]


def test_killed_processes_on_a_machine_are_swept_by_the_next_worker(fleet: Fleet) -> None:
    """A keeper that is killed with its pytest leaves a folder, which the new worker removes."""
    session = fleet.start(HANGING.format(hangs=f'{NAME} == "beta" and number > 1'))
    beta = fleet["beta"]
    session.until(beta.hangs)
    beta.run("pkill", "-KILL", "-f", "keeper.py|import sys;exec")
    output = session.end(1)
    assert "1 failed, 11 passed" in output
    assert "leaks removed: 1" in output


def test_a_connection_that_is_cut_costs_its_test_alone(fleet: Fleet) -> None:
    """The ssh client notices by ServerAliveInterval, and sshd by ClientAliveInterval."""
    session = fleet.start(HANGING.format(hangs=f'{NAME} == "gamma" and number > 1'))
    gamma = fleet["gamma"]
    session.until(gamma.hangs)
    gamma.cut()
    assert "1 failed, 11 passed" in session.end(1)
    session.until(lambda: not gamma.processes(), runs=False)


def test_a_machine_whose_worker_has_ended_takes_the_tests_of_a_lost_one(fleet: Fleet) -> None:
    """xdist ends workers that it has no more tests for; the lost one had a test in its queue."""
    session = fleet.start(HANGING.format(hangs=f'{NAME} == "gamma" and number > 1'))
    session.until(fleet["gamma"].hangs)
    session.until(lambda: session.output.count(" PASSED ") == 10)
    fleet["gamma"].cut()
    assert "1 failed, 11 passed" in session.end(1)


def test_a_killed_ssh_costs_its_test_alone(fleet: Fleet) -> None:
    """The machine is still there, so xdist starts a new worker on it."""
    session = fleet.start(HANGING.format(hangs=f'{NAME} == "alpha" and number == 0'))
    alpha = fleet["alpha"]
    session.until(alpha.hangs)
    pids = subprocess.run(
        ["pgrep", "-P", str(session.process.pid), "-f", "ssh.* alpha "],
        capture_output=True,
        text=True,
    )
    os.kill(int(pids.stdout), signal.SIGKILL)
    assert "1 failed, 11 passed" in session.end(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_anywhere_soon_after_an_end(fleet: Fleet, number: signal.Signals) -> None:
    """Ctrl-C, a deadline of the shell's and a kill of the controller reach each machine."""
    session = fleet.start(HANGING.format(hangs="True"))
    for machine in fleet.machines:
        session.until(machine.hangs)
    os.killpg(session.process.pid, number)
    took = session.until(lambda: not any(one.processes() for one in fleet.machines), runs=False)
    print(f"{number.name}: {took:.1f} s")
    assert took < 4


def test_a_worker_may_come_by_a_socket_or_share_a_connection(fleet: Fleet) -> None:
    """execnet's socket server on one machine, two workers by one ssh connection on another."""
    config = fleet.config.read_text()
    shared = (
        f"    ControlMaster auto\n    ControlPath {fleet.folder}/%n.socket\n    ControlPersist 60\n"
    )
    together = fleet.config.with_name("together")
    together.write_text(config.replace("    HostName", f"{shared}    HostName"))
    serve = "python3 -m execnet.script.socketserver :8888 >/dev/null 2>&1"
    fleet["alpha"].run("sh", "-c", f"mkdir -p /srv/far && cd /srv/far && {serve} & sleep 1")
    by_ssh = fleet.ssh("gamma").replace(str(fleet.config), str(together))
    try:
        tx = (f"socket={fleet['alpha'].address(2)}:8888", f"2*{by_ssh}")
        output = fleet.start(EACH, "--dist=each", tx=tx).end()
    finally:
        run("ssh", "-F", str(together), "-O", "exit", "gamma")
        fleet["alpha"].run("pkill", "-f", "socketserver")
    assert "9 passed" in output
    assert "gVisor: on alpha: runsc" in output


def test_workers_may_come_through_a_machine_between(fleet: Fleet) -> None:
    """The machine between runs ssh itself. A worker that crashes is replaced by the same way."""
    tests = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(gvisor, number):
            assert gvisor.run(["echo", "hello"]).stdout == "hello\\n"
            if number == 2:
                os._exit(1)
    """
    alpha = fleet["alpha"]
    alpha.run("mkdir", "-p", "-m", "700", "/root/.ssh")
    key = (fleet.config.parent / "key").read_text()
    settings = (
        'install -m 600 /dev/null /root/.ssh/id_ed25519 && printf %s "$1" >/root/.ssh/id_ed25519'
    )
    alpha.run("sh", "-c", f"{settings}; echo StrictHostKeyChecking no >/root/.ssh/config", "-", key)
    between = f"--px=id=between//execmodel=thread//{fleet.ssh('alpha')}"
    tx = f"2*ssh=root@{alpha.address(2)}//via=between//python=/usr/bin/python3"
    session = fleet.start(tests, between, tx=(tx,))
    assert "1 failed, 5 passed" in session.end(1)
    assert session.report.hosts == ("alpha",)


def test_maxfail_ends_the_session_on_every_machine(fleet: Fleet) -> None:
    """The other workers end their tests, and begin no more."""
    tests = """
        import time
        import pytest

        @pytest.mark.parametrize("number", range(30))
        def test_it(gvisor, number):
            time.sleep(0.3)
            assert number
    """
    output = fleet.start(tests, "--maxfail=1").end(2)
    assert "stopping after 1 failures" in output
