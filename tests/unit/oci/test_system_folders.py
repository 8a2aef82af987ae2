"""The host's folders that a workload sees by default, and what is hidden in them."""

import itertools
import os
import sys
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.oci import system_folders
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.oci.rootfs import HostRootfs
from pytest_gvisor.programs import paths
from tests.mounts import masked

PACKAGES = "lib/python3.11/site-packages"


def make(folder: Path, *names: str, mode: int = 0o644) -> None:
    """Make files of these names, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        (folder / name).chmod(mode)


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only prefix of the running Python."""
    folder = tmp_path / "venv"
    make(folder, "bin/python", f"{PACKAGES}/a.py", "pyvenv.cfg", "share/doc/x", "include/x.h")
    monkeypatch.setattr(system_folders, "prefixes", lambda: [str(folder)])
    return folder


def seen(system: system_folders.System, prefix: Path) -> set[str]:
    """The files of a prefix that a sandbox sees."""
    found = (os.path.join(top, name) for top, _, names in os.walk(prefix) for name in names)
    return {os.path.relpath(path, prefix) for path in found if system.holds(path)}


def test_of_a_prefix_known_parts_are_seen(prefix: Path) -> None:
    """Passwords lie beside them: of pip, conda and Jupyter, and in sources of editable packages."""
    make(prefix, "pip.conf", "conda-meta/state", "etc/jupyter/x.json", "var/x", "src/x/.env")
    make(prefix, "envs/other/bin/x", "ssl/private/x", "ssl/cert.pem", "openssl/lib/libssl.so.3")
    (prefix / "lib64").symlink_to("lib")
    system = system_folders.system()
    assert seen(system, prefix) == {
        "bin/python", f"{PACKAGES}/a.py", "pyvenv.cfg", "share/doc/x", "include/x.h",
        "ssl/cert.pem", "openssl/lib/libssl.so.3",
    }  # fmt: skip
    assert (f"{prefix}/lib64".lstrip("/"), "lib") in system.links
    assert (str(prefix), str(prefix)) in system_folders.system(whole=True).binds
    assert system.path == (f"{prefix}/bin",)


def test_what_other_users_may_not_read_is_hidden(prefix: Path) -> None:
    """Files and folders; byte code goes with its source, and links are not followed."""
    make(prefix, f"{PACKAGES}/secret.ini", f"{PACKAGES}/own.py", "share/of group", mode=0o640)
    make(prefix, "share/closed/x", f"{PACKAGES}/__pycache__/own.pyc", "lib/__pycache__/x.pyc")
    (prefix / "share/closed").chmod(0o700)
    (prefix / "lib/__pycache__").chmod(0o700)
    (prefix / "share/link").symlink_to(prefix)
    hidden = {
        f"{PACKAGES}/secret.ini", f"{PACKAGES}/own.py", f"{PACKAGES}/__pycache__", "share/closed",
        "share/of group",
    }  # fmt: skip
    covers = {os.path.relpath(path, prefix) for path in system_folders.system().covers}
    assert {path for path in covers if not path.startswith("..")} == hidden
    assert not [p for p in system_folders.system(whole=True).covers if str(prefix) in p]


def test_an_environment_that_is_private_as_a_whole_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A umask of 077 made it, and it works as on the host."""
    with masked(0o077):
        make(tmp_path / "venv", f"{PACKAGES}/a.py", "bin/python", mode=0o600)
    assert not [*system_folders.private(str(tmp_path / "venv/lib"))]
    monkeypatch.setattr(system_folders, "prefixes", lambda: [str(tmp_path / "venv")])
    assert seen(system_folders.system(), tmp_path / "venv") == {f"{PACKAGES}/a.py", "bin/python"}


def test_a_prefix_with_two_names_is_seen_and_hidden_under_both(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home folders may be on another disk, and /home a link to it."""
    make(prefix, f"{PACKAGES}/secret.ini", mode=0o600)
    (tmp_path / "link").symlink_to("venv")
    names = [str(tmp_path / "link"), str(prefix)]
    monkeypatch.setattr(system_folders, "prefixes", lambda: names)
    system = system_folders.system()
    for name in names:
        assert dict(system.binds)[f"{name}/lib"] == f"{prefix}/lib"
        assert f"{name}/{PACKAGES}/secret.ini" in system.covered()
    (prefix / PACKAGES / "secret.ini").unlink()
    assert not [path for path in system.covered() if path.endswith("secret.ini")]


def test_of_a_link_to_the_python_its_folder_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv makes ``~/.local/bin/python3``, and there are other programs and other users' data."""
    local, real = tmp_path / ".local", tmp_path / "uv/cpython"
    make(local, "bin/tool", "share/keyrings/login", "lib/x")
    make(real, "bin/python3", f"{PACKAGES}/x.py")
    (local / "bin/python3").symlink_to(real / "bin/python3")
    for name, value in (("executable", local / "bin/python3"), ("prefix", real), ("path", [])):
        monkeypatch.setattr(sys, name, value if name == "path" else str(value))
    monkeypatch.setattr(sys, "base_prefix", str(real))
    monkeypatch.setattr(system_folders, "within", lambda p, f: f != "/tmp" and paths.within(p, f))
    for whole in (False, True):
        system = system_folders.system(whole=whole)
        assert not [path for path in dict(system.binds) if path.startswith(str(local))]
        assert (f"{local}/bin/python3".lstrip("/"), f"{real}/bin/python3") in system.links
        assert system.holds(f"{real}/bin/python3")
        assert system.path == (f"{real}/bin",)


@pytest.mark.parametrize("below", ["", "lib/app"])
def test_of_a_project_that_is_an_environment_the_environment_is_seen(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    """After ``python -m venv .``, the rest of ``lib`` and ``share`` is the project's."""
    packages = f"lib/{Path(os.__file__).parent.name}/site-packages/x.py"
    make(prefix, packages, "lib/app/.env", "lib/code.py", "share/key.pem", "include/x.h")
    monkeypatch.setattr(system_folders, "projects", [str(prefix / below)])
    found = seen(system_folders.system(), prefix) - {f"{PACKAGES}/a.py"}
    assert found == {packages, "bin/python", "pyvenv.cfg"}
    (prefix / "pyvenv.cfg").unlink()  # the libraries of a Python lie in its lib
    assert "lib/code.py" in seen(system_folders.system(), prefix)


def test_a_folder_at_the_top_is_seen_by_its_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have its project in /library, and others keep theirs in /libs."""
    ours = ["bin", "lib", "lib32", "lib64", "libexec", "libilp32", "libx32", "sbin"]
    monkeypatch.setattr(os, "listdir", lambda _path: [*ours, "library", "libs", "lib64.old"])
    monkeypatch.setattr(os.path, "isdir", lambda _path: True)
    binds, links = system_folders._top_level()
    assert {path.lstrip("/") for path in (*binds, *links)} == {"usr", *ours}


def test_data_of_a_user_is_no_part_of_a_python(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that was built into ``~/.local`` has there what all programs keep of the user."""
    (tmp_path / ".local").symlink_to(prefix)
    make(prefix, "share/keyrings/login", "state/history", "bin/tool")
    (prefix / "share").chmod(0o700)
    monkeypatch.setattr(system_folders, "is_too_wide", lambda _prefix: False)
    of_another, both = [str(tmp_path / ".local"), str(prefix)], (False, True)
    for whole, mine in itertools.product(both, both):
        homes, names = ([str(tmp_path)], [str(prefix)]) if mine else ([], of_another)
        monkeypatch.setattr(system_folders, "homes", lambda homes=homes: homes)
        monkeypatch.setattr(system_folders, "prefixes", lambda names=names: names)
        found = seen(system_folders.system(whole=whole), prefix)
        assert found >= {"bin/tool", f"{PACKAGES}/a.py"}
        assert not [path for path in found if path.startswith(("share", "state"))]


def test_what_has_nothing_to_show_or_hide_is_no_mount(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mount takes runsc a millisecond; what has become more by the next run is mounted."""
    (prefix / "include/x.h").unlink()
    (prefix / "include/python3.11").mkdir()
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(system_folders, "_SOURCES", (str(tmp_path / "src"),))
    monkeypatch.setattr(system_folders, "_top_level", lambda: ({str(tmp_path): ""}, {}))
    system = system_folders.system()
    assert f"{prefix}/share" in dict(system.binds)
    assert f"{prefix}/include" not in dict(system.binds)
    assert str(tmp_path / "src") not in system.covered()
    make(tmp_path, "src/app/.env")
    assert str(tmp_path / "src") in system.covered()


def test_packages_of_stores_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries of Nix and Homebrew lie beside the prefix; settings of services do not count."""
    monkeypatch.setattr(os.path, "isdir", lambda path: not path.startswith("/usr/"))
    brew = "/home/linuxbrew/.linuxbrew"
    prefixes = [f"{brew}/opt/python@3.13", "/nix/store/x-python3"]
    monkeypatch.setattr(system_folders, "prefixes", lambda: prefixes)
    system = system_folders.system()
    assert system.holds("/nix/store/y-openssl/lib/x.so")
    assert system.holds(f"{brew}/opt/openssl@3/lib/x.so")
    assert not system.holds(f"{brew}/etc/x.conf")
    assert system.path == tuple(f"{prefix}/bin" for prefix in prefixes)


def test_packages_that_are_hidden_are_named(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many of them are an error, for each is a mount."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(prefix / PACKAGES)])
    make(prefix, f"{PACKAGES}/mine/x.py")
    (prefix / PACKAGES / "mine").chmod(0o700)
    (note,) = system_folders.system().notes
    assert note == "other users may not read mine: not in the sandbox"
    monkeypatch.setattr(system_folders, "MOST_PRIVATE", 0)
    with pytest.raises(UsageError, match=r"has 1 files and folders that other users may not read"):
        system_folders.system()


def test_sources_below_usr_are_hidden() -> None:
    """Docker's habit is a project in /usr/src."""
    system = system_folders.system()
    assert {*filter(os.path.isdir, ("/usr/src", "/usr/local/src"))} <= {*system.covers}
    assert not system.holds("/usr/src/app/.env")
    assert system.holds("/usr/bin/env")


@pytest.mark.parametrize(
    ("root", "hidden"),
    [("/usr/share/app", True), ("/usr/local/app", True), ("/usr/lib/x/app", True),
     ("/usr/share", False), ("/usr", False), ("/usr/local", False), ("/opt/app", False),
     (os.path.dirname(os.__file__), False), ("/usr/lib/python3/dist-packages/numpy", False)],
)  # fmt: skip
def test_a_project_below_usr_is_hidden(
    root: str, *, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are home folders there. The system's own folders and its packages stay."""
    system = system_folders.system()
    assert root not in system.covered()
    monkeypatch.setattr(system_folders, "has_files", lambda _path: True)
    monkeypatch.setattr(system_folders, "projects", [root])
    assert (root in system.covered()) is hidden
    assert root not in system.covered(frozenset({root}))
    monkeypatch.setattr(system_folders, "projects", [])
    monkeypatch.setattr(system_folders, "homes", lambda: [root])
    assert (root in system.covered()) is hidden


def test_a_python_in_a_project_below_usr_is_seen(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prefix is hidden but for the parts, and not where the user has mounted the project."""
    make(prefix, f"{PACKAGES}/secret.ini", mode=0o600)
    system = system_folders.system()
    assert str(prefix) not in system.covers  # no folder of the system's holds it
    top = {"/usr": "/usr", str(tmp_path): ""}
    monkeypatch.setattr(system_folders, "_top_level", lambda: (top, {}))
    system = system_folders.system()
    assert str(prefix) in system.covers
    assert not system.holds(str(prefix / "pip.conf"))
    assert system.holds(str(prefix / "lib/x"))
    taken = frozenset({str(tmp_path / "venv")})
    secret = str(prefix / PACKAGES / "secret.ini")
    assert {*system.covered(taken)} & {str(prefix), secret} == {secret}


def test_a_mount_in_the_place_of_usr_is_shown_as_it_is(tmp_path: Path) -> None:
    """Its own ``src`` is there."""
    (tmp_path / "src").mkdir()
    made = HostRootfs().prepare(str(tmp_path / "r"), mounts=[bind(tmp_path, "/usr", follow=True)])
    assert "/usr/src" not in {mount.destination for mount in made.mounts}
