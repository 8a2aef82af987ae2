"""A fake runsc, compiled and scripted: see fake_runsc.py for the steps of a script."""

from __future__ import annotations

import dataclasses
import functools
import json
import marshal
import py_compile
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
def _compiled() -> tuple[bytes, bytes]:
    """The program that the kernel starts, and the one in Python that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "runsc"
        define = f'-DPYTHON="{sys.executable}"'
        subprocess.run(["cc", define, "-o", program, _SOURCES / "fake_runsc.c"], check=True)
        code = py_compile.compile(
            str(_SOURCES / "fake_runsc.py"), cfile=f"{folder}/code", doraise=True
        )
        assert code
        return program.read_bytes(), Path(code).read_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeRunsc:
    """A binary in a folder of its own, and the script beside it."""

    path: Path

    @classmethod
    def make(cls, folder: Path) -> FakeRunsc:
        """Put one into ``folder``, which must not be there."""
        folder.mkdir(mode=0o755)
        fake = cls(path=folder / "runsc")
        program, code = _compiled()
        fake.path.write_bytes(program)
        fake.path.chmod(0o755)
        (folder / "fake_runsc.pyc").write_bytes(code)
        fake.script()
        return fake

    def script(
        self,
        *run: Step,
        kill: Sequence[Step] | None = None,
        delete: Sequence[Step] | None = None,
        platforms: Sequence[str] | None = None,
    ) -> None:
        """Set the subcommands' next actions; ``platforms`` are those that runsc lists."""
        given = {"run": run, "kill": kill, "delete": delete, "platforms": platforms}
        lines = {name: list(value) for name, value in given.items() if value is not None}
        # marshal takes no subclass of a number, and the fake would take json's time to import it.
        plain = json.loads(json.dumps(lines))
        self.path.with_name("script").write_bytes(marshal.dumps(plain))
