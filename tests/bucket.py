"""A server on the loopback with the layout of gVisor's bucket, and archives for it."""

import bz2
import contextlib
import functools
import hashlib
import platform
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pytest_gvisor.runsc import locate
from tests.unit.runsc.conftest import ANSWERS, SOURCE

PLACE = f"/latest/{platform.machine()}"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Bucket:
    """A server with gVisor's layout; a path's value is its bytes, or a function that answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Answer] = {}
        self.over = threading.Event()
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = bucket.files.get(self.path)
                if found is None:
                    self.send_error(404)
                elif callable(found):
                    found(self)
                else:
                    send(self, found)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(
        self, name: str, data: bytes, digest: str | None = None, release: str = "latest"
    ) -> None:
        """A file of the latest release, or of another, with its digest's file."""
        digest = digest or hashlib.sha512(data).hexdigest()
        place = PLACE.replace("latest", release)
        self.files[f"{place}/{name}"] = data
        self.files[f"{place}/{name}.sha512"] = f"{digest}  {name}\n".encode()


def send(handler: BaseHTTPRequestHandler, data: bytes, length: int | None = None) -> None:
    """Answer with these bytes, and say that they are ``length``."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(data)


@contextlib.contextmanager
def served() -> Iterator[Bucket]:
    """A server that is gone afterwards."""
    made = Bucket()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.over.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def archive(**members: bytes | tarfile.TarInfo) -> bytes:
    """An archive of gVisor's new layout; ``__`` in a name is a slash."""
    parts = []
    for word, what in members.items():
        name = word.replace("__", "/").replace("_bin", "-bin")
        if isinstance(what, tarfile.TarInfo):
            what.name = name
            parts.append(bz2.compress(what.tobuf(), 1))
        else:
            parts.append(_packed(f"./{name}", what))
    return b"".join([*parts, bz2.compress(bytes(2 * tarfile.BLOCKSIZE), 1)])


@functools.cache
def _packed(name: str, content: bytes) -> bytes:
    """A file in a bzip2 stream of its own. A runsc takes seconds, and is in many archives."""
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o755, len(content)
    return bz2.compress(member.tobuf() + content + bytes(-len(content) % tarfile.BLOCKSIZE), 1)


@functools.cache
def a_small_runsc(folder: Path) -> bytes:
    """The bytes of a program that answers as a runsc does. A real one takes seconds to pack."""
    (folder / "fake.c").write_text(SOURCE % ANSWERS)
    subprocess.run(["cc", "-o", "small", "fake.c"], cwd=folder, check=True)
    return (folder / "small").read_bytes()


def a_real_runsc() -> bytes:
    """The bytes of a runsc: Debian 13's, as it is a third of the size of newer ones."""
    older = Path(__file__).parents[1] / ".build/runsc-2024/usr/bin/runsc"
    runsc = locate.find(str(older) if older.exists() else None)
    try:
        return Path(f"/proc/self/fd/{runsc.fd}").read_bytes()
    finally:
        runsc.close()
