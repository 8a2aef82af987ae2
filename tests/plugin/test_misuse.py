"""Messages on things that are missing, misspelt or of another tool, whole, with the way out."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from pytest_gvisor.base.setting_table import names_from
from tests.plugin.conftest import NO_KVM, Project

TEST = "def test_it(gvisor): gvisor.run(['true'])\n"


def test_a_skip_ends_with_one_command(here: Project, no_runsc: str) -> None:
    """Without runsc, a plain run is green and says in each place how to get one."""
    ran = here.test(TEST, conftest=no_runsc).run().ends(skipped=1)
    told = r"runsc was not found: .* \(.*\); to mend it: pytest-gvisor install"
    assert re.search(rf"\nSKIPPED \[1\] test_it.py:1: {told}\n", ran.output)
    assert re.search(rf"; auto cannot be used: {told}\n", ran.output)
    assert re.fullmatch(
        rf"gVisor: NOTHING RAN UNDER GVISOR: all 1 tests for it were skipped: {told} "
        r"\(--gvisor-strict makes that a failure\)",
        ran.output.splitlines()[-1],
    )
    test = f"import pytest\n@pytest.mark.gvisor(platform='kvm')\n{TEST}"
    ran = here.test(test, conftest=NO_KVM).run().ends(skipped=1)
    ran.shows(
        "SKIPPED [1] test_it.py:2: platform kvm is not available here: no device: there is no "
        "/nonexistent/kvm; to mend it: pytest-gvisor doctor\n"
    )


def test_an_image_without_a_daemon_is_one_message(here: Project) -> None:
    """No traceback of the SDK is shown, and the command that makes the archive is."""
    none = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    here.test("def test_it(gvisor): gvisor.run(['true'], image='python:3.12')")
    ran = here.run(**none).ends(failed=1).hides("urllib3", "During handling", "direct cause")
    ran.shows(
        "E   pytest_gvisor.DaemonUnavailable: image python:3.12: there is no docker daemon at "
        "unix:///nonexistent/docker.sock: [Errno 2] No such file or directory\n"
        "E   Start it, or set DOCKER_HOST. Or, where there is one: `docker save python:3.12 -o "
        "image.tar`. Then write image='image.tar' here.\n"
    )
    here.test("def test_it(gvisor_image): gvisor_image('python:3.12')")
    line = here.run(**none).ends(skipped=1).line("SKIPPED")
    assert line.endswith("; to mend it: docker save python:3.12 -o image.tar")


MEMORY = {
    "run": "def test_it(gvisor): gvisor.run(['true'], memory='64m')",
    "sandbox": """
        import pytest
        @pytest.mark.gvisor(memory='64m')
        def test_it(gvisor_sandbox): pass
    """,
    "inside": """
        import pytest
        @pytest.mark.gvisor(memory='64m')
        def test_it(): pass
    """,
}


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may make cgroups")
@pytest.mark.parametrize("where", MEMORY)
def test_a_limit_without_rights_is_two_lines(where: str, here: Project) -> None:
    """The whole text of the failure, which has no line of this package's source."""
    ran = here.test(MEMORY[where]).run("-rN", *["--in-gvisor"] * (where == "inside"))
    assert ran.outcomes() == ({"failed": 1} if where == "run" else {"errors": 1})
    shown = re.split(r"\n=+ (?:FAILURES|ERRORS) =+\n", ran.output)[1]
    shown = re.split(r"\n(?:-+ gvisor: .* -+|gVisor: .*)\n", shown)[0]
    told = (
        r"the launch failed at cgroup: the memory limit cannot be set: /\S+/pytest-gvisor-\w{16} "
        r"\[E\w+: [\w -]+\]\n(E  )? *"
        r"Run as root, or in a cgroup of this user's, on a host with the memory controller\. "
        r"Or ask for no limit\."
    )
    assert re.search(told, shown)
    assert len(shown.splitlines()) <= 10
    assert "pytest_gvisor/" not in shown


CAPTURED = "Leave it out: stdout and stderr are texts, stdout_bytes and stderr_bytes are bytes."
MOUNTS = 'Write mounts={"src": "/app", "data": "/data:rw"}.'
SHELL = 'Write ["sh", "-c", "…"] to have a shell take a string apart.'
NONE = "= is no argument here\n"
CALLS = {
    "run(['ls'], shell=True)": f"UsageError: shell{NONE}{SHELL}",
    "run(['ls'], capture_output=True)": f"UsageError: capture_output{NONE}{CAPTURED}",
    "run(['ls'], text=True)": f"UsageError: text{NONE}{CAPTURED}",
    "run(['ls'], volumes={'a': 'b'})": f"UsageError: volumes{NONE}{MOUNTS}",
    "run(['ls'], env={'A': 1})": 'UsageError: environment variable "A": name and value must be '
    "text\nWrite env={'A': '1'}.",
    "popen(['ls'])": "AttributeError: 'Gvisor' object has no attribute 'popen': write "
    "gvisor_sandbox.popen([…])",
    "nothing": "AttributeError: 'Gvisor' object has no attribute 'nothing'",
}


def test_a_call_of_subprocess_or_docker_says_what_to_write(here: Project) -> None:
    """Each message is whole; what it proposes for a program and for variables works."""
    here.write({"calls.txt": repr(CALLS)}).test("""
        import ast, pathlib, pytest
        CALLS = ast.literal_eval(pathlib.Path("calls.txt").read_text())

        @pytest.mark.parametrize("call", CALLS)
        def test_it(gvisor, call):
            with pytest.raises(Exception) as caught:
                eval("gvisor." + call)
            assert f"{type(caught.value).__name__}: {caught.value}" == CALLS[call]

        def test_works(gvisor, gvisor_sandbox):
            words = ["sh", "-c", "echo $A"]
            assert gvisor.run(words, env={'A': '1'}).stdout == "1\\n"
            assert gvisor_sandbox.popen(words).wait() == 0
    """)
    here.run().ends(passed=len(CALLS) + 1)


def test_a_misspelt_setting_has_the_nearest_name(here: Project) -> None:
    """A marker, a variable, and pytest's options that there are not."""
    names = ", ".join(names_from("marker"))
    here.test(f"import pytest\n@pytest.mark.gvisor(plattform='kvm')\n{TEST}")
    here.run().exits(pytest.ExitCode.INTERRUPTED).shows(
        "test_it.py::test_it (test_it.py:2): @pytest.mark.gvisor: 'plattform' is not a setting; "
        f"did you mean platform; there are {names}\n"
    )
    here.test(TEST)
    word = "network='hots' is not one of none, sandbox, host"
    near = "is no variable of a setting; did you mean PYTEST_GVISOR_PLATFORM"
    ini, null = f"{here.folder}/pytest.ini", "/dev/null"
    for arguments, variables, told in (
        ([], {"PYTEST_GVISOR_PLATFROM": "kvm"}, f"PYTEST_GVISOR_PLATFROM {near}"),
        ([], {"PYTEST_GVISOR_NETWORK": "hots"}, f"PYTEST_GVISOR_NETWORK: {word}"),
        (["-o", "gvisor_network=hots"], {}, f"gvisor_network in {ini}: {word}"),
        (["-c", null, "-o", "gvisor_network=hots"], {}, f"gvisor_network in {null}: {word}"),
    ):
        ran = here.run(*arguments, **variables).exits(pytest.ExitCode.USAGE_ERROR)
        ran.shows(f"ERROR: pytest-gvisor: {told}\n")
    here.run("--in-gvisor").ends(passed=1)


def test_the_command_line_takes_variables_and_names_options() -> None:
    """`pytest-gvisor run` reads the variables of its settings, and knows docker's options."""

    def run(*words: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_gvisor", "run", *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
            env={**os.environ, **variables},
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines()[-1]

    prefix = "pytest-gvisor run: "
    near = "is no variable of a setting; did you mean PYTEST_GVISOR_NETWORK"
    word = "PYTEST_GVISOR_NETWORK: network='hots' is not one of none, sandbox, host"
    assert run("true", PYTEST_GVISOR_NETWORK="hots") == (2, f"{prefix}{word}")
    wrong = run("true", PYTEST_GVISOR_NETWROK="host")
    assert wrong == (2, f"{prefix}PYTEST_GVISOR_NETWROK {near}")
    assert run("sleep", "60", PYTEST_GVISOR_TIMEOUT="0.5")[0] == 124
    assert run("--timeout", "60", "--", "echo", "in time", PYTEST_GVISOR_TIMEOUT="0.001")[0] == 0
    told = f"{prefix}error: there is no -v. Write --mount SOURCE:TARGET."
    assert run("-v", "/etc:/data", "--", "true") == (2, told)
    assert run(*shlex.split("--mount /etc:/data -- ls /data/passwd")) == (0, "/data/passwd")
