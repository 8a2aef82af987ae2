"""An image's configuration as typed data."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.config import ImageConfig, signal_number


def parse(**config: Any) -> ImageConfig:
    """A configuration with this inner part."""
    return ImageConfig.parse(json.dumps({"config": config}).encode())


def test_everything_that_is_said_is_there() -> None:
    """Each field is read with its type, and paths are normalized."""
    made = parse(
        Entrypoint=["/e"], Cmd=["c"], Env=["A=1=2", "B=", "A=3"], WorkingDir="/w//x/.",
        User="u:g", Volumes={"/v/": {}, "/a": {}}, StopSignal="SIGQUIT",
    )  # fmt: skip
    assert (made.entrypoint, made.cmd) == (("/e",), ("c",))
    assert made.env == {"A": "3", "B": ""}
    assert (made.working_dir, made.user, made.volumes) == ("/w/x", "u:g", ("/a", "/v"))
    assert made.stop_signal == signal.SIGQUIT


def test_what_is_not_said_has_its_default() -> None:
    """Null is as good as nothing."""
    nothing = dict.fromkeys(("Entrypoint", "Cmd", "Env", "Volumes", "User"))
    assert parse(**nothing) == parse() == ImageConfig()
    assert parse(WorkingDir="app").working_dir == "/app"


def test_every_problem_is_reported() -> None:
    """The error has all problems, not only the first."""
    with pytest.raises(ImageError) as caught:
        parse(
            Entrypoint="sh", Cmd=[1], Env=["no", "=x", "N=\0"], WorkingDir="/a/../b", User=3,
            Volumes={"/": {}, "rel": {}, "/proc/x": {}, "/a/../b": {}},
            StopSignal="SIGNOTHING",
        )  # fmt: skip
    assert len(caught.value.problems) == 12


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1), ("0", None), ("65", None), ("SIG_DFL", None),
        ("RTMIN+99", None), ("TERM+1", None), ("", None), ("\u0661", None), ("-9", None),
    ],
)  # fmt: skip
def test_signals_are_names_or_numbers(word: str, number: int | None) -> None:
    """A signal has a name or a number; docker's form of real-time signals is known."""
    assert signal_number(word) == number


def test_digests_that_cannot_be_checked_are_refused() -> None:
    """An algorithm that is unknown, or no digest."""
    for wrong in ("md5:00", "sha256:../x", 3):
        with pytest.raises(ImageError):
            ImageConfig.parse(json.dumps({"rootfs": {"diff_ids": [wrong]}}).encode())


def test_problems_are_escaped_in_the_error() -> None:
    """The image's author chose the keys, so the error escapes them."""
    with pytest.raises(ImageError) as caught:
        parse(Volumes={"\x1b[2J": {}}, Env=["\x1b[2J"])
    assert len(caught.value.problems) == 2
    assert "\x1b" not in str(caught.value)
    assert "\x1b" not in str(ImageError("it", problems=["\x1b[2J"]))


def test_a_problem_of_one_field_is_one_problem() -> None:
    """A signal that is no text has one problem, and not another as an unknown signal."""
    with pytest.raises(ImageError) as caught:
        parse(StopSignal=3)
    assert len(caught.value.problems) == 1
