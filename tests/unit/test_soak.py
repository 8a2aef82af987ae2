"""The judgement of `make soak`: what grows, and what merely varies."""

import dataclasses

import pytest

from benchmarks.soak import Sample, growth, is_steady

STILL = Sample(
    memory=40.0, descriptors=20, threads=4, entries=30, sandboxes=6, blocks=10**5, done=0
)


def grown(a_sandbox: float, count: int = 300, **rates: float) -> dict[str, float]:
    """`growth` of ten minutes in which so many blocks are kept of each sandbox.

    ``rates`` is what else grows with each measurement.
    """
    samples = [
        dataclasses.replace(
            STILL,
            done=26 * number,
            blocks=10**5 + int(a_sandbox * 26 * number) + number % 7 * 30,
            **{name: getattr(STILL, name) + rate * number for name, rate in rates.items()},
        )
        for number in range(count)
    ]
    return {field.name: growth(samples, field.name) for field in dataclasses.fields(Sample)}


def test_what_differs_from_one_moment_to_the_next_is_no_growth() -> None:
    """Varying counts of sandboxes in progress are no growth."""
    assert is_steady(grown(0))


@pytest.mark.parametrize("kept", [1, 4, 20])
def test_an_object_that_is_kept_of_each_sandbox_is_growth(kept: int) -> None:
    """A small object is counted, since its memory is less than an allocator's variation."""
    assert not is_steady(grown(kept))


@pytest.mark.parametrize("name", ["memory", "descriptors", "threads", "entries", "sandboxes"])
def test_whatever_else_becomes_more_is_growth(name: str) -> None:
    """One for each two seconds."""
    assert is_steady(grown(0, **{name: 0}))
    assert not is_steady(grown(0, **{name: 1}))
