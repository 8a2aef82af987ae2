"""A project that follows README."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor import is_gvisor_kernel
from tests.plugin.conftest import CHECKOUT
from tests.unit.images.conftest import configuration, item, saved, tar

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

RUNNER = '''
"""A code runner: the kind of project that the plugin is for."""

import dataclasses
import json
import sys


@dataclasses.dataclass
class Answer:
    ok: bool
    value: object


def program(code: str) -> list[str]:
    """The command that evaluates an expression and prints JSON."""
    return ["python3", "-I", "-c", f"import json; print(json.dumps({code}))"]


def read(done) -> Answer:
    return Answer(done.returncode == 0, json.loads(done.stdout) if done.stdout else None)
'''

CONFTEST = """
import pytest
from runner import program, read


@pytest.fixture
def evaluate(gvisor):
    def call(code, **options):
        return read(gvisor.run(program(code), timeout=20, **options))

    return call
"""

TESTS = """
import socket

import pytest
from pytest_gvisor import WorkloadFailed, WorkloadTimeout, bind, is_gvisor_kernel
from runner import program


def test_it_evaluates(evaluate):
    assert evaluate("6 * 7").value == 42


def test_an_error_is_no_answer(evaluate):
    assert not evaluate("1 / 0").ok


def test_code_cannot_see_the_machine(evaluate, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    assert evaluate("__import__('os').environ.get('SECRET')").value is None
    assert is_gvisor_kernel(evaluate("__import__('os').uname().release").value)


def test_code_cannot_write_to_my_files(gvisor, tmp_path):
    (tmp_path / "data").write_text("hello")
    done = gvisor.run(["sh", "-c", "cat /w/data; echo x > /w/data"], mounts=[bind(tmp_path, "/w")])
    assert done.stdout == "hello"
    assert done.returncode != 0
    assert (tmp_path / "data").read_text() == "hello"


def test_code_that_hangs_is_ended(gvisor):
    with pytest.raises(WorkloadTimeout):
        gvisor.run(program("__import__('time').sleep(1000)"), timeout=2)


def test_check(gvisor):
    with pytest.raises(WorkloadFailed, match="exit status 1"):
        gvisor.run(program("1 / 0"), check=True)


@pytest.mark.gvisor(network="host")
def test_with_the_hosts_network(evaluate):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert evaluate(f"__import__('socket').create_connection({address}).fileno() > 0").value


class TestMany:
    pytestmark = pytest.mark.gvisor(max_output=100)

    @pytest.mark.parametrize("n", [1, 2])
    def test_output_is_bounded(self, gvisor, n):
        done = gvisor.run(["seq", str(1000 * n)])
        assert done.truncated
        assert len(done.stdout_bytes) <= 100


def test_a_bundle(gvisor, oci_bundle):
    assert gvisor.run_bundle(oci_bundle(["echo", "hello"])).stdout == "hello\\n"
"""

PYPROJECT = """
[project]
name = "runner"
version = "1"

[tool.pytest]
testpaths = ["tests"]
pythonpath = ["src"]
strict = true
addopts = ["-ra"]
filterwarnings = ["error"]
gvisor_platform = ["systrap", "ptrace"]
gvisor_strict = true
gvisor_timeout = 30
"""


def test_a_little_project_of_its_own(project: Project) -> None:
    """A project with a package, a fixture on top of `gvisor` and a pyproject.toml passes."""
    project.write(
        {
            "src/runner.py": RUNNER,
            "tests/conftest.py": CONFTEST,
            "tests/test_runner.py": TESTS,
            "pyproject.toml": PYPROJECT,
        }
    )
    project.run().ends(passed=20).shows("systrap, ptrace, network none, strict")


def test_the_readme_and_the_tour(alone: Project, tmp_path: Path) -> None:
    """The Python blocks of README and of two pages are tests that pass."""
    layers = [tar([item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)])]
    config = configuration(layers, {"Entrypoint": ["/bin/busybox", "true"]})
    (alone.folder / "build").mkdir()
    (alone.folder / "build/app.tar").write_bytes(saved(layers, config))
    pages = [CHECKOUT / name for name in ("README.md", "docs/tour.md", "docs/platforms.md")]
    shown = [block for page in pages for block in blocks(page)]
    assert len(shown) == 5
    for number, block in enumerate(shown):
        alone.write({f"test_readme_{number}.py": block})
    ran = alone.run(XDG_CACHE_HOME=str(tmp_path)).exits(0)
    assert ran.outcomes()["passed"] >= 9


DOCS = sorted((CHECKOUT / "docs").glob("*.md"))


def blocks(path: Path) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of each import from this package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_gvisor"):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_in_a_document_is_python_and_imports_what_is_there(path: Path) -> None:
    """Each block is parsed, and each import in the text exists."""
    text = path.read_text()
    assert len(blocks(path)) == text.count("```python")
    for block in blocks(path):
        for module, name in imports(ast.parse(block)):
            assert hasattr(importlib.import_module(module), name)
    for name, module in re.findall(r"`(\w+)` from `(pytest_gvisor[\w.]*)`", text):
        assert hasattr(importlib.import_module(module), name)


def test_the_documents_examples_run(alone: Project) -> None:
    """The examples of the documents run: warm sandboxes, a bundle, hooks, a run without pytest."""
    sandbox, bundles, workloads = (
        blocks(CHECKOUT / "docs" / name) for name in ("sandbox.md", "bundles.md", "workloads.md")
    )
    heads = "import urllib.request\nimport pytest\nfrom pytest_gvisor import empty\n"
    heads += "from pathlib import Path\nTOOL = Path('/bin/busybox').read_bytes()\n"
    box = "def test_box(box):\n    assert 'applet not found' in box.exec(['tool']).stderr\n"
    (bundle,) = (block for block in bundles if "oci_bundle" in block)
    (hooks,) = (block for block in workloads if "pytest_gvisor_modify_spec" in block)
    (plain,) = (block for block in workloads if "pytest_gvisor.session" in block)
    hooked = """
    def test_hooked(gvisor):
        done = gvisor.run(["hostname"])
        assert done.stdout == "box\\n"
        assert " --net-raw " in done.command
    """
    alone.write({"test_sandbox.py": heads + "".join([*sandbox, box]), "test_bundle.py": bundle})
    alone.write({"conftest.py": hooks, "test_hooked.py": hooked})
    alone.write({"test_plain.py": f"def test_plain():\n{textwrap.indent(plain, '    ')}"})
    ran = alone.run("-rP").ends(passed=6)
    ran.shows("<Completed returncode=0 stdout='box\\n' stderr='' args=['hostname']> None")
    assert any(is_gvisor_kernel(line) for line in ran.output.splitlines())
