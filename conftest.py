"""What all tests share: pytester, the rule that a skip must be a listed one, and the leak check."""

from __future__ import annotations

pytest_plugins = ("pytester", "tests.skipcheck", "tests.leakcheck")
