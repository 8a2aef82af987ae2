"""Files to check: fake binaries made by the C compiler, folders of every mode, other users."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_gvisor.runsc.locate import CheckedBinary

REPOSITORY = Path(__file__).parents[3]
STRANGER = 12345

SOURCE = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
static int version(void) { %(version)s; return 0; }
static int flags(void) { %(flags)s; return 0; }
static int help(void) { %(help)s; return 0; }
static int platforms(void) { %(platforms)s; return 0; }
int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    if (!strcmp(word, "--version")) return version();
    if (!strcmp(word, "flags")) return flags();
    if (!strcmp(word, "help")) return argc > 2 ? platforms() : help();
    %(other)s;
    return 0;
}
"""

ANSWERS = {
    "version": r'puts("runsc version release-20240729.0\nspec: 1.2.0")',
    "flags": r'fputs("  -net-disconnect-ok\n    \tso it is.\n  -root string\n    \tdirectory.\n'
    r'  -rootless\n    \tno root.\n", stderr)',
    "help": r'puts("Usage: x\n\nSubcommands:\n\trun     run it\n\tdo      do it\n\nUse more")',
    "platforms": r'puts("ptrace\nkvm\nsystrap")',
    "other": r'puts("GOOD")',
}


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: files of another owner, or a mount"
)


def loosen(path: Path) -> None:
    """Let everybody write to it."""
    path.chmod(0o777)


def give_away(path: Path) -> None:
    """Make it a third user's."""
    os.chown(path, STRANGER, STRANGER)


class FakeRunsc(Protocol):
    """Compiles a fake runsc; each argument is the C that answers one question."""

    def __call__(self, **answers: str) -> Path: ...


class AsUser(Protocol):
    """Runs Python in a process of an unprivileged user; gives the value of `result`."""

    def __call__(self, code: str, *, before: str = "") -> Any: ...


class ByDescriptor(Protocol):
    """The output of the checked file, executed by its descriptor."""

    def __call__(self, judged: CheckedBinary, *words: str) -> str: ...


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def fake_runsc(
    _compiled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> FakeRunsc:
    """A factory of fake binaries of mode 0755; the same answers are compiled once."""

    def make(**answers: str) -> Path:
        source = SOURCE % {**ANSWERS, **answers}
        if source not in _compiled:
            folder = tmp_path_factory.mktemp("compiled")
            (folder / "fake.c").write_text(source)
            subprocess.run(["cc", "-o", "runsc", "fake.c"], cwd=folder, check=True)
            _compiled[source] = folder / "runsc"
        number = len(list(tmp_path.glob("fake-*")))
        binary = tmp_path / f"fake-{number}" / "runsc"
        binary.parent.mkdir(mode=0o755)
        shutil.copyfile(_compiled[source], binary)
        binary.chmod(0o755)
        return binary

    return make


@pytest.fixture
def good(fake_runsc: FakeRunsc) -> Path:
    """A binary that every rule accepts."""
    return fake_runsc()


@pytest.fixture
def by_descriptor() -> ByDescriptor:
    """Execute a checked file as the launcher does."""

    def run(judged: CheckedBinary, *words: str) -> str:
        done = subprocess.run(
            ["runsc", *words],
            executable=f"/proc/self/fd/{judged.fd}",
            pass_fds=(judged.fd,),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    return run


NOEXEC = """
import sys; sys.path.insert(0, {repository!r})
from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.runsc import locate
try:
    locate.find({binary!r})
except InsecureRunsc as error:
    print(error.path, error.reason)
"""


def refusal_on_noexec(point: Path, binary: Path, original: Path) -> str:
    """The path and the reason of a refusal where a noexec mount is, with a copy of the original."""
    code = NOEXEC.format(repository=str(REPOSITORY), binary=str(binary))
    script = 'mount -t tmpfs -o noexec,mode=755 none "$1" && cp "$2" "$1" && exec "$3" -c "$4"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", point, original, sys.executable, code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


PROLOGUE = """
import ctypes, json, os, sys
sys.path.insert(0, {repository!r})
from pytest_gvisor.base.errors import GvisorError, InsecureRunsc, RunscNotFound
from pytest_gvisor.runsc import locate
from pytest_gvisor.runsc.binary import Runsc
def refusal(call, *args, **named):
    try:
        call(*args, **named)
    except GvisorError as error:
        return [type(error).__name__, str(error)]
{before}
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid({stranger}, {stranger}, {stranger})
    os.setresuid({stranger}, {stranger}, {stranger})
"""


@pytest.fixture
def as_user() -> AsUser:
    """Import as the user of the tests, then become another user if that was root."""

    def run(code: str, *, before: str = "") -> Any:
        prologue = PROLOGUE.format(repository=str(REPOSITORY), stranger=STRANGER, before=before)
        program = f"{prologue}{code}\nprint(json.dumps(result))\n"
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=30
        )
        assert done.returncode == 0
        return json.loads(done.stdout)

    return run


@pytest.fixture
def open_tmp(tmp_path: Path) -> Iterator[Path]:
    """A folder in /tmp itself, for files that the other user must reach."""
    folder = Path("/tmp") / f"pytest-gvisor-{os.getpid()}-{tmp_path.name}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    yield folder
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
