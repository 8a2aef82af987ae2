"""The pytest inside imports from byte code that the host has stored for it."""

import os

import pytest

from tests.inside.conftest import inside
from tests.unit.inside.wire.test_byte_code import compiled

EARLY = """
import os, sys
from pytest_gvisor import is_gvisor_kernel

# With PYTHONPYCACHEPREFIX the host would compile all of pytest, two seconds of a processor.
if not is_gvisor_kernel(os.uname().release):
    sys.pycache_prefix = {cache!r}
import helper
"""
TESTS = """
import os, sys
from importlib.machinery import SourceFileLoader
import helper
import later

def test_it():
    assert helper.origin == "byte code"
    assert type(helper.__loader__) is SourceFileLoader
    assert not [f for f in sys.meta_path if type(f).__module__.endswith(".byte_code")]
    assert not [name for name in sys.modules if name.startswith("pytest_gvisor.guest")]

def test_imports_after_the_gate_are_of_files():
    assert later.origin == "a file"

def test_the_mapping_of_messages_alone_has_a_descriptor_of_the_memory():
    sizes = []
    for name in os.listdir("/proc/self/fd"):
        try:
            sizes.append(os.fstat(int(name)).st_size)
        except OSError:
            pass
    assert sum(size > 24 * 1024 * 1024 for size in sizes) == 1
"""


def test_a_plugin_is_imported_from_the_byte_code_of_the_host(
    project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only the host has it: its folder is not shown inside. Later imports read files again."""
    cache = tmp_path_factory.mktemp("cache")
    for name in ("helper", "later"):
        file = project.path / f"{name}.py"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.pycache_prefix", os.fspath(cache))
            compiled(file, "origin = 'a file'", "origin = 'byte code'")
    project.makepyfile(early_plugin=EARLY.format(cache=os.fspath(cache)), test_it=TESTS)
    result = inside(project, "-p", "early_plugin")
    assert result.parseoutcomes() == {"passed": 3}


def test_a_module_of_the_name_of_one_of_ours_is_the_projects(project: pytest.Pytester) -> None:
    """A plugin that is imported before the gate has its own, as the package ``returns`` has."""
    package = project.mkpydir("returns")
    (package / "part.py").write_text("origin = 'the project'")
    project.makepyfile(
        early_plugin="from returns.part import origin",
        test_it="import early_plugin\n\ndef test(): assert early_plugin.origin == 'the project'",
    )
    assert inside(project, "-p", "early_plugin").parseoutcomes() == {"passed": 1}
