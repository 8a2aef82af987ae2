"""The jobs of ``pytest-gvisor init kubernetes``: docker runs their containers under runsc."""

import html
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fixtures.make import context
from pytest_gvisor.cli import init
from pytest_gvisor.report.model import State
from pytest_gvisor.report.parse import parse
from tests import kubernetes
from tests.machines.machines import copy_package
from tests.runsc.test_docker import ask

PLUGINS = Path(__file__).parents[2] / ".build/plugins"
PACKAGES = (
    "_pytest", "iniconfig", "jinja2", "markupsafe", "packaging", "pluggy", "pygments", "pytest",
    "pytest_split",
)  # fmt: skip
IMAGE = "registry.example.com/gvisor-tests:1"
DOCKERFILE = """\
FROM scratch
ADD interpreter.tar /
COPY root /
COPY --chown=1000:1000 project /project
ENV PYTHONPATH=/site
WORKDIR /project
"""
TESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(6))
def test_number(number):
    assert os.uname().release.startswith("4.")
    assert number != 1
"""
SCRIPT = "#!/usr/bin/python3\nimport sys\nfrom {} import {} as main\nsys.exit(main())\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")


@pytest.fixture
def image(dockerd: str, tmp_path: Path) -> str:
    """The image that the manifest names: Python, a shell, pytest, the plugins and a project."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    folder = context("python", tmp_path / "image")
    programs, site = folder / "root/usr/bin", folder / "root/site"
    programs.mkdir(parents=True)
    for name in PACKAGES:
        shutil.copytree(PLUGINS / name, site / name)
        for path in PLUGINS.glob(f"{name}-*.dist-info"):
            shutil.copytree(path, site / path.name)
    shutil.copy(PLUGINS / "py.py", site)
    copy_package(site)
    shutil.copy("/bin/busybox", programs)
    for name in ("cat", "grep", "ls", "seq", "sh", "sleep"):
        (programs / name).symlink_to("busybox")
    (programs / "pytest").write_text(SCRIPT.format("pytest", "console_main"))
    (programs / "pytest-gvisor").write_text(SCRIPT.format("pytest_gvisor.cli.main", "main"))
    for name in ("pytest", "pytest-gvisor"):
        (programs / name).chmod(0o755)
    (folder / "project").mkdir()
    (folder / "project/test_it.py").write_text(TESTS)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    command = ["docker", "--host", dockerd, "build", "--quiet", f"--tag={IMAGE}", str(folder)]
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    return IMAGE


def test_two_shards_and_the_report_of_both(dockerd: str, image: str, tmp_path: Path) -> None:
    """Each command is the manifest's, as its user and with its rights.

    A test in six fails, and the report has it. Without the second shard, the report names that.
    """
    reports = tmp_path / "reports"
    reports.mkdir()
    os.chown(reports, 1000, 1000)
    claim, tests, report = kubernetes.objects(init.render("kubernetes", str(tmp_path), shards=2))
    assert claim["kind"] == "PersistentVolumeClaim"

    def run(
        job: dict[str, Any], *more: str, index: int = 0, turns: int = 720
    ) -> subprocess.CompletedProcess[str]:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image
        (mount,) = container["volumeMounts"]
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        *shell, command = container["command"]
        done = ask(
            dockerd, "run", "--rm", "--network=none", *more, f"--user={rights['runAsUser']}",
            *(f"--cap-drop={name}" for name in rights["capabilities"]["drop"]),
            "--security-opt=no-new-privileges", f"--volume={reports}:{mount['mountPath']}",
            f"--env=JOB_COMPLETION_INDEX={index}", image,
            *shell, command.replace("seq 720", f"seq {turns}"),
        )  # fmt: skip
        print(done.stderr, done.stdout[:2000], sep="\n")
        return done

    assert run(tests, "--runtime=runsc").returncode == 1
    alone = run(report, turns=1)
    assert alone.returncode == 1
    assert "missing: shard 2 of 2 on in-place" in alone.stderr
    assert run(tests, "--runtime=runsc", index=1).returncode == 0
    both = run(report)
    assert (both.returncode, both.stderr) == (0, "")
    assert both.stdout == (reports / "all.html").read_text()
    found = [parse((reports / f"{one}.json").read_bytes()) for one in range(2)]
    assert all(leg.inside.startswith("gVisor (kernel ") for one in found for leg in one.legs)
    states = {(row.test, *((cell.platform, cell.state) for cell in row.cells))
              for one in found for row in one.rows}  # fmt: skip
    names = [f"test_it.py::test_number[{number}]" for number in range(6)]
    wrong = {names[1]: State.FAILED}
    assert states == {(name, ("in-place", wrong.get(name, State.PASSED))) for name in names}
    assert all(name in html.unescape(both.stdout) for name in names)
