"""The names of the program that runs: for tests inside, those of the host's pytest.

argparse and click take a program's name from ``sys.argv``. In each process that it spawns,
multiprocessing runs the file of ``__main__`` again.

Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

import builtins
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    _List = list[str]
else:
    _List = list  # takes no argument in Python 3.8

_LINES = tuple(name for name in ("argv", "orig_argv") if hasattr(sys, name))  # since Python 3.10
_LOOKS = (
    "__add__", "__contains__", "__delitem__", "__eq__", "__ge__", "__getitem__", "__gt__",
    "__iadd__", "__imul__", "__iter__", "__le__", "__len__", "__lt__", "__mul__", "__ne__",
    "__repr__", "__reversed__", "__rmul__", "__setitem__", "append", "clear", "copy", "count",
    "extend", "index", "insert", "pop", "remove", "reverse", "sort",
)  # fmt: skip


class Words(_List):
    """A command line that notes whether anybody reads an argument of it."""

    was_read = False


def _look(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def look(self: Words, *arguments: Any) -> Any:
        # argparse takes the name of the program.
        if name != "__getitem__" or arguments != (0,):
            self.was_read = True
        return method(self, *arguments)

    return look


for _name in _LOOKS:
    setattr(Words, _name, _look(_name))


class CommandLine:
    """The host's command line, in place of that of this program."""

    def __init__(self, lines: Mapping[str, Iterable[str]], *, watched: bool) -> None:
        """Take it; if it is ``watched``, note whether anybody reads it until `settle`."""
        self._watched: dict[str, Words] = {}
        for name in _LINES:
            if watched:
                self._watched[name] = Words(lines[name])
                setattr(sys, name, self._watched[name])
            else:
                getattr(sys, name)[:] = lines[name]

    def was_read(self) -> bool:
        """Whether anything here may depend on its arguments."""
        return not self._watched or any(
            words.was_read or getattr(sys, name) is not words
            for name, words in self._watched.items()
        )

    def settle(self, lines: Mapping[str, Iterable[str]]) -> None:
        """Take that of the host which is there now, and watch it no more."""
        for name, words in self._watched.items():
            # Whoever holds the list that was watched sees it too.
            list.__setitem__(words, slice(None), lines[name])
            if getattr(sys, name) is words:
                setattr(sys, name, [*lines[name]])
        self._watched = {}


def assume(
    argv: Iterable[str],
    orig_argv: Iterable[str],
    file: str | None,
    module: str | None,
    *,
    watched: bool = False,
) -> CommandLine:
    """Take the host's command line, and a ``__main__`` of its name.

    It has no file where the sandbox has none of that name.
    """
    line = CommandLine({"argv": argv, "orig_argv": orig_argv}, watched=watched)
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if file is not None and os.path.exists(file):
        main.__file__ = file
        if module is not None:
            main.__spec__ = ModuleSpec(module, None, origin=file)
            main.__package__ = module.rpartition(".")[0]
    sys.modules["__main__"] = main
    return line
