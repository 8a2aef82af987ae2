"""The byte code of the host's modules is stored as Python's own import would take it."""

import compileall
import importlib
import marshal
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest

from pytest_gvisor.guest.tests import byte_code as layout
from pytest_gvisor.guest.tests.byte_code import HEAD_SIZE, PLACE, READY
from pytest_gvisor.inside.wire import byte_code
from pytest_gvisor.run.pipes import SharedStreams

NAME = "module_to_store"


def compiled(file: Path, source: str, code: str) -> None:
    """Write a module, and beside it byte code of another text that Python takes for its own."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    state = file.stat()
    place = Path(cache_from_source(str(file)))
    place.parent.mkdir(parents=True, exist_ok=True)
    numbers = b"".join(n.to_bytes(4, "little") for n in (0, int(state.st_mtime), state.st_size))
    data = marshal.dumps(compile(code, str(file), "exec"))
    place.write_bytes(MAGIC_NUMBER + numbers + data)


@pytest.fixture
def memory() -> Iterator[int]:
    """The file that a sandbox gets, where the guest's modules are compiled."""
    compileall.compile_dir(os.path.dirname(layout.__file__), quiet=1)
    streams = SharedStreams(1000)
    yield streams.memory
    streams.close()


def guests(*names: str) -> set[str]:
    """The names of modules of the guest."""
    return {f"pytest_gvisor.guest.{name}" for name in names}


def stored(memory: int) -> set[str]:
    """The modules in the file."""
    head = os.pread(memory, HEAD_SIZE, PLACE)
    if not head.startswith(READY):
        return set()
    length = int.from_bytes(head[len(READY) :], "little")
    return set(marshal.loads(os.pread(memory, length, PLACE + HEAD_SIZE)))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that is loaded."""
    file = tmp_path / f"{NAME}.py"
    compiled(file, "x = 1", "x = 2")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop(NAME, None)
    assert importlib.import_module(NAME).x == 2
    return file


def test_what_was_imported_is_stored(module: Path, memory: int) -> None:
    """Beside it is what the pytest inside begins with."""
    byte_code.store(memory, lambda path: True)
    found = stored(memory)
    assert {NAME, "re", "_pytest", "_pytest.config", *guests("tests.worker", "tests.link")} <= found
    assert "__main__" not in stored(memory)


OTHERS: dict[str, Callable[[Path], object]] = {
    "changed": lambda file: file.write_text("x = 3 # longer"),
    "gone": lambda file: file.unlink(),
    "without byte code": lambda file: os.unlink(cache_from_source(str(file))),
    "of another Python": lambda file: Path(cache_from_source(str(file))).write_bytes(b"x" * 99),
    "cut short": lambda file: Path(cache_from_source(str(file))).write_bytes(MAGIC_NUMBER),
}


@pytest.mark.parametrize("how", OTHERS)
def test_a_module_whose_file_is_another_by_now_is_left_out(
    how: str, module: Path, memory: int
) -> None:
    """The pytest inside imports it from the file, as the host would."""
    OTHERS[how](module)
    byte_code.store(memory, lambda path: True)
    assert NAME not in stored(memory)
    assert "re" in stored(memory)


def test_a_file_that_the_sandbox_does_not_show_is_left_out(module: Path, memory: int) -> None:
    """An import of it fails inside."""
    byte_code.store(memory, lambda path: path != str(module.parent))
    assert NAME not in stored(memory)
    assert "re" in stored(memory)
