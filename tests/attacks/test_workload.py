"""Code in a sandbox that wants more than the sandbox: the host's rights, or others' output."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.bundlecheck import ENVIRONMENT
from tests.mounts import harmless

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root's rights are left")

LEAVES_A_DOOR = """
import os, shutil

def test_it():
    shutil.copy("/usr/bin/id", OUT + "/door")
    os.chmod(OUT + "/door", 0o6755)
"""


@pytest.fixture
def leaving(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose test leaves a set-uid program in this folder."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    out = pytester.mkdir("out")
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(f"OUT = {str(out)!r}\n{LEAVES_A_DOOR}")
    return out


def _inside(pytester: pytest.Pytester, out: Path) -> pytest.RunResult:
    arguments = ("--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*arguments, "--gvisor-writable", str(out))


@NEEDS_ROOT
def test_no_program_of_root_is_left_in_a_writable_folder(
    pytester: pytest.Pytester, leaving: Path
) -> None:
    """Root is refused, before any test, with what to do; nothing is in the folder."""
    result = _inside(pytester, leaving)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"*--gvisor-writable {leaving} as root: a test could leave a set-uid program of root*",
            f"Run pytest as an ordinary user*mount -t tmpfs -o nosuid,nodev tmpfs {leaving}*",
        ]
    )
    assert list(leaving.iterdir()) == []


@NEEDS_ROOT
@pytest.mark.parametrize("options", ["nosuid", "nodev"])
def test_one_mount_option_is_not_enough(
    pytester: pytest.Pytester, leaving: Path, options: str
) -> None:
    """A file system without either nosuid or nodev is refused, below the folder as well."""
    (leaving / "below").mkdir()
    for folder in (leaving, leaving / "below"):
        with harmless(leaving):
            folder.mkdir(exist_ok=True)
            with harmless(folder, options=options):
                result = _inside(pytester, leaving)
                assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"(its mount {leaving / 'below'})" in result.stderr.str()


@NEEDS_ROOT
def test_where_no_program_is_set_uid_root_lets_tests_write(
    pytester: pytest.Pytester, leaving: Path
) -> None:
    """What a test leaves on a file system with nosuid and nodev gives nobody root's rights."""
    with harmless(leaving):
        assert _inside(pytester, leaving).parseoutcomes() == {"passed": 1}
        assert (leaving / "door").stat().st_mode & stat.S_ISUID
        assert os.statvfs(leaving / "door").f_flag & os.ST_NOSUID
