"""The site of the documents: `make docs` builds it with Sphinx."""

from __future__ import annotations

import sys
from importlib.metadata import version as _version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from inventories import inventory

project = "pytest-gvisor"
author = "The pytest-gvisor developers"
version = release = _version_of("pytest-gvisor")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
    "reachable_links",
    "plugin_reference",
]
exclude_patterns = ["_build", "_ext", "_inventories"]
source_suffix = {".md": "markdown"}

# The pages link to titles as GitHub does.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Docstrings name things in single backquotes: a link where there is one, and code elsewhere.
default_role = "py:obj"
python_use_unqualified_type_names = True

# Small inventories of the names that the pages use: a build needs no network.
intersphinx_mapping = {
    name: (address, inventory(Path(__file__).parent / f"_inventories/{name}.txt"))
    for name, address in {
        "python": "https://docs.python.org/3/",
        "pytest": "https://docs.pytest.org/en/stable/",
    }.items()
}

# "--gvisor-strict" in a help text is an option, and has no dash of typography.
smartquotes = False

html_theme = "furo"
html_show_copyright = False
html_logo = "pictures/logo.svg"
html_extra_path = ["report.schema.json", "trace.schema.json"]
html_title = f"pytest-gvisor {version}"
