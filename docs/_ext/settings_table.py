"""The directive ``settings-table``: the settings as the package declares them, one row each."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pytest_gvisor.base.setting_table import SETTINGS, Setting

HEAD = ("option", "ini key", "variable", "marker", "meaning")


def row(setting: Setting) -> tuple[str, ...]:
    """Return the cells of a setting; ``""`` where a source does not have it."""
    option = " ".join(filter(None, (setting.option, setting.metavar)))
    named = {
        "command line": option,
        "ini": setting.key,
        "environment": setting.variable,
        "marker": f"{setting.written}=",
    }
    cells = (text if source in setting.sources else "" for source, text in named.items())
    return (*cells, setting.help)


class SettingsTable(SphinxDirective):
    """A table with a row for each setting."""

    def run(self) -> list[nodes.Node]:
        group = nodes.tgroup(cols=len(HEAD))
        group += [nodes.colspec(colwidth=1) for _ in HEAD]
        head, body = nodes.thead(), nodes.tbody()
        head += _row([nodes.Text(text) for text in HEAD])
        for setting in SETTINGS:
            *names, meaning = row(setting)
            cells: list[nodes.Node] = [nodes.literal(text=text) for text in names]
            body += _row([*cells, nodes.Text(meaning)])
        group += [head, body]
        return [nodes.table("", group)]


def _row(cells: list[nodes.Node]) -> nodes.row:
    made = nodes.row()
    for cell in cells:
        made += nodes.entry("", nodes.paragraph("", "", cell))
    return made


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
