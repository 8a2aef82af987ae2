"""What the tests here share, and the examples do not need: the schema is none of their packages."""

from __future__ import annotations

from tests.bundlecheck import bundles_are_as_the_schema_says, bundles_written  # noqa: F401
