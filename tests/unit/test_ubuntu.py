"""The work of scripts/setup on Ubuntu, with its own functions and another machine's answers."""

import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DEBIAN = "ID=debian\n"
UBUNTU = "ID=ubuntu\nID_LIKE=debian\n"

# The functions of the script alone, and a machine that has nothing of what it asks for.
PROGRAM = r"""
set -euo pipefail
functions='/^missing_packages()/,/^}/p; /^install_packages()/,/^}/p; /^do_without()/,/^}/p'
. <(sed -n "$functions; /^essential=/p" "$CHECKOUT/scripts/setup" |
    sed "s|/etc/os-release|$OS_RELEASE|")
has() { [ "$1" = apt-get ]; }
is_installed() { false; }
find_python() { false; }
id() { echo 0; }
say() { echo "$*"; }
die() { echo "die: $*"; exit 1; }
quietly() { echo "would run: $*"; }
candidate_version() { case " $APT " in *" $1 "*) echo 1.0 ;; esac; }
"""


def call(folder: Path, *, release: str, script: str, apt: str = "") -> str:
    """The output of these functions on a machine of that release, whose apt has these packages."""
    file = folder / "os-release"
    file.write_text(release)
    env = {
        "CHECKOUT": str(CHECKOUT), "OS_RELEASE": str(file), "APT": apt, "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", PROGRAM + script],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_where_docker_cli_is_no_package_docker_io_has_the_client(tmp_path: Path) -> None:
    """Ubuntu has no docker-cli; a package that apt does not know is named and skipped."""
    script = "install_packages gcc docker-cli umoci"
    said = call(tmp_path, release=UBUNTU, script=script, apt="gcc docker.io")
    assert "apt-get install --no-install-recommends -y gcc docker.io" in said
    assert "umoci" in said
    assert "docker-cli" not in said


@pytest.mark.parametrize(
    ("release", "known", "asked"),
    [
        (UBUNTU, "", "qemu-system-x86 kmod busybox-static file linux-image-generic"),
        (
            DEBIAN,
            "virtiofsd",
            "qemu-system-x86 kmod busybox-static file linux-image-amd64 virtiofsd",
        ),
    ],
    ids=["ubuntu", "debian"],
)
def test_a_vm_s_packages_are_those_that_the_release_has(
    tmp_path: Path, release: str, known: str, asked: str
) -> None:
    """Ubuntu's QEMU brings its virtiofsd along under no name, and its kernel has another one."""
    script = f"""
    . <(sed -n '/^from_apt()/,/^}}/p' "$CHECKOUT/scripts/vm-parts" |
        sed "s|/etc/os-release|$OS_RELEASE|")
    compgen() {{ false; }}
    apt-cache() {{ [ "$2" = "{known}" ]; }}
    from_apt
    """
    said = call(tmp_path, release=release, script=script).splitlines()
    assert said[0] == f"installing {asked}"
    assert [line.split()[-1] for line in said[1:]] == asked.split()
