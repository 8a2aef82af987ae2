"""How the guest's Python is started."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import UsageError, bind, directory, host
from pytest_gvisor.oci import skeleton, system_folders
from pytest_gvisor.oci.rootfs import host_system
from pytest_gvisor.run.workload import make_workload
from pytest_gvisor.sandbox import interpreter


@pytest.mark.parametrize(
    ("over", "own"), [("/etc", True), ("/etc/ld.so.cache", True), ("/e", False)]
)
def test_a_mount_over_the_loaders_cache_is_not_read(
    tmp_path: Path, over: str, *, own: bool
) -> None:
    """The guest has its libraries named to it where the caller's mount holds the loader's list."""
    start = interpreter.start(host(), [bind(tmp_path, over)])
    assert ("--library-path" in start.argv) is own


def test_a_root_of_the_user_s_gets_no_more_of_the_host_than_the_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects lie below /usr as well, and in its ``lib``: they are hidden there."""
    (tmp_path / ".pytest-gvisor").mkdir()
    start = interpreter.start(directory(tmp_path), [])
    prefix = interpreter.interpreter().prefix
    project = f"{prefix}/lib/app"
    assert not {"/usr", prefix} & {mount.source for mount in start.mounts}
    system = host_system(whole=False)._replace(covers=("/usr/src", project))
    monkeypatch.setattr(interpreter, "host_system", lambda **_: system)
    monkeypatch.setattr(system_folders, "has_files", {project, "/usr/src"}.__contains__)
    monkeypatch.setattr(skeleton, "write", lambda *_: None)
    workload = make_workload(["guest"], rootfs=directory(tmp_path))
    made = interpreter.guest(workload, start, str(tmp_path)).mounts
    hidden = [mount.destination for mount in made if mount not in start.mounts]
    assert hidden == [start.under, f"{start.under}{project}"]


def test_the_guest_is_the_folder_that_links_lead_to(tmp_path: Path) -> None:
    """uv can install each file as a link into its cache, where a sandbox sees nothing."""
    package = Path(pytest_gvisor.__file__).parent
    for file in [*package.rglob("*.py"), package / "__init__.pyi"]:
        link = tmp_path / file.relative_to(package.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    code = "from pytest_gvisor.sandbox import interpreter; print(interpreter._FOLDER)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    printed = subprocess.check_output(
        [sys.executable, "-P", "-c", code], env=environment, text=True
    )
    assert printed == f"{os.path.realpath(package)}/guest\n"


def test_a_python_whose_prefix_is_a_home_folder_starts_no_warm_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``bin`` and ``lib`` have files of the user's too."""
    home = tmp_path / "home"
    for name in ("bin", "lib"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    known = dataclasses.replace(
        interpreter.interpreter(), program=f"{home}/bin/python3", prefix=str(home),
        folders=(f"{home}/bin", f"{home}/lib"), libraries=(),
    )  # fmt: skip
    monkeypatch.setattr(interpreter, "interpreter", lambda: known)
    start = interpreter.start(host(), [])
    with pytest.raises(UsageError, match=f"would see all of {home}/bin: {home} is or holds a home"):
        interpreter.guest(make_workload(["guest"]), start, str(tmp_path))


def test_private_files_beside_libraries_that_lie_elsewhere_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``LD_LIBRARY_PATH`` may name a folder of the user's, which must be no home folder."""
    folder, found = tmp_path / "libraries", interpreter.interpreter()
    for name in ("libz.so.1", "token"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch(0o600)
    known = dataclasses.replace(
        found, folders=(*found.folders, str(folder)), files=(*found.files, f"{folder}/libz.so.1")
    )
    monkeypatch.setattr(interpreter, "interpreter", lambda: known)
    assert interpreter._private(known) == [f"{folder}/token"]
    start = interpreter.start(host(), [])
    mounts = interpreter.guest(make_workload(["guest"]), start, str(tmp_path)).mounts
    assert f"{start.under}{folder}/token" in {mount.destination for mount in mounts}
    monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(UsageError, match=f"all of {folder}: {folder} is or holds a home folder"):
        interpreter._private(known)


def test_a_home_folder_in_usr_local_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have one there, beside the Python that everybody sees."""
    known = dataclasses.replace(
        interpreter.interpreter(), program="/usr/bin/python3", prefix="/usr", folders=("/usr/lib",)
    )
    monkeypatch.setenv("HOME", "/usr/local/airflow")
    assert interpreter._private(known) == []


def test_libraries_of_python_s_own_come_before_the_system_s() -> None:
    """The system may have a libpython of the same name and another release."""
    known = interpreter.interpreter()
    own = [one for one in known.libraries if one.startswith(f"{known.prefix}/")]
    assert [*known.libraries][: len(own)] == own
