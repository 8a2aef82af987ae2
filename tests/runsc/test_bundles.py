"""Bundles made by other tools, and by `oci_bundle`, run as they were validated."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Bundle,
    Gvisor,
    InvalidBundle,
    Outcome,
    Runsc,
    UsageError,
    WorkloadFailed,
    WorkloadTimeout,
    bind,
    directory,
)
from pytest_gvisor.plugin.fixture_values import BundleFactory

Make = Callable[..., Path]


UMOCI = Path(__file__).parents[1] / "unit/oci/data/umoci.json"


@pytest.fixture(params=["runc", "runc-rootless", "runsc", "umoci"])
def elsewhere(
    request: pytest.FixtureRequest, runsc: Runsc, busybox_root: Path, tmp_path: Path
) -> Make:
    """Makes a bundle with another tool's ``spec`` command, and then changes its config.json."""
    # fmt: off
    commands = {
        "runc": ["runc", "spec"],
        "runc-rootless": ["runc", "spec", "--rootless"],
        "runsc": [runsc.path, "spec", "--", "sh"],
        "umoci": ["cp", str(UMOCI), "config.json"],
    }
    # fmt: on

    def make(**changes: Any) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        busybox_root.rename(folder / "rootfs")
        subprocess.run(commands[request.param], cwd=folder, check=True, capture_output=True)
        return changed(folder, changes)

    return make


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """The folder, with values of its config.json set by names such as ``process__args``."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        *path, last = name.split("__")
        place = config
        for step in path:
            place = place[step]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_another_tool_wrote_runs_as_it_is(gvisor: Gvisor, elsewhere: Make) -> None:
    """The file of `runc spec` or `runsc spec`, untouched, runs its shell on the input."""
    bundle = Bundle.open(elsewhere())
    done = gvisor.run_bundle(bundle, input="echo out; echo err >&2; id -u; exit 3\n")
    assert (done.stdout, done.returncode, done.outcome) == ("out\n0\n", 3, Outcome.EXITED)
    assert done.stderr == "err\n"
    assert done.args == ("sh",)


@pytest.mark.parametrize("elsewhere", ["runc"], indirect=True)
def test_a_terminal_is_noted_and_not_made(gvisor: Gvisor, elsewhere: Make) -> None:
    """`runc spec` asks for a terminal; the workload gets pipes, and a note says so."""
    bundle = Bundle.open(elsewhere())
    assert any("terminal" in note for note in bundle.notes)
    done = gvisor.run_bundle(bundle, input="test -t 0 || test -t 1 || echo pipes\n")
    assert done.stdout == "pipes\n"


def test_a_bundle_made_elsewhere_is_left_as_it_was(gvisor: Gvisor, elsewhere: Make) -> None:
    """The bundle's folder keeps no writes of the workload and no files of runsc."""
    script = "echo x > /tmp/x; echo x > /bin/new; echo x > /new; true"
    folder = elsewhere(process__args=["sh", "-c", script], root__readonly=False)
    before = _tree(folder)
    assert gvisor.run_bundle(Bundle.open(folder)).returncode == 0
    assert _tree(folder) == before


def _tree(folder: Path) -> list[tuple[str, int, int]]:
    return [
        (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    ]


@pytest.mark.fault("B13")
@pytest.mark.parametrize("elsewhere", ["runc", "runsc"], indirect=True)
def test_what_was_validated_is_what_runs(gvisor: Gvisor, elsewhere: Make) -> None:
    """A config.json that is changed, broken or removed after it was opened changes nothing."""
    folder = elsewhere(process__args=["echo", "validated"])
    bundle = Bundle.open(folder)
    changed(folder, {"process__args": ["echo", "changed"]})
    assert gvisor.run_bundle(bundle).stdout == "validated\n"
    (folder / "config.json").write_text("{")
    assert gvisor.run_bundle(bundle).stdout == "validated\n"
    (folder / "config.json").unlink()
    assert gvisor.run_bundle(bundle).stdout == "validated\n"


@pytest.mark.parametrize("elsewhere", ["runc"], indirect=True)
def test_a_bundle_takes_the_settings_of_a_run(gvisor: Gvisor, elsewhere: Make) -> None:
    """The call has the deadline, check, input and network, as for `run`."""
    bundle = Bundle.open(elsewhere(process__args=["sh"]))
    with pytest.raises(WorkloadFailed, match="exit status 7"):
        gvisor.run_bundle(bundle, input="exit 7", check=True)
    with pytest.raises(WorkloadTimeout):
        gvisor.run_bundle(bundle, input="sleep 1000", timeout=1)
    done = gvisor.run_bundle(bundle, input="ls /sys/class/net; echo end", network="host")
    assert done.stdout.endswith("end\n")
    with pytest.raises(UsageError, match="platform is decided for a whole test"):
        gvisor.run_bundle(bundle, platform="ptrace")  # type: ignore[call-arg]


def test_a_made_bundle_runs(gvisor: Gvisor, oci_bundle: BundleFactory, tmp_path: Path) -> None:
    """oci_bundle writes the bundle of gvisor.run, with mounts, environment, folder and user."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("bound\n")
    bundle = oci_bundle(
        ["sh", "-c", 'cat /data/file; echo "$NAME $(pwd) $(id -u)"; cat'],
        env={"NAME": "a,b"},
        cwd="/tmp",
        user=1000,
        mounts=[bind(tmp_path / "data", "/data")],
    )
    config = json.loads(Path(bundle.path, "config.json").read_text())
    assert config["process"]["args"][0] == "sh"
    done = gvisor.run_bundle(bundle, input="input")
    assert done.stdout == "bound\na,b /tmp 1000\ninput"


def test_made_bundles_are_apart(gvisor: Gvisor, oci_bundle: BundleFactory) -> None:
    """Each call makes a bundle of its own, and a bundle can be run more than once."""
    first, second = oci_bundle(["echo", "first"]), oci_bundle(["echo", "second"])
    assert first.path != second.path
    found = [gvisor.run_bundle(bundle).stdout for bundle in (first, second, first)]
    assert found == ["first\n", "second\n", "first\n"]


@pytest.mark.gvisor(memory="lots")
def test_a_bundle_with_a_setting_that_cannot_be_meant(oci_bundle: BundleFactory) -> None:
    """The marker's settings are the bundle's, so nonsense is found when it is made."""
    with pytest.raises(UsageError, match="not a size"):
        oci_bundle(["true"])


@pytest.mark.fault("B3")
@pytest.mark.parametrize("elsewhere", ["runc"], indirect=True)
def test_a_hook_is_refused(elsewhere: Make) -> None:
    """Hooks would run on the host as the caller."""
    folder = elsewhere()
    for point in (
        "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
    ):  # fmt: skip
        changed(folder, {"hooks": {point: [{"path": "/bin/touch"}]}})
        with pytest.raises(InvalidBundle, match="hooks"):
            Bundle.open(folder)


def _run_folders(gvisor: Gvisor) -> list[str]:
    """The entries of the session folder, apart from those that all runs share."""
    shared = ("host", "lock", "journal", "sidecars", ".")
    names = os.listdir(gvisor._launcher.session().path)
    return [name for name in names if not name.startswith(shared)]


@pytest.mark.fault("B8")
def test_a_bad_call_makes_no_sandbox(gvisor: Gvisor, busybox_root: Path) -> None:
    """A NUL, an empty argv, a lone string or a name twice is refused before anything is started."""
    for args, options in (
        (["a\0b"], {}),
        ([], {}),
        ([""], {}),
        (["true"], {"env": {"A": "a\0b"}}),
        (["true"], {"env": {"A=B": "c"}}),
        (["true"], {"cwd": "relative"}),
        (["true"], {"hostname": "a b"}),
        (["true"], {"user": -1}),
        (["true"], {"user": "nobody"}),
        (["true"], {"mounts": [bind(busybox_root, "/a"), bind(busybox_root, "/a/")]}),
        (["true"], {"nonsense": True}),
        ("true", {}),
        ([b"true"], {}),
    ):
        call: Any = gvisor.run
        with pytest.raises((InvalidBundle, UsageError)):
            call(args, **options)
    assert _run_folders(gvisor) == []
    assert all(record.completed is None for record in gvisor.records)


@pytest.mark.fault("B5")
def test_a_link_in_a_root_does_not_lead_out(
    gvisor: Gvisor, busybox_root: Path, tmp_path: Path
) -> None:
    """A mount through a link of the root lands inside, where the link leads in there."""
    (tmp_path / "outside").mkdir()
    (busybox_root / str(tmp_path / "outside")[1:]).mkdir(parents=True)
    (busybox_root / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/f").write_text("inside\n")
    before = _tree(busybox_root)
    mounts = [bind(tmp_path / "data", "/link")]
    done = gvisor.run(["cat", "/link/f"], rootfs=directory(busybox_root), mounts=mounts)
    assert done.stdout == "inside\n"
    assert _tree(busybox_root) == before
    assert os.listdir(tmp_path / "outside") == []
