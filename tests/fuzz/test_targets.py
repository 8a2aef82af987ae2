"""Generated inputs for all readers of untrusted bytes, and the finds of fuzzing by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, judged

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
@settings(max_examples=100, deadline=1000)
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    """Any bytes give a result or a `GvisorError` within a second."""
    judged(TARGETS[name], data)


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_begins_with_and_has_found_is_right(path: Path) -> None:
    """A seed is read without an error, and a fixed find stays fixed."""
    data = path.read_bytes()
    if path.parent.parent.name == "seeds":
        TARGETS[path.parent.name](data)
    else:
        judged(TARGETS[path.parent.name], data)
