"""A sentry that leaves a mark when it starts, for tests of the programs that runsc starts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_gvisor import Runsc
from tests.mounts import state_folder


@dataclass(frozen=True, kw_only=True)
class Canary:
    """``folder`` holds a program that is called as the sentry is, and makes ``mark``."""

    folder: Path
    mark: Path

    @property
    def program(self) -> Path:
        """The program."""
        return self.folder / "gvisor_sentry"


@contextmanager
def canary() -> Iterator[Canary]:
    """A canary in a world-writable folder: the sentry of root's runsc runs as the user nobody."""
    top = Path(tempfile.mkdtemp(prefix="canary-", dir="/tmp"))
    try:
        top.chmod(0o755)
        made = Canary(folder=top / "gvisor-bin", mark=top / "open" / "mark")
        for folder, mode in ((made.folder, 0o755), (made.mark.parent, 0o1777)):
            folder.mkdir()
            folder.chmod(mode)
        made.program.write_text(f"#!/bin/sh\n: > {made.mark}\nexit 1\n")
        made.program.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(top)


def start_bare(runsc: str, env: Mapping[str, str] | None = None) -> None:
    """Start a sandbox with this runsc directly, without the package."""
    rootless = ["--rootless"] if os.geteuid() else []
    with state_folder() as state:
        subprocess.run(
            [
                runsc,
                "--root",
                state,
                *rootless,
                "--ignore-cgroups",
                "--network",
                "none",
                "do",
                "true",
            ],
            env={"PATH": os.defpath, "XDG_RUNTIME_DIR": state, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )


def has_sidecars(runsc: Runsc) -> bool:
    """Whether this runsc boots a sentry from a file beside it."""
    return runsc.uses_sidecars and runsc.sidecars.has_sentry
