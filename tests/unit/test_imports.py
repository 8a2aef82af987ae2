"""Imports point one way, programs stay alone, and what is idle is not imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_gvisor

PACKAGE = Path(pytest_gvisor.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"escape", "kernel"},
    {"errors", "settings", "platform_names", "wanted", "places", "trust"},
    {"runsc", "oci"},
    {"launch"},
    {"harness", "specifying", "workload", "engine", "sandbox", "inside", "images", "keep", "report",
     "state", "options", "requirements", "xdist", "configured", "providing", "glance", "vm",
     "verdicts", "install"},
    {"fixtures", "hookspecs", "header", "plugin", "cli", "__main__", "__init__"},
)  # fmt: skip
"""From the ground up: a module imports from its own layer and from those below."""

PROGRAMS = {
    "launch/asked.py": {"_linux"},
    "launch/keeper.py": {"_linux", "child", "remains"},
    "launch/child.py": {"_linux"},
    "launch/remains.py": {"_linux"},
    "launch/warden.py": {"_linux", "remains"},
    "launch/_linux.py": set[str](),
}
"""What runs with ``-I -S``, and the siblings that each may import."""


def name_of(path: Path) -> str:
    """A module's name inside the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of all modules that are imported anywhere, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import that is relative"
            assert node.module is not None
            yield node.module
            # from package.launch import remains: a module, and not only the package
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def typing_only(tree: ast.Module) -> ast.Module:
    """The module without what only a type checker sees."""
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body=kept, type_ignores=[])


def parsed(path: Path) -> ast.Module:
    """The syntax tree, apart from what only a type checker sees."""
    return typing_only(ast.parse(path.read_text()))


def layer_of(name: str) -> int | None:
    """The layer of a module of the package; None for a name that is none of them."""
    top = name.split(".", maxsplit=1)[0]
    return next((number for number, names in enumerate(LAYERS) if top in names), None)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_its_layer(path: Path) -> None:
    """A new one has to say where it belongs."""
    assert layer_of(name_of(path)) is not None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    """Downwards, or sideways within a layer."""
    own = name_of(path)
    mine = layer_of(own)
    assert mine is not None
    prefix = "pytest_gvisor."
    for name in imported(parsed(path)):
        below = layer_of(name.removeprefix(prefix)) if name.startswith(prefix) else None
        assert below is None or below <= mine, f"{own} imports {name}"


@pytest.mark.parametrize(("name", "siblings"), PROGRAMS.items())
def test_programs_import_the_standard_library_and_their_siblings(
    name: str, siblings: set[str]
) -> None:
    """They run with -I -S, where there is nothing else."""
    for full in imported(ast.parse((PACKAGE / name).read_text())):
        top, _, rest = full.partition(".")
        if top == "pytest_gvisor":
            assert rest == "launch" or rest.removeprefix("launch.") in siblings, full
        else:
            assert top in sys.stdlib_module_names or top in siblings, full


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_can_be_imported_alone(name: str) -> None:
    """With -I -S, from their own folder, nothing of the package comes with them."""
    path = PACKAGE / name
    code = (
        f"import sys; sys.path.insert(0, {str(path.parent)!r}); import {path.stem}; "
        "print(*sorted(name for name in sys.modules if 'pytest' in name))"
    )
    assert run("-I", "-S", "-c", code) == ""


def run(*arguments: str) -> str:
    """What a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_only_one_module_has_ctypes() -> None:
    """Kernel calls are in one place."""
    users = {name_of(path) for path in MODULES if "ctypes" in set(imported(parsed(path)))}
    assert users == {"launch._linux"}


HEAVY = ("docker", "pytest_gvisor.launch", "pytest_gvisor.oci", "pytest_gvisor.runsc.binary",
         "pytest_gvisor.harness", "pytest_gvisor.engine")  # fmt: skip


@pytest.mark.parametrize("module", ["pytest_gvisor", "pytest_gvisor.plugin"])
def test_the_plugin_costs_a_project_that_does_not_use_it_nothing(module: str) -> None:
    """Neither docker nor anything of the launch is imported before it is needed."""
    code = f"import pytest, sys; before = set(sys.modules); import {module}"
    code += "; print(*sorted(set(sys.modules) - before))"
    loaded = run("-c", code).split()
    assert module in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


IDLE = {
    "pytest_gvisor", "pytest_gvisor.fixtures", "pytest_gvisor.glance", "pytest_gvisor.hookspecs",
    "pytest_gvisor.inside", "pytest_gvisor.inside.plan", "pytest_gvisor.inside.plugin",
    "pytest_gvisor.options", "pytest_gvisor.plugin", "pytest_gvisor.state",
}  # fmt: skip


def test_a_run_without_gvisor_imports_no_more(tmp_path: Path) -> None:
    """A whole session whose tests use no sandbox: each module costs time at its start."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        f"    assert {{n for n in sys.modules if n.startswith('pytest_gvisor')}} == {IDLE!r}\n"
        f"    assert not [n for n in sys.modules if n.startswith({HEAVY!r})]\n"
    )
    others = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "xdist")]
    folder = str(tmp_path)
    assert "1 passed" in run("-m", "pytest", "-q", *others, "--rootdir", folder, folder)


def test_docker_is_imported_in_one_place_at_most() -> None:
    """And there only by a function, when it is called."""
    for path in MODULES:
        tree = parsed(path)
        top_level = ast.Module(
            body=[node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)],
            type_ignores=[],
        )
        assert not [name for name in imported(top_level) if name.split(".")[0] == "docker"]
        if any(name.split(".")[0] == "docker" for name in imported(tree)):
            assert name_of(path) == "images.docker"


@pytest.mark.parametrize("name", pytest_gvisor.__all__)
def test_each_public_name_is_there(name: str) -> None:
    """It is imported from its home when it is first used."""
    assert getattr(pytest_gvisor, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pytest_gvisor.no_such_name
