from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.oci import host_paths, reach, root_paths
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "a/b").mkdir(parents=True)
    (made / "sub").mkdir()
    (made / "file").write_text("")
    for name, target in {
        "absolute": "/a", "up": "../../../../a", "out": "/etc", "chain": "absolute/b",
        "loop": "loop", "a/back": "..",
    }.items():  # fmt: skip
        (made / name).symlink_to(target)
    return made


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/a/b", "a/b"),
        ("/a//./b/", "a/b"),
        ("/absolute/b", "a/b"),
        ("/up/b", "a/b"),
        ("/chain", "a/b"),
        ("/a/back/a", "a"),
        ("/out/passwd", "etc/passwd"),
        ("/a/../../..", ""),
    ],
)
def test_links_are_resolved_as_if_the_root_were_slash(root: Path, path: str, host: str) -> None:
    """No link leads out of the root, neither an absolute one nor one with '..'."""
    assert root_paths.resolve(str(root), path, {}).host == str(root / host).rstrip("/")


def test_a_loop_of_links_ends(root: Path) -> None:
    """Links that go round are not there."""
    place = root_paths.resolve(str(root), "/loop/x", {})
    assert place.loop
    assert not place.exists


def test_a_bind_mount_covers_what_is_below(root: Path) -> None:
    """Below a bind mount, a path is in the mount's source."""
    place = root_paths.resolve(str(root), "/absolute/usr/bin", {"/a": "/"})
    assert (place.host, place.bound, place.exists) == ("//usr/bin", True, True)


def bind(source: str, destination: str) -> Mount:
    return Mount(destination=destination, type=MountType.BIND, source=source)


def test_a_mount_through_a_link_covers_what_the_link_leads_to(root: Path) -> None:
    """A point below a mount that was made through a link is looked for in that mount's source."""
    found = root_paths.missing(str(root), [bind("/usr", "/absolute"), bind("/usr", "/a/b/c")])
    assert len(found) == 1
    assert "/usr/b/c" in found[0]


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        (["/v", "/sub/link/x"], 0),  # it is below the other, and not where the link leads
        (["/sub/link/x", "/v"], 1),
        (["/sub/link/x", "/v", "/sub/link/x/y"], 1),
        (["/a", "/absolute/b", "/chain/x", "/sub/link/x"], 0),
    ],
)
def test_a_mount_is_named_if_another_lies_over_a_link_on_its_way(
    root: Path, paths: list[str], count: int
) -> None:
    """A mount below it would be made elsewhere."""
    (root / "sub/link").symlink_to("/a")
    for path in paths:
        if path.startswith("/v"):
            (root / path[1:]).symlink_to("/sub")
    kind = MountType.TMPFS
    found = root_paths.moved(str(root), [Mount(destination=path, type=kind) for path in paths])
    assert len(found) == count
    assert all('over a link to "/sub/link/x' in text for text in found)


def test_missing_points_are_named(root: Path) -> None:
    """Each bind mount whose point is not there, or is of the other kind, is reported."""
    found = root_paths.missing(
        str(root),
        [
            bind("/usr", "/a/b"),
            bind("/usr", "/new"),
            bind("/etc/passwd", "/sub"),
            bind("/usr", "/file"),
            bind("/usr", "/absolute/b/bin"),
            bind("/usr", "/up/b/no-such-folder"),
            Mount(destination="/nowhere", type=MountType.TMPFS),
        ],
    )
    assert [problem.split('"')[1] for problem in found] == [
        "/new", "/sub", "/file", "/up/b/no-such-folder",
    ]  # fmt: skip
    assert "runsc would make it on the host" in found[0]


def test_allowed_sources_are_real_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link stands for its target, and the wider of two accesses counts.

    It is refused where a workload may have put it.
    """
    monkeypatch.setattr(host_paths, "projects", [])
    monkeypatch.setattr(host_paths, "_planted", set())
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for binds in (
        {tmp_path / "link": "rw", tmp_path / "folder": "ro"},
        {tmp_path / "folder": "ro", f"{tmp_path}/link/": "rw"},
    ):
        assert reach.allowed(binds) == {str(tmp_path / "folder"): "rw"}
    host_paths.note_writable(str(tmp_path))
    with pytest.raises(UsageError, match="is a link to"):
        reach.allowed({tmp_path / "link": "ro"})


@pytest.mark.parametrize(
    "binds", [{"data": "ro"}, {"/data": "r"}, {"/data": True}, {b"/data": "ro"}]
)
def test_what_allows_nothing_is_a_usage_error(binds: Any) -> None:
    """A relative path, an unknown access or bytes are refused before the bundle is read."""
    with pytest.raises(UsageError, match="allow_binds"):
        reach.allowed(binds)
