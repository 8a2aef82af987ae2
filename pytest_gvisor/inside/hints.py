"""Hints on failures inside: what a test may have lacked, of the host and of the network."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Sequence

import pytest

from pytest_gvisor.base.egress import missing
from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.inside.view import environment, shown_files, visible
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.wire.link import Link
from pytest_gvisor.run.not_started import NO_NETWORK, NO_NETWORK_TOLD

_NO_NETWORK = f"{NO_NETWORK_TOLD}: --gvisor-network=host (or ini gvisor_network)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hints:
    """The hints for tests that share a sandbox."""

    config: pytest.Config
    items: Sequence[pytest.Item]
    inside: Inside
    settings: Settings

    @functools.cached_property
    def shown(self) -> visible.Shown:
        """The host's files that the tests see. Raises `UsageError`."""
        return visible.shown(self.config, self.items, self.inside.readable)

    def add(self, report: pytest.TestReport, link: Link, missed: object) -> None:
        """Add sections to a failed report: the names of variables that it ``missed``, and more."""
        texts = [report.longreprtext, *(text for _title, text in report.sections)]
        told = {"environment": environment.hint(missed, self.inside.held_back, texts)}
        told |= {"files": self._of_files(texts), **link.did("what it did")}
        report.sections += [(f"gvisor: {title}", told[title]) for title in told if told[title]]

    def explained(self, text: str) -> str:
        """Add to a failure's text what there is to say of the files that it names."""
        return "\n".join(filter(None, (text, self._of_files([text]))))

    def _of_files(self, texts: Sequence[str]) -> str:
        """Return what there is to say of files that failures name and that are not shown."""
        with contextlib.suppress(GvisorError):  # no sandbox is planned, and the failure says why
            here = str(self.config.invocation_params.dir)
            return shown_files.hint(texts, self.shown.holds, here)
        return ""

    def add_network(self, report: pytest.TestReport) -> None:
        """Say of a failed connection that the sandbox has no network, if that is so."""
        if self.settings.network is Network.NONE:
            sections = (text for title, text in report.sections if title != "gvisor: allow")
            texts = [report.longreprtext, *sections]
            if any(map(NO_NETWORK.search, texts)):
                told = _network_told(texts, self.settings.allow)
                report.sections.append(("gvisor: network", told))


def _network_told(texts: Sequence[str], allow: tuple[str, ...]) -> str:
    """Return the remedy for a failed connection; with an allow-list, the whole list that helps."""
    if not allow:
        return _NO_NETWORK
    # pytest begins the lines of the error itself so. Sources of libraries name other hosts.
    lines = sorted("\n".join(texts).splitlines(), key=lambda line: not line.startswith("E "))
    option = shlex.quote(",".join((*allow, missing("\n".join(lines), allow))))
    remedy = f"--gvisor-allow={option} (or ini gvisor_allow, or the marker's allow=[…])"
    return f"It is not in allow={[*allow]!r}. To reach it: {remedy}"
