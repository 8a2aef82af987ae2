"""One run from the request to its end: pipes drained, deadline kept, evidence gathered."""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import os
import selectors
import time
from collections.abc import Callable, Sequence

from pytest_gvisor.base.errors import LaunchError, ProtocolError, stage
from pytest_gvisor.programs import clock, leftovers, proc
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.sentry import Listener
from pytest_gvisor.runsc import causes
from pytest_gvisor.sessions.launcher import Control, Keeper

TERM_GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL at a deadline."""

KILL_DEADLINE = 5.0
"""Seconds after SIGKILL until the keeper itself counts as hung."""

LINGER = 0.5
"""Seconds after the end of runsc in which its output is waited for."""

CLEAN_DEADLINE = 15.0
"""Seconds in which the keeper must have removed a run."""

NAP = 1.0
"""The most seconds of one wait. Python runs a signal's handler between its own instructions. If a
Ctrl-C comes right before the system call, its handler runs only when that call returns."""

_MOUNTING = ("mount_namespace", "mounts", "network_namespace")
_MAY_NOT_MOUNT = (
    f"This process may not make namespaces or mounts, which a sandbox needs. Let a container: "
    f"{causes.CONTAINER}."
)


class Phase(enum.Enum):
    """The part of a run that goes on; when its time is over, the next one begins."""

    RUNS = enum.auto()  # until the deadline, at which the workload gets SIGTERM
    ENDS = enum.auto()  # the grace after SIGTERM, or after the gofer's death; then SIGKILL
    KILLED = enum.auto()  # SIGKILL is sent, and the keeper has not reported the end yet
    LOST = enum.auto()  # the keeper hangs: a process does not outlive SIGKILL for so long
    LINGERS = enum.auto()  # runsc has ended, and the rest of its output is on its way
    OVER = enum.auto()


_LAST = (Phase.LOST, Phase.OVER)


class Supervisor:
    """The loop of one run. `watch` returns when runsc has ended and the streams are drained.

    The caller has made ``pipes``, and closes them after `close`. ``timeout`` is in seconds from
    now. Once the descriptor ``stop`` is readable, the workload is killed.
    """

    def __init__(
        self,
        order: Order,
        pipes: Pipes,
        *,
        timeout: float,
        listener: Listener,
        stop: int | None = None,
    ) -> None:
        self.order = order
        self.pipes = pipes
        self.listener = listener
        self.started_at = clock.monotonic()
        self._since = time.time_ns()
        self.start: float | None = None
        """Seconds until the workload's start; None as long as the sentry has not reported it."""

        self.timed_out = False
        self.cancelled = False
        self.saved: int | None = None
        """The wait status of the command that `save` started; None until its end."""

        self.status: int | None = None
        self.pid = 0
        self.failure: LaunchError | None = None
        self._selector = selectors.DefaultSelector()
        self._keeper: Keeper | None = None
        self._control: Control | None = None
        self._stop = stop
        self._gofers: dict[int, int] = {}  # by the pids of their runscs
        self._ends_before: int | None = None  # those of threads, by the time that a gofer ended
        self._phase = Phase.RUNS
        self._due = self.started_at + timeout  # when the next phase begins at the latest

    def launch(self, keeper: Keeper, executable: int, cgroups: Sequence[int]) -> None:
        """Hand the run to the keeper: its order, and the descriptors that go with it."""
        self._keeper = keeper
        self._control = keeper.launch(self.order, [executable, *self.pipes.theirs, *cgroups])
        self.pipes.hand_over()
        self._register()

    def _register(self) -> None:
        """Wait for the streams, and for messages of the keeper and the sentry."""
        self.pipes.watch(self.change)
        if self._control is not None:
            self.change(self._control.fileno(), selectors.EVENT_READ, self._hear)
        self.change(self.listener.fileno(), selectors.EVENT_READ, self._listen)
        if self._stop is not None:
            self.change(self._stop, selectors.EVENT_READ, self._cancel)

    def change(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Call ``act`` on this event of ``fd``, until it returns False; 0 is to watch no more.

        Raises `LaunchError`.
        """
        watched = fd in self._selector.get_map()
        with stage("pipes", "the sandbox's streams cannot be waited for"):
            if event:
                (self._selector.modify if watched else self._selector.register)(fd, event, act)
            elif watched:
                self._selector.unregister(fd)

    def await_start(self) -> None:
        """Wait until the workload has started, or runsc has ended."""
        while self.start is None and not self.over:
            self.turn(NAP)

    def watch(self) -> None:
        """Wait until runsc has ended and its output is drained, or the deadline has killed it.

        The workload gets its input from now on: an iterable of it may start runs itself, and those
        wait for the slot that this start has held.
        """
        self.pipes.feed(self.change)
        while (self.status is None or self.pipes.is_open()) and self._phase not in _LAST:
            self.turn(NAP)

    def turn(self, timeout: float | None) -> None:
        """Do what is due, wait until something is ready or due, and handle what is ready.

        ``timeout`` is at most `NAP`; None waits for ever.
        """
        left = self._due_in()
        if self.order.first and self.start is not None and len(self._gofers) < 2:
            self._watch_gofers()  # a list of children may lack one that is being executed
        if timeout is not None:
            left = min(left, timeout, NAP)
        for key, _events in self._selector.select(None if math.isinf(left) else left):
            # The callback before this one may have closed the descriptor of this one.
            if self._selector.get_map().get(key.fd) is key and not key.data():
                self._selector.unregister(key.fd)
                self.pipes.end(key.fd)

    def _enter(self, phase: Phase, seconds: float = 0.0) -> None:
        """Begin a phase that lasts for so long."""
        self._phase = phase
        self._due = clock.monotonic() + seconds

    def _due_in(self) -> float:
        """Begin each phase that is due; return the seconds until the next one."""
        while (left := self._due - clock.monotonic()) <= 0 and self._phase not in _LAST:
            match self._phase:
                case Phase.RUNS:
                    self._expire()
                case Phase.ENDS:
                    self._kill()
                case Phase.KILLED:
                    self._enter(Phase.LOST)
                case Phase.LINGERS:
                    self._stop_lingering()
        return max(0.0, left)

    def _expire(self) -> None:
        """Apply the deadline: SIGTERM and a grace, then SIGKILL, then no more waiting."""
        # The run may have ended in time: its message is still unread if an input has blocked this
        # loop, or if this process was stopped.
        while self.status is None and self._control is not None and self._control.wait(0):
            self._hear()
        if self.status is not None:
            return
        self.timed_out = True
        self.ask("term")
        self._enter(Phase.ENDS, TERM_GRACE)

    def _cancel(self) -> bool:
        """Kill the workload before its deadline, unless it has ended."""
        if self.status is None and self._phase in {Phase.RUNS, Phase.ENDS}:
            self.cancelled = not self.timed_out
            self._kill()
        return False

    def _kill(self) -> None:
        """Send runsc SIGKILL, which ends the whole sandbox."""
        self.ask("kill")
        self._enter(Phase.KILLED, KILL_DEADLINE)

    def _stop_lingering(self) -> None:
        """Read the rest of the streams, and wait no longer for processes that hold them."""
        self.read_rest()  # on a busy machine, this process may not have run since the end
        self._enter(Phase.LINGERS if self.pipes.is_slow() else Phase.OVER, LINGER)

    def read_rest(self) -> None:
        """Read the pending output, and no more: a writer may never stop."""
        watched = self._selector.get_map()
        for drain in self.pipes.drains:
            if drain.fd in watched:
                drain.rest()

    def ask(self, wish: str, argv: Sequence[str] = ()) -> None:
        """Ask the keeper for ``term``, ``interrupt``, ``kill``, ``save`` or ``release``.

        The first two are signals to the first process. `clean` waits for a release.
        """
        if self._control is not None:
            self._control.ask(wish, argv)

    def _hear(self) -> bool:
        if self._control is None:
            return False
        message = self._control.read()
        state = message.get("state")
        if state == "spawned":
            self.pid = _number(message, "pid")
            # The sentry's message can come before this one, if the keeper is busy with other runs.
            self._watch_gofers()
        elif state == "failed":
            at, number = str(message.get("stage")), _number(message, "errno")
            told = str(message.get("detail"))
            step = _MAY_NOT_MOUNT if at in _MOUNTING and number == errno.EPERM else ""
            for fact, fix in causes.of_errno(number) if at in _MOUNTING else ():
                told, step = f"{fact} ({told})", fix
            self.failure = LaunchError(at, told, errno=number, next_step=step)
        elif state == "saved":
            self.saved = _number(message, "status")
        elif state == "exited":
            self.status = _number(message, "status")
            # Every writer of the pipes dies with runsc, and what they wrote is in the pipes now.
            self._enter(Phase.LINGERS, LINGER)
        return True

    def _listen(self) -> bool:
        listener = self.listener
        before = listener.fileno()
        with stage("events", "the sandbox cannot report"):
            going_on = listener.on_readable()
        self._note_start()
        if going_on and listener.fileno() != before:
            # The sentry has connected. From now on its connection is read, and no other accepted.
            self._selector.unregister(before)
            self.change(listener.fileno(), selectors.EVENT_READ, self._listen)
            self._watch_gofers()
        return going_on

    def _note_start(self) -> None:
        if self.listener.started and self.start is None:
            self.start = self._seconds_to_start()
            self._watch_gofers()

    def heard(self) -> None:
        """Take a message of the workload's as proof that it has started.

        A restored sandbox starts no container, so its sentry sends no event of a start.
        """
        self.listener.started = True
        if self.start is None:
            self.start = clock.monotonic() - self.started_at

    def _seconds_to_start(self) -> float:
        """Return the seconds until the start, by the sandbox's clock.

        The message may have waited long until this process read it. But the sandbox chooses the
        time in it. So a time before the hand-over, or after now, does not count.
        """
        heard = clock.monotonic() - self.started_at
        told = self.listener.started_at
        seconds = -1.0 if told is None else (told - self._since) / 1e9
        return seconds if 0 <= seconds <= heard else heard

    def _watch_gofers(self) -> None:
        """Wait for the gofers' ends too, as soon as they are found."""
        if self.listener.connected and self.pid and self.status is None:
            runscs = [self.pid]
            if self.order.first and self._keeper is not None:  # the relay's is another
                ours = proc.children_of(self._keeper.pid)
                runscs = [pid for pid in ours if self.order.root in proc.words_of(pid)]
            for runsc in runscs:
                gofer = None if runsc in self._gofers else _find_gofer(runsc)
                if gofer is not None:
                    self._gofers[runsc] = gofer
                    with contextlib.suppress(LaunchError):  # it is only evidence
                        self.change(gofer, selectors.EVENT_READ, self._gofer_ended)

    def _gofer_ended(self) -> bool:
        # Each report that was sent before the gofer's end is in the socket by now. One turn reads
        # only a part of them.
        self.drain_events()
        if self.listener.complete and self._ends_before is None:
            self._ends_before = self.listener.ends
            if self.gofer_died and self._phase is Phase.RUNS:
                # The sentry notices and ends within the grace, unless it was just starting.
                self._enter(Phase.ENDS, min(TERM_GRACE, self._due - clock.monotonic()))
        return False

    @property
    def gofer_died(self) -> bool:
        """Whether a gofer is known to have died before the workload did.

        A thread of the workload may have ended before. None ends after the workload.
        """
        before = self._ends_before
        return before is not None and (not before or self.listener.ends > before)

    def drain_events(self) -> None:
        """Read the sentry's last messages, which are in the socket when runsc has ended."""
        with stage("events", "the sandbox cannot report"):
            self.listener.drain()
        self._note_start()

    @property
    def over(self) -> bool:
        """Whether runsc has ended, was never started, or is given up."""
        ended = self.status is not None or self.failure is not None
        return ended or self._phase is Phase.LOST

    def save(self, argv: Sequence[str]) -> None:
        """Have runsc save the sandbox; `saved` is that command's status when it has ended."""
        self.saved = None
        self.ask("save", argv)

    def count_from_here(self) -> None:
        """Count the seconds of the start from now on, because no test has waited for it so far."""
        self.started_at, self._since = clock.monotonic(), time.time_ns()

    def end(self, patience: float) -> bool:
        """Wait ``patience`` seconds for the end, then kill; return whether a kill was needed.

        Reads the rest of the output, and the sentry's last messages.
        """
        until = clock.monotonic() + patience
        while not self.over and (left := until - clock.monotonic()) > 0:
            self.turn(left)
        killed = not self.over
        if self.status is None and self._phase is not Phase.LOST:
            self._kill()
        self.watch()
        self.drain_events()
        return killed

    def clean(self) -> tuple[str, ...]:
        """Have the keeper remove everything of this run; return texts of what it could not remove.

        If the keeper does not answer, it is killed. If it is gone, this process removes everything.
        """
        if self._control is None or self._keeper is None:
            return ()
        try:
            if self._phase is not Phase.LOST:
                self._control.ask("release")
                deadline = clock.monotonic() + CLEAN_DEADLINE
                while self._control.wait(deadline):
                    message = self._control.read()
                    if message.get("state") == "cleaned":
                        leaks = message.get("leaks")
                        return tuple(map(str, leaks)) if isinstance(leaks, list) else ()
            self._keeper.kill()
        except ProtocolError:  # the keeper is gone
            pass
        order = self.order
        return tuple(leftovers.clear(order.folder, order.root, order.cgroups))

    def close(self) -> None:
        """Close the descriptors that watch the run; the keeper kills the rest."""
        self._selector.close()
        while self._gofers:
            os.close(self._gofers.popitem()[1])
        if self._control is not None:
            self._control.close()


def _find_gofer(runsc: int) -> int | None:
    """Return a pidfd of the gofer of the ``runsc run`` with this pid, or None.

    The gofer is runsc's child, and with ``--rootless`` its grandchild. None is also the answer if
    this process has no descriptor left. A child of the gofer's own has the gofer's argv until its
    execve, and ends soon: so the first level with a gofer is the last that is looked at.

    When a gofer dies, the sentry kills the workload, and reports that like any other SIGKILL. In
    any other end the sentry reports first, and the gofer ends after it. So a gofer that is dead
    before any report was the first to die. Without a pidfd no such claim is made.
    """
    level = [runsc]
    with contextlib.suppress(OSError):
        for _ in range(2):
            level = [child for pid in level for child in proc.children_of(pid)]
            for pid in level:
                if "gofer" in proc.words_of(pid):
                    return os.pidfd_open(pid)
    return None


def _number(message: dict[str, object], name: str) -> int:
    value = message.get(name)
    if not isinstance(value, int):
        raise ProtocolError(f"the keeper's message has no number {name!r}: {message!r}")
    return value
