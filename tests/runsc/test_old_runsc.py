"""The release of December 2022, from Debian 12: it is refused, and never looks like no runsc."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor import Runsc, UnwantedRelease

BUILT = Path(__file__).parents[2] / ".build/runsc-2022/usr/bin/runsc"

pytestmark = pytest.mark.skipif(
    not BUILT.exists(), reason="no Debian archive with the 2022 runsc: scripts/older-runsc"
)


def sentence(path: str) -> str:
    return (
        f"runsc 20221219.0 ({path}) is older than 20240729, and is not used: "
        "`pytest-gvisor install` gets the current release"
    )


def test_an_old_release_is_refused(path: str) -> None:
    """The error names the path, the release, and the command that gets another."""
    with pytest.raises(UnwantedRelease) as caught:
        Runsc.find(path)
    assert str(caught.value) == sentence(path)
    assert (caught.value.version, caught.value.wanted) == ("20221219.0", ">=20240729")


def test_the_plugin_fails_with_the_sentence(pytester: pytest.Pytester, path: str) -> None:
    """Header, fixture and marker say it; no test is skipped as if there were no runsc."""
    pytester.makepyfile(
        """
        import pytest

        def test_fixture(gvisor):
            gvisor.run(["true"])

        @pytest.mark.requires_runsc
        def test_marker():
            pass
        """
    )
    done = pytester.runpytest_subprocess(f"--gvisor-runsc={path}")
    done.assert_outcomes(errors=2)
    assert done.stdout.str().count(sentence(path)) >= 3
    done.stdout.fnmatch_lines([f"gvisor: {sentence(path)}"])


def test_doctor_says_it(path: str) -> None:
    """Tests cannot run with it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", "doctor", "--json", "--runsc", path],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (found,) = [one for one in json.loads(done.stdout)["findings"] if one["name"] == "runsc"]
    assert (found["state"], found["detail"]) == ("bad", sentence(path))
    assert found["fix"][0]["argv"][-1] == "install"
