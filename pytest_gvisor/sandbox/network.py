"""A network that a warm sandbox has for a while.

The relay on the host is started for it, and ends with it. So whatever the guest does, nothing that
was reached by it is reached afterwards. The guest gets the socket to that relay with a message
(unix(7), SCM_RIGHTS), and forks the relay inside.
"""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Callable, Iterator, Sequence

from pytest_gvisor.base.completed import SandboxCrashed
from pytest_gvisor.base.egress import PROXY, hosts_lines, places
from pytest_gvisor.base.errors import InsideError, NotReady, UsageError, stage
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.programs import clock
from pytest_gvisor.run.egress_relays import OuterRelay
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.files import Download, Upload
from pytest_gvisor.sandbox.peers import Answer

_GRACE = 2.0
_HOSTS = "/etc/hosts"
_LARGEST = 1024 * 1024
_LATE = "the sandbox did not open or close its network in time"


@contextlib.contextmanager
def opened(channel: Channel, settings: Settings, patience: float) -> Iterator[None]:
    """Let the sandbox reach the entries of ``settings`` until the end of the block.

    Raises `UsageError` for an entry that is open already, `InsideError` where the guest cannot
    listen or change /etc/hosts, and `NotReady` after ``patience`` seconds.
    """
    allow, driven = settings.allow, channel.driven
    settings.check_allow()
    with contextlib.ExitStack() as undo:  # the relay on the host ends before all else
        with driven.changing:
            found = _places(channel, allow)
            if lines := hosts_lines(allow, found).encode():
                _change_hosts(channel, lambda text: text + lines, patience)
                rest = lambda text: text.replace(lines, b"", 1)  # noqa: E731
                undo.callback(_change_hosts, channel, rest, patience)
            answer = Answer(channel, do=f"listen for allow={[*allow]!r}")
            undo.callback(_cut, channel, answer, patience)
            relay = undo.enter_context(OuterRelay(allow, settings.ports, found))
            driven.later.append(relay)
            channel.add(answer, {"op": "network", "places": found}, b"", relay.link.fileno())
            answer.wait(clock.monotonic() + patience, _LATE)
        try:
            yield
        finally:
            # The sandbox may have ended, or made /etc/hosts anything.
            with driven.changing, contextlib.suppress(SandboxCrashed, InsideError):
                undo.close()


def _places(channel: Channel, allow: Sequence[str]) -> list[str]:
    """Return the places of entries inside. Raises `UsageError` for one that is open.

    They follow those of all entries that the sandbox has had. So the name of an entry keeps its
    place, whichever others are closed meanwhile. So does the proxy: only one is open at a time.
    """
    for entry in set(allow).intersection(channel.driven.open):
        raise UsageError(f"{entry} is open already in this sandbox")
    earlier = [entry for one in channel.driven.relays for entry in one.allow]
    listed = list(dict.fromkeys([*earlier, *allow]))
    found = dict(zip(listed, places(listed), strict=True))
    if stars := [entry for entry in allow if "*" in entry]:
        if any("*" in entry for entry in channel.driven.open):
            step = "Give all names with * to one list."
            raise UsageError("this sandbox has a proxy for names with * already", next_step=step)
        proxy = next(place for place in found.values() if place.startswith(PROXY))
        found |= {**dict.fromkeys(stars, "-"), stars[0]: proxy}
    return [found[entry] for entry in allow]


def _change_hosts(channel: Channel, change: Callable[[bytes], bytes], patience: float) -> None:
    channel.check()
    deadline = clock.monotonic() + patience
    if channel.driven.request.settings.allow:  # it is a read-only mount of this file
        path = channel.driven.workspace.path("hosts")
        with stage("network", "/etc/hosts cannot be changed"), open(path, "r+b") as file:
            text = change(file.read())
            file.seek(0)
            file.truncate()  # in place: another file would not be seen through the mount
            file.write(text)
        return
    text = b""
    try:
        text = Download(channel, _HOSTS, _LARGEST).run(deadline)
    except InsideError as error:
        if error.errno != errno.ENOENT:
            raise
    Upload(channel, _HOSTS, -1).run(change(text), deadline)


def _cut(channel: Channel, answer: Answer, patience: float) -> None:
    """Wait until the relay inside has ended, if need be by SIGKILL."""
    pid = answer.message.numbers.get("n") if answer.message else None
    for number, wait in ((0, _GRACE), (signal.SIGKILL, patience)) if pid else ():
        cut = Answer(channel)
        channel.add(cut, {"op": "cut", "of": pid, "n": number})
        with contextlib.suppress(*[] if number else [NotReady]):
            cut.wait(clock.monotonic() + wait, _LATE)
            return
