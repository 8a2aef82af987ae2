"""The message that hands one run to the keeper: its fields, and their JSON; and how to send others.

The run's descriptors come beside it. They are the executable, the three standard streams, and a
``cgroup.procs`` file of each cgroup to join, and the socket of a relay. This is their order.
"""

# No postponed annotations: `Order.from_json` reads each field by its type.
import errno
import json
import socket
import time
from typing import Any, NamedTuple, get_args, get_origin

from pytest_gvisor.programs.sources import Source


def send(sock: socket.socket, **message: object) -> None:
    """Send a message about a run. A reader that is gone is no error.

    The kernel may have no memory for a message for a moment: it is sent again for a second. If the
    end of a run were not told, the run would be taken to go on until its deadline.
    """
    data = json.dumps(message).encode()
    for _ in range(100):
        try:
            sock.send(data)
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.01)
                continue
        return


class Order(NamedTuple):
    """The parameters of one run for the keeper."""

    id: str
    """The sandbox's id, for messages."""

    argv: tuple[str, ...]
    term: tuple[str, ...]
    """The command that sends the workload SIGTERM."""

    env: dict[str, str]
    """The whole environment of both commands."""

    folder: str
    """The run's own folder, which is removed at its end; ``""`` is none."""

    root: str
    """runsc's state folder. Each process of the run has ``--root`` with it in its command line."""

    cgroups: tuple[str, ...] = ()
    """Folders of the run's cgroups."""

    hide_net_sysctls: bool = False
    """Whether runsc must not see /proc/sys/net: see `child.hide_net_sysctls`."""

    own_users: bool = False
    """Whether the child makes a user namespace for runsc even where this user may mount."""

    skip_membarrier: bool = False
    """Whether runsc's registration for membarrier(2) is answered at once: see child.py."""

    netns: str = ""
    """Where to put a new network namespace, for runsc to join: see `child.make_netns`."""

    sources: tuple[Source, ...] = ()
    """Files and folders of the host to bind for runsc alone before it starts."""

    link: bool = False
    """Whether the last descriptor is the socket of a relay, which runsc passes on."""

    first: tuple[str, ...] = ()
    """The command of a container that starts before: see `child.begin_first`."""

    terminal: bool = False
    """Whether the streams are a terminal, to be the session's controlling one."""

    def command(self, argv: tuple[str, ...]) -> "Order":
        """Return another command of the same runsc, for which the child makes no mounts."""
        return Order(
            id=self.id, argv=argv, term=(), env=self.env, folder=self.folder, root=self.root
        )

    def to_json(self) -> bytes:
        """Return the message. A string may hold surrogates, for bytes that are not UTF-8."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def from_json(cls, message: bytes) -> "Order":
        """Read a message. Raises ValueError for one of another shape."""
        try:
            found = json.loads(message)
        except RecursionError as error:
            raise ValueError("the order is nested too deep") from error
        if not isinstance(found, dict) or found.keys() != cls.__annotations__.keys():
            raise ValueError(f"not the fields of an order: {found!r}"[:200])
        return cls(**{name: _read(name, found[name], cls.__annotations__[name]) for name in found})


def _read(name: str, value: object, kind: Any) -> Any:
    """Return a field's value from JSON. Raises ValueError for a value of another type."""
    outer, inner = get_origin(kind), get_args(kind)
    if outer is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(kinds) == len(value):
            return tuple(_read(name, *each) for each in zip(value, kinds, strict=True))
    elif kind is Source and isinstance(value, list) and len(value) == len(Source._fields):
        fields = zip(value, Source.__annotations__.values(), strict=True)
        return Source(*(_read(name, *each) for each in fields))
    elif outer is dict and isinstance(value, dict):
        return {variable: _read(name, text, inner[1]) for variable, text in value.items()}
    elif isinstance(value, outer or kind):
        return value
    raise ValueError(f"{name} cannot be {value!r}"[:200])
