"""The program of a sandbox for tests: ``python begin.py``.

Short, for Python keeps no byte code of a program. That of `pytest_process`, and of its imports, may
come from the host.
"""

import os
import sys

# ruff: noqa: PLC0415 -- what is supplied is imported after the supply


def main() -> None:
    """Run the program."""
    # The modules beside this one are the package until all of them are imported. Later imports of
    # it, as those of its plugin, find the package that is installed.
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in ("", ".guest", ".guest.tests", ".guest.warm", ".guest.wire"):
        sys.modules["pytest_gvisor" + name] = package = type(sys)("pytest_gvisor" + name)
        package.__path__ = [folder + name.removeprefix(".guest").replace(".", "/")]
    places = [word for word in sys.argv[1:] if not word.startswith("{")]  # else the user
    if places:
        from pytest_gvisor.guest.warm import inner_relay

        inner_relay.fork(places, 0, 1)
        del sys.argv[1 : 1 + len(places)]
    from pytest_gvisor.guest.tests import byte_code

    supply = byte_code.supplied()
    from pytest_gvisor.guest.tests import pytest_process

    for name in [name for name in sys.modules if name.partition(".")[0] == "pytest_gvisor"]:
        del sys.modules[name]
    pytest_process.main(supply)


if __name__ == "__main__":
    main()
