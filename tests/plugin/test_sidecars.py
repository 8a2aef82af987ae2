"""The variables that point runsc to another sentry never reach it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_gvisor import Runsc
from tests.plugin.conftest import DOCTOR, Project
from tests.sidecars import Canary, canary, has_sidecars, start_bare


@pytest.fixture
def bird(runsc: Runsc, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """A sentry that tells whether it was started, and to which the environment points."""
    if not has_sidecars(runsc):
        pytest.skip("no sentry beside this release of runsc")
    with canary() as made:
        variables = {
            "GVISOR_SIDECAR_BINARIES_DIR": str(made.folder),
            "GVISOR_ENFORCE_RELEASE": "SKIP",
        }
        start_bare(runsc.path, variables)
        assert made.mark.exists()
        made.mark.unlink()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield made


def test_the_environment_chooses_no_sentry(alone: Project, bird: Canary) -> None:
    """Runs, warm sandboxes, tests inside and `replay.sh` ignore them; a workload may have them."""
    alone.test(
        """
        import os
        import pytest

        NAMES = ("GVISOR_SIDECAR_BINARIES_DIR", "GVISOR_ENFORCE_RELEASE")

        def test_run(gvisor):
            env = {name: os.environ[name] for name in NAMES}
            done = gvisor.run(["env"], env=env, check=True)
            assert f"{NAMES[0]}={os.environ[NAMES[0]]}" in done.stdout
            has = gvisor.records[-1].order.env
            assert has[NAMES[0]] == gvisor.runsc.sidecars.folder != env[NAMES[0]]
            assert NAMES[1] not in has

        def test_warm(gvisor_sandbox):
            assert gvisor_sandbox.exec(["true"]).returncode == 0

        @pytest.mark.in_gvisor
        def test_inside():
            pass
        """
    )
    names = (
        "--gvisor-env",
        "GVISOR_SIDECAR_BINARIES_DIR",
        "--gvisor-env",
        "GVISOR_ENFORCE_RELEASE",
    )
    ran = alone.run("--gvisor-keep", "all", *names).ends(passed=3)
    assert not bird.mark.exists()
    scripts = [run / "replay.sh" for run in ran.kept()]
    assert scripts
    for script in scripts:
        done = subprocess.run(
            [script], stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=60
        )
        # A guest has nobody to talk to; 128 would be runsc's own failure to start one.
        assert done.returncode != 128, done.stderr
    assert not bird.mark.exists()


def test_the_command_line_chooses_none_either(bird: Canary) -> None:
    """`pytest-gvisor run`, and the questions and the probe of `doctor`."""
    for words in (["-m", "pytest_gvisor", "run", "--", "true"], ["-c", DOCTOR]):
        done = subprocess.run(
            [sys.executable, *words],
            env={**os.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not bird.mark.exists()
