"""Workloads that take all there is: memory, disk, processors; and a host that has none to give."""

import contextlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Outcome, WorkloadTimeout, directory, tmpfs
from tests.faults.census import facts
from tests.faults.little import Little, eventually

MIB = 1024 * 1024
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: limits by cgroups")


def used(folder: str | Path) -> int:
    """Bytes on the disk in a folder; the disk is also written to by others."""
    found = 0
    for place, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found += 512 * os.lstat(os.path.join(place, name)).st_blocks
    return found


@pytest.mark.fault("G3")
def test_a_tmp_that_is_full_is_full_inside_alone(gvisor: Gvisor, canary: Path) -> None:
    """ENOSPC for the workload, which goes on; nothing of it is on the host's disks."""
    name = f"/tmp/x-{secrets.token_hex(8)}"
    session = gvisor._launcher.session().path
    before = used(session)
    script = f"dd if=/dev/zero of={name} bs=1M count=400; echo $?; wc -c < {name}; echo on"
    done = gvisor.run(["sh", "-c", script], mounts=[tmpfs("/tmp", size="16M")])
    status, size, goes_on = done.stdout.split()
    assert (status, int(size), goes_on) == ("1", 16 * MIB, "on")
    assert "No space left on device" in done.stderr
    assert used(session) - before < 8 * MIB
    assert not os.path.exists(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root file system."""
    folder = tmp_path / "root"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    return folder


@pytest.mark.fault("G2", "G3")
@needs_root
@pytest.mark.parametrize("file", ["/x", "/tmp/x"])
def test_a_root_that_is_filled_takes_the_sandbox_s_own_memory(
    gvisor: Gvisor, tmp_path: Path, root: Path, canary: Path, file: str
) -> None:
    """A write to the root, or to /tmp by default, takes memory up to the sandbox's limit.

    There is no ENOSPC before that. No file store is left anywhere.
    """
    names = sorted(path.name for path in root.iterdir())
    before = used(tmp_path)
    fill = ["/bin/busybox", "dd", "if=/dev/zero", f"of={file}", "bs=1M", "count=4000"]
    done = gvisor.run(fill, rootfs=directory(root), memory="128M", timeout=60)
    assert done.outcome is Outcome.OUT_OF_MEMORY
    assert used(tmp_path) - before < 8 * MIB
    assert sorted(path.name for path in root.iterdir()) == names
    assert not list(tmp_path.rglob("*filestore*"))
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("F4", "G3")
def test_sigkill_while_the_root_is_filled_leaves_no_file_store(
    any_little: Little, root: Path
) -> None:
    """A root on a disk would have runsc's file store, in it or beside it."""
    script = "echo; while :; do busybox dd if=/dev/zero of=/x bs=1M count=48 2>/dev/null; done"
    any_little.write(
        test_it=f"""
        import pathlib
        from pytest_gvisor import directory

        def test_it(gvisor):
            def pieces():
                while not gvisor.records[-1].argv:
                    yield b""
                pathlib.Path("up").touch()

            argv = ["/bin/busybox", "sh", "-c", {script!r}]
            gvisor.run(argv, rootfs=directory({str(root)!r}), timeout=50, input=pieces())
        """
    )
    before = facts(root)
    process = any_little.start()
    assert eventually(lambda: any_little.note("up") or process.poll() is not None) is not None
    time.sleep(0.5)
    assert process.poll() is None, any_little.output()
    process.kill()
    process.wait()
    any_little.assert_gone()
    assert facts(root) == before
    assert not list(root.parent.rglob("*filestore*"))


SPIN = "for n in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"
NEIGHBOURS = int(os.environ.get("TESTS_NEIGHBOURS", "4"))
"""The neighbour's number of runs: enough for a 99th percentile in `make faults`."""


def slowest(durations: list[float]) -> float:
    """The 99th percentile; of fewer than a hundred, the slowest."""
    return sorted(durations)[(len(durations) * 99 - 1) // 100]


@pytest.mark.fault("G4")
@needs_root
def test_eight_busy_processes_leave_their_neighbour_its_time(gvisor: Gvisor) -> None:
    """If busy runs have a share of a processor, a neighbour takes three times as long at most."""

    def runs() -> list[float]:
        found = []
        for _ in range(NEIGHBOURS):
            started = time.monotonic()
            gvisor.run(["true"])
            found.append(time.monotonic() - started)
        return found

    told: list[str] = []
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            try:
                gvisor.run(["sh", "-c", SPIN], cpus=0.5, timeout=3)
                told.append("it ended")
            except WorkloadTimeout as error:
                told.append(type(error).__name__)

    gvisor.run(["true"])
    before = runs()
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        time.sleep(0.3)
        during = runs()
    finally:
        over.set()
        thread.join()
    print(f"p99 of {NEIGHBOURS}: alone {slowest(before):.3f} s, beside {slowest(during):.3f} s")
    assert set(told) == {"WorkloadTimeout"}
    if NEIGHBOURS >= 100:
        assert slowest(during) <= 3 * slowest(before), (before, during)
    else:
        # Of a few, one that the rest of the machine holds up for a moment is the slowest.
        assert min(during) <= 3 * min(before) + 0.5, (before, during)


@pytest.mark.fault("G6")
def test_at_any_shortage_of_memory_the_error_is_typed(any_little: Little) -> None:
    """RLIMIT_AS from nothing more than this process has to a lot; it works again without it."""
    any_little.write(
        test_it="""
        import os, resource
        import pytest_gvisor

        def lose_keeper(gvisor):
            keeper = gvisor._launcher.keeper()._process
            keeper.kill()
            keeper.wait()

        def size():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")

        def test_it(gvisor):
            gvisor.run(["true"])
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            seen = []
            for more in (0, 1, 4, 16, 64, 256):
                lose_keeper(gvisor)
                resource.setrlimit(resource.RLIMIT_AS, (size() + more * 2**20, hard))
                try:
                    gvisor.run(["true"], timeout=60)
                    seen.append("well")
                except pytest_gvisor.GvisorError as error:
                    seen.append(type(error).__name__)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            print(seen)
            assert set(seen) - {"well"} <= {"LaunchError", "RunscFailed", "ProtocolError"}
            assert seen[0] != "well"
            lose_keeper(gvisor)
            assert gvisor.run(["echo", "x"]).stdout == "x\\n"
        """
    )
    print(any_little.run("-s"))
    assert any_little.left() == []


LIMITED = """
    import pytest
    import pytest_gvisor

    @pytest.mark.parametrize("limit", [{"memory": "256M"}, {"pids": 100}, {"cpus": 1}], ids=str)
    def test_limited(gvisor, limit):
        with pytest.raises(pytest_gvisor.LaunchError, match="limit") as caught:
            gvisor.run(["true"], **limit)
        assert caught.value.stage == "cgroup"

    def test_unlimited(gvisor):
        assert gvisor.run(["echo", "x"]).stdout == "x\\n"
"""
NO_CGROUPS = "umount --recursive --lazy /sys/fs/cgroup"
READ_ONLY = (
    "awk '$5 ~ \"^/sys/fs/cgroup\" { print $5 }' /proc/self/mountinfo |"
    " while read -r at; do mount -o remount,bind,ro $at; done"
)


@pytest.mark.fault("G7")
@needs_root
@pytest.mark.parametrize("change", [NO_CGROUPS, READ_ONLY], ids=["none", "read-only"])
def test_without_cgroups_a_limit_is_an_error_and_all_else_works(
    any_little: Little, change: str
) -> None:
    """A limit without a usable cgroup is an error; runs without a limit work."""
    any_little.before = ("unshare", "--mount", "sh", "-ec", f'{change}; exec "$@"', "sh")
    any_little.write(test_it=LIMITED)
    assert "4 passed" in any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("G7")
def test_a_user_namespace_in_which_nothing_can_be_mounted_is_an_error(any_little: Little) -> None:
    """A namespace without mounts is an error, as under AppArmor: unshare succeeds, mount fails."""
    any_little.before = ("unshare", "--map-root-user")
    any_little.write(
        test_it=f"""
        import errno, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import seccomp

        seccomp.refuse("mount", errno.EPERM)

        def test_it(gvisor):
            gvisor.run(["true"])
        """
    )
    assert any_little.start().wait(60) == 1
    output = any_little.output()
    assert "1 error" in output
    assert "the launch failed at mount_namespace" in output
    assert "This process may not make namespaces or mounts" in output
    any_little.assert_gone()


@pytest.mark.fault("G7")
def test_without_user_namespaces_the_platform_is_not_available(any_little: Little) -> None:
    """Without user namespaces the error names the cause, and no test passes."""
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    any_little.before = ("unshare", "--map-root-user", "sh", "-ec", f'{forbid}; exec "$@"', "sh")
    any_little.write(test_it="def test_it(gvisor): gvisor.run(['true'])")
    assert any_little.start().wait(60) == 1
    output = any_little.output()
    assert "1 error" in output
    assert "/proc/sys/user/max_user_namespaces" in output
    any_little.assert_gone()
