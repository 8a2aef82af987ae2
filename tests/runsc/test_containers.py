"""Tests in containers with several profiles, cell by cell of the table in docs/ci.md.

The containers' image has the host's /usr read-only, and so costs nothing to make.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.dockerd import own_daemon
from pytest_gvisor import Runsc
from pytest_gvisor.programs import leftovers

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: a docker daemon, and another user's podman"
)

CHECKOUT = Path(__file__).parents[2]
IMAGE = "pytest-gvisor-containers:1"
USER = 1000
"""The user in the containers who is not root; the image has it."""

OWNER, SUBIDS, COUNT = "nobody", 300_000, 65_536
"""The user of podman, and the ids of this user during the test."""

REFUSED = "Operation not permitted"
FILTER = "seccomp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of container and one user in it."""

    row: str
    """The row of the table, as the document writes it."""

    user: int
    says: tuple[str, ...] = ()
    """The doctor's messages if no test can run; empty if tests run."""

    @property
    def options(self) -> list[str]:
        """The engine's options: the code in the row, without the engine's name."""
        found = re.search(r"`(?:docker|podman) run ?(.*)`", self.row)
        assert found
        return found[1].split()

    @property
    def engine(self) -> str:
        return "podman" if "podman" in self.row else "docker"

    def __str__(self) -> str:
        return "-".join([self.engine, *self.options, "root" if self.user == 0 else "user"])


BARE = "`docker run`"
UNCONFINED = "`docker run --security-opt seccomp=unconfined`"
ADMIN = "`docker run --cap-add SYS_ADMIN`"
BOTH = "`docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined`"
ROOTLESS = "`podman run`, rootless"

CELLS = (
    Cell(row=BARE, user=0, says=(REFUSED, "seccomp=unconfined")),
    Cell(row=BARE, user=USER, says=(REFUSED, "seccomp=unconfined")),
    Cell(row=UNCONFINED, user=0),
    Cell(row=UNCONFINED, user=USER),
    Cell(row=ADMIN, user=0, says=("pivot_root", FILTER, "seccomp=unconfined")),
    Cell(row=ADMIN, user=USER, says=("pivot_root", FILTER, "seccomp=unconfined")),
    Cell(row=BOTH, user=0),
    Cell(row=BOTH, user=USER),
    Cell(row=ROOTLESS, user=0),
    Cell(row=ROOTLESS, user=USER),
)

TEST = """
def test_it(gvisor):
    assert gvisor.run(["echo", "ran"]).stdout == "ran\\n"
"""

# What runs in each container: doctor's findings as JSON, and pytest, with a line between them.
SCRIPT = """
export HOME=/tmp TMPDIR=/tmp PYTHONPATH=/project:/project/plugins PYTHONDONTWRITEBYTECODE=1
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
cd /project/tests
"$PYTHON" -m pytest_gvisor doctor --json --runsc /opt/gvisor/runsc
echo "=== $?"
"$PYTHON" -m pytest -p pytest_gvisor.plugin -p no:cacheprovider -q \
    --gvisor-strict --gvisor-runsc=/opt/gvisor/runsc
echo "=== $?"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """The doctor's and pytest's results in one container."""

    able: bool
    """The doctor's verdict if tests can run; its exit status agrees."""

    findings: str
    """All that doctor found to be bad, with its remedies, as one text."""

    passed: bool
    output: str

    @classmethod
    def parse(cls, output: str) -> Told:
        told, doctor, rest, status = re.fullmatch(
            r"(.*?)\n=== (\d+)\n(.*)=== (\d+)\n", output, re.DOTALL
        ).groups()  # type: ignore[union-attr]  # else the test has failed
        answer: dict[str, Any] = json.loads(told)
        assert answer["can_run"] is (doctor == "0")
        bad = [one for one in answer["findings"] if one["state"] == "bad"]
        texts = [f"{one['detail']} -> {one['next_step']}" for one in bad]
        return cls(
            able=answer["can_run"], findings="\n".join(texts), passed=status == "0", output=rest
        )


RunIn = Callable[[Cell], Told]


@pytest.fixture(scope="module")
def folder(runsc: Runsc) -> Iterator[Path]:
    """The folder of all containers: image, package, pytest, a test, and podman's own runsc."""
    made = Path(tempfile.mkdtemp(prefix="pytest-gvisor-c-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        shutil.copytree(CHECKOUT / "pytest_gvisor", made / "project/pytest_gvisor")
        shutil.copytree(CHECKOUT / ".build/plugins", made / "project/plugins")
        (made / "project/tests").mkdir()
        (made / "project/tests/test_it.py").write_text(TEST)
        (made / "script").write_text(SCRIPT)
        _make_image(made / "image.tar")
        yield made
    finally:
        leftovers.unmount(str(made))
        shutil.rmtree(made)


def _make_image(path: Path) -> None:
    """Make a root filesystem of folders and links, whose /usr comes from the host."""
    with tarfile.open(path, "w") as tar:
        for name, mode, owner in (
            ("usr", 0o755, 0), ("etc", 0o755, 0), ("opt", 0o755, 0), ("opt/gvisor", 0o755, 0),
            ("project", 0o755, 0), ("run", 0o755, 0), ("root", 0o700, 0), ("tmp", 0o1777, 0),
            ("home", 0o755, 0), ("home/user", 0o755, USER), ("var", 0o755, 0),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
            tar.addfile(entry)
        for name in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
        files = {
            "etc/passwd": f"root:x:0:0::/root:/bin/sh\nuser:x:{USER}:{USER}::/home/user:/bin/sh\n",
            "etc/group": f"root:x:0:\nuser:x:{USER}:\n",
        }
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))


def _arguments(cell: Cell, folder: Path, runsc: Path) -> list[str]:
    """The rest of the engine's command line."""
    binds = {"/usr": "/usr", str(folder / "project"): "/project", str(runsc): "/opt/gvisor"}
    python = os.path.realpath(sys.executable)
    if not python.startswith("/usr/"):
        binds[sys.base_prefix] = sys.base_prefix
    binds[str(folder / "script")] = "/script"
    volumes = [f"--volume={there}:{here}:ro" for there, here in binds.items()]
    return [
        "run", "--rm", "--network=none", f"--user={cell.user}", f"--env=PYTHON={python}", *volumes,
        *cell.options, IMAGE, "sh", "/script",
    ]  # fmt: skip


def _call(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def in_docker(folder: Path, runsc: Runsc) -> Iterator[RunIn]:
    """Runs the script in a container of docker's, in a daemon of its own."""
    with own_daemon(storage="vfs") as address:
        docker = ["docker", "--host", address]
        _call([*docker, "import", str(folder / "image.tar"), IMAGE])
        yield lambda cell: Told.parse(
            _call([*docker, *_arguments(cell, folder, Path(runsc.path).parent)])
        )


@pytest.fixture(scope="module")
def in_podman(folder: Path, runsc: Runsc) -> RunIn:
    """Runs the script in a container of podman's, as a user with ids in /etc/subuid.

    The namespaces end with the container: the file with the ids, and what podman leaves running.
    """
    home = folder / "podman"
    home.mkdir()
    # The files' owner is root in the container: the user whose podman it is.
    beside = Path(runsc.path).parent
    (home / "gvisor").mkdir()
    shutil.copy(runsc.path, home / "gvisor/runsc")
    if (beside / "gvisor-bin").exists():
        shutil.copytree(beside / "gvisor-bin", home / "gvisor/gvisor-bin")
    subprocess.run(["chown", "-R", f"{OWNER}:", home], check=True)
    group = pwd.getpwnam(OWNER).pw_gid
    (folder / "subids").write_text(f"{OWNER}:{SUBIDS}:{COUNT}\n")
    podman = [
        "podman", "--root", f"{home}/root", "--runroot", f"{home}/run/c", "--tmpdir", f"{home}/tmp",
        "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        "--runtime", "runc",
    ]  # fmt: skip

    def call(*arguments: str) -> str:
        # fmt: off
        return _call([
            "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child",
            "--mount-proc", "sh", "-ec",
            'mount --bind "$0" /etc/subuid; mount --bind "$0" /etc/subgid; cd /; exec "$@"',
            f"{folder}/subids", "setpriv", f"--reuid={OWNER}", f"--regid={group}", "--clear-groups",
            "--inh-caps=-all", "env", "-i", f"HOME={home}", f"XDG_RUNTIME_DIR={home}/run",
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", *podman, *arguments,
        ])
        # fmt: on

    (home / "run").mkdir(mode=0o700)
    shutil.chown(home / "run", OWNER)
    call("import", str(folder / "image.tar"), IMAGE)
    return lambda cell: Told.parse(call(*_arguments(cell, folder, home / "gvisor")))


def of(engine: str) -> list[Cell]:
    return [cell for cell in CELLS if cell.engine == engine]


def check(cell: Cell, told: Told) -> None:
    """Tests run and doctor says so, or both fail and doctor names the cause."""
    works = not cell.says
    assert (told.able, told.passed) == (works, works), f"{told.findings}\n{told.output}"
    for words in cell.says:
        assert words in told.findings.replace(REFUSED.lower(), REFUSED)  # as Go writes it


@pytest.mark.parametrize("cell", of("docker"), ids=str)
def test_docker_s_containers_allow_tests_or_doctor_says_what_is_missing(
    cell: Cell, in_docker: RunIn
) -> None:
    """Each of docker's cells in the table of docs/ci.md."""
    check(cell, in_docker(cell))


@pytest.mark.parametrize("cell", of("podman"), ids=str)
def test_rootless_podman_s_containers_allow_tests_or_doctor_says_what_is_missing(
    cell: Cell, in_podman: RunIn
) -> None:
    """Each of podman's cells in the table of docs/ci.md."""
    check(cell, in_podman(cell))


def test_the_document_has_the_same_table() -> None:
    """docs/ci.md has the same verdict for each container and user."""
    text = (CHECKOUT / "docs/ci.md").read_text()
    found = re.findall(r"^\| (`(?:docker|podman) run.*?) \| (\w+)[^|]*\| (\w+)", text, re.MULTILINE)
    words = {cell.row: ["", ""] for cell in CELLS}
    for cell in CELLS:
        words[cell.row][cell.user != 0] = "no" if cell.says else "yes"
    assert found == [(row, *cells) for row, cells in words.items()]
