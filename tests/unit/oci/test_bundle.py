import errno
import io
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import InvalidBundle, LaunchError
from pytest_gvisor.oci import validate
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.sessions import places

Sample = Callable[[str], dict[str, Any]]
Elsewhere = Callable[[object], str]


def test_a_terminal_is_asked_for_by_who_gives_one(tmp_path: Path, value: dict[str, Any]) -> None:
    """The caller's terminal is written to config.json, whatever the specification has."""
    bundle = Bundle.create(str(tmp_path / "b"), validate.read(value), terminal=True)
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert written["process"]["terminal"] is True
    assert not bundle.spec.process.terminal


def test_a_bundle_is_written_whole_and_private(tmp_path: Path, value: dict[str, Any]) -> None:
    """The folder is 0700, config.json 0600, and it holds exactly the specification."""
    folder = tmp_path / "bundle"
    made = Bundle.create(str(folder), validate.read(value))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    assert os.listdir(folder) == ["config.json"]
    assert validate.read(json.loads((folder / "config.json").read_bytes())) == made.spec


def test_nothing_is_written_for_a_bad_specification(tmp_path: Path, value: dict[str, Any]) -> None:
    """Problems are reported, all of them, before even the folder is made."""
    bad = replace(validate.read(value), oci_version="9.0", hostname="a b")
    with pytest.raises(InvalidBundle) as caught:
        Bundle.create(str(tmp_path / "bundle"), bad)
    assert len(caught.value.problems) == 2
    assert os.listdir(tmp_path) == []


def test_a_specification_of_more_than_4_mib_is_refused(
    tmp_path: Path, value: dict[str, Any]
) -> None:
    """Three megabytes of arguments are written, five are refused."""
    for size, fits in ((3 << 20, True), (5 << 20, False)):
        value["process"]["args"] = ["echo", *["a" * 100_000] * (size // 100_000)]
        spec = validate.read(value)
        if fits:
            Bundle.create(str(tmp_path / "fits"), spec)
        else:
            with pytest.raises(InvalidBundle, match="larger than"):
                Bundle.create(str(tmp_path / "not"), spec)


@pytest.mark.fault("G5")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("step", ["mkdir", "open", "write", "replace"])
def test_a_write_that_fails_leaves_nothing(
    step: str, number: int, tmp_path: Path, value: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk at any step is a LaunchError, and leaves no half bundle."""

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    class Full(io.FileIO):
        write = full  # type: ignore[assignment]

    descriptors = len(os.listdir("/proc/self/fd"))
    if step == "write":
        monkeypatch.setattr(os, "fdopen", lambda fd, *_, **__: Full(fd, "wb"))
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(LaunchError, match=errno.errorcode[number]) as caught:
        Bundle.create(str(tmp_path / "bundle"), validate.read(value))
    assert (caught.value.stage, caught.value.errno) == ("bundle", number)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.fault("B15")
@pytest.mark.parametrize("tool", ["runc", "runc-rootless", "runsc", "umoci"])
def test_bundles_of_other_tools_are_opened(tool: str, sample: Sample, elsewhere: Elsewhere) -> None:
    """Bundles of runc, runsc and umoci follow the rules once their invalid parts are changed."""
    folder = elsewhere(sample(tool))
    opened = Bundle.open(folder)
    assert opened.spec.root.path == f"{folder}/rootfs"
    assert not opened.spec.process.terminal
    assert any("maskedPaths" in note for note in opened.notes) == (tool != "runsc")
    assert any("/sys" in note for note in opened.notes) == (tool == "runc-rootless")
    Bundle.create(folder + "-again", opened.spec)


def test_a_rootless_umoci_bundle_needs_its_mount_points(
    sample: Sample, elsewhere: Elsewhere
) -> None:
    """A bind mount whose point is not in the root is refused, for runsc would make it there."""
    folder = Path(elsewhere(sample("umoci-rootless")))
    allow: dict[str, Any] = {"allow_binds": {"/etc/resolv.conf": "ro"}}
    with pytest.raises(InvalidBundle, match=r"/etc/resolv.conf.* does not exist"):
        Bundle.open(folder, **allow)
    (folder / "rootfs/etc").mkdir()
    (folder / "rootfs/etc/resolv.conf").touch()
    assert Bundle.open(folder, **allow).spec.mounts


@pytest.mark.fault("B11")
def test_annotations_that_steer_runsc_are_dropped(sample: Sample, elsewhere: Elsewhere) -> None:
    """A hundred thousand of them, in no time, with a note that can be printed."""
    value = sample("runsc")
    value["annotations"] = {f"dev.gvisor.flag.{n}": "\x1b" for n in range(100_000)}
    value["annotations"] |= {"io.kubernetes.cri.container-type": "sandbox", "kept": "\x1b"}
    start = time.thread_time()
    opened = Bundle.open(elsewhere(value))
    assert time.thread_time() - start < 5
    assert opened.spec.annotations == {"kept": "\x1b"}
    assert "and 99996 more" in opened.notes[0]


@pytest.mark.fault("B4")
@pytest.mark.parametrize("path", ["../../..", "/etc", "link", ".", "", "rootfs/../..", "none"])
def test_a_root_outside_of_the_bundle_is_refused(
    path: str, sample: Sample, elsewhere: Elsewhere
) -> None:
    """A root path that climbs, is elsewhere, is a link out or is not there."""
    value = sample("runc")
    value["root"]["path"] = path
    folder = elsewhere(value)
    os.symlink("/etc", f"{folder}/link")
    with pytest.raises(InvalidBundle, match=r"root\.path"):
        Bundle.open(folder)


def test_an_absolute_root_inside_the_bundle_is_fine(sample: Sample, elsewhere: Elsewhere) -> None:
    """The place of the root decides, not the form of its path."""
    folder = elsewhere(sample("runc"))
    value = sample("runc")
    value["root"]["path"] = f"{folder}/rootfs"
    Path(folder, "config.json").write_text(json.dumps(value))
    assert Bundle.open(folder).spec.root.path == f"{folder}/rootfs"


@pytest.mark.fault("B14")
@pytest.mark.parametrize("source", ["/", "/no/such"])
def test_of_very_many_mounts_a_hundred_problems_are_listed(
    sample: Sample, elsewhere: Elsewhere, source: str
) -> None:
    """Dangers, and points that the root does not have: a report that can be read, quickly."""
    value = sample("runc")
    value["mounts"] = [
        {"destination": f"/{number}", "type": "bind", "source": source} for number in range(3000)
    ]
    folder = elsewhere(value)
    start = time.thread_time()
    with pytest.raises(InvalidBundle) as caught:
        Bundle.open(folder)
    assert time.thread_time() - start < 5
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1] == "... and more"


def test_a_bind_of_what_holds_session_folders_is_refused_if_it_can_be_written(
    sample: Sample, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only bind may show session folders, as with `bind`."""
    monkeypatch.setattr(places, "session_bases", lambda: iter([str(tmp_path / "pytest-gvisor")]))
    value = sample("runc")
    mount = {"destination": "/tmp", "type": "bind", "source": str(tmp_path), "options": ["ro"]}
    value["mounts"].append(mount)
    folder = elsewhere(value)
    allow: dict[str, Any] = {"allow_binds": {tmp_path: "rw"}}
    assert Bundle.open(folder, **allow).spec.mounts[7].source == str(tmp_path)
    mount["options"] = ["rw"]
    Path(folder, "config.json").write_text(json.dumps(value))
    with pytest.raises(InvalidBundle, match="holds session folders"):
        Bundle.open(folder, **allow)


def test_a_relative_source_is_in_the_bundle(sample: Sample, elsewhere: Elsewhere) -> None:
    """A relative source starts in the bundle, as in runsc; the specification has it absolute."""
    value = sample("runc")
    value["mounts"].append({"destination": "/tmp", "options": ["rbind"], "source": "data"})
    folder = elsewhere(value)
    os.mkdir(f"{folder}/data")
    assert Bundle.open(folder).spec.mounts[7].source == f"{folder}/data"


def test_all_is_reported_together(sample: Sample, elsewhere: Elsewhere) -> None:
    """Misspelt keys, hooks, a missing program and an escaping root are in one report."""
    value = sample("runc")
    value["hooks"] = {"prestart": [{"path": "/bin/touch"}]}
    value["process"]["noNewPriviliges"] = True
    del value["process"]["args"]
    value["root"]["path"] = "../../.."
    with pytest.raises(InvalidBundle) as caught:
        Bundle.open(elsewhere(value))
    assert sorted(text.split(":")[0] for text in caught.value.problems) == [
        "hooks",
        "process.args",
        "process.noNewPriviliges",
        "root.path",
    ]


def test_what_is_not_a_bundle_is_a_typed_error(tmp_path: Path, sample: Sample) -> None:
    """A missing folder or a config.json of any other kind is an error at once."""
    with socket.socket(socket.AF_UNIX) as listener:
        for name in ("empty", "fifo", "link", "folder", "socket"):
            (tmp_path / name).mkdir()
        (tmp_path / "linked").symlink_to("empty")
        os.mkfifo(tmp_path / "fifo/config.json")
        (tmp_path / "real.json").write_text(json.dumps(sample("runc")))
        (tmp_path / "link/config.json").symlink_to("../real.json")
        (tmp_path / "folder/config.json").mkdir()
        listener.bind(str(tmp_path / "socket/config.json"))
        for name in ("none", "empty", "linked", "fifo", "link", "folder", "socket", "a\0"):
            with pytest.raises(InvalidBundle):
                Bundle.open(tmp_path / name)


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"x"', b"{}"])
def test_json_that_is_no_specification_is_reported(data: bytes, elsewhere: Elsewhere) -> None:
    """A value of another kind is a problem, not a crash."""
    with pytest.raises(InvalidBundle):
        Bundle.open(elsewhere(data))
