"""Rows about images: a first and a second use, beside docker's, and beside the host's folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks import daemon
from benchmarks.results import Figure, Result, Unavailable
from benchmarks.timing import interleaved
from pytest_gvisor import Gvisor
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_NAME = "pytest-gvisor/python"
_ARCHIVE = os.path.join(os.path.dirname(__file__), "../.build/images/python.tar")
_PROGRAM = "python3"
_NOTHING = ["-I", "-S", "-c", ""]


def images(bench: Bench, count: int) -> Iterator[Result]:
    """The Python fixture image (48 MB) from its archive."""
    if not os.path.exists(_ARCHIVE):
        raise Unavailable("there is no archive of the fixture images: run make images")
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="images-", dir=bench.folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cache = Cache(os.path.join(folder, "cache"))

        def ours() -> None:
            """One session: find the image in the cache, compare it with its seal, run."""
            session = Images(cache)
            harness = Gvisor(
                runsc=bench.runsc, platform=bench.platform, launcher=bench.launcher,
                images=lambda: session,
            )  # fmt: skip
            try:
                if harness.run(_NOTHING, image=_ARCHIVE, entrypoint=_PROGRAM).returncode:
                    raise RuntimeError("Python failed in the image")
            finally:
                session.close()

        def host() -> None:
            if bench.gvisor.run([_PROGRAM, *_NOTHING]).returncode:
                raise RuntimeError("Python failed in the host's folders")

        def first() -> None:
            cache.prune(0)
            ours()

        yield Result(
            row="images", what="an image's second use, in a session of its own",
            against="the host's folders and Python", figure=Figure.DIFFERENCE,
            **interleaved({"ours": ours, "peer": host}, count, limit=10), target=0.01,
        )  # fmt: skip
        docker = stack.enter_context(
            daemon.serving(bench.runsc.path, bench.platform.value, storage="overlay2")
        )

        def load() -> None:
            _docker(docker, "load", "--quiet", "--input", _ARCHIVE)

        def run() -> None:
            _docker(docker, "run", "--rm", "--runtime=runsc", "--network", "none",
                    "--entrypoint", _PROGRAM, _NAME, *_NOTHING)  # fmt: skip

        def first_of_docker() -> None:
            _docker(docker, "image", "rm", "--force", _NAME)
            load()
            run()

        load()
        stack.callback(_docker, docker, "image", "rm", "--force", _NAME)
        yield Result(
            row="images", what="the same", against="`docker run --rm --runtime=runsc` of it",
            figure=Figure.RATIO, target=0.6,
            **interleaved({"ours": ours, "peer": run}, count, limit=10),
        )  # fmt: skip
        yield Result(
            row="images", what="its first use: removed, unpacked from its archive, run",
            against="`docker image rm`, `docker load`, `docker run`", figure=Figure.RATIO,
            **interleaved({"ours": first, "peer": first_of_docker}, max(count // 4, 1), limit=10),
            target=1.0,
        )  # fmt: skip


def _docker(docker: daemon.Docker, *argv: str) -> None:
    subprocess.run([*docker.command, *argv], check=True, capture_output=True, timeout=120)
