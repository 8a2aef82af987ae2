"""How the guest's Python is started."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import bind, directory, host
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


def test_no_private_file_lies_beside_a_python_that_is_a_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a Python was built into one, its ``bin`` and ``lib`` have other files too."""
    home = tmp_path / "home"
    for name in ("bin/python3", "bin/deploy", "lib/x.so", "lib/token", "lib/python3.11/a/b"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch(0o600)
    (home / "lib/python3.11").chmod(0o700)  # by the umask of the one who installed it
    (home / "lib/public").touch()
    found = interpreter.interpreter()
    known = dataclasses.replace(
        found, program=f"{home}/bin/python3", prefix=str(home),
        folders=(f"{home}/bin", f"{home}/lib"), libraries=(),
    )  # fmt: skip
    monkeypatch.setattr(interpreter, "interpreter", lambda: known)
    monkeypatch.setattr(os, "__file__", f"{home}/lib/python3.11/os.py")
    interpreter._private.cache_clear()
    try:
        start = interpreter.start(host(), [])
        made = interpreter.guest(make_workload(["guest"]), start, str(tmp_path)).mounts
        (home / "lib/token").unlink()  # and a file that is gone meanwhile is no mount
        again = interpreter.guest(make_workload(["guest"]), start, str(tmp_path / "home")).mounts
    finally:
        interpreter._private.cache_clear()
    for mounts, hidden in ((made, {"bin/deploy", "lib/token"}), (again, {"bin/deploy"})):
        covered = {mount.destination for mount in mounts if mount.source.endswith("/hidden")}
        assert {f"{start.under}{home}/{name}" for name in hidden} == covered
