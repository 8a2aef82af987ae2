"""The accepted releases: dates are compared, and invalid comparisons are refused."""

import pytest

from pytest_gvisor import UnwantedRelease, UsageError
from pytest_gvisor.base.release_range import ReleaseRange


@pytest.mark.parametrize(
    ("text", "version", "good"),
    [
        (">=20240729", "20240729.0", True),
        (">=20240729", "20221219.0", False),
        (">=20240729", "20260905-module-160fafc42237", True),
        (">20240729", "20240729.3", False),
        (">20240729.0", "20240729.3", True),
        ("==20240729", "20240729.3", True),
        ("==20240729.0", "20240729.3", False),
        ("<=20240729", "20240729.3", True),
        ("<20240729", "20221219.0", True),
        (">=20230101, <20250101", "20240729.0", True),
        (">=20230101,<20250101", "20260817.0-3-gabc", False),
    ],
)
def test_a_release_is_judged_by_the_date_in_its_version(
    text: str, version: str, good: bool
) -> None:
    """A comparison without ``.N`` compares the day alone."""
    assert (ReleaseRange.parse(text, "x").problem(version) == "") is good


@pytest.mark.parametrize(
    "text",
    ["", "20240729", ">=", ">=2024", "~=20240729", ">=20241399", ">=20240729,", "!=20240729", 7],
)
def test_another_text_is_a_usage_error(text: object) -> None:
    """An invalid minimum would refuse no release."""
    with pytest.raises(UsageError, match="x="):
        ReleaseRange.parse(text, "x")


def test_a_version_without_a_date_is_said_to_have_none() -> None:
    """Nothing identifies the release of a build without a date, as Nix makes it."""
    with pytest.raises(UnwantedRelease, match="has no date"):
        ReleaseRange.parse(">=20240729", "x").check("VERSION_MISSING", "/x", "the project")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (">=20240729", "20240729"), (">=20230101,<=20240729.1", "20240729.1"),
        (">=20230101,<20250101", "20230101"), (">20230101", "YYYYMMDD"), ("<20230101", "YYYYMMDD"),
    ],
)  # fmt: skip
def test_the_install_command_names_a_release_that_will_do(text: str, named: str) -> None:
    """The newest that a comparison names."""
    with pytest.raises(UnwantedRelease) as caught:
        ReleaseRange.parse(text, "x").check("VERSION_MISSING", "/x", "the project")
    assert f"`pytest-gvisor install --release {named}`" in caught.value.next_step
    assert caught.value.wanted == text
