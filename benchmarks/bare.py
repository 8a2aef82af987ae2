"""Bare runsc with a bundle: the least cost of a run, of a saved sandbox, and of a running one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

_DEADLINE = 60.0
RESUME = b"x\n"
"""The standard input of a restored workload, which waits for it."""

_PATIENCE = 10.0
"""Seconds for a workload to end once its standard input has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Executable:
    """The file of a runsc, with descriptors that it inherits, and variables in its environment."""

    path: str
    fds: tuple[int, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


class BareRunsc:
    """``runsc`` by its documented commands, with state and bundles in a folder of its own."""

    def __init__(self, executable: Executable, flags: Sequence[str], folder: str) -> None:
        self._command = [executable.path, "--root", os.path.join(folder, "state"), *flags]
        self._folder = folder
        self._inherited: Any = {
            "pass_fds": executable.fds,
            "env": {**os.environ, **executable.env} if executable.env else None,
        }
        self._number = 0
        os.makedirs(os.path.join(folder, "state"), 0o700)

    def bundle(self, name: str, config: Mapping[str, Any]) -> str:
        """Write a bundle of this configuration; returns its folder."""
        folder = os.path.join(self._folder, name)
        os.mkdir(folder, 0o700)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        return folder

    def run(self, bundle: str) -> None:
        """Run the bundle to its end, both streams drained."""
        self._to_the_end("run", bundle)

    def run_into_cat(self, bundle: str) -> None:
        """``runsc … | cat >/dev/null``."""
        with subprocess.Popen(
            self._argv("run", bundle, self._name()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            **self._inherited,
        ) as runsc:
            subprocess.run(
                ["cat"],
                stdin=runsc.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=_DEADLINE,
            )
        if runsc.returncode:
            raise subprocess.CalledProcessError(runsc.returncode, runsc.args)

    def save(self, bundle: str, flags: Sequence[str]) -> str:
        """Run the bundle until its workload says a byte, and save it; returns the image's folder.

        ``flags`` are those of ``runsc checkpoint``.
        """
        image = os.path.join(bundle, "image")
        with self.running(bundle) as (workload, name):
            workload.heard()
            self._call([*self._command, "checkpoint", *flags, "--image-path", image, name])
        return image

    def restore(self, bundle: str, image: str, flags: Sequence[str] = ()) -> None:
        """Run a saved workload to its end, with `RESUME` on its standard input."""
        self._to_the_end("restore", bundle, *flags, "--image-path", image, data=RESUME)

    @contextlib.contextmanager
    def running(self, bundle: str) -> Iterator[tuple[Workload, str]]:
        """Run a bundle meanwhile, whose workload ends with its standard input; gives its id too."""
        name = self._name()
        # Not as a context manager: that would wait without a deadline.
        runsc = subprocess.Popen(
            self._argv("run", bundle, name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            **self._inherited,
        )
        try:
            assert runsc.stdin is not None
            assert runsc.stdout is not None
            yield Workload(runsc.stdin, runsc.stdout), name
        finally:
            try:
                runsc.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                runsc.kill()
                runsc.communicate()
                self._delete(name)

    def _to_the_end(self, command: str, bundle: str, *flags: str, data: bytes = b"") -> None:
        name = self._name()
        argv = self._argv(command, bundle, name, *flags)
        try:
            self._call(argv, data=data)
        except BaseException:
            self._delete(name)
            raise

    def _name(self) -> str:
        self._number += 1
        return f"bench-{self._number}"

    def _argv(self, command: str, bundle: str, name: str, *flags: str) -> list[str]:
        return [*self._command, command, *flags, "--bundle", bundle, name]

    def _delete(self, name: str) -> None:
        """Remove the state of a sandbox that did not end by itself, and its mount of releases."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._call([*self._command, "delete", "--force", name])

    def _call(self, argv: list[str], *, data: bytes = b"") -> None:
        subprocess.run(
            argv,
            **({"input": data} if data else {"stdin": subprocess.DEVNULL}),
            capture_output=True,
            check=True,
            timeout=_DEADLINE,
            **self._inherited,
        )


class Workload:
    """The workload of a bundle that is running: it answers each byte with one."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin, self._stdout = stdin.fileno(), stdout.fileno()

    def heard(self) -> None:
        """Wait for a byte. Raises `RuntimeError` where none comes."""
        ready, _, _ = select.select([self._stdout], [], [], _DEADLINE)
        if not ready or not os.read(self._stdout, 1):
            raise RuntimeError("a workload of bare runsc says nothing")

    def ask(self) -> None:
        """Send it a byte, and wait for its answer."""
        os.write(self._stdin, b"x")
        self.heard()
