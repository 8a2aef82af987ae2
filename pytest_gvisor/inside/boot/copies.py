"""The sandboxes of tests inside that begin as copies of one that was saved at its gate.

For tests with a sandbox of their own: each copy spares the imports of pytest and its plugins. What
cannot be saved or copied starts as any other sandbox.

gVisor drops the files that it has cached when it saves, but for those in use and their folders,
whose names it keeps. So nothing is copied once these names differ on the host. If a regular file in
use has changed, `runsc restore` fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
from typing import NamedTuple

import pytest

from pytest_gvisor.base.errors import GvisorError, SnapshotError, on_error
from pytest_gvisor.base.settings import Network
from pytest_gvisor.inside.boot.early import early
from pytest_gvisor.inside.boot.start import Opening, Plan, Started, fresh, launch, open_gate
from pytest_gvisor.inside.view import host_files
from pytest_gvisor.inside.wire.link import LOST, Died, Hangs, Link, gone
from pytest_gvisor.plugin.stash import engine_of
from pytest_gvisor.run.budget import Budget
from pytest_gvisor.run.connected import check
from pytest_gvisor.runsc.rootless import Way

_MOST = 4
"""Saved sandboxes at a time: the session folder may be in memory."""

_MOST_SAVES = 16
_MOST_FAILURES = 2
_MOST_UNUSED = 3
"""Copies that were started ahead in vain."""

_PATIENCE = 30.0
"""Seconds to get to the gate, to be saved there, or to go on from there."""


class _Saved(NamedTuple):
    """A saved sandbox: its image, how it was started, and the host's files at that time."""

    folder: str
    plan: Plan
    state: host_files.State
    names: host_files.Names
    """The names in folders that it keeps in use."""

    used: tuple[str, ...]
    """These folders, without those above them."""

    sends: bool
    """Whether it is known to have made a socket that sends datagrams."""


class _Next(NamedTuple):
    """The copy that waits at its gate for the next test."""

    link: Link
    saved: _Saved
    files: host_files.State
    """The files in the folders that it keeps in use, which it has opened anew."""


class Copies:
    """The saved sandboxes of this process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._saved: list[_Saved] = []
        self._saves = self._failures = self._unused = 0
        self._latest: _Saved | None = None
        """The saved sandbox of the one that began last."""

        self._next: _Next | None = None
        self._owner = os.getpid()
        self._reason = ""
        self.begun = 0
        """Sandboxes that began as copies."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report with ``-v`` how many sandboxes were copies, and why others were none."""
        if self._config.get_verbosity() <= 0:
            return
        if self.begun:
            some = "1 sandbox" if self.begun == 1 else f"{self.begun} sandboxes"
            text = f"gvisor: {some} of tests inside began as copies of a saved one"
            terminalreporter.write_line(text)
        if self._reason:
            text = f"gvisor: sandboxes of tests inside did not begin as copies: {self._reason}"
            terminalreporter.write_line(text)

    def begin(self, plan: Plan, opening: Opening, *, alike: bool = True) -> Link:
        """Start a sandbox, and open its gate. Raises `GvisorError`.

        It is a copy if possible, and if others are to start ``alike``.
        """
        link = self._copy(plan) if alike else None
        if link is not None and self._goes_on(link, opening):
            return link
        self._latest = None
        started = early(self._config, plan) or fresh(self._config, plan)
        link = self._save(started) if alike else started.link
        open_gate(link, opening)
        return link

    def prepare(self) -> None:
        """Start a copy of the sandbox that began last, for the next test, if none is there.

        Nobody waits for it: what it says stays in its sockets. A problem is not reported here: the
        next test comes upon it again.
        """
        saved = self._latest
        if self._next is not None or saved is None:
            return
        if max(self._failures - _MOST_FAILURES, self._unused - _MOST_UNUSED) >= 0:
            return
        try:
            files = host_files.details(saved.used)
            link = launch(self._config, saved.plan, saved.folder)
        except (GvisorError, MemoryError):
            return
        self._next = _Next(link=link, saved=saved, files=files)
        link.greet()

    def _take(self, saved: _Saved) -> Link | None:
        """Return the copy that was started ahead if it is one of ``saved``, as one of now.

        Else remove it.
        """
        ahead = self._next
        if ahead is None:
            return None
        if ahead.saved is not saved or host_files.details(saved.used) != ahead.files:
            self._refuse()
            return None
        self._next = None
        ahead.link.supervisor.count_from_here()
        return ahead.link

    def _refuse(self) -> None:
        self._unused += 1
        self.close()

    def close(self) -> None:
        """Remove the copy that no test has taken."""
        ahead, self._next = self._next, None
        if ahead is not None and self._owner == os.getpid():
            ahead.link.close()

    def _copy(self, plan: Plan) -> Link | None:
        """Return a copy of a saved sandbox of this plan, if there is one of the files of now."""
        found = next((saved for saved in self._saved if not saved.plan.changed(plan)), None)
        if found is None:
            return None
        current = host_files.now(self._config, found.state)
        same = host_files.read(current) == host_files.read(found.state)
        if not same or host_files.names(found.used, plan.shown.paths) != found.names:
            self._reason = self._reason or "files of the project had changed since the save"
            self._drop(found)
            return None
        try:
            link = self._take(found) or launch(self._config, plan, found.folder)
        except GvisorError as error:
            self._fail(f"none can be started: {error}")
            self._drop(found)
            return None
        if link.traced is not None:
            link.traced.recorder.has_datagrams |= found.sends
        self._latest = found
        return link

    def _goes_on(self, link: Link, opening: Opening) -> bool:
        """Open the gate of a copy; remove it, and what it was saved as, if it does not go on."""
        try:
            with on_error(link.close):
                open_gate(link, opening)
                # A copy speaks before it loads any file of the project.
                link.budget = Budget(_PATIENCE)
                link.wait()
        except LOST as error:
            self._fail(f"one did not go on: {link.told(gone(error))}")
            if self._latest is not None:
                self._drop(self._latest)
            return False
        self.begun += 1
        return True

    def _save(self, started: Started) -> Link:
        """Save a sandbox at its gate; return it, or a fresh one if it is lost by that."""
        link, plan = started.link, started.plan
        if self._saves >= _MOST_SAVES or self._failures >= _MOST_FAILURES:
            return link
        if why := _obstacle(plan):
            self._reason = self._reason or why
            return link
        self._saves += 1
        link.budget = Budget(_PATIENCE)
        with on_error(link.close):
            try:
                held = link.rest()
            except SnapshotError as error:
                self._fail(str(error))
                return link
            except (GvisorError, Died, Hangs):
                return link  # whoever takes it comes upon it again
            names = host_files.names(held or (), plan.shown.paths)
            if held is None or host_files.now(self._config, started.state) != started.state:
                return link
        try:
            with on_error(link.close):
                link.supervisor.drain_events()
                image = link.save()
                session = engine_of(self._config).launcher.session()
                folder = os.path.join(session.path, "saved-" + secrets.token_hex(4))
                os.rename(image, folder)
        except (GvisorError, OSError) as error:
            self._fail(str(error))
            return fresh(self._config, plan).link
        self._latest = _Saved(
            folder=folder,
            plan=plan,
            state=started.state,
            names=names,
            used=tuple(path for path in held if path in names),
            sends=link.traced is not None and link.traced.recorder.has_datagrams,
        )
        self._saved.append(self._latest)
        for oldest in self._saved[:-_MOST]:
            self._drop(oldest)
        return link

    def _drop(self, saved: _Saved) -> None:
        if self._next is not None and self._next.saved is saved:
            self._refuse()
        self._saved.remove(saved)
        shutil.rmtree(saved.folder, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self._reason = self._reason or reason


def _obstacle(plan: Plan) -> str:
    """Return why a sandbox of this plan cannot be saved; nothing if it can."""
    if plan.settings.network is not Network.NONE:
        return f"with network={plan.settings.network} none is saved"
    if plan.settings.allow:  # restore takes no descriptors
        return f"with allow={[*plan.settings.allow]!r} none is saved"
    try:
        check(plan.platform, Way.OWN if plan.way is Way.FLAG else plan.way)
    except SnapshotError as error:
        return str(error)
    return ""
