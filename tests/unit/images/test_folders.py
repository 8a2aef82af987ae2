"""The folders of images under many processes at once, and under SIGKILL."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor import bind
from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.cache import Cache, Hold
from pytest_gvisor.images.folders import Folders
from tests.unit.images.conftest import folder, item, link, saved, tar


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An archive of an image with one of each kind."""
    items = [folder("d", 0o2755), item("d/f", b"x"), link("l", "d"), item("z", b"z")]
    (tmp_path / "i").write_bytes(saved([tar(items)]))
    return str(tmp_path / "i")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty one."""
    return Cache(str(tmp_path / "cache/images"), patience=20)


def hold(cache: Cache, image: str) -> Hold:
    """The image in that file."""
    with archive.opened(image) as content:
        return cache.hold(content)


START = """
import os, signal, sys
from pytest_gvisor.images import archive, cache, extract
"""
KILLED = """
import pathlib
from pytest_gvisor import bind
image, folder, user = sys.argv[1:]
STEPS = {f"os.{name}" for name in ("mkdir", "rename", "symlink", "link", "remove", "rmdir")}
STEPS.add("fcntl.flock")

def held():
    with archive.opened(image) as content:
        return cache.Cache(folder).hold(content)

def work():
    made = held()
    made.with_points([bind("/usr", "/new/point")], user)
    made.close()
    cache.Cache(folder).prune(0)

def killed(at):
    "Whether the work is killed before its step of that number: a lock or a change of a folder."
    steps = iter(range(10_000))
    def step(event, given):
        is_new = event == "open" and given[2] & os.O_CREAT
        if (is_new or event in STEPS) and next(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)
    if (child := os.fork()) == 0:
        sys.addaudithook(step)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

at = 0
while True:
    made = held()
    pathlib.Path(made.path, "d/planted").touch()
    made.close()
    was_killed = killed(at)
    made = held()
    names = sorted(os.listdir(folder))
    assert names == sorted(["lock", made.id, os.path.basename(os.path.dirname(made.path))]), names
    assert os.listdir(made.path + "/d") == ["f"]
    rest = set(os.listdir(made.path + "/..")) - {"lock", "image.json", "rootfs"}
    for tree in rest:
        assert os.path.isdir(f"{made.path}/../{tree}/rootfs/new/point"), (at, tree)
    made.close()
    if not was_killed:
        break
    at += 1
print(at)
"""


@pytest.mark.fault("H4", "H5")
def test_a_sigkill_at_any_step_leaves_nothing_that_the_next_session_keeps(
    cache: Cache, image: str, tmp_path: Path
) -> None:
    """An image that was changed is replaced, mounted into and removed; each step is the last."""
    argv = [sys.executable, "-c", START + KILLED, image, cache.folder, str(tmp_path)]
    # Python tries a temporary folder with a file, which it leaves there if it is killed then.
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=env)
    assert done.stderr == ""
    assert int(done.stdout) > 60


MANY = """
image, folder = sys.argv[1:]
real = extract.unpack
def unpack(*given, **options):
    print("unpacked", flush=True)
    return real(*given, **options)
extract.unpack = unpack
with archive.opened(image) as content:
    made = cache.Cache(folder).hold(content)
print(open(made.path + "/d/f").read())
"""


def test_of_many_who_find_an_image_changed_one_unpacks_it(cache: Cache, image: str) -> None:
    """The others wait for that, while the image's user goes on with the changed one."""
    used = hold(cache, image)
    Path(used.path, "d/planted").touch()
    argv = [sys.executable, "-c", START + MANY, image, cache.folder]
    made = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = "".join(process.communicate(timeout=60)[0] for process in made)
    assert (said.count("unpacked"), said.count("x\n")) == (1, 6)
    assert Path(used.path, "d/planted").exists()
    used.close()


def test_an_image_that_a_prune_takes_as_soon_as_it_is_made_is_made_again(
    cache: Cache, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker has no lock for a moment, when its exclusive one becomes a shared one."""
    real = Folders.share
    removed: list[str] = []

    def share(self: Folders, lock: int, patience: float) -> bool:
        if not removed:
            removed.append(os.path.dirname(os.readlink(f"/proc/self/fd/{lock}")))
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert len(Cache(cache.folder).prune(0)) == 1
        return real(self, lock, patience)

    monkeypatch.setattr(Folders, "share", share)
    made = hold(cache, image)
    assert Path(made.path, "d/f").read_text() == "x"
    assert removed != [made._folder]
    made.close()


def test_a_link_that_another_process_removes_ends_no_sweep(
    cache: Cache, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune in another process may be faster: each new session sweeps."""
    used = hold(cache, image)
    identity = used.id
    used.close()
    folder, real = Path(cache.folder), os.path.exists
    (folder / identity).unlink()
    (folder / identity).symlink_to("nowhere")
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        found = real(path)
        if path == f"{folder}/{identity}":
            Path(path).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os.path, "exists", exists)
    assert Cache(cache.folder).sweep() == []
    assert f"{folder}/{identity}" in asked


ARCHIVERS = {
    "as in docs/ci.md": (["--format=posix"], ["-p"]),
    "without times": (["--format=gnu"], ["-p", "--touch"]),
}


@pytest.mark.parametrize("archiver", ARCHIVERS)
def test_an_image_that_comes_back_from_an_archive_is_used(
    cache: Cache, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archiver: str
) -> None:
    """Other files of the same modes, owners and times will do; those of other times do not."""
    made = hold(cache, image)
    mounts = [bind("/usr", "/new/point")]
    root = Path(made.with_points(mounts, str(tmp_path)))
    made.close()
    pack, unpack = ARCHIVERS[archiver]
    above, name = os.path.split(cache.folder)
    subprocess.run(["tar", *pack, "-cf", tmp_path / "a", "-C", above, name], check=True)
    shutil.rmtree(cache.folder)
    subprocess.run(["tar", "-x", *unpack, "-f", tmp_path / "a", "-C", above], check=True)
    is_as_it_was = archiver == "as in docs/ci.md"
    if is_as_it_was:
        monkeypatch.setattr(extract, "unpack", None)
    again = hold(Cache(cache.folder), image)
    assert (again.path == made._folder + "/rootfs") == is_as_it_was
    if is_as_it_was:
        assert again.with_points(mounts, str(tmp_path)) == str(root)
        assert Path(root, "z").stat().st_ino == Path(again.path, "z").stat().st_ino
    again.close()
