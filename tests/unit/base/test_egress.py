"""The allow-list: its entries, their places in the sandbox, and the traffic of each."""

import pytest

from pytest_gvisor.base.egress import (
    Egress,
    SandboxPort,
    Traffic,
    entries,
    hosts_file,
    hosts_lines,
    merged,
    missing,
    parse,
    places,
    ports,
    proxied,
)
from pytest_gvisor.base.errors import UsageError


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("pypi.org:443", "pypi.org:443"),
        ("PyPI.Org.:443", "pypi.org:443"),
        ("_dns.a-b.example:1", "_dns.a-b.example:1"),
        ("db:65535", "db:65535"),
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("*.Example.com.:443", "*.example.com:443"),
        ("*.internal:80", "*.internal:80"),
    ],
)
def test_an_entry_is_a_host_and_a_port(text: str, written: str) -> None:
    """A name in small letters without the root's dot, or an address in its canonical form."""
    assert str(parse(text)) == written
    assert parse(written) == parse(text)


REFUSED = {
    "is not HOST:PORT": [
        "pypi.org", "pypi.org:", ":443", "pypi.org:0", "pypi.org:0443", "pypi.org:65536",
        "pypi.org:https", "pypi.org:\u0664\u0664\u0663", "https://pypi.org:443",
        "user@pypi.org:443", "pypi.org:443/simple", "pypi.org:443\nevil.example", "a b:443",
        "::1:443", "[fe80::1%eth0]:443", "[pypi]:443", "*.example.com:*",
    ],
    "is no host name": [
        "[abc]:443", "-a.example:443", "a-.example:443", "a..example:443",
        f"{'a' * 64}.example:443", f"{'a.' * 127}com:443", "a#b:443", "*:443", "*.:443",
        "*.*.com:443", "a*.example.com:443", "a.*.example.com:443", "**.example.com:443",
        "*example.com:443",
    ],
    "is an odd spelling of an address": [
        "127.1:443", "127.0.0.01:443", "0x7f.0.0.1:443", "0x7f000001:443", "2130706433:443",
        "evil.0x7f:443", "*.127.0.0.1:443", "*.0x7f:443",
    ],
    "has letters beyond ASCII": [
        "bücher.example:443", "\uff11\uff12\uff17.0.0.1:443", "*.bücher.example:443",
    ],
    "is the sandbox itself": [
        "localhost:443", "db.LOCALHOST.:443", "*.db.localhost:443",
    ],
}  # fmt: skip
"""Texts that are no entry, by what is said of them."""


@pytest.mark.parametrize(
    ("text", "told"), [(text, told) for told, texts in REFUSED.items() for text in texts]
)
def test_anything_else_is_an_error_that_says_what_to_write(text: str, told: str) -> None:
    """A scheme, a path, an odd number: none of it is read in a guess."""
    with pytest.raises(UsageError, match=told) as caught:
        parse(text)
    assert caught.value.next_step


def test_a_list_comes_as_a_list_or_as_text_with_commas() -> None:
    """A repetition is dropped, and so are blanks around a comma."""
    both = ("pypi.org:443", "db.example:5432")
    assert entries(["pypi.org:443", "db.example:5432", "PYPI.org:443"]) == both
    assert entries("pypi.org:443, db.example:5432,") == both
    assert entries(()) == ()


@pytest.mark.parametrize("value", [7, None, [443], {"pypi.org:443"}, b"pypi.org:443"])
def test_a_value_of_another_type_is_an_error(value: object) -> None:
    """Without a guess."""
    with pytest.raises(UsageError, match="is not a list such as"):
        entries(value)


def test_a_mapping_names_ports_of_other_sandboxes() -> None:
    """Its keys are entries, in any spelling; the value of a host is None."""
    written = {"DB:5432": SandboxPort(5432, "/s"), "pypi.org:443": None}
    assert entries(written) == ("db:5432", "pypi.org:443")
    assert ports(written) == (("db:5432", "/s"),)
    assert ports(["pypi.org:443"]) == ()
    with pytest.raises(UsageError, match="'db:5432' leads to 5432") as caught:
        ports({"db:5432": 5432})
    assert "SANDBOX.port(5432)" in str(caught.value.next_step)


def test_a_list_has_a_bound() -> None:
    """Each entry is a listener in the sandbox."""
    many = [f"h{number}.example:443" for number in range(257)]
    assert len(entries(many[:256])) == 256
    with pytest.raises(UsageError, match="more than 256"):
        entries(many)


def test_an_address_that_nothing_could_connect_to_is_an_error() -> None:
    """The entry only allows a name of the same port to have the address."""
    for address in ("10.0.0.5:5432", "[::1]:5432"):
        with pytest.raises(UsageError, match="no route to the address"):
            entries([address])
        with pytest.raises(UsageError, match="no route to the address"):
            entries([address, "db.example:443"])
        assert entries([address, "db.example:5432"]) == (address, "db.example:5432")


def test_each_name_has_a_place_of_its_own() -> None:
    """Two ports of a host share its address; loopback's own addresses are their place."""
    texts = entries(
        ["a.example:443", "b.example:443", "a.example:80", "127.0.0.1:9", "10.0.0.5:80"]
    )
    found = places(texts)
    assert found == ["127.64.0.1:443", "127.64.0.2:443", "127.64.0.1:80", "127.0.0.1:9", "-"]
    assert hosts_file(texts, "box").splitlines() == [
        "127.0.0.1\tlocalhost box",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "127.64.0.1\ta.example",
        "127.64.0.2\tb.example",
    ]
    many = places([f"h{number}.example:1" for number in range(256)])
    assert (many[-1], len(set(many))) == ("127.64.1.0:1", 256)


def test_the_place_of_a_name_is_no_address_of_the_list() -> None:
    """Else two listeners would want one place, or an entry of another port would lead elsewhere."""
    texts = entries(["127.64.0.1:443", "a.example:443", "127.64.0.3:80", "b.example:443"])
    found = places(texts)
    assert found == ["127.64.0.1:443", "127.64.0.2:443", "127.64.0.3:80", "127.64.0.4:443"]


def test_entries_with_a_star_have_one_place_together() -> None:
    """The place is that of the proxy. Their names are in no file."""
    texts = entries(["*.a.example:443", "b.example:443", "*.c.example:80", "10.0.0.5:80"])
    assert places(texts) == ["proxy@127.64.0.1:3128", "127.64.0.2:443", "-", "-"]
    assert hosts_file(texts, "box").splitlines()[2:] == ["127.64.0.2\tb.example"]


def test_programs_find_the_proxy_by_variables_that_nobody_has_set() -> None:
    """A variable that is set in one case of letters is not set in the other beside it."""
    url, own = "http://127.64.0.1:3128", "localhost,127.0.0.1,::1"
    every = {
        "HTTP_PROXY": url, "HTTPS_PROXY": url, "ALL_PROXY": url, "NO_PROXY": own,
        "http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": own,
    }  # fmt: skip
    found = places(["*.a.example:443", "b.example:443"])
    assert proxied(found, {}) == every
    assert proxied(found, {"HOME": "/"}) == {**every, "HOME": "/"}
    beside = proxied(found, {}, ["c.example:443", "c.example:80", "[2001:db8::1]:443"])
    assert beside["NO_PROXY"] == f"{own},c.example,2001:db8::1"
    given = {"https_proxy": "http://own:1", "NO_PROXY": ""}
    env = proxied(found, given)
    assert {k: v for k, v in env.items() if k.lower() in ("https_proxy", "no_proxy")} == given
    assert len(env) == 6
    assert proxied(places(["a.example:443"]), {"HOME": "/"}) == {"HOME": "/"}


def test_the_traffic_has_a_line_for_each_entry_that_something_is_told_of() -> None:
    """An entry that nobody has used is left out."""
    reached = Traffic(entry="a:1", reached=2, sent=5, received=7, refused=1, problem="why")
    told = Egress(entries=(reached, Traffic(entry="b:1")), error="cut off").told()
    assert told.splitlines() == [
        "cut off", "a:1: reached (2), 5 bytes sent, 7 received", "a:1: refused (1): why"
    ]  # fmt: skip
    kept = Egress(entries=(Traffic(entry="a:1", sent=5),)).told()
    assert kept == "a:1: reached (0), 5 bytes sent, 0 received"
    name = Traffic(entry="x.a:1", refused=1, problem="not there")
    star = Traffic(entry="*.a:1", refused=1, problem="not there")
    both = Egress(entries=(star,), names=(name,))
    assert both.told().splitlines() == [
        "*.a:1: refused (1): not there", "x.a:1: refused (1): not there"
    ]  # fmt: skip
    assert next(iter(both.refused)) == "x.a:1"


def test_the_traffic_of_a_program_is_a_difference() -> None:
    """The difference has the reason of a refusal only if it has the refusal."""
    before = Egress(entries=(Traffic(entry="a:1", reached=1, refused=1, sent=5, problem="old"),))
    now = Traffic(entry="a:1", reached=3, refused=1, sent=9, received=2, problem="old")
    found = Egress(entries=(now,)).since(before)
    assert found == Egress(entries=(Traffic(entry="a:1", reached=2, sent=4, received=2),))
    assert (found.reached, dict(found.refused), found.sent, found.received) == (("a:1",), {}, 4, 2)
    assert before.refused == {"a:1": "old"}


def test_the_names_of_a_program_are_those_that_it_has_used() -> None:
    """The relay appends names, and takes none away."""
    star = Traffic(entry="*.a:1", reached=2)
    first = Traffic(entry="x.a:1", reached=1, sent=3)
    second = Traffic(entry="evil:1", refused=2, problem="no")
    before = Egress(entries=(star,), names=(first,))
    assert Egress(entries=(star,), names=(first,)).since(before).names == ()
    assert Egress(entries=(star,), names=(first, second)).since(before).names == (second,)
    later = (first._replace(reached=2, sent=9), second)
    found = Egress(entries=(star,), names=later).since(
        Egress(entries=(star,), names=(first, second))
    )
    assert found.names == (Traffic(entry="x.a:1", reached=1, sent=6),)


def test_the_traffic_of_several_relays_is_one() -> None:
    """An entry that was opened twice has the sum; a later one has no earlier figures."""
    first = Egress(entries=(Traffic(entry="a:1", reached=1, refused=1, sent=5, problem="why"),))
    second = Egress(entries=(Traffic(entry="a:1", reached=2), Traffic(entry="b:1", received=3)))
    found = merged([first, second._replace(error="cut off")])
    assert found == Egress(
        entries=(
            Traffic(entry="a:1", reached=3, refused=1, sent=5, problem="why"),
            Traffic(entry="b:1", received=3),
        ),
        error="cut off",
    )
    assert found.since(first).entries == (
        Traffic(entry="a:1", reached=2),
        Traffic(entry="b:1", received=3),
    )


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("https://a.example/x", "a.example:443"),
        ("HTTP://A.example.:81/", "a.example:81"),
        ("http://user:word@a.example", "a.example:80"),
        ("HTTPSConnectionPool(host='a.example', port=8443)", "a.example:8443"),
        ("curl: (6) Could not resolve host: a.example", "a.example:PORT"),
        ("http://b.example http://a.example", "a.example:80"),
        ("http://b.example", "HOST:PORT"),
        ("", "HOST:PORT"),
    ],
)
def test_the_first_host_without_an_entry_is_found_in_a_text(text: str, entry: str) -> None:
    """A hint names it as an entry, with the port if the text has one."""
    assert missing(text, ["b.example:80"]) == entry


def test_each_entry_has_one_place() -> None:
    """A list of another length is of other entries."""
    with pytest.raises(ValueError, match="shorter"):
        hosts_lines(["a.example:1", "b.example:2"], ["127.64.0.1:1"])
