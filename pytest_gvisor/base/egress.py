"""The allow-list of a sandbox: its entries, their places inside, and the traffic of each.

Does no input or output. `programs.addresses` judges the addresses that a name answers with.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.programs.addresses import kind_of, literal, no_name

MOST = 256
"""The most entries of a list."""

_ENTRY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@\s]+)):([1-9][0-9]{0,4})", re.ASCII)
_HOW = (
    "Write HOST:PORT, such as pypi.org:443 or *.example.com:443, or ADDRESS:PORT, such as "
    "[2001:db8::1]:443."
)
_ANY = "*."
PROXY = "proxy@"
"""What the place of the proxy begins with."""

_PROXY_PORT = 3128


class Entry(NamedTuple):
    """One allowed host and port."""

    host: str
    """A name in small letters, ``*.`` and a name, or an address in its canonical form."""

    port: int
    is_address: bool

    @property
    def is_wildcard(self) -> bool:
        """Whether it allows all names below one, at any depth, and not that name itself."""
        return self.host.startswith(_ANY)

    def __str__(self) -> str:
        """Return it as it is written: ``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Entry:
    """Read ``HOST:PORT``. Raises `UsageError`."""
    found = _ENTRY.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise UsageError(f"allow: {text!r} is not HOST:PORT", next_step=_HOW)
    host, port = found[1] or found[2], int(found[3])
    if address := literal(host):
        return Entry(host=address, port=port, is_address=True)
    if not host.isascii():
        raise UsageError(f"allow: {text!r} has letters beyond ASCII", next_step="Write xn--….")
    name = host.lower().removesuffix(".")
    if told := "no host name" if found[1] else no_name(name.removeprefix(_ANY)):
        raise UsageError(f"allow: {host!r} is {told}", next_step=_HOW)
    if name.split(".")[-1] == "localhost":
        raise UsageError(
            f"allow: in the sandbox, {name} is the sandbox itself",
            next_step=f"Write 127.0.0.1:{port} for that port of the host's loopback.",
        )
    return Entry(host=name, port=port, is_address=False)


def entries(value: object, name: str = "allow") -> tuple[str, ...]:
    """Read an allow-list, from a list or from text with commas, and return its entries as texts.

    A mapping has `ports` beside its entries. Raises `UsageError`, also for an address that nothing
    in a sandbox could connect to.
    """
    texts = value.split(",") if isinstance(value, str) else value
    texts = [*texts] if isinstance(texts, Mapping) else texts
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise UsageError(f"{name}={value!r} is not a list such as ['pypi.org:443']")
    found = {str(entry): entry for entry in map(parse, filter(None, map(str.strip, texts)))}
    if len(found) > MOST:
        raise UsageError(f"{name} has {len(found)} entries, more than {MOST}")
    ports = {entry.port for entry in found.values() if not entry.is_address}
    for text, entry in found.items():
        if entry.is_address and not _is_own(entry) and entry.port not in ports:
            raise UsageError(
                f"{name}: a sandbox has no route to the address {text}",
                next_step=f"Allow a name that has this address too, such as HOST:{entry.port}.",
            )
    return tuple(found)


def ports(value: object) -> tuple[tuple[str, str], ...]:
    """Return each entry of a mapping that is another sandbox's port, with the unix socket of it.

    The value of any other entry is None. Raises `UsageError`.
    """
    found = []
    for text, port in value.items() if isinstance(value, Mapping) else ():
        if isinstance(port, SandboxPort):
            found.append((str(parse(text)), port.path))
        elif port is not None:
            step = "Write SANDBOX.port(5432) for another sandbox, or None for a host of this name."
            raise UsageError(f"allow: {text!r} leads to {port!r}", next_step=step)
    return tuple(found)


def _is_own(entry: Entry) -> bool:
    """Whether the sandbox's own loopback has this address, so that a relay can listen on it."""
    return "." in entry.host and kind_of(entry.host) == "loopback"


def places(texts: Sequence[str]) -> list[str]:
    """Return where the relay in the sandbox listens for each entry: an address and a port.

    Each name has an address of its own in 127.64.0.0/10, which no entry names. An address of
    127.0.0.0/8 is its own place. The place of another address is ``-``: it only allows a name to
    have it. The first name with ``*`` has the place of the proxy, after ``proxy@``, and others have
    ``-``.
    """
    found, hosts, listed = [], dict[str, str](), [*map(parse, texts)]
    named = {entry.host for entry in listed}
    every = (f"127.64.{number >> 8}.{number & 255}" for number in itertools.count(1))
    free = (address for address in every if address not in named)
    for entry in listed:
        if entry.is_address:
            found.append(str(entry) if _is_own(entry) else "-")
        elif entry.is_wildcard:
            found.append("-" if _ANY in hosts else f"{PROXY}{next(free)}:{_PROXY_PORT}")
            hosts[_ANY] = ""
        else:
            if entry.host not in hosts:
                hosts[entry.host] = next(free)
            found.append(f"{hosts[entry.host]}:{entry.port}")
    return found


def hosts_file(texts: Sequence[str], hostname: str) -> str:
    """Return the sandbox's /etc/hosts: its own names, and a line for each allowed one."""
    lines = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    return lines + hosts_lines(texts)


def hosts_lines(texts: Sequence[str], found: Sequence[str] = ()) -> str:
    """Return the lines of the allowed names alone; ``found`` are their places, if not `places`."""
    pairs = zip(map(parse, texts), found or places(texts), strict=True)
    named = {e.host: place for e, place in pairs if not (e.is_address or e.is_wildcard)}
    return "".join(f"{place.partition(':')[0]}\t{host}\n" for host, place in named.items())


def proxied(
    found: Iterable[str], env: Mapping[str, str], beside: Iterable[str] = ()
) -> dict[str, str]:
    """Return the environment of a program, in which it finds the proxy of these places, if any.

    A variable of ``env`` in either case of letters stays as it is, and has no other beside it.
    ``beside`` are entries that the proxy does not have.
    """
    given, own = {name.upper() for name in env}, dict[str, str]()
    for place in found:
        if place.startswith(PROXY):
            url = f"http://{place.removeprefix(PROXY)}"
            own = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url)
            others = dict.fromkeys(parse(text).host for text in beside)
            own["NO_PROXY"] = ",".join(["localhost", "127.0.0.1", "::1", *others])
    pairs = [(name, value) for name, value in own.items() if name not in given]
    return {**dict(pairs), **{name.lower(): value for name, value in pairs}, **env}


# As URLs have a host, and as urllib3, curl, pip, Go, busybox and Node.js name one.
_NAMED = re.compile(
    r"(?i)(?P<scheme>https?)://(?:[^/@\s]*@)?(?P<url>[a-z0-9.-]+)(?::(?P<at>\d+))?"
    r"|host='(?P<host>[a-z0-9.-]+)', port=(?P<port>\d+)"
    r"|(?:could not resolve host: |resolve '|lookup |bad address '|ENOTFOUND )(?P<name>[a-z0-9.-]+)"
)
_PORTS = {"http": "80", "https": "443"}


def missing(text: str, allow: Sequence[str]) -> str:
    """Return the entry for the first host in a program's arguments or output that has none."""
    for found in _NAMED.finditer(text):
        host = found["url"] or found["host"] or found["name"]
        port = found["at"] or found["port"] or _PORTS.get((found["scheme"] or "").lower(), "PORT")
        entry = f"{host.lower().rstrip('.')}:{port}"
        if entry not in allow:
            return entry
    return "HOST:PORT"


_COUNTS = ("reached", "refused", "sent", "received")


class SandboxPort(NamedTuple):
    """A port of a warm sandbox, from `Sandbox.port`, for the allow-list of another sandbox."""

    number: int
    path: str
    """The host's unix socket that leads there, in the folder of the session."""


class Traffic(NamedTuple):
    """The connections of one entry of the allow-list."""

    entry: str
    """The entry, ``HOST:PORT``, or a host and port that the proxy was asked for."""

    reached: int = 0
    """How many connections to the host were made."""

    refused: int = 0
    """How many were refused by the relay, or could not be made."""

    sent: int = 0
    """Bytes from the sandbox to the host."""

    received: int = 0
    """Bytes from the host to the sandbox."""

    problem: str = ""
    """Why the last of the refused ones was refused; ``""`` if none was."""


class Egress(NamedTuple):
    """The traffic of a sandbox with an allow-list: hosts that were reached, and refusals.

    The relay on the host counts: nothing in the sandbox can change a figure. A program of a warm
    sandbox has what came between its start and its end, of all programs of the sandbox.
    """

    entries: tuple[Traffic, ...] = ()
    """One for each entry, in the order of the list."""

    error: str = ""
    """Why not all is counted, or why the sandbox was cut off from all of them: it has sent what no
    honest one sends. Else ``""``."""

    names: tuple[Traffic, ...] = ()
    """One for each host that the proxy was asked for and that no entry names itself.

    A name below an entry with ``*`` counts for that entry too. After 100 names, all others share
    ``others``.
    """

    @property
    def reached(self) -> tuple[str, ...]:
        """The entries to which a connection was made."""
        return tuple(one.entry for one in self.entries if one.reached)

    @property
    def refused(self) -> Mapping[str, str]:
        """The names and entries of which a connection was refused, each with the reason."""
        return {one.entry: one.problem for one in (*self.names, *self.entries) if one.refused}

    @property
    def sent(self) -> int:
        """Bytes from the sandbox to all hosts."""
        return sum(one.sent for one in self.entries)

    @property
    def received(self) -> int:
        """Bytes from all hosts to the sandbox."""
        return sum(one.received for one in self.entries)

    def told(self) -> str:
        """Return a line for each entry and name that was reached or refused, and the error."""
        lines = [self.error]
        for one in (*self.entries, *self.names):
            if one.reached or one.sent or one.received:  # of an earlier connection
                size = f"{one.sent} bytes sent, {one.received} received"
                lines.append(f"{one.entry}: reached ({one.reached}), {size}")
            if one.refused:
                lines.append(f"{one.entry}: refused ({one.refused}): {one.problem}")
        return "\n".join(filter(None, lines))

    def since(self, before: Egress) -> Egress:
        """Return the difference to an earlier one of the same sandbox."""
        entries = _differences(self.entries, before.entries)
        names = _differences(self.names, before.names)
        used = tuple(one for one in names if any(getattr(one, count) for count in _COUNTS))
        return Egress(entries=entries, error=self.error, names=used)


def _differences(now: Sequence[Traffic], before: Sequence[Traffic]) -> tuple[Traffic, ...]:
    earlier = {one.entry: one for one in before}
    return tuple(_changed(one, earlier.get(one.entry), operator.sub) for one in now)


def _changed(now: Traffic, then: Traffic | None, by: Callable[[int, int], int]) -> Traffic:
    then = then or Traffic(entry=now.entry)
    counts: dict[str, Any] = {n: by(getattr(now, n), getattr(then, n)) for n in _COUNTS}
    problem = (now.problem or then.problem) if counts["refused"] else ""
    return now._replace(problem=problem, **counts)


def merged(found: Sequence[Egress]) -> Egress:
    """Return the traffic of several relays of one sandbox, each entry and name once."""
    errors = filter(None, (one.error for one in found))
    return Egress(
        entries=_sums(itertools.chain.from_iterable(one.entries for one in found)),
        names=_sums(itertools.chain.from_iterable(one.names for one in found)),
        error=next(errors, ""),
    )


def _sums(found: Iterable[Traffic]) -> tuple[Traffic, ...]:
    sums: dict[str, Traffic] = {}
    for one in found:
        sums[one.entry] = _changed(one, sums.get(one.entry), operator.add)
    return tuple(sums.values())
