"""``pytest-gvisor cache``."""

from pathlib import Path

import pytest

from pytest_gvisor.cli import main as cli
from pytest_gvisor.images import archive
from pytest_gvisor.images.cache import Cache, Hold
from tests.unit.images.conftest import item, saved, tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty one, which is the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Cache()


def held(cache: Cache, path: Path, size: int) -> Hold:
    """An image of this size in the cache."""
    path.write_bytes(saved([tar([item("f", path.name.encode()), item("z", bytes(size))])]))
    with archive.opened(str(path)) as content:
        return cache.hold(content, name=f"some/{path.name}\x1b[2J\n:1")


def test_what_is_there_is_listed(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Id, size, time and the name it was asked for by; one line each, escaped."""
    assert cli.main(["cache", "list"]) == 0
    assert capsys.readouterr().out.split() == ["IMAGE", "ID", "SIZE", "LAST", "USED", "NAME"]
    hold = held(cache, tmp_path / "a", 2_000_000)
    hold.close()
    assert cli.main(["cache", "list"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith(cache.images()[0].id[:12] + "  2.0 MB  20")
    assert line.endswith(r"  some/a\x1b[2J\n:1")


def test_nothing_to_prune_is_fine(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    """A prune of a missing cache succeeds and makes no folder."""
    assert cli.main(["cache", "prune"]) == 0
    assert capsys.readouterr().out == ""
    assert not Path(cache.folder).exists()
    assert cache.prune() == []


def test_what_no_session_uses_is_removed(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other images stay, and so do the last used ones up to the size of `--keep`."""
    held(cache, tmp_path / "old", 2_000_000).close()
    held(cache, tmp_path / "new", 1_000_000).close()
    used = held(cache, tmp_path / "used", 1_000_000)
    assert cli.main(["cache", "prune", "--keep", "3M"]) == 0
    assert "some/old" in capsys.readouterr().out
    assert len(cache.images()) == 2
    assert cli.main(["cache", "prune"]) == 0
    out = capsys.readouterr().out
    assert "some/new" in out
    assert "some/used" not in out
    assert Path(used.path, "f").read_text() == "used"
    used.close()


def test_the_older_name_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Files of CIs have the older name, which the help does not list."""
    assert cli.main(["images", "list"]) == 0
    assert capsys.readouterr().out.startswith("IMAGE ID")
    assert "  images " not in cli.parser().format_help()


@pytest.mark.parametrize("words", [[], ["all"], ["clear"], ["prune", "--keep", "much"]])
def test_a_command_line_that_cannot_be_meant_is_status_2(words: list[str]) -> None:
    """An invalid command line is status 2, as in the other commands."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["cache", *words])
    assert caught.value.code == 2
