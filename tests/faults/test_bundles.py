"""Malicious ids, users, JSON and bundles; a canary tree beside them stays unchanged."""

import json
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Bundle, Gvisor, InvalidBundle, LaunchError, UsageError
from tests.fakes.fake import FINE, FakeRunsc
from tests.fakes.runs import Ended, Runs
from tests.faults.census import canary_tree, facts
from tests.faults.little import eventually

ODD_IDS = [
    "/../victim", "/../../victim", "/..", "/a/b", "\n", "\0", "é", "A", "x" * 100, " -detach",
]  # fmt: skip


@pytest.mark.fault("B1")
@pytest.mark.parametrize("odd", ODD_IDS)
def test_no_sandbox_gets_an_odd_id(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Ids are made here and not by callers; if one could be more than a name, nothing is made.

    Nor removed: where the ways up lead to, beside the folders of runs and beside sessions, are
    canary trees.
    """
    fake.script(*FINE, ["task_exit", 0], ["exit", 0])
    session = Path(runs.launcher.session().path)
    made = [session / "g", session / "victim", session.parent / "victim"]
    for folder in made:
        folder.mkdir()
        canary_tree(folder)
    before = facts(session.parent)
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda *_: odd)
        ended = runs()
    assert isinstance(ended.error, UsageError)
    assert not ended.was_prepared
    assert facts(session.parent) == before
    for folder in made:
        shutil.rmtree(folder)
    assert runs.left() == []


@pytest.mark.fault("B2")
def test_of_two_runs_with_one_id_the_second_is_refused(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A typed error, and the first goes on in its folder to its own end."""
    fake.script(*FINE, ["note", str(tmp_path / "up")], ["echo"], ["task_exit", 0], ["exit", 0])
    go = threading.Event()
    first: list[Ended] = []

    def pieces() -> Any:
        while not (tmp_path / "up").exists() and not go.wait(0.01):
            yield b""
        go.wait(30)
        yield b"well"

    folder = Path(runs.launcher.session().path) / "g00000000"
    monkeypatch.setattr(secrets, "token_hex", lambda *_: "0" * 8)
    thread = threading.Thread(target=lambda: first.append(runs(input=pieces())))
    thread.start()
    try:
        assert eventually(lambda: (tmp_path / "up").exists() or not thread.is_alive()) is not None
        before = facts(folder)
        second = runs()
        after = facts(folder)
    finally:
        go.set()
        thread.join()
    assert isinstance(second.error, LaunchError)
    assert second.error.stage == "workspace"
    assert len(after) > 5
    assert after == before
    assert first[0].completed is not None
    assert first[0].completed.stdout == "well"
    assert runs.left() == []


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as another tool would make it, with a busybox."""
    folder = tmp_path / "bundle"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (folder / "rootfs" / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "rootfs/bin/busybox")
    (folder / "rootfs/etc/secret").write_text("still there\n")
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    change(folder, ["process", "args"], ["/bin/busybox", "cat", "/etc/secret"])
    return folder


def change(folder: Path, way: list[str], value: object) -> None:
    """Set one value of a bundle's config.json."""
    config = json.loads((folder / "config.json").read_text())
    place = config
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.fault("B13", "B15")
def test_a_bundle_that_goes_elsewhere_before_its_start_is_an_error(
    gvisor: Gvisor, bundle: Path, canary: Path
) -> None:
    """A bundle that moved after its check is refused; a masked path that runsc ignores is noted."""
    change(bundle, ["linux", "maskedPaths"], ["/etc/secret"])
    opened = Bundle.open(bundle)
    assert [note for note in opened.notes if "maskedPaths" in note and "ignored by runsc" in note]
    assert gvisor.run_bundle(opened).stdout == "still there\n"
    bundle.rename(bundle.with_name("away"))
    with pytest.raises(LaunchError, match="No such file or directory"):
        gvisor.run_bundle(opened)
    bundle.mkdir()
    (bundle / "rootfs").symlink_to(canary)
    with pytest.raises(LaunchError, match="has become a link since it was checked"):
        gvisor.run_bundle(opened)
    shutil.rmtree(bundle)
    shutil.copytree(bundle.with_name("away"), bundle, symlinks=True)
    with pytest.raises(LaunchError, match="is another one than was checked"):
        gvisor.run_bundle(opened)
    assert gvisor.run_bundle(Bundle.open(bundle)).stdout == "still there\n"


MEASURED = """
import resource, sys, time
from pytest_gvisor import Bundle, InvalidBundle

started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Bundle.open(sys.argv[1])
except InvalidBundle:
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024, time.process_time() - started)
"""

# Made when they are needed: a hundred megabytes are not to be held for the rest of the suite.
HUGE: dict[str, Callable[[], bytes]] = {
    "100 MB of blanks": lambda: b" " * 100_000_000,
    "100 MB of text": lambda: b'{"ociVersion": "' + b"x" * 100_000_000 + b'"}',
    "wide": lambda: b'{"mounts": [' + b"{}," * 1_390_000 + b"{}]}",
    "deep": lambda: b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "many keys": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(350_000)) + b"}",
}


@pytest.mark.fault("B14")
@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_a_huge_config_takes_neither_time_nor_memory(
    bundle: Path, data: Callable[[], bytes]
) -> None:
    """`InvalidBundle` within a second of processor time, and with less than 100 MB of memory."""
    (bundle / "config.json").write_bytes(data())
    argv = [sys.executable, "-c", MEASURED, str(bundle)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    mebibytes, seconds = map(float, done.stdout.split())
    assert mebibytes < 100
    assert seconds < 1


@pytest.mark.fault("B8")
def test_three_megabytes_of_arguments_run_whole_and_five_not_at_all(gvisor: Gvisor) -> None:
    """Three megabytes run whole with a variable of 200 kB, which Linux itself would refuse."""
    code = "import os, sys; print(sum(map(len, sys.argv[1:])), len(os.environ['BIG']))"
    args = ["python3", "-I", "-c", code, *["a" * 100_000] * 30]
    done = gvisor.run(args, env={"BIG": "b" * 200_000})
    assert done.stdout == "3000000 200000\n"
    with pytest.raises(InvalidBundle) as caught:
        gvisor.run(["true", *["a" * 100_000] * 50])
    assert any("larger than" in problem for problem in caught.value.problems)
