"""The doctor and the error in a chroot, as in a package build: both name it and a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

# All of it is in a mount namespace of its own, and gone with that.
_SETUP = """
set -e
root=$1/root user=$2; shift 2
mount -t tmpfs -o mode=755 none "$(dirname "$root")"
mkdir "$root"
[ -z "$POINT" ] || mount -t tmpfs -o mode=755 none "$root"
for path in $SHOWN; do
    mkdir -p "$root$path"
    mount --rbind "$path" "$root$path"
done
for name in bin lib lib64; do ln -s "usr/$name" "$root/$name"; done
# The checkout, or the tests' own folder, may lie below /tmp.
mkdir -p "$root/tmp" "$root/run"
chmod 1777 "$root/tmp" "$root/run"
mkdir -p "$root/proc"
mount --rbind /proc "$root/proc"
# No exec: the shell stays outside, as the programs that build packages do.
chroot --userspec="$user" "$root" "$@"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")


def in_chroot(
    folder: Path, *argv: str, user: str = "0:0", point: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command in a chroot; its root is a mount point or a folder below one."""
    shown = {"/usr", "/etc", "/dev", sys.prefix, sys.base_prefix, str(CHECKOUT)}
    tops = [one for one in shown if not any(one.startswith(f"{top}/") for top in shown)]
    (folder / "top").mkdir()
    env = {
        "PATH": os.environ["PATH"], "SHOWN": " ".join(sorted(tops)), "POINT": "1" if point else "",
        "HOME": "/tmp", "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", _SETUP, "sh", str(folder / "top"), user, *argv],
        capture_output=True, text=True, timeout=200, env=env, cwd="/", stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("user", "point"),
    [("0:0", False), ("65534:65534", False), ("0:0", True)],
    ids=["root", "user", "root, on a mount point"],
)
def test_the_doctor_names_the_chroot(tmp_path: Path, user: str, point: bool) -> None:
    """The doctor names the chroot and two ways out of it, not an `Invalid argument`."""
    argv = (sys.executable, "-m", "pytest_gvisor", "doctor")
    done = in_chroot(tmp_path, *argv, user=user, point=point)
    told = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout + done.stderr
    _, _, platform = told.partition("NO platform systrap ")
    platform, _, rest = platform.partition(" user namespaces ")
    assert "this process is in a chroot" in platform, told
    assert "-> Run the tests outside of the chroot, or in a container" in platform, told
    assert "`pytest-gvisor vm -- pytest …`" in platform, told
    assert rest.startswith("this process is in a chroot"), told


@pytest.mark.parametrize("user", ["0:0", "65534:65534"], ids=["root", "user"])
def test_the_error_names_the_chroot(tmp_path: Path, user: str) -> None:
    """Pytest's error of a test names the chroot."""
    project = tmp_path / "project"
    project.mkdir()
    program = (
        "import os, pathlib, sys, pytest\n"
        "os.mkdir('/tmp/project')\n"
        "os.chdir('/tmp/project')\n"
        "pathlib.Path('test_it.py').write_text(\"def test_it(gvisor): gvisor.run(['true'])\")\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--gvisor-strict']))\n"
    )
    done = in_chroot(tmp_path, sys.executable, "-c", program, user=user)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 error" in done.stdout
    assert "this process is in a chroot" in done.stdout
    assert "Run the tests outside of the chroot" in done.stdout
