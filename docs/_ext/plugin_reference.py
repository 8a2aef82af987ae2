"""The directives ``plugin-fixtures`` and ``plugin-markers``: lists from the plugin's own texts."""

from __future__ import annotations

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pytest_gvisor import plugin
from pytest_gvisor.inside import hooks
from pytest_gvisor.plugin import fixtures as ours


def markers() -> Iterator[tuple[str, str]]:
    """Yield each marker with its meaning, as ``pytest --markers`` has them."""
    for line in (*plugin._MARKERS, hooks._MARKER):
        name, _, meaning = line.partition(": ")
        yield f"@pytest.mark.{name}", meaning


def fixtures() -> Iterator[tuple[str, str]]:
    """Yield each fixture and its scope with its docstring, as ``pytest --fixtures`` has them."""
    for name in dir(ours):
        fixture = getattr(ours, name)
        scope = fixture._fixture_function_marker.scope
        yield f"{name} [{scope} scope]", " ".join(fixture.__doc__.split())


ENTRIES = {"plugin-fixtures": fixtures, "plugin-markers": markers}


class Definitions(SphinxDirective):
    """A list of names with their meanings. Text between backquotes is code."""

    def run(self) -> list[nodes.Node]:
        made = nodes.definition_list()
        for name, meaning in ENTRIES[self.name]():
            term = nodes.term("", "", nodes.literal(text=name))
            text = nodes.paragraph("", "", *_inline(meaning))
            made += nodes.definition_list_item("", term, nodes.definition("", text))
        return [made]


def _inline(text: str) -> Iterator[nodes.Node]:
    for number, part in enumerate(text.replace("``", "`").split("`")):
        yield nodes.literal(text=part) if number % 2 else nodes.Text(part)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    for name in ENTRIES:
        app.add_directive(name, Definitions)
    return {"parallel_read_safe": True}
