"""Each private name of pytest, pluggy, xdist, plugins, CPython and docker that the package uses.

Nothing of them that has no public name is replaced or set for speed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest_gvisor

PACKAGE = Path(pytest_gvisor.__file__).parent

DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace", "_thread", "_xoptions"}
"""Names with an underscore that Python's documentation has."""

TYPES = {"_ArgumentGroup", "_Hash"}
"""Names that stand in annotations alone."""

FILES = {"_netrc"}
"""Texts that only look like such a name."""

PRIVATES = {
    "cli/main": {"setattr sys": "a standard stream that was closed at the start is /dev/null"},
    "guest/tests/bridges": {
        "_pytest.junitxml._check_record_param_type": "the warning of record_property's relatives",
        "_pytest.junitxml.xml_key": "where pytest's fixtures look for the JUnit report",
        "_benchmarksession": "where pytest-benchmark keeps what it has measured",
    },
    "guest/tests/debugger": {
        "_pytest.debugging.pytestPDB": "pytest calls no hook before it makes a debugger",
        "pytestPDB._init_pdb": "replaced: what a debugger writes first is shown, too",
        "_config": "whether a debugger is of this session, or of one that a test has started",
        "sys.stdin": "set: a debugger's input is the user's",
        "sys.stdin.mode": "set: as that of Python's own stream",
    },
    "guest/tests/gate": {
        "_inipath": "set: a session without an ini file was started with /dev/null as one",
        "_startTime": "set: the start of a copy, for the relative times of log records",
    },
    "guest/tests/passed": {"_id": "an attribute of reports, which a short form leaves out"},
    "guest/tests/program": {"_data": "set: variables that a failed test has missed are named"},
    "guest/tests/pytest_process": {
        "_pytest.config.get_config": "a configuration that has a plugin before the others"
    },
    "guest/tests/randomness": {
        "_name_sequence": "set: copies of a saved sandbox draw other names of temporary files"
    },
    "guest/tests/terminal_file": {
        "_remove_plugin": "the host's pytest writes the summaries of plugins, and no one twice",
        "_pytest.config.create_terminal_writer": "makes a writer with the user's options",
        "_tw": "set: the lines of the terminal plugin go to the host",
    },
    "guest/tests/unsent": {
        "sys.stdout": "set: descriptor 1 was no stream until now",
        "sys.__stdout__": "set: as sys.stdout",
    },
    "guest/tests/worker": {
        "_shouldfail": "set: the host decides when to stop, and the property warns if it is unset",
        "_shouldstop": "set: as _shouldfail",
    },
    "images/docker": {"_auth_configs": "set: else a pull looks for a configuration again"},
    "images/daemon_socket": {"_new_conn": "set: urllib3 has no deadline for a whole request"},
    "inside/boot/variants": {
        "_id": "set: a variant's node id, to which others may add as to any item's",
        "_nodeid": "set: as _id, before pytest 9.2",
    },
    "inside/view/configuration": {
        "_cov": "the name of pytest-cov's plugin",
        "_parser": "the defaults of options, by which a test may know that none was given",
        "subprocess._args_from_interpreter_flags": "the flags of this Python, for that inside",
    },
    "inside/debugger": {"_pdbshown": "set: pytest's summary leaves out what it has shown"},
    "inside/wire/fields": {
        "_id": "an attribute of reports",
        "_report_type": "an attribute of reports of pytest's subtests",
        "_hypothesis_stats": "an attribute of reports of hypothesis",
        "_json_report_extra": "an attribute of reports of pytest-json-report",
        "_ctrf_metadata": "an attribute of reports of pytest-json-ctrf",
    },
    "inside/plugins/allure": {"_cache": "the result of a test, which allure has begun here"},
    "inside/plugins/benchmark": {"_benchmarksession": "takes what was measured inside"},
    "inside/plugins/junit": {
        "_pytest.junitxml.LogXML": "a type in an annotation",
        "_pytest.junitxml.bin_xml_escape": "escapes a property's name as pytest does",
        "_pytest.junitxml.xml_key": "where pytest keeps its JUnit report",
    },
    "inside/plugins/live_log": {"_when": "the phase that the handler of log_cli has shown last"},
    "inside/plugins/unbridged": {
        "_csv_rows": "an attribute of tests: whether pytest-csv has something to write",
        "_fixtureinfo": "the fixtures of a test, before it runs",
        "_fixture_function_marker": "whether a fixture is used without being asked for",
        "_syrupy": "where syrupy keeps its session",
        "_remove_plugin": "syrupy would delete the snapshots that tests inside have used",
    },
    "inside/wire/reports": {
        "_pytest._code.code.TerminalRepr": "pytest shows a failure that is of this class",
        "_pytest._io.TerminalWriter": "a type in an annotation",
    },
    "inside/back/returned": {"_tmp_path_factory": "the folder of tmp_path, before a test has one"},
    "inside/session": {"_setupstate": "fixtures of tests on the host are torn down between"},
    "inside/view/visible": {
        "_conftest_plugins": "the conftest.py files that this session has read"
    },
    "plugin/placement": {"_fixtureinfo": "whether a fixture of our name is the project's own"},
    "plugin/stash": {"_request": "the fixtures that a test has asked for while it ran"},
    "sandbox/channel": {"_at_fork_reinit": "a fork has no thread that would release the lock"},
    "sandbox/interpreter": {"_base_executable": "the Python of a virtual environment"},
}
"""The module, the name, and what it is for. A set one is replaced or assigned to."""


def is_private(name: str) -> bool:
    """Whether it begins with an underscore, and is no method of Python's protocols."""
    return name.startswith("_") and not name.endswith("_") and name not in DOCUMENTED | TYPES


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names that a module defines: functions, classes, variables, and attributes of ``self``."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store())
            ):
                yield name


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each import from others: the full name, and the name in this module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                full = base + alias.name
                if full.partition(".")[0] not in {"pytest_gvisor", "__future__"}:
                    yield full, alias.asname or alias.name.partition(".")[0]


def privates(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Names of others that a module uses and should not; ``ours`` are those of the package."""
    own, others = set(own_names(tree)), dict(imported(tree))
    yield from (name for name in others if any(map(is_private, name.split("."))))
    parts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if is_private(name):
                base = ast.unparse(value)
                if name not in own and not (base == "self" and name in ours):
                    yield f"{base}.{name}" if base in others.values() else name
            case ast.Attribute(value=value, attr=name, ctx=ast.Store() | ast.Del()):
                if (base := ast.unparse(value)).partition(".")[0] in others.values():
                    yield f"{base}.{name}"
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[ast.Name(id=base), *_]):
                if base in others.values():
                    yield f"setattr {base}"
            case ast.Constant(value=str(text)) if text.isidentifier() and is_private(text):
                if text not in own | FILES and id(node) not in parts:
                    yield text


def test_each_private_name_of_others_is_in_the_list() -> None:
    """A new one has to be correct without a public way, and to say why; an old one goes."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    ours = {name for tree in trees.values() for name in own_names(tree)}
    found = {
        (path.relative_to(PACKAGE).with_suffix("").as_posix(), name)
        for path, tree in trees.items()
        for name in privates(tree, ours)
    }
    listed = {(module, name) for module, names in PRIVATES.items() for name in names}
    assert (found - listed, listed - found) == (set(), set())
