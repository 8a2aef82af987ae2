"""A fake runsc, compiled and scripted: see fake_runsc.py for the steps of a script."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SOURCES = Path(__file__).parent

Step = list[object]
"""The name of a step and its arguments."""

FINE: tuple[Step, ...] = (["connect"], ["started"])
"""How every run begins that gets as far as the workload."""


@functools.cache
def _compiled() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "runsc"
        define = f'-DPYTHON="{sys.executable}"'
        subprocess.run(["cc", define, "-o", program, _SOURCES / "fake_runsc.c"], check=True)
        return program.read_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeRunsc:
    """A binary in a folder of its own, and the script beside it."""

    path: Path

    @classmethod
    def make(cls, folder: Path) -> FakeRunsc:
        """Put one into ``folder``, which must not be there."""
        folder.mkdir(mode=0o755)
        fake = cls(path=folder / "runsc")
        fake.path.write_bytes(_compiled())
        fake.path.chmod(0o755)
        shutil.copyfile(_SOURCES / "fake_runsc.py", folder / "fake_runsc.py")
        fake.script()
        return fake

    def script(
        self,
        *run: Step,
        kill: Sequence[Step] | None = None,
        delete: Sequence[Step] | None = None,
        without: Sequence[str] = (),
        platforms: Sequence[str] | None = None,
    ) -> None:
        """Set the subcommands' next actions; ``without`` names the flags that runsc lacks.

        ``platforms`` are those that it lists.
        """
        given = {"run": run, "kill": kill, "delete": delete, "without": without,
                 "platforms": platforms}  # fmt: skip
        lines = {name: list(value) for name, value in given.items() if value is not None}
        self.path.with_name("script.json").write_text(json.dumps(lines))
