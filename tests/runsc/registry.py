"""A registry on loopback, and the parts of its HTTP interface that tests need."""

import contextlib
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

USER, PASSWORD = "reader", "open sesame"
_HASH = "$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"
_CONFIG = """
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:0", secret: none}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: private, path: {folder}/htpasswd}}}}"
_LISTENS = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@contextlib.contextmanager
def registry(folder: Path, *, is_private: bool = False) -> Iterator[str]:
    """Debian's docker-registry with its data in ``folder``; yields HOST:PORT."""
    folder.mkdir()
    (folder / "htpasswd").write_text(f"{USER}:{_HASH}\n")
    auth = _AUTH.format(folder=folder) if is_private else ""
    (folder / "config.yml").write_text(_CONFIG.format(folder=folder, auth=auth))
    with open(folder / "log", "wb") as log:
        argv = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        # It chooses a free port, and writes that to its log once connections are accepted.
        while not (found := _LISTENS.search((folder / "log").read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the registry does not start: {(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(20)


def move_tag(address: str, repository: str, tag: str, to: str) -> None:
    """Make ``tag`` another name of the image at ``to``, as another machine's push does."""
    url = f"http://{address}/v2/{repository}/manifests/"
    kind = {"Accept": _MANIFEST, "Content-Type": _MANIFEST}
    with urllib.request.urlopen(urllib.request.Request(url + to, headers=kind), timeout=20) as got:
        manifest = got.read()
    put = urllib.request.Request(url + tag, data=manifest, headers=kind, method="PUT")
    urllib.request.urlopen(put, timeout=20).close()
