"""Modules are found in the memory that the host has filled, until that ends."""

import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

import pytest

from pytest_gvisor.guest.tests import byte_code
from pytest_gvisor.guest.tests.byte_code import MOST, PLACE, Supply
from pytest_gvisor.inside.wire.byte_code import store
from tests.unit.inside.wire.test_byte_code import compiled


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


def test_the_program_finds_its_own_modules_in_its_folder_alone(supply: Supply) -> None:
    """The package as it is installed may be another one."""
    supply.begin()
    name, folder = "pytest_gvisor.guest.tests.link", os.path.dirname(byte_code.__file__)
    own = supply.find_spec(name, [folder])
    assert own is not None
    assert own.origin == os.path.join(folder, "link.py")
    assert supply.find_spec(name, ["/another/pytest_gvisor/guest"]) is None


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
        os._exit(0 if byte_code.supplied() not in list[object](sys.meta_path) else 1)
    assert os.waitpid(pid, 0)[1] == 0
