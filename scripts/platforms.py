"""Find the platforms that work with a runsc, by a bounded run on each.

    python scripts/platforms.py [--find] [--runsc PATH] [NAME…]

Prints ``runsc``, its path and its version, then a line a platform: its name, ``works`` or ``no``,
and why not; tabs are between them. Status 0 where all that were named work, or any where none was.
With ``--find`` the first line is all, and nothing is run.
"""

from __future__ import annotations

import argparse
import sys

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.harness.engine import Engine


def main() -> int:
    """Look, print, and say by the status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runsc")
    parser.add_argument("--find", action="store_true")
    parser.add_argument("names", nargs="*", type=Platform)
    given = parser.parse_args()
    settings = Settings(runsc=given.runsc)
    engine = Engine()
    works = {}
    try:
        runsc = engine.runsc(settings.runsc)
        print("runsc", escape(runsc.path), escape(runsc.version), sep="\t")
        if given.find:
            return 0
        for platform in given.names or Platform:
            why = _why_not(engine, platform, settings)
            works[platform] = not why
            print(platform, *(("no", why) if why else ("works",)), sep="\t")
    except GvisorError as error:
        print("runsc", "no", _line(error.message), sep="\t")
        return 1
    finally:
        for leak in engine.end():
            print(f"not removed: {leak}", file=sys.stderr)
    enough = all if given.names else any
    return 0 if enough(works.values()) else 1


def _why_not(engine: Engine, platform: Platform, settings: Settings) -> str:
    try:
        verdict = engine.availability(platform, settings)
    except GvisorError as error:
        return _line(error.message)
    return "" if verdict.available else _line(f"{verdict.cause}: {verdict.detail}")


def _line(text: str) -> str:
    """The text without tabs and line breaks, and not too long to be read."""
    shown = " ".join(escape(text).split())
    return shown if len(shown) <= 300 else shown[:300] + "…"


if __name__ == "__main__":
    sys.exit(main())
