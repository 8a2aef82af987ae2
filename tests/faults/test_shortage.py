"""Out of descriptors, processes or disk: a typed error, nothing left, and it works again after."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, GvisorError, LaunchError, Runsc
from tests.faults.conftest import (
    entries,
    on_disk,
    own_files,
    until_well,
    used_bytes,
)
from tests.faults.little import Little
from tests.faults.shortages import spare_descriptors

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk is mounted")
as_user = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root has no limit on processes"
)


def outcome(gvisor: Gvisor) -> str:
    """``well``, or the name of the error; anything that is not of our tree is raised."""
    try:
        return "well" if gvisor.run(["echo", "x"], timeout=60).stdout == "x\n" else "wrong"
    except GvisorError as error:
        return type(error).__name__


@pytest.mark.fault("G6")
@pytest.mark.parametrize("keeper", ["new", "old"])
def test_at_any_shortage_of_descriptors_the_error_is_typed(
    apart: Callable[[], Gvisor], keeper: str
) -> None:
    """Each number of spare descriptors gives a typed error or a success; the next run succeeds."""
    gvisor = apart()
    assert outcome(gvisor) == "well"

    def attempt(number: int) -> str:
        used = apart() if keeper == "new" else gvisor
        before = set(os.listdir("/proc/self/fd"))
        with spare_descriptors(number):
            seen = outcome(used)
        # A new keeper may have come up, and have its socket and its session's two locks here.
        assert len(set(os.listdir("/proc/self/fd")) - before) <= (3 if keeper == "new" else 0)
        if number % 4 == 0:
            assert outcome(used) == "well"
        return seen

    errors = until_well(attempt, range(1, 60), "well")
    assert len(errors) > 2
    assert set(errors) <= {"LaunchError", "ProtocolError", "RunscFailed"}, errors


@pytest.mark.fault("G6")
@as_user
def test_at_any_shortage_of_processes_the_error_is_typed(any_little: Little) -> None:
    """RLIMIT_NPROC counts all of a user's: from none to enough."""
    any_little.write(
        test_it="""
        import os, resource, time
        import pytest
        import pytest_gvisor

        def lose_keeper(gvisor):
            keeper = gvisor._launcher.keeper()._process
            with open(f"/proc/{keeper.pid}/task/{keeper.pid}/children") as file:
                pids = file.read().split()
            keeper.kill()
            keeper.wait()
            # What dies with it would be counted, and leave room a moment later.
            while any(os.path.exists(f"/proc/{pid}") for pid in pids):
                time.sleep(0.01)

        def tasks():
            found = 0
            for name in os.listdir("/proc"):
                try:
                    if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                        found += len(os.listdir(f"/proc/{name}/task"))
                except OSError:
                    pass
            return found

        def test_it(gvisor):
            gvisor.run(["true"])
            hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            seen = set()
            for more in (0, 1, 2, 3, 5, 8, 12, 20):
                lose_keeper(gvisor)
                resource.setrlimit(resource.RLIMIT_NPROC, (tasks() + more, hard))
                try:
                    gvisor.run(["true"], timeout=60)
                    seen.add("well")
                except pytest_gvisor.GvisorError as error:
                    seen.add(type(error).__name__)
                finally:
                    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
            assert "LaunchError" in seen
            lose_keeper(gvisor)
            assert gvisor.run(["echo", "x"]).stdout == "x\\n"
        """
    )
    any_little.run()
    assert any_little.left() == []


NAMESPACES = """
import time
from concurrent.futures import ThreadPoolExecutor
import pytest_gvisor

def end(number):
    try:
        gvisor.run(["sleep", "1"])
    except pytest_gvisor.RunscFailed as error:
        return str(error)

with pytest_gvisor.session(platform="systrap") as gvisor:
    gvisor.run(["true"])
    with open("/proc/sys/user/max_pid_namespaces", "w") as limit:
        limit.write("3")
    with ThreadPoolExecutor(8) as pool:
        errors = [text for text in pool.map(end, range(8)) if text]
    assert errors
    assert all("`sysctl user`" in text for text in errors), errors
    deadline = time.monotonic() + 60
    while (text := end(0)) and time.monotonic() < deadline:  # the kernel frees a namespace late
        time.sleep(0.1)
    assert not text, text
"""


@pytest.mark.fault("G6")
def test_of_many_at_once_each_error_names_the_limit_on_namespaces() -> None:
    """In a user namespace, which has limits of its own; the last run has room again."""
    command = ["unshare", "-Ur", "--mount", sys.executable, "-c", NAMESPACES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.fault("G5")
@needs_root
def test_a_disk_that_is_full_at_any_file_is_a_typed_error(
    runsc: Runsc, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """Each number of spare files gives a typed error or a success, and no file stays."""
    small_disk("nr_inodes=100000")
    with on_disk(short_folder, runsc) as (launcher, run):
        assert outcome(run) == "well"
        needed = entries(short_folder)

        # A session that is there, with the skeleton that its runs share: each run's own files.
        def attempt(more: int) -> str:
            small_disk(f"nr_inodes={needed + more}")
            seen = outcome(run)
            small_disk("nr_inodes=100000")
            assert own_files(launcher) == []
            return seen

        errors = until_well(attempt, range(40), "well")
        assert len(errors) > 4
        assert "LaunchError" in errors
        assert set(errors) <= {"LaunchError", "RunscFailed", "SandboxCrashed"}, errors
    # From nothing: the session itself, and the skeleton.
    for number in range(3, needed, 40):
        small_disk(f"nr_inodes={number}")
        with on_disk(short_folder, runsc) as (launcher, run):
            assert outcome(run) == "LaunchError"
            small_disk("nr_inodes=100000")
            assert outcome(run) == "well"


@pytest.mark.fault("G5")
@needs_root
def test_a_disk_that_is_full_at_any_byte_is_a_typed_error(
    runsc: Runsc, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """Each number of spare pages gives a typed error or a success: no half-written file is used."""
    small_disk("size=50m")
    with on_disk(short_folder, runsc) as (launcher, run):
        assert outcome(run) == "well"

        def attempt(pages: int) -> str:
            small_disk(f"size={used_bytes(short_folder) + pages * 4096}")
            seen = outcome(run)
            small_disk("size=50m")
            assert own_files(launcher) == []
            return seen

        errors = until_well(attempt, range(30), "well")
        assert len(errors) > 1
        assert set(errors) <= {"LaunchError", "RunscFailed", "SandboxCrashed"}, errors


@pytest.mark.fault("G5")
@needs_root
def test_a_disk_that_is_read_only_from_the_beginning_is_a_typed_error(
    runsc: Runsc, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """The same launcher works once the disk is writable."""
    with on_disk(short_folder, runsc) as (_launcher, run):
        small_disk("ro")
        assert outcome(run) == "LaunchError"
        small_disk("rw")
        assert outcome(run) == "well"


@pytest.mark.fault("G5")
@needs_root
def test_a_session_that_becomes_read_only_is_a_typed_error(runsc: Runsc, short_folder: str) -> None:
    """A read-only mount over the session is a typed error; a run works after the unmount."""
    with on_disk(short_folder, runsc) as (launcher, run):
        assert outcome(run) == "well"
        session = launcher.session().path
        subprocess.run(["mount", "--bind", session, session], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", session], check=True)
        assert outcome(run) == "LaunchError"
        subprocess.run(["umount", session], check=True)
        assert outcome(run) == "well"


@pytest.mark.fault("G8")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "well") for name in ("a b", "é ü", "tab\there", "quote'\"$(x)", "-rf", "x" * 20,
                                      "back\\slash", "co:lo,n")),
        pytest.param("\udcff", "InvalidBundle", id="no-text"),
        pytest.param("x" * 120, "LaunchError", id="120-bytes"),
        pytest.param("x" * 250, "LaunchError", id="250-bytes"),
    ],
)  # fmt: skip
def test_sessions_in_a_folder_with_an_odd_name_work_or_are_a_typed_error(
    runsc: Runsc, short_folder: str, name: str, expected: str
) -> None:
    """Blanks, quotes and dashes are part of a name; too many bytes, or no text, are an error."""
    with on_disk(f"{short_folder}/{name}", runsc) as (_launcher, run):
        assert outcome(run) == expected


@pytest.mark.fault("A11")
@needs_root
def test_a_binary_on_a_disk_without_execution_is_a_typed_error(
    runsc: Runsc, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """The kernel's EACCES from execve, and no exit 127 of anything."""
    small_disk("size=200m")
    folder = f"{short_folder}/bin"
    Path(folder).mkdir(mode=0o755)
    copy = shutil.copy(runsc.path, f"{folder}/runsc")
    os.chmod(copy, 0o755)
    with contextlib.closing(Runsc.find(copy)) as judged:
        small_disk("noexec")
        with (
            on_disk(f"{short_folder}/base", judged) as (_launcher, run),
            pytest.raises(LaunchError) as caught,
        ):
            run.run(["true"])
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.EACCES)
