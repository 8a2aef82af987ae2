from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor import is_gvisor_kernel
from pytest_gvisor.oci import rootfs
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.oci.mounts import bind, tmpfs

if TYPE_CHECKING:
    from pytest_gvisor.oci.rootfs import Rootfs
    from pytest_gvisor.oci.spec import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: bare runsc is started")

Run = Callable[[str], subprocess.CompletedProcess[str]]
Tree = Callable[[Path], Any]
BUSYBOX = "/bin/busybox"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    def create(
        args: Sequence[str], root: Rootfs, *, mounts: Sequence[Mount] = (), **asked: Any
    ) -> Bundle:
        folder = str(tmp_path / "bundle")
        made = root.prepare(folder, mounts=mounts)
        spec = default_spec(
            args, root_path=made.root_path, mounts=made.mounts, path=made.path, **asked
        )
        return Bundle.create(folder, spec)

    return create


def test_the_running_python_runs_in_the_host_root(
    make: Callable[..., Bundle], bare_runsc: Run
) -> None:
    """This interpreter and its installed packages work, under gVisor's kernel."""
    code = "import os, pytest; print(6 * 7, os.uname().release, os.getcwd())"
    done = bare_runsc(make([sys.executable, "-c", code], rootfs.host()).path)
    number, release, folder = done.stdout.removesuffix("\n").split(" ")
    assert (number, is_gvisor_kernel(release), folder) == ("42", True, "/")
    assert (done.returncode, done.stderr) == (0, "")


def test_python3_is_this_python(make: Callable[..., Bundle], bare_runsc: Run) -> None:
    """The name `python3` is the interpreter of the tests, also for another user."""
    code = "import sys, os; print(sys.prefix, os.getuid(), os.getgid())"
    done = bare_runsc(make(["python3", "-c", code], rootfs.host(), user="1000:1001").path)
    assert (done.stdout, done.stderr) == (f"{sys.prefix} 1000 1001\n", "")


def test_secrets_of_the_host_are_not_there(
    make: Callable[..., Bundle], bare_runsc: Run, tmp_path: Path
) -> None:
    """The root has no shadow file, no keys, no home folder and no folder of the test."""
    folders = ["/home", "/root", "/srv", "/tmp"]
    paths = ["/etc/shadow", "/etc/ssl/private", "/etc/machine-id", "/etc/ssh", str(tmp_path)]
    code = (
        "import os, sys\n"
        f"print([name for name in {folders!r} if os.listdir(name)])\n"
        f"print([path for path in {paths!r} if os.path.exists(path)])"
    )
    done = bare_runsc(make([sys.executable, "-I", "-c", code], rootfs.host()).path)
    # A Python that lives below a home folder makes that folder's name, and no more, appear.
    below = {folder for folder in folders if sys.prefix.startswith(f"{folder}/")}
    below |= {folder for folder in folders if sys.base_prefix.startswith(f"{folder}/")}
    assert done.stderr == ""
    assert done.stdout == f"{[name for name in folders if name in below]}\n[]\n"


def test_writes_stay_in_the_sandbox(
    make: Callable[..., Bundle], bare_runsc: Run, tmp_path: Path, tree: Tree
) -> None:
    """The root can be written to inside, and no file of the host changes."""
    script = (
        "echo x > /etc/passwd && rm -r /etc/ssl && mkdir /new && echo y > /new/f && cat /new/f;"
        "touch /usr/bin/evil; touch /data/evil; rm -f /data/kept; cat /data/kept"
    )
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "kept").write_text("kept\n")
    bundle = make(["sh", "-c", script], rootfs.host(), mounts=[bind(canary, "/data")])
    before = tree(canary), tree(tmp_path / "bundle")
    done = bare_runsc(bundle.path)
    assert done.stdout == "y\nkept\n"
    assert done.stderr.count("Read-only file system") == 3
    assert (tree(canary), tree(tmp_path / "bundle")) == before
    assert not os.path.exists("/usr/bin/evil")


def test_a_writable_bind_is_written_to(
    make: Callable[..., Bundle], bare_runsc: Run, tmp_path: Path
) -> None:
    """A writable bind takes writes; a file can be a mount, also below a tmpfs."""
    (tmp_path / "out").mkdir()
    (tmp_path / "one").write_text("one\n")
    mounts = [
        bind(tmp_path / "out", "/deep/er/out", readonly=False),
        bind(tmp_path / "one", "/tmp/sub/one"),
        tmpfs("/scratch", size="1M"),
    ]
    script = "cat /tmp/sub/one > /deep/er/out/copy; touch /scratch/x; stat -c %a /scratch"
    done = bare_runsc(make(["sh", "-c", script], rootfs.host(), mounts=mounts).path)
    assert (done.stdout, done.stderr) == ("1777\n", "")
    assert (tmp_path / "out/copy").read_text() == "one\n"


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    return root


def test_a_directory_is_run_and_left_as_it_was(
    make: Callable[..., Bundle], bare_runsc: Run, busybox: Path, tree: Tree
) -> None:
    """A static busybox runs in a given folder; its writes and all mount points are gone."""
    before = tree(busybox)
    script = "busybox mkdir /made && busybox touch /made/x /bin/y && busybox ls / /bin"
    done = bare_runsc(make(["/bin/busybox", "sh", "-c", script], rootfs.directory(busybox)).path)
    assert done.stderr == ""
    assert {"made", "proc", "dev", "sys", "tmp", "y"} <= set(done.stdout.split())
    assert tree(busybox) == before


@pytest.mark.fault("B5")
def test_a_link_in_a_root_does_not_lead_out(
    make: Callable[..., Bundle], bare_runsc: Run, busybox: Path, tmp_path: Path, tree: Tree
) -> None:
    """A mount through a link of the root lands inside, where the link leads in there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (busybox / str(outside)[1:]).mkdir(parents=True)
    (busybox / "link").symlink_to(outside)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/f").write_text("inside\n")
    before = tree(outside), tree(busybox)
    bundle = make(
        ["/bin/busybox", "cat", "/link/f"],
        rootfs.directory(busybox),
        mounts=[bind(tmp_path / "data", "/link")],
    )
    assert bare_runsc(bundle.path).stdout == "inside\n"
    assert (tree(outside), tree(busybox)) == before


def test_an_empty_root_runs_what_it_is_given(make: Callable[..., Bundle], bare_runsc: Run) -> None:
    """A root of one static program and a script."""
    files: dict[str, bytes | str] = {
        "bin/sh": Path(BUSYBOX).read_bytes(),
        "run": '#!/bin/sh\necho "$1" $HOSTNAME\n',
    }
    done = bare_runsc(make(["/run", "hello"], rootfs.empty(files), env={"HOSTNAME": "h"}).path)
    assert (done.stdout, done.stderr) == ("hello h\n", "")


@pytest.mark.parametrize("tool", ["runc", "umoci", "runsc", "runc-rootless"])
def test_a_bundle_made_elsewhere_runs(
    tool: str, request: pytest.FixtureRequest, bare_runsc: Run, tmp_path: Path, tree: Tree
) -> None:
    """Another tool's bundle, opened and written to our folder, runs, and is left as it was."""
    value = request.getfixturevalue("sample")(tool)
    value["process"]["args"] = ["/bin/busybox", "sh", "-c", "echo ran; busybox touch /x"]
    folder = request.getfixturevalue("elsewhere")(value)
    opened = Bundle.open(folder)
    before = tree(Path(folder))
    done = bare_runsc(Bundle.create(str(tmp_path / "ours"), opened.spec).path)
    assert done.stdout == "ran\n", done.stderr
    assert tree(Path(folder)) == before


@pytest.mark.fault("B8")
def test_three_megabytes_of_arguments_arrive(make: Callable[..., Bundle], bare_runsc: Run) -> None:
    """Large arguments, and one large variable, are passed whole."""
    code = "import sys, os; print(sum(map(len, sys.argv[1:])), len(os.environ['BIG']))"
    args = [sys.executable, "-I", "-c", code, *["a" * 100_000] * 15]
    done = bare_runsc(make(args, rootfs.host(), env={"BIG": "b" * 100_000}).path)
    assert done.stdout == "1500000 100000\n", done.stderr
