"""docs/environments.md with uv, tox, nox and pip from PyPI, and with pyenv: ``make ecosystem``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs/environments.md"
PYENV = CHECKOUT / ".build/pyenv/usr/share/pyenv/libexec"
PROJECT = {
    "pyproject.toml": """\
[project]
name = "example"
version = "1"
requires-python = ">=3.11"
""",
    "example.py": "ANSWER = 42\n",
    "test_example.py": """\
import example

def test_a_workload(gvisor):
    assert gvisor.run(["python3", "-c", "print(6 * 7)"]).stdout == f"{example.ANSWER}\\n"

def test_a_number():
    assert example.ANSWER == 42
""",
}


def shown(fence: str) -> str:
    """The example of docs/ci.md in this language."""
    return (CHECKOUT / "docs/ci.md").read_text().split(f"```{fence}\n")[1].split("```")[0]


def commands(section: str) -> str:
    """The indented commands of a section of the page, as a script."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^ {4}(.+)$", text, re.MULTILINE)
    assert found
    return "\n".join(["set -eu", *found])


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of this project, in the place of PyPI."""
    folder = tmp_path_factory.mktemp("wheels")
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(CHECKOUT),
    ]
    subprocess.run(argv, check=True)
    return folder


@pytest.mark.parametrize(
    ("section", "tool", "passed"),
    [("uv", "uv", 1), ("tox", "tox", 1), ("nox", "nox", 2), ("An editable install", "pytest", 1)],
)
def test_the_commands_of_a_tool_run_the_tests(
    tmp_path: Path, wheels: Path, section: str, tool: str, passed: int
) -> None:
    """Each run has both tests of a small project, in the environment that the tool made."""
    project, tools = tmp_path / "project", tmp_path / "tools"
    project.mkdir()
    for name, text in PROJECT.items():
        (project / name).write_text(text)
    (project / "tox.ini").write_text(shown("ini"))
    (project / "noxfile.py").write_text(shown("python"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PATH": f"{tools}/bin:/usr/local/bin:/usr/bin:/bin",
        "PIP_FIND_LINKS": str(wheels),
        "UV_FIND_LINKS": str(wheels),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    python = str(tools / "bin/python")
    subprocess.run([sys.executable, "-m", "venv", tools], env=environment, check=True)
    installing = [python, "-m", "pip", "install", "-q", tool, "pytest-gvisor"]
    subprocess.run(installing, env=environment, check=True)
    done = subprocess.run(
        ["sh", "-c", commands(section)], cwd=project, env=environment, check=False,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("= 2 passed") == passed, said


def test_the_commands_of_pyenv_run_the_tests(tmp_path: Path, wheels: Path) -> None:
    """In the place of a Python that is compiled for minutes there is a virtual environment."""
    project = tmp_path / "project"
    project.mkdir()
    for name, text in PROJECT.items():
        (project / name).write_text(text)
    compiled, _, rest = commands("pyenv").partition("\n")[2].partition("\n")
    assert compiled == "pyenv install 3.13"
    version = tmp_path / ".pyenv/versions/3.13.9"
    subprocess.run([sys.executable, "-m", "venv", version], check=True)
    unset = ("PYTEST_", "PYENV_")
    done = subprocess.run(
        ["sh", "-euc", rest], cwd=project, check=False,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(unset)},
            "HOME": str(tmp_path),
            "PATH": f"{PYENV}:/usr/local/bin:/usr/bin:/bin",
            "PIP_FIND_LINKS": str(wheels),
        },
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"platform linux -- Python {sys.version.split()[0]}" in said
    assert said.count("= 2 passed") == 1, said
