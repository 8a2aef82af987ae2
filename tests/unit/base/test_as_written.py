"""The modules of this package are imported by Python's own loader, and no others."""

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

from pytest_gvisor import plugin
from pytest_gvisor.base.as_written import AsWritten

SESSIONS = """
import json, sys, pytest
name, folder = "pytest_gvisor.plugin.options", sys.argv[1]
done = [pytest.main(["-q", "-p", "no:cacheprovider", "-W", "error", folder]) for _ in range(2)]
found = {name: getattr(module, "__loader__", None) for name, module in sys.modules.items()}
loaders = {name: type(loader).__name__ for name, loader in found.items()}
rewritten = [n for n, loader in loaders.items() if n.startswith("pytest_g") and "Rewrit" in loader]
print(json.dumps([*map(int, done), loaders[name], loaders["test_it"], sorted(rewritten)]))
"""


def test_pytest_rewrites_the_projects_modules_and_not_ours(tmp_path: Path) -> None:
    """Two sessions in one process run without a warning. The finder itself cannot be spared."""
    (tmp_path / "test_it.py").write_text("def test_it(): assert 1 == 1\n")
    done = subprocess.run(
        [sys.executable, "-c", SESSIONS, str(tmp_path)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    loaders = ["SourceFileLoader", "AssertionRewritingHook"]
    assert found == [
        0,
        0,
        *loaders,
        ["pytest_gvisor", "pytest_gvisor.base", "pytest_gvisor.base.as_written"],
    ], done.stdout


def test_modules_of_this_package_are_found_alone() -> None:
    """The package itself, and all others, are left to pytest."""
    for name in ("pytest_gvisor", "pytest_gvisor_other", "json"):
        assert AsWritten.find_spec(name) is None
    folder = [*plugin.__path__]
    found = AsWritten.find_spec("pytest_gvisor.plugin.options", folder)
    assert found is not None
    assert type(found.loader) is SourceFileLoader
    assert AsWritten.find_spec("pytest_gvisor.plugin.no_such_module", folder) is None


def test_it_is_gone_before_the_interpreter_frees_its_objects() -> None:
    """Else it keeps pytest's objects alive for longer; a session that it is gone from ends too."""
    code = (
        "import atexit, sys, _pytest.assertion.rewrite\n"
        "names = lambda: [getattr(finder, '__name__', '') for finder in sys.meta_path]\n"
        "atexit.register(lambda: print('AsWritten' in names()))\n"
        "import pytest_gvisor\n"
        "print('AsWritten' in names())\n"
    )
    for more, seen in (("", ["True", "False"]), ("sys.meta_path.pop(0)", ["True", "False"])):
        done = subprocess.run(
            [sys.executable, "-c", code + more],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert (done.stdout.split(), done.stderr) == (seen, "")
