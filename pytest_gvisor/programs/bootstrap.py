"""The start of each program of this folder: ``python -I -S bootstrap.py PROGRAM ARGUMENTS…``.

With -I -S, site-packages is not on sys.path, so the package's folder stands for the package, and
its own first module does not run. This
file is small because Python compiles a main program at each start. The program itself is imported,
so that Python keeps its byte code.
"""

import os
import sys


def main() -> None:
    """Run the program whose path is the first argument."""
    del sys.argv[0]
    folder, file = os.path.split(os.path.abspath(sys.argv[0]))
    for name, path in (
        ("pytest_gvisor", os.path.dirname(folder)),
        ("pytest_gvisor.programs", folder),
    ):
        sys.modules[name] = package = type(sys)(name)
        package.__path__ = [path]
    program = __import__(f"pytest_gvisor.programs.{file[:-3]}", fromlist=["main"])
    status = program.main(sys.argv[1:])
    # Another process waits for this end: nothing here needs Python's own.
    os._exit(status or 0)


if __name__ == "__main__":
    main()
