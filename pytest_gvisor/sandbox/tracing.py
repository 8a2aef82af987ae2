"""The trace of one program in a warm sandbox: begun at its start, and cut at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pytest_gvisor.sandbox.channel import Channel

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace
    from pytest_gvisor.trace.programs import Programs
    from pytest_gvisor.trace.recorder import Recorder


class Tracing:
    """The trace of a program; None in a sandbox without traces, or where it is not wanted."""

    def __init__(self, channel: Channel, *, wanted: bool) -> None:
        # Not the program's: one that is over hears nothing of the sandbox's end.
        self._changed = channel.changed
        self._channel = channel
        self._wanted = wanted
        self._listener = channel.supervisor.listener
        self._programs = cast("Programs | None", self._listener.recorder)
        # A drop that is reported later counts, because it may be one of this program's events.
        self._dropped = self._listener.dropped
        self._recorder: Recorder | None = None
        self._trace: Trace | None = None

    def begin(self, pid: int) -> None:
        """Note the program's first process. The listening thread calls this."""
        if self._programs is not None:
            # The kernel has reported this process before the guest could.
            self._channel.supervisor.drain_events()
            self._recorder = self._programs.claim(pid, wanted=self._wanted)

    def end(self) -> Trace | None:
        """Return the trace up to the first call of this; None for a program that never started."""
        with self._channel.lock:
            if self._wanted and self._programs and not self._recorder and self._channel.ending:
                # The guest may have been killed before it reported the start: the trace has a gap.
                self._changed.wait_for(lambda: self._channel.gone)
                self._recorder = self._programs.claim(0)
            if self._recorder is not None:
                self._channel.chore(self._cut)
                self._changed.wait_for(lambda: self._trace or self._channel.gone)
                self._cut()
        return self._trace

    def _cut(self) -> None:
        if self._programs is None or self._recorder is None or self._trace is not None:
            return
        if not self._channel.gone:  # only the listening thread is here then
            self._channel.supervisor.drain_events()
        dropped, broken = self._listener.dropped - self._dropped, self._listener.broken
        self._trace = self._programs.cut(self._recorder, dropped=dropped, broken=broken)
        self._changed.notify_all()
