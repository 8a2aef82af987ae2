"""The program that a loaded module runs in: it answers its host's calls, one at a time.

`Sandbox.load` starts one for each module, as a user of its own. Requests come from descriptor 0 and
replies go to descriptor 1, each as its size in four bytes and then JSON (`plain`). The module's own
output goes to descriptor 2. The module can change all of this, and so decide what its host is told:
the host trusts none of it. Standard library only, Python 3.8.
"""

from __future__ import annotations

import importlib
import linecache
import operator
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

if not __package__:
    # A program: the package is not installed here, and only this folder of it is shown.
    for name in ("pytest_gvisor", "pytest_gvisor.guest"):
        sys.modules[name] = package = type(sys)(name)
        package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

from pytest_gvisor.guest.wire import plain

_LONGEST = 20_000
_loops: list[Any] = []
"""The loop of all calls, once there is one: what a call has made may belong to it."""


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _load(_: None, name: str, source: bytes | None, file: str) -> plain.Whole:
    """Import a module by its name; or make one of a source, which tracebacks show as ``file``."""
    sys.path.insert(0, os.getcwd())
    if source is None:
        return plain.Whole(importlib.import_module(name))
    module = sys.modules[name] = type(sys)(name)
    module.__file__ = file
    lines = source.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[file] = (len(source), None, lines, file)
    exec(compile(source, file, "exec", dont_inherit=True), vars(module))
    return plain.Whole(module)


def _call(target: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call it, and await an awaitable result. A new object of a class with methods stays here."""
    value = target(*args, **kwargs)
    if isinstance(target, type):
        return value if type(value) in plain.EXACT else plain.Whole(value)
    if not hasattr(type(value), "__await__"):
        return value
    if not _loops:
        _loops.append(importlib.import_module("asyncio").new_event_loop())
    return _loops[0].run_until_complete(_wait(value))


def _exit(manager: Any, problem: str | None) -> None:
    """Leave a context. Whether it would suppress an exception of the host's is not asked."""
    error = None if problem is None else RuntimeError(problem)
    type(manager).__exit__(manager, error and RuntimeError, error, None)


_ACTS: dict[str, Callable[..., Any]] = {
    "load": _load, "call": _call, "get": getattr, "set": setattr, "item": operator.getitem,
    "put": operator.setitem, "iter": lambda target: plain.Whole(iter(target)),
    # A tuple with the next item, and an empty one at the end.
    "next": lambda iterator: next(((item,) for item in iterator), ()),
    "enter": lambda manager: type(manager).__enter__(manager), "exit": _exit,
}  # fmt: skip


def _described(error: Exception) -> tuple[str, str, str]:
    """Return the names of the error's type and its bases, its text and its traceback."""
    names = " ".join(kind.__name__ for kind in type(error).__mro__[:-1])
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    return names, str(error)[:_LONGEST], text[-_LONGEST:]


class Server:
    """The objects that are kept for the host, and the answers to its requests."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._last = 0

    def _keep(self, value: Any) -> list[Any]:
        if len(self._kept) >= plain.MAX_HANDLES:
            raise plain.TooMuch(f"more than {plain.MAX_HANDLES} objects are kept for their host")
        self._last += 1
        self._kept[self._last] = value = value.value if type(value) is plain.Whole else value
        return ["h", self._last, type(value).__name__]

    def answer(self, text: bytes) -> bytes:
        """Do what a request asks for, and return the reply.

        SystemExit ends the program, and so does `plain.TooMuch` of an answer.
        """
        found = plain.decoded(text, lambda number, _name: self._kept[number])
        token, act, arrays, dropped, target, args, kwargs = found
        for number in dropped:
            del self._kept[number]
        try:
            value = _ACTS[act](target, *args, **kwargs)
            return plain.encoded((token, "value", value), self._keep, arrays=arrays)
        except plain.TooMuch:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever the module raises
            return plain.encoded((token, "error", _described(error)), self._keep, arrays=False)


def serve() -> None:
    """Answer until the host closes its end. The module gets no input."""
    with open(os.dup(0), "rb") as requests, open(os.dup(1), "wb") as replies:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        server = Server()
        while size := requests.read(4):
            reply = server.answer(requests.read(int.from_bytes(size, "big")))
            replies.write(len(reply).to_bytes(4, "big") + reply)
            replies.flush()


if __name__ == "__main__":
    serve()
