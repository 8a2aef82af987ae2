"""The interpreter inside: its flags, and the names of its program."""

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.guest.tests import program as guest
from pytest_gvisor.inside.boot import variants
from pytest_gvisor.inside.view import configuration
from pytest_gvisor.plugin import placement
from pytest_gvisor.plugin.placement import variant_key


def test_each_option_of_the_interpreter_is_passed_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option that multiprocessing leaves out is among them."""
    monkeypatch.setattr(sys, "_xoptions", {"utf8": True, "pycache_prefix": "/x"})
    line = configuration.command("worker.py")
    assert (line[0], line[-1]) == (sys.executable, "worker.py")
    options = [word for before, word in itertools.pairwise(line) if before == "-X"]
    assert sorted(options) == ["pycache_prefix=/x", "utf8"]


@pytest.mark.parametrize(
    ("module", "file", "named"),
    [("pytest.__main__", True, True), (None, True, False), ("mine", False, False)],
)
def test_the_program_has_the_names_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, file: bool, named: bool
) -> None:
    """Without its file, the main module inside has none: a spawned process would not find it."""
    main: Any = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "main.py")
    main.__spec__ = module and types.SimpleNamespace(name=module)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["main.py", "a"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "main.py", "a"])
    found = configuration.program()
    if file:
        (tmp_path / "main.py").touch()
    sys.argv, sys.orig_argv = [], []
    guest.assume(**found)
    assert (sys.argv, sys.orig_argv) == (["main.py", "a"], ["python", "main.py", "a"])
    inside: Any = sys.modules["__main__"]
    assert inside is not main
    assert getattr(inside, "__file__", None) == (main.__file__ if file else None)
    assert (inside.__spec__ is not None) is named
    assert (inside.__loader__ is not None) is file
    if named:
        source = importlib.util.cache_from_source(main.__file__)
        assert (inside.__spec__.loader, inside.__spec__.cached) == (inside.__loader__, source)
        assert (inside.__spec__.name, inside.__package__) == ("pytest.__main__", "pytest")


def test_a_main_module_of_another_form_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An xdist worker's has no file."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert (configuration.program()["file"], configuration.program()["module"]) == (None, None)


MODULE = """
import pytest

@pytest.mark.parametrize("n", range(3))
def test_many(n): pass

@pytest.mark.in_gvisor(user="root")
def test_root(): pass

@pytest.mark.in_gvisor(fresh=True)
class TestFresh:
    def test_it(self): pass
"""


def test_a_marker_counts_wherever_it_stands(pytester: pytest.Pytester) -> None:
    """All other tests have the same plan."""
    items: list[pytest.Item] = [*pytester.getitems(MODULE)]
    variants.expand(items, items)
    plans = [item.stash[variant_key] for item in items]
    assert [plan.inner for plan in plans] == [item.nodeid for item in items]
    assert [(plan.user, plan.fresh) for plan in plans[3:]] == [("root", False), ("caller", True)]
    assert {plan._replace(inner="") for plan in plans[:3]} == {
        plans[4]._replace(inner="", fresh=False)
    }


def test_a_function_with_a_selected_test_is_wanted(pytester: pytest.Pytester) -> None:
    """A function with a part of its tests is wanted, and one without any is not."""
    items, _ = pytester.inline_genitems(
        pytester.makepyfile(
            """
            import pytest

            @pytest.mark.parametrize("number", range(3))
            def test_part(number): pass

            @pytest.mark.parametrize("number", range(3))
            def test_all(number): pass

            class TestIt:
                def test_all(self): pass
            """
        )
    )
    config, path = items[0].config, items[0].path.name
    assert configuration.unwanted(items) == []
    assert configuration.unwanted([]) == []
    items[0].session.items = [items[0]]
    placement.note_deselected(config, items[1:])
    assert configuration.unwanted(items[:1]) == []  # a plugin has chosen
    config.option.markexpr = "not slow"
    placement.note_deselected(config, items[1:])
    assert configuration.unwanted(items[:1]) == [f"{path}::TestIt::test_all", f"{path}::test_all"]
