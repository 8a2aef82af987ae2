"""README is short, its links lead somewhere, and its pictures are those of real runs."""

import re
from pathlib import Path

import pytest

from scripts import pictures
from tests import kubernetes

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
MOST_WORDS, MOST_BYTES = 500, 150_000


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    """Both commands are on the first screen."""
    assert len(README.split()) <= MOST_WORDS
    first_screen = "\n".join(README.splitlines()[:20])
    assert "make demo " in first_screen
    assert "make test " in first_screen


def test_each_link_of_readme_leads_to_a_file() -> None:
    """A page that was moved takes its link along."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert [link for link in links if not (CHECKOUT / link).is_file()] == []
    pages = {f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md")}
    assert "CHANGELOG.md" in links
    assert pages - set(links) == {"docs/index.md", "docs/changelog.md"}


def test_pictures_are_small_and_have_a_text() -> None:
    """A reader who does not see a picture reads its text."""
    shown = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    assert [name for _, name in shown] == ["docs/pictures/failure.svg", "docs/pictures/report.png"]
    for text, name in shown:
        assert len(text.split()) >= 10
        assert (CHECKOUT / name).stat().st_size < MOST_BYTES
    svg = (CHECKOUT / "docs/pictures/failure.svg").read_text()
    assert re.findall(r"url\((?!#)|href=|<script", svg) == []


def test_the_picture_of_a_failure_is_what_pytest_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from numbers, on a CI server too: draw it anew with scripts/pictures.py."""
    for name in pictures.NOT_A_TERMINAL - {"PYTEST_ADDOPTS"}:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-vv")
    drawn = pictures.as_svg(pictures.failure(tmp_path))
    shown = (CHECKOUT / "docs/pictures/failure.svg").read_text()
    assert pictures.text_of(drawn) == pictures.text_of(shown)


def test_kubernetes_knows_each_field_of_the_pod() -> None:
    """Kubernetes' own schema accepts the pod, and refuses one with a misspelt field."""
    (text,) = re.findall(
        r"^```yaml\n(apiVersion: .*?)^```$",
        (CHECKOUT / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    assert [*kubernetes.problems(text)] == []
    wrong = text.replace("runAsNonRoot", "runAsNonroot")
    assert "'runAsNonroot' was unexpected" in "".join(kubernetes.problems(wrong))
