"""An image's configuration as typed data."""

import json
import signal
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.config import ImageConfig


def parse(**config: Any) -> ImageConfig:
    """A configuration with this inner part."""
    return ImageConfig.parse(json.dumps({"config": config}).encode())


def test_everything_that_is_said_is_there() -> None:
    """Each field is read with its type, and paths are normalized."""
    made = parse(
        Entrypoint=["/e"], Cmd=["c"], Env=["A=1=2", "B=", "A=3"], WorkingDir="/w//x/.",
        User="u:g", Volumes={"/v/": {}, "/a": {}}, StopSignal="SIGQUIT",
    )  # fmt: skip
    assert (made.defaults.entrypoint, made.defaults.cmd) == (("/e",), ("c",))
    assert made.defaults.env == {"A": "3", "B": ""}
    assert (made.defaults.cwd, made.defaults.user, made.volumes) == ("/w/x", "u:g", ("/a", "/v"))
    assert made.defaults.stop_signal == signal.SIGQUIT


def test_what_is_not_said_has_its_default() -> None:
    """Null is as good as nothing."""
    nothing = dict.fromkeys(("Entrypoint", "Cmd", "Env", "Volumes", "User"))
    assert parse(**nothing) == parse() == ImageConfig()
    assert parse(WorkingDir="app").defaults.cwd == "/app"


@pytest.mark.parametrize(
    "config",
    [
        {"Entrypoint": "sh"}, {"Cmd": [1]}, {"Cmd": [None]}, {"Env": ["no"]}, {"Env": ["=x"]},
        {"Env": ["N=\0"]}, {"Env": ["N=\ud800"]}, {"WorkingDir": "/a/../b"}, {"User": 3},
        {"Volumes": []}, {"Volumes": {"/": {}}}, {"Volumes": {"rel": {}}},
        {"Volumes": {"/proc/x": {}}}, {"Volumes": {"/a/../b": {}}}, {"StopSignal": "SIGNOTHING"},
        {"StopSignal": 3},
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_refused(config: dict[str, Any]) -> None:
    """The error names the field."""
    (name,) = config
    with pytest.raises(ImageError, match=name):
        parse(**config)


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1), ("0", None), ("65", None), ("SIG_DFL", None),
        ("RTMIN+99", None), ("TERM+1", None), ("RTMIN-1", None), ("XRTMIN+1", None),
        ("", signal.SIGTERM), ("\u0661", None), ("-9", None),
    ],
)  # fmt: skip
def test_signals_are_names_or_numbers(word: str, number: int | None) -> None:
    """A signal has a name or a number; docker's form of real-time signals is known."""
    if number:
        assert parse(StopSignal=word).defaults.stop_signal == number
    else:
        with pytest.raises(ImageError, match="is no signal"):
            parse(StopSignal=word)


def test_digests_that_cannot_be_checked_are_refused() -> None:
    """An algorithm that is unknown, or no digest."""
    for wrong in ("md5:00", "sha256:../x", 3):
        with pytest.raises(ImageError):
            ImageConfig.parse(json.dumps({"rootfs": {"diff_ids": [wrong]}}).encode())


def test_an_error_is_escaped() -> None:
    """The image's author chose the keys."""
    configs: list[dict[str, Any]] = [{"Volumes": {"\x1b[2J": {}}}, {"Env": ["\x1b[2J"]}]
    for config in configs:
        with pytest.raises(ImageError) as caught:
            parse(**config)
        assert "\x1b" not in str(caught.value)
