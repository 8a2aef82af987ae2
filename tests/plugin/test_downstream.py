"""A project that follows README."""

import ast
import importlib
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pytest_gvisor import is_gvisor_kernel
from tests.plugin.conftest import CHECKOUT, Project
from tests.unit.images.conftest import configuration, item, saved, tar

DOCS = sorted((CHECKOUT / "docs").glob("*.md"))


def blocks(path: Path) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of each import from this package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_gvisor"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_python_in_a_document_is_python_and_imports_what_is_there() -> None:
    """Each block is parsed, and each import in the text exists."""
    named: list[tuple[Path, str, str]] = []
    for path in DOCS:
        text = path.read_text()
        assert len(blocks(path)) == text.count("```python"), path
        for block in blocks(path):
            named += [(path, *pair) for pair in imports(ast.parse(block))]
        for name, module in re.findall(r"`(\w+)` from `(pytest_gvisor[\w.]*)`", text):
            named.append((path, module, name))
    assert [
        one
        for one in named
        if one[1] not in FOR_OTHERS and not hasattr(importlib.import_module(one[1]), one[2])
    ] == []


FOR_OTHERS = {"pytest_gvisor.harness.inspect_provider"}
"""Modules that import inspect_ai, which is not here: tests/suites/test_inspect.py."""
NOT_RUN = "# Not run by our suite"
ELSEWHERE = {"ci.md", "databases.md"}
"""Pages whose blocks other tests run: test_init.py, and ``make ecosystem``."""
SCRIPT = 'case "$1" in --version) echo app 2.1;; *) echo ready;; esac'
HOOKED = """
def test_hooked(gvisor):
    done = gvisor.run(["hostname"])
    assert done.stdout == "box\\n"
    assert " --net-raw " in done.command
"""


def snippets() -> Iterator[tuple[str, str]]:
    """The Python blocks that no page with pytest's output has, with a name each."""
    for page in (CHECKOUT / "README.md", *DOCS):
        if page.name not in ELSEWHERE and "```console" not in page.read_text():
            for number, block in enumerate(blocks(page)):
                name = f"{page.stem.lower().replace('-', '_')}_{number}"
                yield name, block


def build(folder: Path) -> None:
    """Make the images and the bundle that the documents name."""
    busybox = Path("/bin/busybox").read_bytes()
    files = [item(f"bin/{name}", busybox, mode=0o755) for name in ("busybox", "id")]
    files += [
        item("etc/passwd", b"app:x:1000:1000::/:/bin/sh\n"),
        item("etc/group", b"staff:x:50:\n"),
    ]
    layers = [tar(files)]
    config = {"Entrypoint": ["/bin/busybox", "sh", "-c", SCRIPT, "app"], "Cmd": ["serve"]}
    image = configuration(layers, config)
    (folder / "build").mkdir()
    (folder / "build/app.tar").write_bytes(saved(layers, image))
    (folder / "build/all.tar").write_bytes(saved(layers, image, RepoTags=["app:1", "app:edge"]))
    bundle = folder / "build/bundle"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs/bin/true")
    process = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    spec = {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"}}
    (bundle / "config.json").write_text(json.dumps(spec))


def test_the_snippets_of_the_documents_run(alone: Project, tmp_path: Path) -> None:
    """Each block runs as it is printed, with its own imports, or says first why it does not."""
    build(alone.folder)
    tests = 0
    for name, block in snippets():
        if block.startswith(NOT_RUN):
            continue
        if "def pytest_" in block:
            alone.write({"hooked/conftest.py": block, "hooked/test_hooked.py": HOOKED})
            tests += 1
        elif "def test_" in block:
            alone.write({f"test_{name}.py": block})
            tests += len(re.findall(r"^def test_", block, re.MULTILINE))
        else:
            script = f"def test_script():\n{textwrap.indent(block, '    ')}"
            alone.write({f"test_{name}.py": script})
            tests += 1
    ran = alone.run("-rP", XDG_CACHE_HOME=str(tmp_path)).exits(0)
    outcomes = ran.outcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= tests  # some are parametrized
    ran.shows("<Completed returncode=0 stdout='box\\n' stderr='' args=['hostname']> None")
    assert any(is_gvisor_kernel(line) for line in ran.output.splitlines())
