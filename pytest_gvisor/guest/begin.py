"""The program of a sandbox for tests: ``python begin.py``.

Short, for Python keeps no byte code of a program. That of `worker`, and of what it imports, may
come from the host.
"""

import os
import sys

TYPE_CHECKING = False

# ruff: noqa: PLC0415 -- what is supplied is imported after the supply


def main() -> None:
    """Run the program."""
    # The folder of this program, on sys.path for these imports: what a test imports by their names
    # is the test's own.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if TYPE_CHECKING or __package__:
        from pytest_gvisor.guest import byte_code
    else:
        import byte_code
    supply = byte_code.supplied()
    if supply is not None:
        supply.guests = True
    if TYPE_CHECKING or __package__:
        from pytest_gvisor.guest import worker
    else:
        import worker
    if supply is not None:
        supply.guests = False
    del sys.path[0]
    for name in ("byte_code", "worker"):
        sys.modules.pop(name, None)
    worker.main(supply)


if __name__ == "__main__":
    main()
