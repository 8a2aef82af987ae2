"""A run that is handed over before it is planned, as one that an earlier session has recorded.

Modules that plan a run take longer to import than ``runsc`` takes to start. `Launched` needs few of
them. The plan that is made meanwhile is compared with all that was handed over. The run is used
only if both are equal (`run.connected`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import shutil
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.pipes import SharedStreams
from pytest_gvisor.run.sentry import EVENTS, Listener
from pytest_gvisor.sessions.launcher import Control, Keeper
from pytest_gvisor.sessions.places import RUNSC_FOLDER
from pytest_gvisor.sessions.private import make_private

CONFIG: Final = "config.json"

_FOLDER: Final = "\0folder"
_ID: Final = "\0id"
"""What stands for the values of one run. No order and no specification has a NUL byte."""

_MOST_BESIDE: Final = 256
_GREETING: Final = 60.0
_LOOK: Final = 0.02
"""Seconds between looks at whether the thread that greets is to end."""

State = list[int]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All that a run was started with, apart from its name and its folder."""

    order: dict[str, Any]
    config: str
    """The text of ``config.json``."""

    events: str
    """The text of the file for the sentry's events."""

    max_output: int
    runsc: str
    """The path of the executable."""

    states: dict[str, State]
    """The state of that file, of its folder, and of the programs beside it."""

    missed: int = 0
    """The number of sessions in a row that have handed it over in vain."""

    @classmethod
    def of(cls, order: Order, *, config: str, events: str, runsc: str, max_output: int) -> Self:
        """Record a run that has no cgroups and no root of its own, for these are made for each run.

        Raises `OSError`, or `ValueError` for another one.
        """
        parts = [loads(config)["root"]["path"], *itertools.chain(*order.binds)]
        own = any(within(path, order.folder) for path in parts)
        if order.cgroups or order.netns or own or not events:
            raise ValueError("it has more than its folder")
        made = {"order": loads(order.to_json()), "config": config, "events": events}
        plain = _replaced(made, (order.folder, _FOLDER), (order.id, _ID))
        return cls(**plain, max_output=max_output, runsc=runsc, states=states(runsc))

    def to_json(self) -> str:
        """Return the text of a file."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a text of `to_json`. Raises `ValueError` or `TypeError` for another one."""
        return cls(**loads(text))


class Launched:
    """A recorded run that was handed to the keeper. Its owner adopts it, or closes it."""

    def __init__(self, recorded: Recorded, keeper: Keeper, session: str, lock: int = -1) -> None:
        """Hand it over. ``lock`` is a descriptor that is closed with it, also by an error.

        Raises `GvisorError`, and `OSError` or `ValueError` for what has changed since.
        """
        self.id = "g" + secrets.token_hex(4)
        self.folder = os.path.join(session, self.id)
        self.keeper = keeper
        self.endpoint = ""
        self.listener: Listener | None = None
        self.pipes: SharedStreams | None = None
        self.control: Control | None = None
        self.max_output = recorded.max_output
        self.runsc: os.stat_result | None = None
        """The executable's."""

        self._lock = lock
        self._thread: threading.Thread | None = None
        self._over = False
        try:
            self._hand_over(recorded)
        except BaseException:
            handed_over = self.control is not None
            self.close()
            if not handed_over:  # else the keeper removes it
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _hand_over(self, recorded: Recorded) -> None:
        made = {name: getattr(recorded, name) for name in ("order", "config", "events")}
        whole = _replaced(made, (_FOLDER, self.folder), (_ID, self.id))
        self.order = Order.from_json(json.dumps(whole["order"]).encode())
        self.config, self.events = whole["config"].encode(), whole["events"]
        wanted = (self.id, self.folder, os.path.join(self.folder, "root"), ())
        order = self.order
        # The keeper removes and kills what an order names.
        if (order.id, order.folder, order.root, order.cgroups) != wanted:
            raise ValueError("it is no order for a folder of this session")
        bundle = os.path.join(self.folder, "bundle")
        for folder in (self.folder, self.order.root, bundle):
            make_private(folder)
        self.listener = Listener(self.folder)
        self.endpoint = self.listener.endpoint
        _write(os.path.join(bundle, CONFIG), self.config)
        _write(os.path.join(self.folder, EVENTS), self.events.encode())
        self.pipes = SharedStreams(recorded.max_output)
        executable = os.open(recorded.runsc, os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.runsc = os.fstat(executable)
            if not recorded.states or states(recorded.runsc, self.runsc) != recorded.states:
                raise ValueError("the executable has changed")
            fds = [executable, *self.pipes.theirs]
            # It may still be coming up.
            self.control = self.keeper.launch(self.order, fds, wait=False)
        finally:
            os.close(executable)
        self.pipes.hand_over()
        thread = threading.Thread(target=self._greet, name="gvisor-greeting", daemon=True)
        with contextlib.suppress(RuntimeError):  # whoever adopts it greets
            thread.start()
            self._thread = thread

    def _greet(self) -> None:
        """Answer runsc, which waits for that before it boots the sandbox."""
        listener, until = self.listener, time.monotonic() + _GREETING
        with contextlib.suppress(OSError, ValueError):
            while listener is not None and not self._over and time.monotonic() < until:
                poll = select.poll()
                poll.register(listener.fileno(), select.POLLIN)
                if poll.poll(_LOOK * 1000) and not listener.on_readable():
                    return
                if listener.greeted:
                    return

    def end(self) -> None:
        """End the thread: from here on the caller greets. A second call does nothing."""
        self._over = True
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def release(self) -> None:
        """Let go of the lock, and of nothing else."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def close(self) -> None:
        """Have the keeper end it, and remove everything. A second call does nothing."""
        self.end()
        self.release()
        control, self.control = self.control, None
        if control is not None:
            # A fork of this process may have the socket too, so its end alone might not be seen.
            control.ask("release")
            control.close()
        for part in (self.listener, self.pipes):
            if part is not None:
                part.close()
        self.listener = self.pipes = None


def states(runsc: str, info: os.stat_result | None = None) -> dict[str, State]:
    """Return the state of an executable, of its folder, and of all in the folder beside it.

    Nobody can set the time of a change, and a file that is put in another's place has another one.
    Raises `OSError`, or `ValueError` for a link on the way.
    """
    above = os.path.dirname(runsc)
    found = {runsc: _state(runsc, info), above: _state(above)}
    beside = os.path.join(above, RUNSC_FOLDER)
    if not os.path.lexists(beside):
        return found
    paths = [beside]
    while paths:
        path = paths.pop()
        if len(found) > _MOST_BESIDE:
            raise ValueError(f"too many files in {beside}")
        found[path] = _state(path)
        if os.path.isdir(path):
            paths += [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return found


def _state(path: str, info: os.stat_result | None = None) -> State:
    found = info or os.lstat(path)
    if os.path.islink(path) or os.path.realpath(path) != path:
        raise ValueError(f"{path} is reached by a link")
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return [found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_size, *times]


def _replaced(value: Any, *pairs: tuple[str, str]) -> Any:
    """Return JSON data with parts of its texts replaced."""
    if isinstance(value, str):
        for old, new in pairs:
            value = value.replace(old, new)
        return value
    if isinstance(value, list):
        return [_replaced(part, *pairs) for part in value]
    if isinstance(value, dict):
        return {name: _replaced(part, *pairs) for name, part in value.items()}
    return value


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
