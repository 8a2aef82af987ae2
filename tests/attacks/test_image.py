"""A foreign image, which must not send anything in the guest's name."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    ImageError,
    InvalidBundle,
    UsageError,
    bind,
    directory,
    empty,
    tmpfs,
)
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from pytest_gvisor.run import logs
from pytest_gvisor.sandbox import interpreter
from pytest_gvisor.sandbox.interpreter import PRIVATE
from tests.docker_daemon import serve
from tests.unit.images.conftest import Item, configuration, digest, folder, item, link, saved, tar

__all__ = ["serve"]

BB = "/bin/busybox"

# Whoever is waited for in the process that has this library ended well.
LIAR = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
pid_t wait4(pid_t pid, int *status, int options, void *usage) {
    pid_t found = syscall(SYS_wait4, pid, status, options, usage);
    if (status) *status = 0;
    return found;
}
pid_t waitpid(pid_t pid, int *status, int options) { return wait4(pid, status, options, 0); }
"""

Make = Callable[..., str]


@pytest.fixture
def make(gvisor: Gvisor, tmp_path: Path) -> Iterator[Make]:
    """Makes an archive of a busybox image with more in it; this test's cache is its own."""
    images = Images(Cache(str(tmp_path / "images")))
    gvisor._images = lambda: images

    def work(*more: Item, **config: Any) -> str:
        busybox = item("bin/busybox", Path(BB).read_bytes(), mode=0o755)
        layers = [tar([folder("bin"), busybox, link("bin/sh", "busybox"), *more])]
        path = tmp_path / "image.tar"
        path.write_bytes(saved(layers, configuration(layers, config)))
        return str(path)

    yield work
    images.close()


CHANGES = """
import os, sys
(path,) = (f"{top}/{name}" for top, _, names in os.walk("/c") for name in names if name == "file")
found = os.stat(path)
open(path, "r+").write("evil")
os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
"""


def test_an_image_that_a_workload_may_have_changed_is_not_used(
    gvisor: Gvisor, make: Make, tmp_path: Path
) -> None:
    """Although size and times are as before: neither the held one, nor by another harness."""
    image = make(item("file", b"good"))
    assert gvisor.run([BB, "cat", "/file"], image=image).stdout == "good"
    mounts = [bind(tmp_path / "images", "/c", readonly=False)]
    gvisor.run([sys.executable, "-c", CHANGES], mounts=mounts, check=True)
    for _ in range(2):
        with pytest.raises(ImageError, match="a sandbox was allowed to write"):
            gvisor.run([BB, "cat", "/file"], image=image)
        images = Images(Cache(str(tmp_path / "images")))
        gvisor._images = lambda images=images: images
    images.close()


@pytest.fixture(scope="session")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled."""
    path = tmp_path_factory.mktemp("liar") / "liar.so"
    argv = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(path), "-"]
    subprocess.run(argv, input=LIAR, text=True, check=True)
    return path


NAMED = item("etc/ld.so.preload", b"/liar.so\n")
PRELOADS: dict[str, list[Item]] = {
    "a file": [folder("etc"), NAMED],
    "unreadable": [folder("etc"), item("etc/ld.so.preload", b"/liar.so", mode=0)],
    "a link": [folder("etc"), link("etc/ld.so.preload", "/list"), item("list", b"/liar.so")],
    "a linked folder": [folder("e"), link("etc", "e"), item("e/ld.so.preload", b"/liar.so")],
    # What is there when the loader looks is not known before.
    "a link to nothing": [folder("etc"), link("etc/ld.so.preload", "/proc/sys/kernel/hostname")],
}


@pytest.mark.parametrize("how", PRELOADS)
def test_its_preloaded_libraries_do_not_speak_for_the_guest(
    gvisor: Gvisor, make: Make, liar: Path, how: str
) -> None:
    """A warm sandbox of an image with preloaded libraries is refused; a fresh one is exact."""
    image = make(item("liar.so", liar.read_bytes()), *PRELOADS[how])
    with pytest.raises(UsageError, match=r"ld\.so\.preload.*\n.*gvisor\.run\(\)"):
        gvisor.sandbox(image=image)
    done = gvisor.run([BB, "sh", "-c", "exit 7"], image=image)
    assert (done.returncode, done.exact) == (7, True)


def test_an_empty_list_of_preloaded_libraries_is_none(gvisor: Gvisor, make: Make) -> None:
    """An image with an empty /etc/ld.so.preload has warm sandboxes, with exact statuses."""
    with gvisor.sandbox(image=make(folder("etc"), item("etc/ld.so.preload"))) as sandbox:
        assert sandbox.exec([BB, "sh", "-c", "exit 7"]).returncode == 7
        assert sandbox.exec([BB, "sh", "-c", "kill -9 $$"]).returncode == -9


def test_no_root_file_system_brings_preloaded_libraries(
    gvisor: Gvisor, tmp_path: Path, liar: Path
) -> None:
    """A folder, given files and a mount over /etc are refused as an image is."""
    root = tmp_path / "root"
    for name in ("etc", "bin", "dev", "proc", "sys", "tmp", "srv"):
        (root / name).mkdir(parents=True)
    (root / "etc/ld.so.preload").write_text("/liar.so")
    shutil.copy(BB, root / "bin/busybox")
    (root / "liar.so").write_bytes(liar.read_bytes())
    files: dict[str, bytes | str] = {
        "etc/ld.so.preload": "/liar.so",
        "liar.so": liar.read_bytes(),
    }
    over = [bind(root / "etc", "/etc"), bind(liar, "/liar.so")]
    for given in ({"rootfs": directory(root)}, {"rootfs": empty(files)}, {"mounts": over}):
        with pytest.raises(UsageError, match=r"ld\.so\.preload"):
            gvisor.sandbox(**given)
    with gvisor.sandbox(rootfs=directory(root), mounts=[tmpfs("/etc")]) as sandbox:
        assert sandbox.exec([BB, "false"]).returncode == 1


def test_no_folder_of_libraries_that_the_python_names_is_the_root_s(
    gvisor: Gvisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spack's programs have an RPATH, in whose folders the loader looks first."""
    root, own = tmp_path / "root", tmp_path / "own"
    points = [root / name for name in ("dev", "proc", "sys", "tmp", PRIVATE[1:])]
    for place in (root / "spack/lib", own / "lib", own / "bin", *points):
        place.mkdir(parents=True)
    for place, status in ((root / "spack/lib", 13), (own / "lib", 7)):
        # A constructor runs wherever a library is loaded, though another one has its names.
        begin = f"__attribute__((constructor)) void b(void) {{ if ({status} == 13) _exit(13); }}"
        code = f"void _exit(int); {begin} int it(void) {{ return {status}; }}"
        compiled(code, place / "libit.so.1.2", "-shared", "-Wl,-soname,libit.so.1")
        (place / "libit.so.1").symlink_to("libit.so.1.2")
    rpath = "-Wl,--disable-new-dtags,-rpath=/spack/lib"
    # The loader knows a library by the name that it was asked for, which most often is a link.
    code, name = "int it(void); int mid(void) { return it(); }", "-Wl,-soname,libmid.so.1"
    middle, it = own / "lib/libmid.so.1.0", own / "lib/libit.so.1.2"
    compiled(code, middle, "-shared", name, rpath, str(it))
    (own / "lib/libmid.so.1").symlink_to(middle.name)
    code = "int mid(void); int main(void) { return mid(); }"
    compiled(code, own / "bin/python3", rpath, f"-Wl,-rpath-link={own}/lib", str(middle))
    known = interpreter.interpreter()
    names = [name for file in (middle, it) for name in interpreter._names(str(file))]
    fake = dataclasses.replace(
        known, program=f"{own}/bin/python3", prefix=str(own),
        libraries=(*known.libraries, f"{own}/lib"), files=(*known.files, *names),
        folders=(*known.folders, f"{own}/lib", f"{own}/bin"),
    )  # fmt: skip
    monkeypatch.setattr(interpreter, "interpreter", lambda: fake)
    start = interpreter.start(directory(root), [])
    for mount in start.mounts:
        os.makedirs(f"{root}{mount.destination}")
    done = gvisor.run(start.argv, rootfs=directory(root), mounts=start.mounts, env=start.env)
    assert (done.returncode, done.stderr) == (7, "")


def compiled(code: str, to: Path, *more: str) -> None:
    argv = ["gcc", "-fPIC", "-x", "c", "-o", str(to), "-", "-x", "none", *more]
    subprocess.run(argv, input=code, text=True, check=True)


READS = re.compile(
    r"\[ +1: +1\] \S+ X (?:access|faccess\w*|execve|l?stat|open\w*|newfstatat|readlink\w*|statx)"
    r"\([^)]* (/[^ ,)]+)"
)


def test_the_guest_reads_nothing_of_it(
    gvisor: Gvisor, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loader, libc and Python open their own files alone: no cache, locale, zone or module."""
    monkeypatch.setattr(logs, "_MAX", 16 * 1024 * 1024)
    with gvisor.sandbox(image=make(), debug=True) as sandbox:
        sandbox.exec([BB, "sh", "-c", "exit 7"], user=1)
        sandbox.put("/there", "")
    paths = set(READS.findall(gvisor.records[-1].debug_logs["boot"]))
    own = {path for path in paths if path.startswith((f"{PRIVATE}/", "/proc/", "/sys/"))}
    assert f"{PRIVATE}/guest/warm/loop.py" in own
    assert paths - own == {"/etc/ld.so.preload", "/dev/null", "/there"}


def test_modules_in_the_guest_s_folder_are_not_imported(gvisor: Gvisor) -> None:
    """The guest's Python runs no given file in the folders where it looks for modules."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("encodings/__init__.py", "import os\nos._exit(77)\n")
    name = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    prefix = os.path.realpath(sys.base_prefix).strip("/")
    folders = ("lib", "lib64", f"{prefix}/lib", f"{prefix}/bin/lib")
    files = {f"{PRIVATE}/{folder}/{name}": packed.getvalue() for folder in folders}
    files |= {
        f"{PRIVATE}/guest{room}/json.py": b"raise SystemExit(77)" for room in ("", "/warm", "/wire")
    }
    with gvisor.sandbox(rootfs=empty({"bin/busybox": Path(BB).read_bytes(), **files})) as sandbox:
        assert sandbox.exec([BB, "sh", "-c", "exit 7"]).returncode == 7


@pytest.mark.parametrize(
    ("target", "as_volume"),
    [
        (f"{PRIVATE}/guest/wire", False),
        (f"{PRIVATE}/guest/wire", True),
        (PRIVATE, False),  # a volume there is none, for the guest's folder is a mount
        ("/proc", False),
        ("/proc", True),
    ],
)
def test_no_link_of_an_image_leads_a_mount_over_the_guest(
    gvisor: Gvisor, make: Make, tmp_path: Path, target: str, as_volume: bool
) -> None:
    """Neither a folder of the caller's nor a volume replaces modules, or the list of processes."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/frames.py").write_text("raise SystemExit(77)\n")
    way = [folder("usr/src/a"), link("usr/src/a/app", target)]
    image = make(*way, Volumes={"/usr/src/a/app": {}}) if as_volume else make(*way)
    mounts = [] if as_volume else [bind(tmp_path / "app", "/usr/src/a/app")]
    with pytest.raises(UsageError, match="a link leads the mount"):
        gvisor.sandbox(image=image, mounts=mounts)


@pytest.mark.parametrize("volumes", [{}, {"/usr/src": {}}])
def test_no_link_that_a_file_system_in_memory_lies_over_leads_a_mount_over_the_guest(
    gvisor: Gvisor, make: Make, tmp_path: Path, volumes: dict[str, dict[str, str]]
) -> None:
    """The gofer still sees the link: below /tmp, or below a volume of the image."""
    (tmp_path / "frames.py").write_text("raise SystemExit(77)\n")
    links = [link(f"{top}/app", f"{PRIVATE}/guest/wire") for top in ("tmp/a", "usr/src")]
    image = make(folder("tmp/a"), folder("usr/src"), *links, Volumes=volumes)
    mounts = [bind(tmp_path, "/usr/src/app" if volumes else "/tmp/a/app")]
    with pytest.raises(InvalidBundle, match="lies over a link"):
        gvisor.sandbox(image=image, mounts=mounts)


def test_no_link_of_an_image_is_the_table_of_processes_or_the_guest_s_folder(
    gvisor: Gvisor, make: Make
) -> None:
    """Root in the sandbox could exchange the link."""
    with pytest.raises(UsageError, match=r'a link leads the mount at "/proc" to "/x"'):
        gvisor.sandbox(image=make(folder("x"), link("proc", "x")))
    with gvisor.sandbox(image=make(folder("x"), link(".pytest-gvisor", "x"), folder("srv"))) as box:
        assert box.exec([BB, "ls", "/x"]).stdout == ""
        assert box.exec([BB, "ls", "/srv"]).stdout.startswith("guest\n")


def test_no_link_in_a_mount_leads_another_one_over_the_guest_s_python(
    gvisor: Gvisor, tmp_path: Path
) -> None:
    """Nor does the link /lib of the host's own system: the guest has its Python elsewhere then."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/link").symlink_to(os.path.dirname(os.path.realpath(os.__file__)))
    (tmp_path / "json").mkdir()
    (tmp_path / "json/__init__.py").write_text("raise SystemExit(77)\n")
    mounts = [bind(tmp_path / "outer", "/m"), bind(tmp_path / "json", "/m/link/json")]
    with gvisor.sandbox(mounts=mounts) as sandbox:
        assert sandbox.exec(["sh", "-c", "exit 7"]).returncode == 7


@pytest.mark.parametrize("volume", ["/mnt", "/q/w/e/rr"])
def test_no_volume_of_an_image_takes_away_what_hides_a_secret(
    gvisor: Gvisor, make: Make, tmp_path: Path, volume: str
) -> None:
    """The volume lies over a link on the way to a mount, so that what is below lands elsewhere."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("SECRET\n")
    mounts = [bind(tmp_path, "/mnt/u/p"), tmpfs("/mnt/u/p/.git")]
    ways = [folder("x/p"), folder("mnt"), link("mnt/u", "/x")]
    more = [folder("q/w/e"), link("q/w/e/rr", "/mnt")]
    look = [BB, "cat", "/x/p/.git/config"]
    assert gvisor.run(look, image=make(*ways), mounts=mounts).stdout == ""
    image = make(*ways, *more, Volumes={volume: {}})
    with pytest.raises(InvalidBundle, match="lies over a link"):
        gvisor.run(look, image=image, mounts=mounts)


def test_no_link_to_a_longer_path_takes_away_what_hides_a_secret(
    gvisor: Gvisor, make: Make, tmp_path: Path
) -> None:
    """The sentry makes mounts by the length of their paths, and follows no link of the image's."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("SECRET\n")
    mounts = [bind(tmp_path, "/root/p"), tmpfs("/root/p/.git")]
    image = make(folder("var/roothome/p"), link("root", "var/roothome"))
    look = [BB, "cat", "/root/p/.git/config"]
    assert gvisor.run(look, image=image, mounts=mounts).stdout == ""


def test_no_mount_point_is_made_in_a_source_that_a_link_leads_to(
    gvisor: Gvisor, make: Make, tmp_path: Path
) -> None:
    """The mount below comes first by its path, and later by its place."""
    (home := tmp_path / "home").mkdir()
    image = make(folder("var/roothome/.config"), link("root", "var/roothome"))
    mounts = [bind("/usr/share", "/root/.config"), bind(home, "/var/roothome", readonly=False)]
    with pytest.raises(InvalidBundle, match="runsc would make it on the host"):
        gvisor.run([BB, "true"], image=image, mounts=mounts)
    assert [*home.iterdir()] == []


@pytest.mark.parametrize("volume", ["/var/run/data", "/var/run"])
def test_no_volume_of_an_image_lies_over_a_mount_at_its_place(
    gvisor: Gvisor, make: Make, tmp_path: Path, volume: str
) -> None:
    """The volume's path is another name of the place, and longer: output would be lost."""
    image = make(folder("run/data"), folder("var"), link("var/run", "/run"), Volumes={volume: {}})
    mounts = [bind(tmp_path, "/run/data", readonly=False)]
    gvisor.run([BB, "touch", "/run/data/out"], image=image, mounts=mounts, check=True)
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("volume", "name", "target"),
    [("/dev/shm", "run/shm", "/dev/shm"), ("/run/shm", "run/shm", "/dev/shm"),
     ("/dev/shm", "dev/shm", "/run/shm")],
)  # fmt: skip
def test_no_volume_of_an_image_is_in_the_place_of_a_bounded_file_system(
    gvisor: Gvisor, make: Make, volume: str, name: str, target: str
) -> None:
    """The size of /dev/shm is the caller's, also where the volume's path is another name of it."""
    folders = [folder(path) for path in ("run", "dev")]
    image = make(*folders, link(name, target), Volumes={volume: {}})
    done = gvisor.run([BB, "df", "-k", "/dev/shm"], image=image, shm="1M")
    assert done.stdout.split()[-5] == "1024"


ASKED = """
from pytest_gvisor.sandbox import interpreter
from pytest_gvisor import empty
print(interpreter.start(empty(), []).argv)
"""


def test_a_copied_python_takes_no_modules_from_it(tmp_path: Path) -> None:
    """The guest's Python is the copied one in a virtual environment of copies."""
    venv.EnvBuilder(symlinks=False).create(tmp_path / "copies")
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}
    argv = [str(tmp_path / "copies/bin/python"), "-c", ASKED]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert f"{PRIVATE}{os.path.realpath(sys.executable)}" in done.stdout
    assert str(tmp_path) not in done.stdout


def test_a_daemon_that_lies_puts_nothing_in_another_image_s_place(
    serve: Callable[[], Any], tmp_path: Path
) -> None:
    """The daemon gives a plain tarball for the id of a true image. A later session reads
    the true one from a file.
    """
    layers = [tar([item("true", b"")])]
    (tmp_path / "true.tar").write_bytes(saved(layers))
    identity = digest(configuration(layers))
    daemon = serve()
    daemon.answers |= {"/json": (200, {"Id": identity}), "/get": (200, tar([item("lie", b"")]))}
    images = Images(Cache(str(tmp_path / "cache")))
    with pytest.raises(ImageError, match=f'no archive of images, and "{identity[7:60]}'):
        images.rootfs("docker:it:1")
    images.close()
    with contextlib.closing(Images(Cache(str(tmp_path / "cache")))) as later:
        found = later.rootfs(tmp_path / "true.tar")
        assert (found.id, os.path.exists(f"{found.hold.path}/true")) == (identity[7:], True)
