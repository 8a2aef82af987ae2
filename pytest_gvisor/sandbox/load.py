"""Loaded modules: calls go into a sandbox, and data or handles come back.

The module's process is untrusted. It can send any reply, so a reply is data of checked shape, and
decides a value, the names and texts of an error, or nothing. The host calls no method of it.

A second process of the same user could open the first one's pipes through /proc and answer in its
place. So each load gets a user id that no other process of the sandbox has. The guest is root in
its sandbox, also where the host's user is not: the kernel of gVisor has all ids.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import importlib.util
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

from pytest_gvisor.base import errors
from pytest_gvisor.base.completed import NoAnswer, Outcome, SandboxCrashed
from pytest_gvisor.base.escape import escape, quoted
from pytest_gvisor.guest.wire import plain
from pytest_gvisor.programs import clock
from pytest_gvisor.sandbox.process import Process

Source = str | os.PathLike[str]
"""A file of the host, or the name of a module in the sandbox."""

_FIRST_USER = 10**9
"""The least id of a load's user: far above those of any system."""

_NO_PROCESS = (errors.InsideError, errors.NotReady, SandboxCrashed)
_OPENED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAIL = 2000
_END = 5.0
"""Seconds for the end of a process that has closed its stream."""


class Link:
    """The process of a loaded module, and the requests to it: one after the other."""

    def __init__(self, process: Process, timeout: float) -> None:
        """``timeout`` is the deadline of each call in seconds."""
        self.timeout = timeout
        self.dropped: collections.deque[int] = collections.deque()
        """Numbers of handles that the host has no more, for the next request."""

        self.received = 0
        """The bytes of all replies."""

        self._process = process
        self._handles = 0
        self._arrays = importlib.util.find_spec("numpy") is not None
        self._turn = threading.Lock()
        self._over = ""

    def ask(
        self, act: str, target: Any, *args: Any, named: dict[str, Any] | None = None,
        seconds: float | None = None, wanted: type = object,
    ) -> Any:  # fmt: skip
        """Do ``act`` in the sandbox and return its value, which is a ``wanted``.

        Raises `RemoteError`, `NoAnswer`, and `UsageError` for arguments that are no data.
        """
        # In a fork, the thread that has the turn is not there: so it is asked for after these.
        self._check_over()
        if (channel := self._process.channel).gone:
            self._fail(channel.crash().message, Outcome.SANDBOX_CRASHED)
        with self._turn:
            self._check_over()
            token, seconds = secrets.token_hex(8), self.timeout if seconds is None else seconds
            dropped = [self.dropped.popleft() for _ in range(len(self.dropped))]
            request = token, act, self._arrays, dropped, target, args, named or {}
            try:
                with errors.on_error(self.dropped.extend, dropped):
                    text = plain.encoded(request, self._sent, arrays=self._arrays)
            except plain.TooMuch as error:
                raise NoAnswer(f"the arguments cannot be sent: {error}") from error
            self._handles -= len(dropped)
            # After a Ctrl-C, say, the rest of this reply would be read as the next one's.
            with errors.on_error(self._kill, "an earlier call was interrupted"):
                value, problem = self._exchange(token, text, seconds, wanted)
        if problem is not None:
            raise problem
        return value

    def _sent(self, value: object) -> list[Any]:
        """Return the JSON of a handle among the arguments."""
        if isinstance(value, Remote) and value._gvisor_link is self:
            return ["h", value._gvisor_number, ""]
        raise errors.UsageError(f"a loaded module takes data and its own handles, not {value!r}")

    def _made(self, number: int, name: str) -> Remote:
        """Return a handle for a number and a type name in a reply."""
        self._handles += 1
        if self._handles > plain.MAX_HANDLES:
            raise plain.TooMuch(f"more than {plain.MAX_HANDLES} handles")
        return (Remote if self.received else Loaded)(self, number, name)

    def _exchange(
        self, token: str, text: bytes, seconds: float, wanted: type
    ) -> tuple[Any, errors.RemoteError | None]:
        """Send a request, and return the value of its reply, or the error."""
        deadline = clock.monotonic() + seconds
        try:
            request = memoryview(len(text).to_bytes(4, "big") + text)
            if not self._process.write_input(request, deadline):
                self._at_end(deadline)
            size = int.from_bytes(self._read(4, deadline), "big")
            if size > plain.MAX_BYTES:
                raise plain.TooMuch(f"a reply of {size} bytes")
            answer = self._read(size, deadline)
        except errors.NotReady:
            self._fail(f"no answer within {seconds:g} s", Outcome.TIMED_OUT)
        except errors.GvisorError as error:
            self._fail(error.message, Outcome.SANDBOX_CRASHED)
        except (EOFError, plain.TooMuch, MemoryError) as error:  # and none of a signal's handler
            self._fail(escape(str(error)))
        try:
            until = clock.monotonic() + self._process.left(deadline)
            reply = plain.decoded(answer, self._made, until)
            self.received += size
            match reply:
                case (str(to), "value", value) if to == token and isinstance(value, wanted):
                    return value, None
                case (str(to), "error", (str(kinds), str(said), str(trace))) if to == token:
                    names = kinds.split(maxsplit=50)
                    missing = "AttributeError" in names
                    kind = errors.RemoteAttributeError if missing else errors.RemoteError
                    return None, kind(names, said, trace)
            raise ValueError("its reply is of another form, or to another call")
        except TimeoutError:
            self._fail(f"no answer within {seconds:g} s", Outcome.TIMED_OUT)
        except Exception as error:  # noqa: BLE001 -- a forged reply decides what a reader raises
            self._fail(escape(str(error)[:_TAIL]))

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            # Bytes may be there at each deadline: a process may send without end.
            if (left := self._process.left(deadline)) <= 0:
                raise errors.NotReady("its reply has no end")
            part = self._process.stdout.read(size - len(data), timeout=left)
            if not part:
                self._at_end(deadline)
            data += part
        return bytes(data)

    def _at_end(self, deadline: float) -> NoReturn:
        if self._process.wait_over(min(deadline, clock.monotonic() + _END)):
            raise EOFError(f"its process has ended: {self._process.completed().end}")
        raise EOFError("it has closed its stream of replies")

    def _check_over(self) -> None:
        if self._over:
            raise NoAnswer(f"the loaded module is gone: {self._over}")

    def _fail(self, reason: str, outcome: Outcome | None = None) -> NoReturn:
        self._kill(reason)
        completed = self._process.completed(outcome)
        printed = quoted(completed.stderr[-_TAIL:].rstrip())
        raise NoAnswer(
            f"the loaded module gave no answer: {reason}\n{printed}", completed=completed
        )

    def _kill(self, reason: str) -> None:
        """Kill the process and all that it has started. A second call does nothing."""
        if not self._over:
            self._over = reason
            self._process.kill()

    def close(self) -> None:
        """End the process, and all that it has started."""
        if not self._process.channel.gone:
            with self._turn:
                self._kill("it was closed")


class Remote:
    """A handle: an object that stays in the sandbox, of an unverified type.

    Its attributes, items, calls, iteration and ``with`` are those of the object there. A call
    awaits the result of an async function. A handle is equal to itself alone and has no truth
    value. Names such as ``__array_interface__`` are never asked for: by these, the object could
    have the host read any memory.
    """

    __slots__ = ("__weakref__", "_gvisor_link", "_gvisor_name", "_gvisor_number")
    _gvisor_link: Link
    _gvisor_name: str
    _gvisor_number: int

    def __init__(self, link: Link, number: int, name: str) -> None:
        shown = escape(" ".join(name[:200].split()))
        for slot, value in (("link", link), ("number", number), ("name", shown)):
            object.__setattr__(self, f"_gvisor_{slot}", value)

    def __del__(self) -> None:
        """Have the next request drop the object."""
        self._gvisor_link.dropped.append(self._gvisor_number)

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: the end of a copy would drop the object of both."""
        raise TypeError(f"{self!r} can be neither copied nor pickled")

    def __repr__(self) -> str:
        """Return the name of the type, as the sandbox has it."""
        return f"<unverified {self._gvisor_name} in the sandbox>"

    def __bool__(self) -> bool:
        """Raise TypeError: the object could choose to be true."""
        raise TypeError(f"{self!r} has no truth value: compare data of it")

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the object. Raises `RemoteAttributeError`."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{self!r} is not asked for {name}")
        return self._gvisor_link.ask("get", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the object."""
        self._gvisor_link.ask("set", self, name, value)

    def __getitem__(self, key: object) -> Any:
        """Return an item of the object."""
        return self._gvisor_link.ask("item", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        """Set an item of the object."""
        self._gvisor_link.ask("put", self, key, value)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the object."""
        return self._gvisor_link.ask("call", self, *args, named=kwargs)

    def __iter__(self) -> Iterator[Any]:
        """Yield the items. All of them together have the deadline and the bytes of one call."""
        link = self._gvisor_link
        iterator, left, most = link.ask("iter", self), link.timeout, link.received + plain.MAX_BYTES
        found: tuple[Any, ...] = (None,)
        while found and link.received < most:
            begun = clock.monotonic()
            found = link.ask("next", iterator, seconds=max(0.0, left), wanted=tuple)
            left -= clock.monotonic() - begun
            yield from found
        if found:
            raise NoAnswer(f"more than {plain.MAX_BYTES} bytes of items")

    def __enter__(self) -> Any:
        """Enter the object's context."""
        return self._gvisor_link.ask("enter", self)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Leave the context. An exception of the host's is neither suppressed nor replaced.

        The object is told that there is one, and not which.
        """
        with contextlib.suppress(*(errors.RemoteError, NoAnswer) if error else ()):
            self._gvisor_link.ask("exit", self, "the test has raised" if error else None)


class Loaded(Remote):
    """The handle of a module that `Sandbox.load` has imported. Its ``with`` ends the process."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Return the module."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and all that it has started."""
        self._gvisor_link.close()


def _found(module: Source) -> tuple[str, bytes | None, str]:
    """Return the name of a module, its source if it is a file of the host, and the file's name."""
    path = Path(module)
    if path.name == str(module) and path.suffix != ".py":
        return path.name, None, path.name
    try:
        # A link in what a stranger wrote could name any file of this user's, and a FIFO would wait.
        with open(path, "rb", opener=lambda at, _: os.open(at, _OPENED)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return path.stem, file.read(plain.MAX_BYTES), path.name
    except (OSError, ValueError) as error:
        step = "Name a file of the host, no link, or a module that the sandbox has."
        told = f"cannot load {escape(str(path))}: {getattr(error, 'strerror', None) or error}"
        raise errors.UsageError(told, next_step=step) from error


def load(
    popen: Callable[..., Process], folder: str, module: Source, cwd: str | None, timeout: float
) -> Loaded:
    """Import ``module`` in a process of a sandbox. See `Sandbox.load`.

    ``folder`` is the guest's own in the sandbox.
    """
    source, user = _found(module), _FIRST_USER + secrets.randbelow(_FIRST_USER)
    program = ["python3", "-I", "-u", f"{folder}/warm/loaded.py"]
    try:
        # In a home that loads share, one could leave modules for the Pythons of another.
        process = popen(program, cwd=cwd, user=(user, user), env={"HOME": "/nonexistent"})
    except (*_NO_PROCESS, errors.PytestGvisorWarning) as error:  # with ``-W error``
        step = "A load needs python3 in the sandbox, and a user id of its own there."
        step = step if isinstance(error, _NO_PROCESS) else "The next load has another sandbox."
        raise NoAnswer(f"no process for {source[2]}: {error}\n{step}") from error
    process.own_user = user
    link = Link(process, timeout)
    with errors.on_error(link.close):
        loaded: Loaded = link.ask("load", None, *source, wanted=Loaded)
    return loaded
