"""The machine of one run: forward only, exactly one verdict."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.completed import Outcome
from pytest_gvisor.run.states import Lifecycle, State

PASSED_OVER = {State.SPAWNED, State.RUNNING}
steps = st.lists(st.one_of(st.sampled_from(State), st.sampled_from(Outcome)), max_size=20)


def take(lifecycle: Lifecycle, step: State | Outcome) -> None:
    """Try one step."""
    if isinstance(step, State):
        lifecycle.advance(step)
    else:
        lifecycle.decide(step)


@given(steps=steps)
def test_no_sequence_of_steps_goes_back_or_decides_twice(steps: list[State | Outcome]) -> None:
    """Any steps only move forward, with at most one verdict, which stays."""
    lifecycle = Lifecycle()
    verdicts = []
    for step in steps:
        before = list(lifecycle.history)
        with contextlib.suppress(AssertionError):
            take(lifecycle, step)
        assert lifecycle.history[: len(before)] == before
        if lifecycle.verdict is not None:
            verdicts.append(lifecycle.verdict)
    history = lifecycle.history
    assert history == sorted(set(history))
    assert lifecycle.state is history[-1]
    assert len(set(verdicts)) <= 1
    assert (lifecycle.verdict is not None) == (State.VERDICT in history)
    missing = {state for state in State if state < lifecycle.state} - set(history)
    assert missing <= PASSED_OVER


@given(skipped=st.sets(st.sampled_from(sorted(PASSED_OVER))), verdict=st.sampled_from(Outcome))
def test_every_way_through_ends_cleaned(skipped: set[State], verdict: Outcome) -> None:
    """A failed launch or an early end of runsc skips the states between."""
    lifecycle = Lifecycle()
    way = [state for state in State if state not in skipped]
    for state in way[1:]:
        take(lifecycle, verdict if state is State.VERDICT else state)
    assert lifecycle.history == way
    assert lifecycle.verdict is verdict


@pytest.mark.parametrize("state", State)
def test_a_state_is_not_entered_twice(state: State) -> None:
    """The current state cannot be entered again either."""
    lifecycle = Lifecycle()
    for step in State:
        if step > lifecycle.state and step <= state:
            take(lifecycle, Outcome.EXITED if step is State.VERDICT else step)
    with pytest.raises(AssertionError):
        take(lifecycle, Outcome.EXITED if state is State.VERDICT else state)


def test_the_verdict_is_not_reached_by_a_step() -> None:
    """The verdict needs an outcome, which `decide()` takes."""
    lifecycle = Lifecycle()
    lifecycle.advance(State.BUNDLED)
    with pytest.raises(AssertionError, match=r"decide\(\)"):
        lifecycle.advance(State.VERDICT)
    assert lifecycle.state is State.BUNDLED


def test_the_order_is_the_one_that_is_documented() -> None:
    """The states have the documented order, with one verdict before the last two."""
    names = [state.name for state in State]
    assert names == ["RESOLVED", "BUNDLED", "SPAWNED", "RUNNING", "VERDICT", "REAPED", "CLEANED"]
