"""Wishes of programs to the proxy in a sandbox: whole, in pieces, and wrong."""

import pytest

from pytest_gvisor.guest.warm.proxy import MOST, Refused, Wish, talk

CONNECT = b"CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n"
SOCKS = b"\5\1\0"
SOCKS_NAME = SOCKS + b"\5\1\0\3\x09a.example\x01\xbb"
DENIED, ESTABLISHED = b"HTTP/1.1 403 Not allowed", b"HTTP/1.1 200 Connection established\r\n\r\n"


def say(*pieces: bytes) -> tuple[bytes, Wish | None]:
    """Say the pieces: the proxy's answers before a wish, and the wish, if it is whole."""
    one, answers = talk(), b""
    assert next(one) == b""
    try:
        for piece in pieces:
            answer = one.send(piece)
            while answer:
                answers += answer
                answer = one.send(b"")
    except StopIteration as end:
        wish: Wish = end.value
        return answers, wish
    return answers, None


def refusal(*pieces: bytes) -> bytes:
    """Return the answer to a wish that cannot be read."""
    with pytest.raises(Refused) as caught:
        say(*pieces)
    answer: bytes = caught.value.args[0]
    return answer


WISHES = {
    CONNECT: b"a.example:443",
    b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n": b"[2001:db8::1]:443",
    GET + b"\r\n": b"a.example:80",
    b"POST HTTP://a.example:81 HTTP/1.1\r\n\r\n": b"a.example:81",
    b"X-GET http://a.example/ HTTP/1.1\r\n\r\n": b"a.example:80",
    b"GET http://[::1]/ HTTP/1.1\r\n\r\n": b"[::1]:80",
    b"GET http://a.example:81?b=/c HTTP/1.1\r\n\r\n": b"a.example:81",
    SOCKS_NAME: b"a.example:443",
    SOCKS + b"\5\1\0\1\x7f\0\0\1\0\x50": b"127.0.0.1:80",
    SOCKS + b"\5\1\0\4" + bytes(15) + b"\1\0\x50": b"[::1]:80",
    SOCKS + b"\5\1\0\3\0\0\0": b":0",
    SOCKS + b"\5\1\0\3\4a\0:1\0\x50": b"a\0:1:80",
    b"CONNECT a\0b:443 HTTP/1.1\r\n\r\n": b"a\0b:443",
    b"CONNECT\r\n\r\n": b"",
}


@pytest.mark.parametrize(("said", "host"), WISHES.items(), ids=range(len(WISHES)))
def test_a_wish_is_read_whole_and_byte_by_byte(said: bytes, host: bytes) -> None:
    """The host is passed on as it is. The relay on the host judges it."""
    answers, wish = say(said)
    assert wish is not None
    assert (wish.host, answers) == (host, b"\5\0" if said[:1] == b"\5" else b"")
    assert say(*(said[at : at + 1] for at in range(len(said)))) == (answers, wish)
    assert say(said[:-1])[1] is None


def test_what_comes_after_a_wish_is_for_the_host() -> None:
    """A program may send at once what it has for the host."""
    for said in (CONNECT, SOCKS_NAME):
        wish = say(said + b"\x16hello")[1]
        assert wish is not None
        assert wish.first == b"\x16hello"


def test_each_protocol_has_its_answers() -> None:
    """The program gets one of them when the host has answered."""
    wishes = [say(said)[1] for said in (CONNECT, GET + b"\r\n", SOCKS_NAME)]
    connect, get, socks = wishes
    assert connect is not None
    assert get is not None
    assert socks is not None
    assert connect.granted == ESTABLISHED
    assert get.granted == b""
    assert connect.refused.startswith(DENIED)
    text = b"403 Not allowed or not reached"
    length = b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text)
    assert connect.refused.endswith(length + text)
    assert get.refused.startswith(DENIED)
    assert socks.granted == b"\5\0\0\1" + bytes(6)
    assert socks.refused == b"\5\2\0\1" + bytes(6)


def test_a_plain_request_goes_on_as_to_the_host_itself() -> None:
    """One request a connection, for the next may be for another host; nothing is for a proxy."""
    more = b"Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nA: b\r\n\r\nbody"
    wish = say(GET + b"Proxy-Authorization: Basic x\r\n" + more)[1]
    assert wish is not None
    assert wish.first == (
        b"GET /x?y HTTP/1.1\r\nHost: a.example\r\nA: b\r\nConnection: close\r\n\r\nbody"
    )
    bare = say(b"GET http://a.example?b=/c HTTP/1.1\r\n\r\n")[1]
    assert bare is not None
    assert bare.first.startswith(b"GET /?b=/c HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\4\1\0\x50\x7f\0\0\1\0", b"HTTP/1.1 400 "),
        (b"\x16\3\1", b"HTTP/1.1 400 "),
        (b"\0", b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET https://a.example/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\5\1\2", b"\5\xff"),
        (b"\5\0", b"\5\xff"),
        (SOCKS + b"\5\2\0\1" + bytes(6), b"\5\7\0\1"),
        (SOCKS + b"\5\2\0\1\0", b"\5\7\0\1"),
        (SOCKS + b"\5\3\0\1" + bytes(6), b"\5\7\0\1"),
        (SOCKS + b"\4\1\0\1" + bytes(6), b"\5\7\0\1"),
        (SOCKS + b"\5\1\0\2" + bytes(6), b"\5\x08\0\1"),
    ],
    ids=["socks4", "tls", "nul", "origin form", "https", "password alone", "no method", "bind",
         "the beginning of bind", "udp", "another version", "unknown address"],
)  # fmt: skip
def test_anything_else_is_refused_in_words_of_its_protocol(said: bytes, answer: bytes) -> None:
    """No byte of it goes to the host."""
    assert refusal(said).startswith(answer)


def test_a_head_has_a_bound() -> None:
    """A program that never ends it is refused."""
    assert MOST == 16384
    assert refusal(b"GET ", b"x" * (MOST - 3), b"x").startswith(b"HTTP/1.1 431 ")
    assert say(b"GET " + b"x" * (MOST - 4))[1] is None
