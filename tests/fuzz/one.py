"""One target under atheris: imported with its eyes on every branch of the package, and run."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pytest_gvisor"]):
    from tests.fuzz.targets import TARGETS, judged


def main() -> None:
    """``python -m tests.fuzz.one TARGET`` and libFuzzer's options and folders."""
    target = TARGETS[sys.argv[1]]

    def once(data: bytes) -> None:
        judged(target, data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
