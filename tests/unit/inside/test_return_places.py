"""The places whose files come back, by options and by the ini key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside.returned import (
    DATA_FOLDERS,
    OUTPUT_FILES,
    OUTPUT_FOLDERS,
    RECORDINGS,
    SNAPSHOTS,
    Agreed,
    agree,
    basetemp,
    check,
)

PROJECT = Path("/srv/project")


def config(*entries: str, base: str = "/tmp/base", worker: Any = None, **options: Any) -> Any:
    """A configuration with these entries of the ini key and options."""
    ini = {"gvisor_returns": entries, "log_file": ""}
    more = {} if worker is None else {"workerinput": worker}
    return SimpleNamespace(
        rootpath=PROJECT,
        invocation_params=SimpleNamespace(dir=PROJECT / "here"),
        option=SimpleNamespace(**options),
        getini=ini.__getitem__,
        getoption=options.get,
        _tmp_path_factory=SimpleNamespace(getbasetemp=lambda: Path(base)),
        **more,
    )


def test_item(path: str, *fixtures: str) -> pytest.Item:
    """A test of a module, with these fixtures."""
    item = SimpleNamespace(path=Path(path), fixturenames=fixtures)
    item.getparent = lambda _kind: item
    return cast("pytest.Item", item)


test_item.__test__ = False  # type: ignore[attr-defined]  # a helper


def places(
    *entries: str, items: Any = (), writable: Any = (), temporary: Any = None, **options: Any
) -> list[tuple[str, str, str, bool]]:
    """Folder, name, glob and guard of each place."""
    found = agree(config(*entries, **options), items, writable=writable, basetemp=temporary)
    return [(place.folder, place.name, place.glob, place.guarded) for place in found.places]


def test_without_an_option_nothing_comes_back() -> None:
    """Neither do inputs that look like outputs."""
    assert places(inifilename="a", rootdir="b", cov_config="c", ignore=["d"], xmlpath="e") == []


def test_an_entry_is_a_file_or_a_folder_or_a_glob() -> None:
    """An exact name is not guarded; what it stands for as a folder is."""
    assert places("out/a.py") == [
        ("/srv/project/out", "a.py", "", False),
        ("/srv/project/out/a.py", "", "**", True),
    ]
    assert places("out/**/*.xml", "/var/x/*") == [
        ("/srv/project/out", "", "**/*.xml", True),
        ("/var/x", "", "*", False),
    ]
    # A glob above the project could lead into it.
    assert places("/srv/*/x") == [("/srv", "", "*/x", True)]


@pytest.mark.parametrize("entry", [
    "/", "/proc/x", "/sys/**", "/dev/x", "/dev/../proc/1", ".testmondata", "a/.testmondata-wal",
    ".pymon", ".coverage", "x/.coverage.host", "*/.coverage",
])  # fmt: skip
def test_an_entry_that_can_name_no_file_is_a_usage_error(entry: str) -> None:
    """So is a database that a plugin opens on the host."""
    with pytest.raises(UsageError, match=r"^gvisor_returns = "):
        check(config("fine.txt", entry))
    check(config("fine.txt"))


@pytest.mark.parametrize("dest", OUTPUT_FILES)
def test_the_path_of_an_output_option_comes_back(dest: str) -> None:
    """The path is relative to where pytest was started, and may lie anywhere."""
    assert places(**{dest: "x/y.py"}) == [("/srv/project/here/x", "y.py", "", False)]
    assert places(**{dest: Path("/var/y")}) == [("/var", "y", "", False)]
    assert places(**{dest: None}) == places(**{dest: ""}) == places(**{dest: open}) == []


@pytest.mark.parametrize("dest", OUTPUT_FOLDERS)
def test_the_folder_of_an_output_option_comes_back(dest: str) -> None:
    """In the project it is guarded."""
    assert places(**{dest: "x"}) == [("/srv/project/here/x", "", "**", True)]
    assert places(**{dest: "/var/x"}) == [("/var/x", "", "**", False)]


def test_snapshots_come_back_with_their_own_option_alone() -> None:
    """Snapshots lie in a folder of a fixed name, or of the module's."""
    items = [test_item("/srv/project/t/test_a.py"), test_item("/srv/project/t/test_b.py")]
    for dest, glob in SNAPSHOTS.items():
        assert places(items=items, **{dest: True}) == [("/srv/project", "", glob, True)]
        assert places(items=items, **{dest: False}) == places(items=items, **{dest: "x"}) == []
    for dest in DATA_FOLDERS:
        assert places(items=items, **{dest: True}) == [
            ("/srv/project/t/test_a", "", "**", True),
            ("/srv/project/t/test_b", "", "**", True),
        ]


@pytest.mark.parametrize("dest", RECORDINGS)
def test_recordings_come_back_where_they_may_be_written(dest: str) -> None:
    """The mode ``none`` writes nothing, and without the option the mode is the marker's."""
    assert places(**{dest: "once"}) == [("/srv/project", "", "**/cassettes/**", True)]
    assert places(**{dest: "none"}) == places(**{dest: None}) == []


def test_each_option_is_documented() -> None:
    """The table of the docs has each of them, by the name that users write."""
    docs = (Path(__file__).parents[3] / "docs/inside.md").read_text()
    table = docs.partition("## Files that come back")[2].partition("\n    [pytest]")[0]
    assert "`--snapshot-update` (pytest-snapshot)" in table
    written = {
        "log_file": "--log-file", "cucumber_json_path": "--cucumberjson",
        "allure_report_dir": "--alluredir", "mpl_generate_path": "--mpl-generate-path",
        "mpl_results_path": "--mpl-results-path", "update_snapshots": "--snapshot-update",
        "snapshot_update": "--snapshot-update", "record_mode": "--record-mode",
        "vcr_record": "--vcr-record", "force_regen": "--force-regen", "regen_all": "--regen-all",
    }  # fmt: skip
    assert written.keys() == {
        *OUTPUT_FILES, *OUTPUT_FOLDERS, *SNAPSHOTS, *DATA_FOLDERS, *RECORDINGS,
    }  # fmt: skip
    assert {*re.findall(r"`(--[\w-]+)`", table)} == {*written.values(), "--basetemp"}


def test_no_place_lies_in_a_writable_folder() -> None:
    """Files are there already, and so may be links that a test has made."""
    assert places("a", "out/x", writable=[str(PROJECT / "out")]) == places("a")
    assert places(temporary="/tmp/x/base", writable=["/tmp/x"]) == []


def test_the_base_temporary_folder_is_the_host_s() -> None:
    """Each further sandbox has its own below it; a session without temporary folders has none."""
    uses = [test_item("/t.py"), test_item("/t.py", "tmp_path")]
    assert basetemp(config(), uses, 1) == "/tmp/base"
    assert basetemp(config(), uses, 3) == "/tmp/base/sandbox-3"
    assert basetemp(config(), uses[:1], 1) is None
    assert basetemp(config(basetemp="x"), [], 1) == "/tmp/base"
    without = config(basetemp="x")
    del without._tmp_path_factory
    assert basetemp(without, uses, 1) is None


@pytest.mark.parametrize(
    ("options", "failed_only"),
    [
        ({}, True),
        ({"basetemp": "x"}, False),
        ({"basetemp": "x", "worker": {"gvisor_basetemp_given": False}}, True),
        ({"basetemp": "x", "worker": {"gvisor_basetemp_given": True}}, False),
        ({"basetemp": "x", "worker": {}}, False),
    ],
)
def test_all_below_it_comes_back_if_the_user_has_given_it(options: Any, failed_only: bool) -> None:
    """To its workers xdist always gives one, and the controller knows whose it is."""
    found = agree(config(**options), [], writable=[], basetemp="/tmp/base")
    (place,) = found.places
    assert (place.failed_only, place.folder) == (failed_only, "/tmp/base")


def test_the_sandbox_gets_folders_that_the_host_has(tmp_path: Path) -> None:
    """The parent of the base is one of them, and no other folder that is missing."""
    found = agree(config(f"{tmp_path}/x", "/nowhere/y"), [], writable=[], basetemp="/tmp/a/base")
    command = found.command(7, 8)
    assert command["folders"] == [str(tmp_path), "/tmp/a"]
    assert (command["files"], command["bytes"]) == (7, 8)
    assert len(command["places"]) == 5
    assert os.path.isdir(tmp_path)
    assert Agreed(project="/p").command(1, 2)["places"] == []
