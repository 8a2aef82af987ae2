"""Imports have one direction, programs stay alone, and idle sessions import little."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor.base import removed

PACKAGE = Path(pytest_gvisor.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ORDER = (
    "programs", "guest", "base", "trace", "sessions", "vm", "oci", "runsc", "images", "install",
    "run", "report", "sandbox", "harness", "cli", "plugin", "inside",
)  # fmt: skip
"""From the ground up: a folder imports only from those before it."""

ROOMS = {"inside": ("wire", "view", "plugins", "back", "boot"), "guest": ("wire", "warm", "tests")}
"""The rooms of a folder in the same order. What lies in the folder itself stands above them."""

OUTSIDE = {"__main__", "__init__", "errors"}
"""The package's public names, those of the errors, and ``python -m`` with the command line."""

WIRE = "guest.wire."
"""What both sides of the wall speak. It lies in the folder that a sandbox is shown, and the
programs beside pytest may import it too."""

PYTEST = ("plugin", "inside")
"""The folders that import pytest; and guest/tests/worker.py, which is a pytest in the sandbox."""

PYTEST_INSIDE = {
    "guest.tests.bridges", "guest.tests.debugger", "guest.tests.gate", "guest.tests.measure",
    "guest.tests.pytest_process", "guest.tests.terminal_file", "guest.tests.worker",
}  # fmt: skip
"""The modules of the pytest in the sandbox."""


def name_of(path: Path) -> str:
    """A module's name inside the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


NAMES = frozenset(map(name_of, MODULES))
INSIDE = [path for path in MODULES if name_of(path) not in OUTSIDE]
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of all modules that are imported anywhere, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import that is relative"
            assert node.module is not None
            # Of `from package.programs import child`, the module is package.programs.child.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if name.removeprefix(PREFIX) in NAMES else node.module for name in names
            )


PREFIX = "pytest_gvisor."


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, which is parsed once for all of these tests."""
    return ast.parse(path.read_text())


@functools.cache
def own_imports(path: Path) -> frozenset[str]:
    """The modules of the package that a module imports, those for a type checker alone included."""
    return NAMES.intersection(name.removeprefix(PREFIX) for name in imported(tree_of(path)))


def typing_only(tree: ast.Module) -> ast.Module:
    """The module without the imports that only a type checker sees."""
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body=kept, type_ignores=[])


def parsed(path: Path) -> ast.Module:
    """The syntax tree, apart from imports that only a type checker sees."""
    return typing_only(tree_of(path))


def top_of(name: str) -> str:
    """The folder of a module, or itself at the top."""
    return name.split(".", maxsplit=1)[0]


def test_the_order_names_each_folder_once() -> None:
    """A new folder, and a new module at the top, has to say where it belongs."""
    assert len(set(ORDER)) == len(ORDER)
    assert {top_of(name) for name in NAMES} - OUTSIDE == set(ORDER)


def test_imports_point_down() -> None:
    """A module imports from its own folder and from those before it in the order."""
    assert [
        f"{name_of(path)} imports {name}"
        for path in INSIDE
        for name in sorted(own_imports(path))
        if (own := top_of(name_of(path))) != (other := top_of(name))
        and not name.startswith(WIRE)
        and ORDER.index(other) > ORDER.index(own)
    ] == []


def test_imports_between_rooms_point_down() -> None:
    """A room imports from those before it, and none from its folder's own modules."""
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in INSIDE
        for name in sorted(own_imports(path))
        if (folder := top_of(name_of(path))) in ROOMS
        and top_of(name) == folder
        and room(name_of(path)) < room(name)
    ]
    assert wrong == []


def room(name: str) -> int:
    """The number of a module's room; what lies in the folder itself is above all rooms."""
    folder, *rest = name.split(".")
    rooms = ROOMS[folder]
    return rooms.index(rest[0]) if len(rest) > 1 or (rest[:1] and rest[0] in rooms) else len(rooms)


def test_the_picture_is_the_order() -> None:
    """docs/internals.md draws each folder once, and each arrow leads to the next one down."""
    text = (PACKAGE.parent / "docs/internals.md").read_text()
    picture = text.partition("```mermaid")[2].partition("```")[0]
    assert set(re.findall(r"(\w+)\[", picture.replace("subgraph ", "subgraph_"))) - {
        "subgraph_pytest", "subgraph_any", "subgraph_untrusted", "subgraph_beside",
    } == FOLDERS  # fmt: skip
    down = dict(re.findall(r"(\w+)(?:\[[^\]]*\])? --> (\w+)", picture))
    drawn = ["inside"]
    while drawn[-1] in down:
        drawn.append(down[drawn[-1]])
    assert drawn == [name for name in reversed(ORDER) if name in FOLDERS]


def test_the_table_of_changes_names_files_that_are_there() -> None:
    """Each path in "I want to change X: look here" exists."""
    text = (PACKAGE.parent / "docs/internals.md").read_text()
    table = text.partition("| I want to change |")[2].partition("\n\n")[0]
    paths = [path for path in re.findall(r"`([\w/]+(?:\.py|/))`", table) if "COMMAND" not in path]
    assert len(paths) > 20
    assert [path for path in paths if not (PACKAGE / path).exists()] == []


def test_no_files_import_each_other() -> None:
    """Imports have no cycle of two or more files."""
    graph = {name_of(path): own_imports(path) for path in MODULES}
    while leaves := {name for name, names in graph.items() if not names & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert graph == {}


def test_pytest_is_imported_by_two_folders() -> None:
    """The plugin and the tests inside; everything else works without pytest."""
    users = {
        name_of(path)
        for path in INSIDE
        if {"pytest", "_pytest", "pluggy"} & set(map(top_of, imported(tree_of(path))))
    }
    assert {name for name in users if top_of(name) not in PYTEST} <= PYTEST_INSIDE


def test_no_module_at_the_top_bears_a_public_name() -> None:
    """An import of the module would put it in the place of the public function or class."""
    assert {top_of(name) for name in NAMES}.isdisjoint(pytest_gvisor.__all__)


def test_a_file_name_occurs_once_except_where_two_sides_of_the_wall_speak() -> None:
    """A reader finds a module by its file name alone."""
    folders: dict[str, set[str]] = {}
    for path in MODULES:
        if not path.name.startswith("__"):
            folders.setdefault(path.name, set()).add(top_of(name_of(path)))
    twice = {name: found for name, found in folders.items() if len(found) > 1}
    shim = twice.pop("errors.py")
    assert shim == {"base", "errors"}
    assert twice.keys() == {"byte_code.py", "debugger.py", "link.py", "worker.py"}
    assert all(found == {"guest", "inside"} for found in twice.values())


def test_programs_import_the_standard_library_and_their_siblings() -> None:
    """A program runs with -I -S, which leaves out all other modules."""
    others = [
        (name_of(path), name)
        for path in (PACKAGE / "programs").glob("*.py")
        for full in imported(tree_of(path))
        if top_of(name := full.removeprefix(PREFIX)) not in {*sys.stdlib_module_names, "programs"}
        and not name.startswith(WIRE)
    ]
    assert others == []


def test_no_deadline_in_pytest_s_process_is_kept_by_a_clock_that_tests_replace() -> None:
    """Only programs and guests, which are other processes, read `time.monotonic`."""
    readers = {name_of(path) for path in MODULES if "time.monotonic()" in path.read_text()}
    programs = {name for name in readers if top_of(name) == "programs"}
    assert {top_of(name) for name in readers} == {"guest", "programs"}
    assert programs == {f"programs.{name}" for name in ("keeper", "one_run", "relay", "settling")}
    assert "guest.wire.plain" not in readers  # which both sides read


@pytest.mark.parametrize(
    ("program", "needs"),
    [
        ("programs/ask_runsc.py", {"programs.linux", "programs.paths"}),
        ("programs/keeper.py", {"programs.order", "programs.proc"}),
        ("programs/warden.py", {"programs.leftovers"}),
        ("guest/warm/init_process.py", {"guest.warm.loop", "guest.warm.children"}),
    ],
)
def test_a_program_that_is_waited_for_imports_little(program: str, needs: set[str]) -> None:
    """With -I -S it finds its own folder. A session's first sandbox waits for the keeper."""
    own = PREFIX + top_of(program.replace("/", "."))
    code = f"""
import sys
for name in ("pytest_gvisor", {own!r}):
    sys.modules[name] = package = type(sys)(name)
    package.__path__ = [{str(PACKAGE / top_of(program.replace("/", ".")))!r}]
import {PREFIX}{program.removesuffix(".py").replace("/", ".")}
print(*sys.modules)
"""
    found = set(run("-I", "-S", "-c", code).split())
    ours = {name for name in found if top_of(name) == "pytest_gvisor"}
    assert {own} | {PREFIX + name for name in needs} <= ours | {own}
    assert all(name in {"pytest_gvisor", own} or name.startswith(f"{own}.") for name in ours)
    assert not found & {"ast", "dataclasses", "inspect"}


def run(*arguments: str) -> str:
    """The output of a new Python."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_only_one_module_has_ctypes() -> None:
    """Kernel calls are in one place."""
    users = {name_of(path) for path in MODULES if "ctypes" in set(imported(parsed(path)))}
    assert users == {"programs.linux"}


JSON = {
    "cli.init": "it reads TOML, whose parser raises RecursionError too",
    "guest.wire.checked_json": "what it is for",
    "programs.one_run": "of pytest's own; and programs import nothing of guest",
    "programs.leftovers": "programs import nothing of guest; and rmtree raises RecursionError too",
    "programs.order": "programs import nothing of guest",
    "programs.replay": "what this package has kept",
    "run.kept": "what this process has written itself",
    "run.logs": "one text after another",
}
"""The modules that call a JSON parser, and why."""


def test_json_is_read_by_one_module() -> None:
    """All other modules call `checked_json`, which raises one error."""
    parsers = re.compile(r"\bjson\.(load|loads|JSONDecoder)\b|\bRecursionError\b")
    users = {name_of(path) for path in MODULES if parsers.search(ast.unparse(parsed(path)))}
    assert users == JSON.keys()


HEAVY = ("docker", "pytest_gvisor.run", "pytest_gvisor.oci", "pytest_gvisor.runsc.binary",
         "pytest_gvisor.harness.gvisor", "pytest_gvisor.harness.engine")  # fmt: skip


@pytest.mark.parametrize("module", ["pytest_gvisor", "pytest_gvisor.plugin"])
def test_the_plugin_costs_a_project_that_does_not_use_it_nothing(module: str) -> None:
    """Neither docker nor anything of the launch is imported before it is needed."""
    code = f"import pytest, sys; before = set(sys.modules); import {module}"
    code += "; print(*sorted(set(sys.modules) - before))"
    loaded = run("-c", code).split()
    assert module in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


COLLECTS = {
    "pytest_gvisor", "pytest_gvisor.base", "pytest_gvisor.base.as_written",
    "pytest_gvisor.inside", "pytest_gvisor.inside.hooks",
    "pytest_gvisor.plugin", "pytest_gvisor.plugin.arrivals", "pytest_gvisor.plugin.fixtures",
    "pytest_gvisor.plugin.hookspecs", "pytest_gvisor.plugin.options",
    "pytest_gvisor.plugin.placement", "pytest_gvisor.programs", "pytest_gvisor.programs.paths",
    "pytest_gvisor.base.removed", "pytest_gvisor.base.setting_table",
}  # fmt: skip
IDLE = COLLECTS | {"pytest_gvisor.plugin.stash"}


@pytest.fixture(autouse=True)
def no_records(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """This user's records of files that came back change no session here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


ALONE_OF_OTHERS = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "xdist")]
SESSION = """
import pytest, sys
assert pytest.main(sys.argv[1:]) == 0
loaded = {name: module for name, module in sys.modules.items() if name.startswith("pytest_gvisor")}
"""


def test_a_run_without_gvisor_imports_no_more(tmp_path: Path) -> None:
    """A whole session whose tests use no sandbox: each module costs time at its start."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        f"    assert {{n for n in sys.modules if n.startswith('pytest_gvisor')}} == {IDLE!r}\n"
        f"    assert not [n for n in sys.modules if n.startswith({HEAVY!r})]\n"
    )
    folder = str(tmp_path)
    assert "1 passed" in run("-m", "pytest", "-q", *ALONE_OF_OTHERS, "--rootdir", folder, folder)


def collect(folder: Path, code: str) -> str:
    """The last line of a session that only collects, and of code after it in the process."""
    (folder / "test_it.py").write_text("def test_it(): pass\n")
    options = ("--collect-only", "-q", *ALONE_OF_OTHERS, "--rootdir", str(folder), str(folder))
    return run("-c", SESSION + code, *options).splitlines()[-1]


def test_a_collection_without_gvisor_imports_no_more(tmp_path: Path) -> None:
    """The same of a session that runs no test."""
    assert set(collect(tmp_path, "print(*loaded)").split()) == COLLECTS


def test_each_public_name_is_there() -> None:
    """A public name is imported from its module at its first use."""
    assert [name for name in pytest_gvisor.__all__ if not hasattr(pytest_gvisor, name)] == []


@pytest.mark.parametrize("name", ["no_such_name", "__no_such_name__"])
def test_another_name_is_an_attribute_error(name: str) -> None:
    """An unknown name is an attribute error, as in any module."""
    with pytest.raises(AttributeError, match=name):
        getattr(pytest_gvisor, name)


def test_a_removed_name_says_what_to_write_now() -> None:
    """An import of the name shows the sentence too."""
    for code in ("from pytest_gvisor import Launcher", "import pytest_gvisor as p; p.Launcher"):
        with pytest.raises(ImportError, match=re.escape(removed.LAUNCHER)):
            exec(code, {})


def test_a_type_checker_is_shown_each_public_name() -> None:
    """From the module that the name is imported from at its first use."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    shown = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == vars(pytest_gvisor)["_homes"]()
    star: dict[str, object] = {}
    exec("from pytest_gvisor import *", star)
    assert star.keys() - {"__builtins__"} == shown.keys()
