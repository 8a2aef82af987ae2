"""Messages of a pytest inside: frames of `guest.frames` with bounds of their own.

The other end runs the tests' code, so it is untrusted. Lengths and values are bounded, and anything
but a JSON object with a type is an error.
"""

from __future__ import annotations

from typing import Any

from pytest_gvisor.guest.checked_json import has_more_values, loads
from pytest_gvisor.guest.frames import Decoder, FrameError

MAX_MESSAGE = 64 * 1024 * 1024
MAX_VALUES = 1_000_000


def decoder(limit: int = MAX_MESSAGE) -> Decoder:
    """Return a decoder of messages, which are frames without a payload."""
    return Decoder(max_json=limit, max_payload=0, read=_decode)


def _decode(text: bytes) -> dict[str, Any]:
    if has_more_values(text, MAX_VALUES):
        raise FrameError(f"a message of more than {MAX_VALUES} values from inside")
    try:
        # A lone surrogate in a test's output is legal in Python and not in UTF-8.
        message = loads(text.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise FrameError(f"a message from inside that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise FrameError(f"a message from inside without a type: {text[:200]!r}")
    return message
