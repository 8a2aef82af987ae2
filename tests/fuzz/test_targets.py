"""Generated inputs for all readers of untrusted bytes, and the finds of fuzzing by name."""

import json
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, TooLong, in_time, judged

JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=20,
)
HERE: Final = Path(__file__).parent
KNOWN: Final = sorted([*HERE.glob("seeds/*/*"), *HERE.glob("cases/*/*")])
BYTES: Final = (
    st.binary(max_size=2000)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text(max_size=500).map(lambda words: words.encode("utf-8", "surrogatepass"))
)


@pytest.mark.parametrize("name", TARGETS)
@given(data=BYTES)
@settings(max_examples=30)
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    """Any bytes give a result or a `GvisorError` within a second of a processor."""
    in_time(TARGETS[name], data)


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_begins_with_and_has_found_is_right(path: Path) -> None:
    """A seed is read without an error, and a fixed find stays fixed."""
    data = path.read_bytes()
    if path.parent.parent.name == "seeds":
        TARGETS[path.parent.name](data)
    else:
        judged(TARGETS[path.parent.name], data)


def test_an_input_that_takes_a_processor_too_long_is_a_find() -> None:
    """Time in which a target waits does not count."""
    in_time(lambda _: time.sleep(1.2), b"")
    end = time.process_time() + 1.1

    def compute(_: bytes) -> None:
        while time.process_time() < end:
            pass

    with pytest.raises(TooLong, match="for 3 bytes"):
        in_time(compute, b"abc")
