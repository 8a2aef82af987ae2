"""Modules are found in the memory that the host has filled, until that ends."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

import pytest

from pytest_gvisor.guest import byte_code
from pytest_gvisor.guest.byte_code import MOST, PLACE, Supply
from pytest_gvisor.inside.byte_code import store
from tests.unit.inside.test_byte_code import compiled


@pytest.fixture
def supply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supply]:
    """A supply of ``supplied_one``, a package, whose sources say otherwise."""
    for name in ("supplied_one/__init__.py", "supplied_one/part.py"):
        compiled(tmp_path / name, "origin = 'a file'", "origin = 'memory'")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("supplied_one.part")
    memory = os.memfd_create("test")
    os.ftruncate(memory, PLACE + MOST)
    shown = (str(tmp_path), os.path.dirname(byte_code.__file__))
    store(memory, lambda path: path.startswith(shown))
    for name in ("supplied_one.part", "supplied_one"):
        monkeypatch.delitem(sys.modules, name)
    # Without byte code beside the sources.
    for folder in tmp_path.rglob("__pycache__"):
        for file in folder.iterdir():
            file.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Supply(memory)
    yield made
    made.end()
    for name in ("supplied_one.part", "supplied_one"):
        sys.modules.pop(name, None)


def test_a_module_comes_from_memory_and_looks_like_one_of_a_file(
    supply: Supply, tmp_path: Path
) -> None:
    """Its loader is Python's own, and its places are those of an import from files."""
    supply.begin()
    part = importlib.import_module("supplied_one.part")
    package = sys.modules["supplied_one"]
    assert (part.origin, package.origin) == ("memory", "memory")
    for module in (part, package):
        assert type(module.__loader__) is SourceFileLoader
        assert vars(module.__loader__).keys() == {"name", "path"}
        assert module.__spec__ is not None
        usual = PathFinder.find_spec(module.__name__, getattr(package, "__path__", None))
        usual = usual if module is part else PathFinder.find_spec("supplied_one")
        assert usual is not None
        assert module.__spec__ == usual
        assert module.__spec__.cached == usual.cached
        assert module.__spec__.submodule_search_locations == usual.submodule_search_locations
    assert part.__file__ == str(tmp_path / "supplied_one/part.py")


def test_a_module_comes_from_its_file_when_the_supply_has_ended(supply: Supply) -> None:
    """A second end does nothing, and it does not begin again."""
    supply.begin()
    supply.end()
    supply.end()
    supply.begin()
    assert supply not in list[object](sys.meta_path)
    assert importlib.import_module("supplied_one.part").origin == "a file"


def test_a_package_that_looks_elsewhere_has_its_modules_from_there(
    supply: Supply, tmp_path: Path
) -> None:
    """Code may change the folders of a package before it imports from it."""
    supply.begin()
    package = importlib.import_module("supplied_one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/part.py").write_text("origin = 'the other file'")
    package.__path__ = [str(tmp_path / "other")]
    assert importlib.import_module("supplied_one.part").origin == "the other file"


def test_the_program_finds_its_own_modules_and_nobody_else_does(supply: Supply) -> None:
    """A plugin may import a module of the same name, and has that one."""
    supply.begin()
    supply.guests = True
    own = supply.find_spec("channel")
    assert own is not None
    assert own.origin == os.path.join(os.path.dirname(byte_code.__file__), "channel.py")
    supply.guests = False
    assert supply.find_spec("channel") is None


def test_metadata_that_was_asked_for_on_the_host_is_read_from_memory(
    supply: Supply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find plugins, pytest reads the entry points of each package, and has them until the gate.

    The supply was made when the folder had none.
    """
    supply.end()
    packages = tmp_path / "packages"
    plugin, other = packages / "plugin-1.dist-info", packages / "other-1.dist-info"
    for folder in (plugin, other):
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {folder.name}")
    (plugin / "entry_points.txt").write_text("[pytest11]\nsupplied = supplied_one\n")
    (plugin / "RECORD").write_text("supplied_one/part.py,,\n")
    monkeypatch.syspath_prepend(packages)
    memory = os.memfd_create("test")
    os.ftruncate(memory, PLACE + MOST)
    store(memory, lambda path: path == str(packages))
    for file in (plugin / "entry_points.txt", plugin / "RECORD"):
        file.unlink()
    (other / "entry_points.txt").write_text("[pytest11]\nlater = later\n")
    supplied = Supply(memory)
    supplied.begin()
    usual = metadata.PathDistribution.read_text
    supplied.supply_metadata()
    try:
        found, without = metadata.PathDistribution(plugin), metadata.PathDistribution(other)
        assert [point.name for point in found.entry_points] == ["supplied"]
        assert [str(file) for file in found.files or ()] in ([], ["supplied_one/part.py"])
        assert found.read_text("RECORD") == "supplied_one/part.py,,\n"
        assert not without.entry_points
        assert without.read_text("METADATA") == "Name: other-1.dist-info"
    finally:
        supplied.end()
    assert metadata.PathDistribution.read_text is usual
    assert not metadata.PathDistribution(plugin).entry_points
    assert [point.name for point in metadata.PathDistribution(other).entry_points] == ["later"]


LOCKS = """
import _thread, sys, threading
from pytest_gvisor.guest import byte_code

taken = []

class Count:
    def __init__(self, lock):
        self.lock = lock
    def __enter__(self):
        taken.append(1)
        return self.lock.__enter__()
    def __exit__(self, *error):
        return self.lock.__exit__(*error)

bootstrap = sys.modules["_frozen_importlib"]
usual = {name: getattr(bootstrap, name) for name in byte_code._LOCKS}
bootstrap._ModuleLockManager = lambda name: Count(usual["_ModuleLockManager"](name))
bootstrap._ImportLockContext = lambda: Count(usual["_ImportLockContext"]())
ours = {name: getattr(bootstrap, name) for name in byte_code._LOCKS}
supply = byte_code.Supply(-1)
import colorsys
none = len(taken)
import begins
begins.thread.join()
while _thread._count():
    pass
import chunks
supply.end()
assert {name: getattr(bootstrap, name) for name in byte_code._LOCKS} == ours
before = len(taken)
import stat_of
print(none, begins.found, before > none, len(taken) > before)
"""

BEGINS = """
import threading, time
found = []

def look():
    import begins
    found.append(begins.late)
    import of_the_thread

thread = threading.Thread(target=look)
thread.start()
time.sleep(0.1)
late = "whole"
"""


def test_no_lock_is_taken_while_one_thread_imports(tmp_path: Path) -> None:
    """A second thread waits for a module whose import began without, and takes locks itself."""
    (tmp_path / "begins.py").write_text(BEGINS)
    for name in ("of_the_thread", "chunks", "stat_of", "colorsys"):
        (tmp_path / f"{name}.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", LOCKS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0 ['whole'] True True\n", "")


def test_nothing_is_found_before_all_is_stored() -> None:
    """The head of the file says that all is there; until then the supply begins another time."""
    memory = os.memfd_create("test")
    os.ftruncate(memory, PLACE + MOST)
    supply = Supply(memory)
    supply.begin()
    assert supply not in list[object](sys.meta_path)
    store(memory, lambda path: path == os.path.dirname(os.__file__))
    supply.begin()
    assert supply in list[object](sys.meta_path)
    supply.end()


def test_another_standard_output_supplies_nothing() -> None:
    """On kvm, for instance, it is a pipe."""
    pid = os.fork()
    if pid == 0:
        _reader, writer = os.pipe()
        os.dup2(writer, 1)
        os._exit(0 if byte_code.supplied() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
