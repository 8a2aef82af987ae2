"""The traces of the programs in a warm sandbox: each has the events of its own processes.

The sandbox's first process, the guest, starts each program. The kernel reports each process that a
process makes, so an event belongs to the program whose process came of the guest.
"""

from __future__ import annotations

from typing import Any

from pytest_gvisor.base.traced import Trace
from pytest_gvisor.trace import points
from pytest_gvisor.trace.events import makes_datagrams, parsed
from pytest_gvisor.trace.recorder import MAX_BYTES, MAX_KEPT, Recorder

_CLONE, _CALL = 2, 6  # enum MessageType of common.proto
_MAX_NEW = 1000
_MAX_SIZE = 2 * MAX_BYTES
"""Of all programs that are traced at the same time."""


class Programs:
    """The recorders of one sandbox's programs."""

    def __init__(self, known: points.Known, version: str, **more: Any) -> None:
        """See `Recorder`. Raises `TraceError`."""
        self._known, self._version, self._more = known, version, more
        self.session = self._made_for().session
        self._of: dict[int, Recorder | None] = {}
        """The recorder of each process; None if its program has been forgotten."""

        self._takes, self._pair = (points.calls()[one] for one in ("pidfd_getfd", "socketpair"))
        self._datagrams = False
        """Whether a program has had a socket that sends datagrams, which others may get of it."""

        self._new: dict[int, Recorder] = {}
        """Those of the guest's children that are not claimed yet, the oldest first."""

        self._size = 0

    def _made_for(self, first: int = 1) -> Recorder:
        return Recorder(self._known, self._version, first, **self._more)

    def take(self, kind: int, payload: bytes) -> None:
        """Take a message. Raises ValueError for one of another shape, and for too many."""
        event = parsed(kind, payload)
        recorder = self._of.get(event.process)
        # In a copy of a saved sandbox, a process that ran there may have one too. It has no event
        # of its own if another one takes it.
        runs_on = event.process > 1 and event.process not in self._of
        takes = kind == _CALL and event.number(4) == self._takes
        self._datagrams |= runs_on or takes or makes_datagrams(kind, event, self._pair)
        if kind == _CLONE and (made := event.number(4)) != event.process:
            if event.process == 1:
                recorder = self._new[made] = self._made_for(made)
                if len(self._new) > _MAX_NEW:
                    self.claim(next(iter(self._new)), wanted=False)
            self._of[made] = recorder
            if len(self._of) > MAX_KEPT:
                raise ValueError("more processes than a sandbox can have")
        if recorder is not None:
            before, recorder.others_have = recorder.size, self._datagrams
            recorder.act(kind, event, payload, room=self._size < _MAX_SIZE)
            self._size += recorder.size - before

    def claim(self, pid: int, *, wanted: bool = True) -> Recorder | None:
        """Return the recorder of the guest's child ``pid``, if its trace is ``wanted``.

        Those of older children are forgotten: the guest could not start a program by them.
        """
        while self._new:
            made = next(iter(self._new))
            one = self._new.pop(made)
            if made == pid and wanted:
                return one
            self._forget(one)
            if made == pid:
                break
        return self._made_for(pid) if wanted else None

    def cut(self, recorder: Recorder, *, dropped: int, broken: bool) -> Trace:
        """Return the trace of a program, and forget its recorder."""
        self._forget(recorder)
        ended, running = recorder.ends()
        return recorder.trace(dropped=dropped, broken=broken, ended=ended, running=running)

    def _forget(self, recorder: Recorder) -> None:
        self._size -= recorder.size
        for pid in recorder.parents:
            if self._of.get(pid) is recorder:
                self._of[pid] = None
