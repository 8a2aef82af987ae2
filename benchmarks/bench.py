"""The harness as every row of the table uses it, and bare runsc with the same bundle."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bare import BareRunsc
from pytest_gvisor import Gvisor, Platform, Runsc
from pytest_gvisor.run.request import Hooks, Record, Workspace
from pytest_gvisor.sessions.launcher import Launcher

TRUE = ["true"]
DEADLINE = 120.0
"""Seconds."""

_OLDER = os.path.join(os.path.dirname(__file__), "../.build/runsc-2024/usr/bin/runsc")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The objects of every row: the harness as the ``gvisor`` fixture has it, and a folder."""

    runsc: Runsc
    platform: Platform
    launcher: Launcher
    gvisor: Gvisor
    folder: str
    """Inside the session folder, so that it is removed whatever happens."""

    finding: float
    """Seconds to find, check and question runsc."""

    @classmethod
    @contextlib.contextmanager
    def ready(cls, path: str | None = None) -> Iterator[Bench]:
        """Find runsc, or take that of ``path``, and start the keeper; all is gone afterwards."""
        # Each of many open sandboxes takes ten descriptors of this process and its keeper.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with contextlib.ExitStack() as stack:
            begun = time.perf_counter()
            runsc = Runsc.find() if path is None else Runsc.find(path)
            finding = time.perf_counter() - begun
            stack.callback(runsc.close)
            launcher = Launcher()
            stack.callback(launcher.close)
            platform = Platform.SYSTRAP
            yield cls(
                runsc=runsc,
                platform=platform,
                launcher=launcher,
                gvisor=Gvisor(runsc=runsc, platform=platform, launcher=launcher),
                folder=tempfile.mkdtemp(prefix="bench-", dir=launcher.session().path),
                finding=finding,
            )

    def releases(self) -> Iterator[Bench]:
        """This one, and one for the runsc of 2024 where `make bench` has unpacked that."""
        yield self
        if os.path.exists(_OLDER):
            with Bench.ready(_OLDER) as older:
                if older.runsc.version != self.runsc.version:
                    yield older

    def is_older_than(self, year: int) -> bool:
        """Whether the release has a date, and that is before ``year``."""
        return self.runsc.date is not None and self.runsc.date.year < year

    def run(self) -> None:
        """Run ``true`` in a fresh sandbox, which most rows time."""
        if self.gvisor.run(TRUE).returncode:
            raise RuntimeError("true failed in our sandbox")

    def seen(self, args: list[str], **settings: Any) -> tuple[dict[str, Any], Record]:
        """Run ``args``; returns the config.json that was written for it, and the run's record.

        A root that was made for this run alone is a copy: runsc may use it again.
        """
        root = os.path.join(tempfile.mkdtemp(prefix="root-", dir=self.folder), "rootfs")

        def keep(_workspace: Workspace, record: Record) -> None:
            assert record.spec is not None
            shutil.copytree(record.spec.root.path, root, symlinks=True)

        harness = Gvisor(
            runsc=self.runsc, platform=self.platform, launcher=self.launcher, hooks=Hooks(keep=keep)
        )
        done = harness.run(args, timeout=DEADLINE, **settings)
        if done.returncode:
            raise RuntimeError(f"{args[0]} failed in our sandbox: {done.stderr[-500:]}")
        record = harness.records[-1]
        assert record.spec is not None
        config = record.spec.to_json()
        config["root"]["path"] = root
        return config, record

    def bare(
        self,
        row: str,
        args: list[str],
        *,
        flags: Sequence[str] = (),
        **settings: Any,
    ) -> tuple[BareRunsc, dict[str, Any]]:
        """Bare runsc, and the very configuration that our harness has just run ``args`` with."""
        config, record = self.seen(args, **settings)
        rootless = ["--rootless"] if "--rootless" in record.argv else []
        # fmt: off
        flags = [*rootless, "--ignore-cgroups", "--network", "none",
                 "--platform", self.platform.value, "--overlay2", "root:memory", *flags]
        # fmt: on
        folder = tempfile.mkdtemp(prefix=f"{row}-", dir=self.folder)
        return BareRunsc(self.runsc.path, flags, folder), config
