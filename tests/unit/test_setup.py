"""The choice of a runsc by scripts/runsc.sh: its order, its messages and its memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

# A candidate is a file that lists the platforms that work on it.
STUBS = """
. "$CHECKOUT/scripts/common.sh"
build=$1
. "$CHECKOUT/scripts/runsc.sh"
say() { echo "$*"; }
ask_platforms() {
    local path=$CANDIDATES/search name status=0
    if [ "${1:-}" = --runsc ]; then path=$2; shift 2; fi
    if ! [ -e "$path" ]; then printf 'runsc\\tno\\tnothing there\\n'; return 1; fi
    printf 'runsc\\t%s\\t1.0\\n' "$path"
    if [ $# -eq 0 ]; then [ -s "$path" ]; return; fi
    for name; do
        if grep -qw "$name" "$path" && machine_allows_sandboxes; then printf '%s\\tworks\\n' "$name"
        elif grep -qw "$name" "$path"; then printf '%s\\tno\\trefused\\n' "$name"; status=1
        else printf '%s\\tno\\tnot compiled in\\n' "$name"; status=1; fi
    done
    return $status
}
offered() {
    if [ -e "$CANDIDATES/$1" ]; then echo "$CANDIDATES/$1"; else echo "no $1"; return 1; fi
}
runsc_of_search() { offered search; }
runsc_of_package() { echo package >>"$CANDIDATES/asked"; offered package; }
go_version=v9
pytest_gvisor() {
    echo "$*" >>"$CANDIDATES/asked"
    if ! [ -e "$CANDIDATES/release" ]; then
        printf 'pytest-gvisor install: no release\\nits words\\n' >&2
        return 1
    fi
    mkdir -p "$3"
    cp "$CANDIDATES/release" "$3/runsc"
}
go_runsc() {
    echo "go $*" >>"$CANDIDATES/asked"
    offered go >&2 || { echo "no go"; return 1; }
    mkdir -p "$2"
    cp "$CANDIDATES/go" "$2/runsc"
}
machine_allows_sandboxes() { [ ! -e "$CANDIDATES/forbidden" ]; }
"""


class Machine:
    """The candidates of a machine, in files, and the choice made there."""

    def __init__(self, folder: Path, **offers: str) -> None:
        self.candidates = folder / "candidates"
        self.build = folder / "build"
        self.candidates.mkdir()
        self.offer(**offers)

    def offer(self, **offers: str) -> None:
        """Put candidates there, each with the platforms that work."""
        for name, platforms in offers.items():
            path = self.candidates / name
            path.write_text(platforms)
            path.chmod(0o755)

    def run(self, command: str = "find_a_runsc") -> subprocess.CompletedProcess[str]:
        """Do a step of setup there."""
        return subprocess.run(
            ["bash", "-c", f"{STUBS}\n{command}", "setup", str(self.build)],
            env={**os.environ, "CHECKOUT": str(CHECKOUT), "CANDIDATES": str(self.candidates)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def chosen(self) -> str:
        """Choose; the path that is left for the other scripts."""
        done = self.run()
        assert done.returncode == 0, done.stdout + done.stderr
        return (self.build / "runsc-path").read_text().strip()

    def asked(self) -> list[str]:
        """The expensive candidates that were tried since the last call."""
        path = self.candidates / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]


ALL = "systrap ptrace"
ORDER = ("search", "package", "release", "go")
WHERE = {
    "search": "candidates/search",
    "package": "candidates/package",
    "release": "build/runsc-release/runsc",
    "go": "build/runsc-go-v9/runsc",
}
NAMES = {
    "search": "the machine's own",
    "package": "the package",
    "release": "gVisor's release",
    "go": "a build of gVisor's Go module",
}


@pytest.mark.parametrize("first", ORDER)
def test_the_first_that_works_on_systrap_is_taken(first: str, tmp_path: Path) -> None:
    """The message has its source and each earlier one's fault; no later one is tried."""
    at = ORDER.index(first)
    machine = Machine(
        tmp_path, **dict.fromkeys(ORDER[:at], "ptrace"), **dict.fromkeys(ORDER[at:], ALL)
    )
    done = machine.run()
    path = tmp_path / WHERE[first]
    lines = [line for line in done.stdout.splitlines() if not line.startswith("trying")]
    assert lines[0] == f"runsc is {path}: {NAMES[first]}"
    assert lines[1:] == [
        f"  not {NAMES[name]}: systrap does not work: not compiled in" for name in ORDER[:at]
    ]
    assert (tmp_path / "build" / "runsc-path").read_text() == f"{path}\n"
    assert len(machine.asked()) == at


def test_tests_want_the_current_release(tmp_path: Path) -> None:
    """The package is of an older one: it is taken where there is no other, and is not kept."""
    machine = Machine(tmp_path, package=ALL)
    package = machine.build / "runsc-2024/usr/bin/runsc"
    package.parent.mkdir(parents=True)
    package.write_text(ALL)
    package.chmod(0o755)
    kept = machine.build / "runsc-path"
    kept.write_text(f"{package}\n")
    assert machine.run("find_a_runsc; echo $how").stdout.endswith("kept in .build\n")
    assert machine.run("find_a_runsc current; echo $how").stdout.endswith("the package\n")
    kept.write_text(f"{package}\n")
    machine.offer(go=ALL)
    said = machine.run("find_a_runsc current; echo $how").stdout
    assert said.endswith("a build of gVisor's Go module\n")


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (True, "runsc-2024/usr/bin/runsc"),
        (False, "no Debian, and apt has no package of that name (on Ubuntu it is in the component"),
    ],
)
def test_on_each_debian_the_package_is_debian_13_s(
    archive: bool, said: str, tmp_path: Path
) -> None:
    """The package is unpacked from the archive. Another system's apt has one or not."""
    found = ":" if archive else "archive_reason='no Debian'; return 1"
    script = f"""
        . "$CHECKOUT/scripts/runsc.sh"
        find_archive() {{ {found}; }}
        candidate_version() {{ :; }}
        apt-get() {{ :; }}
        unpack() {{
            [ "$1 $2" = "trixie runsc" ]
            mkdir -p "$3/usr/bin"
            touch "$3/usr/bin/runsc"
        }}
        runsc_of_package
    """
    done = Machine(tmp_path).run(script)
    assert said in done.stdout
    assert done.returncode == (not archive)


def test_the_second_time_nothing_is_fetched_and_nothing_said(tmp_path: Path) -> None:
    """A built runsc is kept by version, and is taken as long as it works."""
    machine = Machine(tmp_path, search="ptrace", go=ALL)
    assert machine.chosen() == str(tmp_path / WHERE["go"])
    assert machine.asked() == ["package", "install", "go"]
    assert machine.run().stdout == ""
    assert machine.asked() == []
    (tmp_path / WHERE["go"]).write_text("")
    machine.offer(release=ALL)
    assert machine.chosen() == str(tmp_path / WHERE["release"])


def test_a_machine_that_gets_a_working_runsc_uses_it(tmp_path: Path) -> None:
    """A working runsc of the machine replaces a kept one."""
    machine = Machine(tmp_path, go=ALL)
    machine.chosen()
    machine.offer(search=ALL)
    assert machine.chosen() == str(tmp_path / WHERE["search"])


@pytest.mark.parametrize("there", ["search", "package", "release", "go"])
def test_without_systrap_the_first_with_any_platform_is_taken(there: str, tmp_path: Path) -> None:
    """The last resort holds for a day, because the others cost downloads that fail."""
    machine = Machine(tmp_path, **{there: "ptrace"})
    done = machine.run()
    assert f"{tmp_path / WHERE[there]}: {NAMES[there]}, on the platforms that it has" in done.stdout
    assert set(machine.asked()) == {"package", "install", "go"}
    assert machine.run().stdout == ""
    assert machine.asked() == []
    day_ago = (tmp_path / "build" / "runsc-last-resort").stat().st_mtime - 25 * 3600
    os.utime(tmp_path / "build" / "runsc-last-resort", (day_ago, day_ago))
    machine.offer(go=ALL)
    assert (tmp_path / WHERE["go"]).exists() == (there == "go")
    if there == "go":
        (tmp_path / WHERE["go"]).unlink()
    assert machine.chosen() == str(tmp_path / WHERE["go"])
    assert not (tmp_path / "build" / "runsc-last-resort").exists()


def test_where_none_works_each_is_named(tmp_path: Path) -> None:
    """The status is 1, and the message names the command that explains more."""
    done = Machine(tmp_path, search="", package="").run()
    assert done.returncode == 1
    assert "setup: no runsc works here" in done.stderr
    assert "not the machine's own: systrap does not work: not compiled in" in done.stderr
    assert "not gVisor's release: no release" in done.stderr
    assert "not a build of gVisor's Go module: no go" in done.stderr
    assert "doctor" in done.stderr


NOWHERE = "; this machine lets nobody start a sandbox"


def test_where_no_sandbox_is_allowed_the_first_with_systrap_is_taken(tmp_path: Path) -> None:
    """The chosen runsc works in the VM there, and nothing is built in vain."""
    machine = Machine(tmp_path, package=ALL, go=ALL, forbidden="")
    done = machine.run()
    assert done.returncode == 0
    assert f"the package{NOWHERE}" in done.stdout
    assert machine.asked() == ["package"]


def test_where_no_sandbox_is_allowed_an_old_one_is_the_last_resort(tmp_path: Path) -> None:
    """One without systrap is better than none."""
    machine = Machine(tmp_path, package="ptrace", forbidden="")
    done = machine.run()
    assert done.returncode == 0
    assert f"the package{NOWHERE}" in done.stdout
    machine.offer(go=ALL)
    assert f"a build of gVisor's Go module{NOWHERE}" in machine.run().stdout


def test_the_tests_need_one_that_the_search_finds(tmp_path: Path) -> None:
    """If the search finds none that works, root installs one; another user gets the command."""
    command = "find_a_runsc; id() { echo 1000; }; put_where_the_search_looks; echo fine"
    if os.path.lexists("/usr/local/bin/runsc"):
        told = (
            "/usr/local/bin/runsc, which the plugin's search finds first, is no use: nothing there"
        )
    else:
        told = "as root, run: setup test"
    machine = Machine(tmp_path, go=ALL)
    done = machine.run(command)
    assert done.returncode == 1
    assert told in done.stderr
    machine.offer(search=ALL)
    assert machine.run(command).stdout.endswith("fine\n")


def test_an_old_one_that_is_found_is_enough_for_the_tests(tmp_path: Path) -> None:
    """An old runsc is enough if there is no better one."""
    machine = Machine(tmp_path, search="ptrace")
    command = "find_a_runsc; put_where_the_search_looks; echo fine"
    for _ in range(2):
        assert machine.run(command).stdout.endswith("fine\n")
