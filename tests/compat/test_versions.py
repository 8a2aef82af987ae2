"""The built wheel, installed alone into a fresh environment, serves a separate little project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

# What a stranger would write, and nothing of this repository.
PROJECT = {
    "test_workload.py": """
        import pytest

        def test_x(gvisor):
            done = gvisor.run(["python3", "-c", "print(6*7)"])
            assert done.stdout == "42\\n"

        @pytest.mark.requires_runsc
        def test_y():
            pass
    """,
    "test_inside.py": """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def started(tmp_path_factory):
            return tmp_path_factory.mktemp("started")

        def test_z(started, worker_id, testrun_uid, pytestconfig):
            assert (worker_id, pytestconfig.option.maxfail) == ("gw0", 1)
            assert "PYTEST_GVISOR_INSIDE" in os.environ
    """,
    "pytest.ini": """
        [pytest]
        addopts = --strict-markers --strict-config
        filterwarnings = error
    """,
}

MINUTES = 60


def call(*args: str | Path, cwd: Path, timeout: float = 5 * MINUTES) -> str:
    """Run a program with none of this pytest's environment; its output, or a failed test."""
    kept = ("PIP_", "HOME", "LANG", "PATH", "SSL_CERT_FILE", "TMPDIR", "http", "no_proxy")
    env = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    done = subprocess.run(
        args, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    output = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{args}: exit status {done.returncode}\n{output}"
    return output


def usable_python(version: str) -> str:
    """A Python of this version that can make an environment, or ""; a system's own comes first."""
    name = f"python{version}"
    for candidate in (f"/usr/bin/{name}", shutil.which(name)):
        # A pyenv shim is there for versions that are not, so ask the program itself.
        probe = "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
        if candidate and os.access(candidate, os.X_OK):
            done = subprocess.run([candidate, "-c", probe], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip() == version:
                return candidate
    return ""


def base_python() -> str:
    """The interpreter that this environment was made from."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = Path(sys.base_prefix, "bin", version)
    return str(beside) if beside.exists() else sys.executable


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, CHECKOUT,
        cwd=folder,
    )  # fmt: skip
    (built,) = folder.glob("pytest_gvisor-*.whl")
    return built


@pytest.fixture
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Path:
    """A fresh virtual environment with the wheel and one pytest in it; its python."""
    version, pytest_requirement = request.param
    base = usable_python(version) if version else base_python()
    if not base:
        pytest.skip(f"no python{version} on this machine")
    call(base, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env/bin/python"
    requirements = (wheel, pytest_requirement, "pytest-xdist")
    call(python, "-m", "pip", "install", *requirements, cwd=tmp_path)
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in PROJECT.items():
        lines = [line[8:] for line in text.splitlines()]
        (folder / name).write_text("\n".join(lines).lstrip() + "\n")
    return folder


def outcomes(output: str) -> str:
    """The counts of pytest's last line, without the time."""
    (summary,) = re.findall(r"=+ (.*) in [\d.:]+s.* =+$", output, re.MULTILINE)
    return str(summary)


# The running Python and the oldest that is supported, which may be one.
PYTHONS = {"this python": ""} | ({"python 3.11": "3.11"} if sys.version_info[:2] != (3, 11) else {})
PYTESTS = {"newest pytest": "pytest", "pytest 8.4": "pytest==8.4.*"}


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param((python, requirement), id=f"{name}, {release}")
        for name, python in PYTHONS.items()
        for release, requirement in PYTESTS.items()
    ],
    indirect=True,
)
def test_a_stranger_s_project_runs_workloads_with_nothing_but_the_wheel(
    environment: Path, project: Path
) -> None:
    strict = (environment, "-m", "pytest", "--gvisor-strict")
    assert outcomes(call(*strict, "test_workload.py", cwd=project)) == "2 passed"
    # No warning of pytest about this package, which would be an error.
    inside = (*strict, "-n1", "-x", "--in-gvisor", "test_inside.py")
    assert outcomes(call(*inside, cwd=project)) == "1 passed"

    report = ("--gvisor-report", "r.html", "--gvisor-report", "r.json")
    matrix = call(*strict, "-v", "--gvisor-platform", "systrap,ptrace", *report,
                  "test_workload.py", cwd=project)  # fmt: skip
    assert "gVisor platform matrix" in (project / "r.html").read_text()
    assert '"passed": 1' in (project / "r.json").read_text()
    assert outcomes(matrix) == "3 passed"
    assert "test_x[systrap] PASSED" in matrix
    assert "test_x[ptrace] PASSED" in matrix
