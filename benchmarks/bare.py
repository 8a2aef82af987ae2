"""Bare runsc with a bundle: the least cost of a run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

_DEADLINE = 60.0


class BareRunsc:
    """``runsc`` by its documented commands, with state and bundles in a folder of its own."""

    def __init__(self, runsc: str, flags: Sequence[str], folder: str) -> None:
        self._command = [runsc, "--root", os.path.join(folder, "state"), *flags]
        self._folder = folder
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
        name = self._name()
        try:
            self._call(self._argv(bundle, name))
        except BaseException:
            # The state of a sandbox that did not end by itself, and its mount of releases.
            with contextlib.suppress(subprocess.SubprocessError):
                self._call([*self._command, "delete", "--force", name])
            raise

    def run_into_cat(self, bundle: str) -> None:
        """``runsc … | cat >/dev/null``."""
        with subprocess.Popen(
            self._argv(bundle, self._name()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
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

    def _name(self) -> str:
        self._number += 1
        return f"bench-{self._number}"

    def _argv(self, bundle: str, name: str) -> list[str]:
        return [*self._command, "run", "--bundle", bundle, name]

    @staticmethod
    def _call(argv: list[str]) -> None:
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_DEADLINE
        )
