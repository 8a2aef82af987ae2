"""The builder ``linkcheck``, for machines that cannot reach every host."""

from __future__ import annotations

from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.builders.linkcheck import CheckExternalLinksBuilder, CheckResult

NO_ADDRESS = "NameResolutionError"


class ReachableLinks(CheckExternalLinksBuilder):
    """Checks links as Sphinx does, but a host without an address breaks none: its name is listed.

    A host that resolves and does not answer, or answers with an error, breaks its links.
    """

    def init(self) -> None:
        super().init()
        self.not_tried: dict[str, int] = {}

    def process_result(self, result: CheckResult) -> None:
        if NO_ADDRESS in result.message:
            host = urlsplit(result.uri).hostname or ""
            self.not_tried[host] = self.not_tried.get(host, 0) + 1
            result = result._replace(
                status=type(result.status).IGNORED, message=f"{host} does not resolve here"
            )
        super().process_result(result)

    def finish(self) -> None:
        super().finish()
        for host, links in sorted(self.not_tried.items()):
            print(f"links not tried, because {host} does not resolve here: {links}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of Sphinx's own builder."""
    app.add_builder(ReachableLinks, override=True)
    return {"parallel_read_safe": True}
