"""The sources of settings: marker, command line, environment, ini file, default."""

import json
import shutil
from pathlib import Path

import pytest

from tests.plugin.conftest import Project

# Writes down the settings that arrive at a test.
TEST = """
import json
import pytest
{marker}
def test_it(gvisor, request):
    seen = {{
        "timeout": gvisor.settings.timeout, "network": gvisor.settings.network,
        "platform": list(gvisor.settings.platforms), "rootless": gvisor.settings.rootless,
        "keep": gvisor.settings.keep, "strict": gvisor.settings.strict,
        "debug": gvisor.settings.debug, "runsc": gvisor.settings.runsc,
    }}
    (request.config.rootpath / "seen.json").write_text(json.dumps(seen))
"""
MARKER = """@pytest.mark.gvisor(
    timeout=4, network="none", platform="ptrace", rootless="on", runsc={runsc!r}
)"""


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, str]:
    """Four paths of the one runsc."""
    real = shutil.which("runsc", path="/usr/local/bin:/usr/bin:/opt/gvisor")
    assert real is not None
    for name in ("marker", "line", "environment", "ini"):
        (tmp_path / name).symlink_to(real)
    return {path.name: str(path) for path in tmp_path.iterdir() if path.is_symlink()}


LEVELS = ("default", "ini", "environment", "line", "marker")
# What a test sees where this level and all weaker ones are written, and nothing stronger.
SEEN = {
    "default": {
        "timeout": 60, "network": "none", "platform": [], "rootless": "auto", "keep": "none",
        "strict": False, "debug": False,
    },
    "ini": {
        "timeout": 1, "network": "host", "platform": ["systrap"], "rootless": "off", "keep": "all",
        "strict": True, "debug": False,
    },
    "environment": {
        "timeout": 2.5, "network": "sandbox", "platform": ["ptrace"], "rootless": "on",
        "keep": "failed", "strict": False, "debug": True,
    },
    "line": {
        "timeout": 3, "network": "host", "platform": ["systrap"], "rootless": "off", "keep": "all",
        "strict": True, "debug": True,
    },
    "marker": {
        "timeout": 4, "network": "none", "platform": ["ptrace"], "rootless": "on", "keep": "all",
        "strict": True, "debug": True,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("project", "level"),
    # A worker of xdist gets the sources from its controller: once all but the marker, once all.
    [*((None, level) for level in LEVELS), (2, "line"), (2, "marker")],
    indirect=["project"],
)
def test_the_strongest_source_that_says_something_wins(
    project: Project, level: str, copies: dict[str, str]
) -> None:
    """Each setting comes from the strongest of the sources that are written, pair by pair."""
    place = LEVELS.index(level)
    args, environ = [], {}
    ini = "[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n"
    if place >= LEVELS.index("ini"):
        ini += (
            "gvisor_timeout = 1\ngvisor_network = host\ngvisor_platform = systrap\n"
            "gvisor_rootless = off\ngvisor_keep = all\ngvisor_strict = true\n"
            f"gvisor_runsc = {copies['ini']}\n"
        )
    if place >= LEVELS.index("environment"):
        environ = {
            "PYTEST_GVISOR_TIMEOUT": "2.5", "PYTEST_GVISOR_NETWORK": "sandbox",
            "PYTEST_GVISOR_PLATFORM": "ptrace", "PYTEST_GVISOR_ROOTLESS": "on",
            "PYTEST_GVISOR_KEEP": "failed", "PYTEST_GVISOR_STRICT": "no",
            "PYTEST_GVISOR_DEBUG": "1", "PYTEST_GVISOR_RUNSC": copies["environment"],
        }  # fmt: skip
    if place >= LEVELS.index("line"):
        args = [
            "--gvisor-timeout=3", "--gvisor-network=host", "--gvisor-platform=systrap",
            "--gvisor-rootless=off", "--gvisor-keep=all", "--gvisor-strict",
            f"--gvisor-runsc={copies['line']}",
        ]  # fmt: skip
    marker = MARKER.format(runsc=copies["marker"]) if level == "marker" else ""
    project.write({"test_it.py": TEST.format(marker=marker), "pytest.ini": ini})
    project.run(*args, **environ).ends(passed=1)
    seen = json.loads((project.folder / "seen.json").read_text())
    assert seen == {**SEEN[level], "runsc": copies.get(level)}


def test_an_empty_variable_says_nothing(here: Project) -> None:
    """An environment variable that is set to nothing leaves the ini file's value."""
    here.write({"pytest.ini": "[pytest]\ngvisor_timeout = 1.5\n"})
    here.test("def test_it(gvisor): assert gvisor.settings.timeout == 1.5")
    empty = {f"PYTEST_GVISOR_{name}": "" for name in ("TIMEOUT", "RUNSC", "PLATFORM", "STRICT")}
    here.run(**empty).ends(passed=1)


@pytest.mark.parametrize(
    ("table", "platform"),
    [("tool.pytest", '["systrap", "ptrace"]'), ("tool.pytest.ini_options", '"systrap,ptrace"')],
)
def test_pyproject_toml_may_hold_typed_values(here: Project, table: str, platform: str) -> None:
    """pytest's native table and the older one take numbers, booleans and lists of their type."""
    here.write(
        {
            "pyproject.toml": f"""
                [{table}]
                strict_markers = true
                gvisor_timeout = 2.5
                gvisor_strict = true
                gvisor_network = "host"
                gvisor_keep = "failed"
                gvisor_platform = {platform}
            """
        }
    )
    here.test("""
        def test_it(gvisor):
            s = gvisor.settings
            assert (s.timeout, s.strict, s.network, s.keep) == (2.5, True, "host", "failed")
            assert s.platforms == ("systrap", "ptrace")
    """)
    here.run().ends(passed=2).shows("systrap, ptrace, network host, strict")


BAD = {
    "[pytest]\ngvisor_timeout = soon": "gvisor_timeout in ",
    "[pytest]\ngvisor_timeout = 0": "gvisor_timeout in ",
    "[pytest]\ngvisor_timeout = nan": "gvisor_timeout in ",
    "[pytest]\ngvisor_strict = perhaps": "gvisor_strict in ",
    "[pytest]\ngvisor_network = lan": "network='lan' is not one of none, sandbox, host",
    "[pytest]\ngvisor_keep = some": "keep='some' is not one of none, failed, all",
    "[pytest]\ngvisor_platform = systrap kvn": "platform='kvn' is not one of systrap, kvm, ptrace",
    '[tool.pytest]\ngvisor_timeout = "2"': "gvisor_timeout in ",
    "[tool.pytest]\ngvisor_timeout = true": "gvisor_timeout in ",
    '[tool.pytest]\ngvisor_strict = "yes"': "gvisor_strict in ",
    "[tool.pytest]\ngvisor_network = 1": "gvisor_network in ",
    '[tool.pytest]\ngvisor_platform = ["nope"]': "platform='nope' is not one of",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_value_in_a_file_is_a_usage_error_that_names_key_and_file(
    here: Project, text: str
) -> None:
    """A wrong type or meaning ends pytest with status 4; the message says where it is."""
    name = "pyproject.toml" if "tool" in text else "pytest.ini"
    key = text.split()[1]
    ran = here.write({name: text + "\n"}).test("def test_it(): pass").run()
    ran.exits(pytest.ExitCode.USAGE_ERROR).hides("INTERNALERROR", "Traceback")
    ran.shows(f"pytest-gvisor: {key} in {here.folder / name}", BAD[text])


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TIMEOUT", "-1"), ("STRICT", "maybe"), ("DEBUG", "2"), ("NETWORK", "all"),
     ("ROOTLESS", "yes"), ("KEEP", "passed"), ("PLATFORM", "xen")],
)  # fmt: skip
def test_a_bad_variable_is_a_usage_error_that_names_it(
    here: Project, variable: str, value: str
) -> None:
    """The message has the name of the environment variable and its value."""
    name = f"PYTEST_GVISOR_{variable}"
    ran = here.test("def test_it(): pass").run(**{name: value})
    ran.exits(pytest.ExitCode.USAGE_ERROR).shows(f"pytest-gvisor: {name}: ", value)
