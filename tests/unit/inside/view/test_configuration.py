"""The configuration of the pytest inside: what reaches it, and in which form."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from pytest_gvisor.inside.view import configuration


def test_a_module_is_named_only_if_an_import_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main module has no name of its own, and a program may make a module."""
    (tmp_path / "elsewhere.py").touch()
    spec = importlib.util.spec_from_file_location("elsewhere", tmp_path / "elsewhere.py")
    assert spec is not None
    elsewhere = importlib.util.module_from_spec(spec)
    main = types.ModuleType("__main__")
    main.__spec__ = spec
    given = ["by.name", pytest, importlib.util, main, types.ModuleType("made"), elsewhere, object()]
    named = ["by.name", "pytest", "importlib.util"]
    assert configuration.importable(given) == named
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert configuration.importable(given) == [*named, "elsewhere"]


def test_a_default_that_is_a_mark_does_not_travel(pytester: pytest.Pytester) -> None:
    """The pytest inside has the default by itself, and a test may ask whether it is that one."""
    pytester.makeconftest("""
        UNSET = object()

        def pytest_addoption(parser):
            parser.addoption("--this", default=UNSET)
            parser.addoption("--that", type=complex, default=1j)
    """)
    config = pytester.parseconfig()
    assert configuration.pickled(config).keys() == {"that"}
