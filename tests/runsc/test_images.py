"""Images under the real runsc: their configuration applies inside."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, ImageError, LaunchError, UsageError, bind
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from tests.mounts import harmless
from tests.unit.images.conftest import configuration, folder, item, link, saved, tar

NAMES = ("sh", "cat", "echo", "id", "env", "ls", "pwd", "touch", "true", "stat", "mount", "grep")
PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1001:\nmore:x:2000:app\n"

Make = Callable[..., str]


@pytest.fixture
def make(gvisor: Gvisor, tmp_path: Path) -> Iterator[Make]:
    """Makes an archive of a busybox image; this test's cache is its own, and stays as it is."""
    cache = Cache(str(tmp_path / "images"))
    images = Images(cache)
    gvisor._images = lambda: images
    count = iter(range(100))

    def work(*more: Any, **config: Any) -> str:
        busybox = item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
        links = [link(f"bin/{name}", "busybox") for name in NAMES]
        base = [folder("bin"), busybox, *links, folder("etc"), item("etc/passwd", PASSWD)]
        layers = [tar([*base, item("etc/group", GROUP), folder("home/app", uid=1000)]), tar(more)]
        path = tmp_path / f"image{next(count)}.tar"
        path.write_bytes(saved(layers, configuration(layers, config)))
        return str(path)

    yield work
    images.close()


def test_an_image_runs_as_it_says(gvisor: Gvisor, make: Make) -> None:
    """Entrypoint and command, environment, folder, user with groups, home."""
    image = make(
        folder("work"), Entrypoint=["/bin/sh", "-c"], Env=["A=1", "PATH=/bin"], WorkingDir="/work",
        Cmd=["echo $A $HOME $(pwd); id; env | grep -c LANG"], User="app",
    )  # fmt: skip
    done = gvisor.run(image=image)
    assert done.stdout.splitlines() == [
        "1 /home/app /work",
        "uid=1000(app) gid=1001(app) groups=1001(app),2000(more)",
        "0",
    ]
    assert gvisor.run(["echo $A"], image=image, env={"A": "2"}).stdout == "2\n"
    assert gvisor.run(["-u"], image=image, entrypoint="/bin/id", user="root").stdout == "0\n"
    assert gvisor.run(["/bin/pwd"], image=image, entrypoint="", cwd="/etc").stdout == "/etc\n"
    assert gvisor.run(["id -G"], image=image, user="app:root").stdout == "0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount")
def test_a_cache_that_is_mounted_noexec_is_a_typed_error(
    gvisor: Gvisor, make: Make, tmp_path: Path
) -> None:
    """No root file system can be there: runsc's own error would be a sentry that panicked."""
    image = make()
    (tmp_path / "images").mkdir(mode=0o700)
    with harmless(tmp_path / "images", options="noexec"):
        (tmp_path / "images").chmod(0o700)
        with pytest.raises(LaunchError, match="is on a file system that is mounted noexec"):
            gvisor.run(["true"], image=image)


def test_what_an_image_does_not_say_has_docker_s_defaults(gvisor: Gvisor, make: Make) -> None:
    """The default is root in /, with root's home; a missing program or user is an error."""
    image = make()
    done = gvisor.run(["sh", "-c", "echo $HOME $(pwd) $(id -u)"], image=image)
    assert done.stdout == "/root / 0\n"
    with pytest.raises(ImageError, match="names no program"):
        gvisor.run(image=image)
    with pytest.raises(ImageError, match='no user "nobody"'):
        gvisor.run(["true"], image=image, user="nobody")
    with pytest.raises(UsageError, match="entrypoint is for images"):
        gvisor.run(["true"], entrypoint="sh")
    with pytest.raises(ImageError, match="there is no file"):
        gvisor.run(["true"], image="/no/such.tar")


def test_volumes_are_empty_and_in_memory(gvisor: Gvisor, make: Make) -> None:
    """A volume has the owner and mode of the folder below it; the caller's mount replaces it."""
    image = make(
        folder("data", 0o710, uid=1000, gid=1001), item("data/hidden"),
        Volumes={"/data": {}, "/srv/new": {}}, User="app",
    )  # fmt: skip
    script = "stat -c '%a %u' /data; ls /data /srv; grep -c ' /data tmpfs' /proc/mounts"
    done = gvisor.run(["sh", "-c", script], image=image, user="root")
    assert done.stdout == "710 1000\n/data:\n\n/srv:\nnew\n1\n"
    gvisor.run(["touch", "/data/x"], image=image, check=True)
    mounts = [bind("/etc", "/data")]
    done = gvisor.run(["ls", "/data/passwd"], image=image, mounts=mounts)
    assert done.stdout == "/data/passwd\n"


@pytest.mark.fault("B11")
def test_labels_are_no_annotations(gvisor: Gvisor, make: Make) -> None:
    """An image's labels cannot steer runsc: config.json has none of them."""
    image = make(Labels={"mine": "\x1b[2J", "dev.gvisor.flag.debug": "true"})
    seen: list[dict[str, Any]] = []
    object.__setattr__(gvisor._hooks, "modify_spec", seen.append)
    gvisor.run(["true"], image=image, check=True)
    assert "annotations" not in seen[0]


def test_a_warm_sandbox_of_an_image(gvisor: Gvisor, make: Make) -> None:
    """A warm sandbox has the image's configuration and users."""
    image = make(Env=["A=1", "PATH=/bin"], WorkingDir="/etc", User="app", Entrypoint=["/bin/false"])
    with gvisor.sandbox(image=image) as sandbox:
        done = sandbox.exec(["sh", "-c", "echo $A $HOME; pwd; id -G"], check=True)
        assert done.stdout == "1 /home/app\n/etc\n1001 2000\n"
        assert sandbox.exec(["id", "-u"], user="root").stdout == "0\n"
        sandbox.put("/etc/new", "x")
        assert sandbox.get("/etc/new") == b"x"
        with pytest.raises(ImageError, match="no user"):
            sandbox.exec(["id"], user="nobody")


def test_a_rootfs_tarball_is_enough(gvisor: Gvisor, make: Make, tmp_path: Path) -> None:
    """A tarball of a root file system runs without any image configuration."""
    data = tar([item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)])
    (tmp_path / "plain.tar").write_bytes(data)
    done = gvisor.run(["/bin/busybox", "echo", "hi"], image=tmp_path / "plain.tar")
    assert done.stdout == "hi\n"
