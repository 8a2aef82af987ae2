"""The release of December 2022, from Debian 12: older than systrap and directfs."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import (
    Bundle,
    Gvisor,
    InsecureRunsc,
    Launcher,
    Outcome,
    Platform,
    Runsc,
    RunscFailed,
    bind,
    directory,
    is_gvisor_kernel,
)
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.programs import leftovers
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.settings import Settings
from tests.runsc.conftest import Expire

BUILT = Path(__file__).parents[2] / ".build/runsc-2022/usr/bin/runsc"

pytestmark = pytest.mark.skipif(
    not BUILT.exists(), reason="no Debian archive with the 2022 runsc: scripts/older-runsc"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The old binary, owned by the user of the tests."""
    copy = tmp_path / "runsc"
    shutil.copyfile(BUILT, copy)
    copy.chmod(0o755)
    return str(copy)


@pytest.fixture
def old(path: str) -> Iterator[Runsc]:
    runsc = Runsc.at(path)
    yield runsc
    runsc.close()


@pytest.fixture
def gvisor(old: Runsc) -> Iterator[Gvisor]:
    """Runs workloads with the old binary, in a session of its own; nothing is left in that."""
    launcher = Launcher()
    yield Gvisor(runsc=old, platform=Platform.PTRACE, launcher=launcher)
    session, keeper = launcher.session().path, launcher.keeper().pid
    left = [pid for pid in leftovers.processes(session, everywhere=True) if pid != keeper]
    folders = [name for name in os.listdir(session) if name.startswith("g")]
    launcher.close()
    assert (left, folders) == ([], [])


def test_what_it_is_and_lacks(old: Runsc) -> None:
    """The old release has a version and the platforms ptrace and kvm, but not systrap."""
    assert old.version.startswith("20221219")
    assert old.date is not None
    assert old.date.year == 2022
    assert old.platforms == {Platform.PTRACE, Platform.KVM}
    assert not old.has_flag("directfs")


def test_a_workload_runs_on_ptrace(gvisor: Gvisor) -> None:
    """A call gives the same result as with a new release."""
    script = "uname -r; id -u; hostname; cat; echo err >&2; exit 3"
    done = gvisor.run(["sh", "-c", script], input="input\n", env={"A": "b"})
    release, _, rest = done.stdout.partition("\n")
    assert is_gvisor_kernel(release)
    assert (rest, done.stderr) == ("0\ngvisor\ninput\n", "err\n")
    assert (done.returncode, done.outcome) == (3, Outcome.EXITED)


def test_its_environment_has_another_temporary_folder(gvisor: Gvisor) -> None:
    """The sentry inherits TMPDIR, and may not use the run's own folder: see docs/security.md."""
    done = gvisor.run(["true"])
    words = done.command.split()
    assert "TMPDIR=/tmp" in words
    assert "XDG_RUNTIME_DIR=/tmp" not in words


@pytest.mark.parametrize("network", ["none", "host"])
def test_its_networks(gvisor: Gvisor, network: str) -> None:
    """The old release runs without a network and with the host's."""
    assert gvisor.run(["echo", "ran"], network=network).stdout == "ran\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a sandbox network is root's")
def test_its_own_network(gvisor: Gvisor) -> None:
    """The old release runs with a network stack of its own, which has loopback."""
    code = "import socket; print(socket.if_nameindex())"
    done = gvisor.run(["python3", "-c", code], network="sandbox")
    assert "'lo'" in done.stdout


@pytest.mark.parametrize(
    ("script", "returncode", "outcome"),
    [
        ("exit 137", 137, Outcome.EXITED),
        ("kill -KILL $$", -signal.SIGKILL, Outcome.SIGNALLED),
        ("exit 128", 128, Outcome.EXITED),
        ("exit 143", 143, Outcome.EXITED),
        ("kill -TERM $$", -signal.SIGTERM, Outcome.SIGNALLED),
    ],
)
def test_its_verdicts_are_exact(
    gvisor: Gvisor, script: str, returncode: int, outcome: Outcome
) -> None:
    """The old release tells exit 137 and SIGKILL apart too."""
    done = gvisor.run(["sh", "-c", script])
    assert (done.returncode, done.outcome, done.exact) == (returncode, outcome, True)


def test_its_own_failure_is_told(gvisor: Gvisor) -> None:
    """A missing program is runsc's failure with its record."""
    with pytest.raises(RunscFailed, match="no-such-program") as caught:
        gvisor.run(["no-such-program"])
    assert caught.value.records


def test_its_deadline(gvisor: Gvisor, patient_timeout: Expire) -> None:
    """A hang ends at the deadline, with SIGTERM, the grace and the output so far."""
    script = "trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    assert patient_timeout(gvisor, ["sh", "-c", script]).stdout == "ready\ntidied\n"


def test_writes_stay_in_its_memory(gvisor: Gvisor, busybox_root: Path) -> None:
    """Writes stay in memory, although this release's default would let them reach the disk."""
    before = _tree(busybox_root)
    script = "echo x > /new; echo x > /bin/new; rm /bin/cat; ls /new"
    done = gvisor.run(["/bin/sh", "-c", script], rootfs=directory(busybox_root))
    assert (done.stdout, done.stderr) == ("/new\n", "")
    assert _tree(busybox_root) == before


def _tree(folder: Path) -> list[tuple[str, int, int]]:
    return [
        (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    ]


def test_its_read_only_binds(gvisor: Gvisor, tmp_path: Path) -> None:
    """A file of a read-only bind is neither written nor emptied."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("kept\n")
    code = (
        "import os\n"
        "for flags in (os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY):\n"
        "    try: os.open('/data/file', flags)\n"
        "    except OSError as error: print(error.errno)\n"
    )
    gvisor.run(["python3", "-I", "-c", code], mounts=[bind(tmp_path / "data", "/data")])
    assert (tmp_path / "data/file").read_text() == "kept\n"


def test_a_bundle_made_elsewhere_runs(gvisor: Gvisor, busybox_root: Path, tmp_path: Path) -> None:
    """A bundle of today's `runc spec` runs with the old binary."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    busybox_root.rename(folder / "rootfs")
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    assert gvisor.run_bundle(Bundle.open(folder), input="echo ran").stdout == "ran\n"


def test_systrap_is_not_compiled_in(path: str) -> None:
    """The error says that this release has no systrap, without trying; auto means ptrace."""
    engine = Engine()
    settings = Settings(runsc=path)
    try:
        found = engine.availability(Platform.SYSTRAP, settings)
        automatic = engine.platforms_of(settings)
    finally:
        engine.close()
    assert found.cause is Cause.NOT_COMPILED_IN
    assert automatic == (Platform.PTRACE,)


def test_the_plugin_says_so(pytester: pytest.Pytester, path: str) -> None:
    """The option selects the old binary; systrap skips, or fails when strict, with the cause."""
    pytester.makepyfile(
        """
        from pytest_gvisor import is_gvisor_kernel

        def test_it(gvisor, runsc):
            assert runsc.date.year == 2022
            assert is_gvisor_kernel(gvisor.run(["uname", "-r"]).stdout.strip())
        """
    )
    options = ["--gvisor-runsc", path, "-rs"]
    done = pytester.runpytest_subprocess(*options, "--gvisor-platform", "systrap,ptrace")
    done.assert_outcomes(passed=1, skipped=1)
    done.stdout.fnmatch_lines(["*platform systrap is not available here: not compiled in*"])
    strict = pytester.runpytest_subprocess(
        *options, "--gvisor-platform", "systrap", "--gvisor-strict"
    )
    strict.assert_outcomes(errors=1)
    strict.stdout.fnmatch_lines(["*platform systrap is not available here: not compiled in*"])
    automatic = pytester.runpytest_subprocess(*options)
    automatic.assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o4755], ids=oct)
def test_an_unsafe_copy_of_it_is_refused(path: str, mode: int) -> None:
    """The rules for the binary are the same for any release."""
    os.chmod(path, mode)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    with pytest.raises(InsecureRunsc, match=f"mode {mode:04o}"):
        Runsc.at(path)


@pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root is not rootless by itself"
)
def test_it_runs_without_root(gvisor: Gvisor) -> None:
    """The old release gets `--rootless` for an unprivileged user."""
    assert gvisor.run(["id", "-u"]).stdout == "0\n"
    assert "--rootless" in gvisor.records[-1].argv
