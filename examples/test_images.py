"""An image as the root filesystem: with its own program, user and environment, and no daemon.

The archive is made here, so that this runs anywhere; yours comes from `docker save`, or is a name
that a docker daemon knows.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from pathlib import Path

import pytest

import pytest_gvisor

PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"


def packed(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar archive: by name, content and mode."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image as `docker save` writes it, of the host's busybox."""
    busybox = Path("/bin/busybox").read_bytes()
    layer = packed(
        {"bin/sh": (busybox, 0o755), "bin/busybox": (busybox, 0o755), "etc/passwd": (PASSWD, 0o644)}
    )
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
    image = {
        "os": "linux",
        "architecture": architecture,
        "config": {
            "Entrypoint": ["/bin/sh", "-c", 'echo "$GREETING, $0, from $(busybox id -un) in $PWD"'],
            "Cmd": ["world"],
            "Env": ["GREETING=hello", "PATH=/bin"],
            "User": "app",
            "WorkingDir": "/tmp",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "image.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]
    path = tmp_path_factory.mktemp("images") / "app.tar"
    documents = {"image.json": image, "manifest.json": manifest}
    files = {name: (json.dumps(value).encode(), 0o644) for name, value in documents.items()}
    path.write_bytes(packed({**files, "layer.tar": (layer, 0o644)}))
    return path


def test_an_image_runs_as_it_says(gvisor: pytest_gvisor.Gvisor, app: Path) -> None:
    done = gvisor.run(image=app)
    print(f"\n    the image said: {done.stdout.strip()}")
    assert done.stdout == "hello, world, from app in /tmp\n"


def test_arguments_take_the_place_of_its_command(gvisor: pytest_gvisor.Gvisor, app: Path) -> None:
    done = gvisor.run(["there"], image=app, env={"GREETING": "good day"}, user="root")
    assert done.stdout == "good day, there, from root in /tmp\n"


def test_nothing_of_the_host_is_in_it(gvisor: pytest_gvisor.Gvisor, app: Path) -> None:
    done = gvisor.run(["-c", "busybox ls / /bin"], image=app, entrypoint="/bin/sh", check=True)
    print(f"\n    in it: {' '.join(done.stdout.split())}")
    assert "usr" not in done.stdout.split()
    assert os.path.exists("/usr")


def test_what_a_run_writes_is_gone_with_it(gvisor: pytest_gvisor.Gvisor, app: Path) -> None:
    script = "busybox ls /tmp; echo mine > /tmp/file; busybox cat /tmp/file"
    for _ in range(2):
        assert gvisor.run(["-c", script], image=app, entrypoint="/bin/sh").stdout == "mine\n"
