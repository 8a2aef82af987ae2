"""Messages that end with a remedy, whole; and the remedy mends it, pasted as it is printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Project

TEST = """
import socket

def test_it(gvisor):
    {prepare}
    done = gvisor.run({args})
    assert done.returncode == 0, done.hint
"""
CALL = re.compile(r"add (.*?) to (?:the call|gvisor\.sandbox\(…\))")
PROJECT = (
    "; or the whole project, with @pytest.mark.gvisor(project=True) on the test, or "
    "gvisor_project = true in the ini file"
)


def tried(project: Project, args: str, prepare: str, told: str, **filled: str) -> None:
    """Check the hint of a failing call, and that the call passes with what the hint adds to it.

    A word that the reader has to fill in is replaced.
    """
    ran = project.test(TEST.format(prepare=prepare, args=args)).run().ends(failed=1)
    assert re.search(rf"^(E +)?{re.escape(told)}$", ran.output, re.MULTILINE), ran.output
    pasted = CALL.search(told)
    assert pasted, told
    added = re.sub("|".join(filled) or "$^", lambda found: filled[found[0]], pasted[1])
    project.test(TEST.format(prepare=prepare, args=f"{args}, {added}")).run().ends(passed=1)


@pytest.fixture
def script(alone: Project) -> Path:
    """A program in a folder of the project, beside a module that it imports."""
    alone.write({"tools/greet.py": "import beside", "tools/beside.py": "", "x/marker": ""})
    return alone.folder / "tools/greet.py"


def test_a_script_is_shown_with_its_folder_and_where_it_starts(
    alone: Project, script: Path
) -> None:
    """The first call that most people write: a relative path needs the folder to start in too."""
    folder, here = script.parent, alone.folder
    told = (
        f'"{script}" exists here but not in the sandbox. To show it, add '
        f"mounts={{'{folder}': '{folder}'}}, cwd='{here}' to the call{PROJECT}."
    )
    args = '["python3", "tools/greet.py"]'
    tried(alone, args, "pass", told)
    test = "import pytest\n@pytest.mark.gvisor(project=True)" + TEST.strip("\n").partition("\n")[2]
    alone.test(test.format(prepare="pass", args=args)).run().ends(passed=1)
    alone.test(TEST.format(prepare="pass", args=args))
    alone.run("-o", "gvisor_project=true").ends(passed=1)


def test_a_script_by_its_path_and_a_link_are_shown(alone: Project, script: Path) -> None:
    """A path needs no folder to start in. A link has its target at its place."""
    (alone.folder / "link").symlink_to("tools/beside.py")
    link, target = alone.folder / "link", alone.folder / "tools/beside.py"
    end = f" to the call{PROJECT}."
    for path, mount in ((script, {script.parent: script.parent}), (link, {target: link})):
        shown = {str(one): str(other) for one, other in mount.items()}
        told = f'"{path}" exists here but not in the sandbox. To show it, add mounts={shown}{end}'
        tried(alone, f'["python3", "{path}"]', "pass", told)


def test_a_program_of_the_callers_path_is_called_by_its_own(alone: Project) -> None:
    """A name that is only on the host's PATH has the program's path, and a mount for it."""
    tool = program(alone)
    path = f"{tool.parent}:{os.environ['PATH']}"
    ran = alone.test(TEST.format(prepare="pass", args='["mytool"]')).run(PATH=path).ends(failed=1)
    told = (
        f'"{tool}" exists here but not in the sandbox. To show it, add '
        f"mounts={{'{tool.parent}': '{tool.parent}'}} to the call{PROJECT}. Call it by that path."
    )
    none = r'E +pytest_gvisor\.ProgramNotStarted: program "mytool" was not found in the sandbox \('
    assert re.search(rf"{none}PATH=\S+\)\nE +{re.escape(told)}\n", ran.output), ran.output
    tried(alone, f'["{tool}"]', "pass", told.removesuffix(" Call it by that path."))
    test = "import pytest\n@pytest.mark.gvisor(project=True)" + TEST.strip("\n").partition("\n")[2]
    alone.test(test.format(prepare="pass", args=[str(tool)])).run().ends(passed=1)


def program(project: Project) -> Path:
    """A program in a folder of the project."""
    project.write({"bin/mytool": "#!/bin/sh\necho from the host\n"})
    tool = project.folder / "bin/mytool"
    tool.chmod(0o755)
    return tool


def test_a_warm_sandbox_names_the_call_that_makes_it(alone: Project) -> None:
    """`exec` and `popen` take no mounts: the remedy is for `gvisor.sandbox`, and works there."""
    tool = program(alone)
    test = """
        def test_it(gvisor):
            with gvisor.sandbox({more}) as sandbox:
                assert sandbox.exec([{name!r}]).stdout == "from the host\\n"
                assert sandbox.popen([{name!r}]).wait() == 0
    """
    told = (
        f'"{tool}" exists here but not in the sandbox. To show it, add '
        f"mounts={{'{tool.parent}': '{tool.parent}'}} to gvisor.sandbox(…)."
    )
    path = f"{tool.parent}:{os.environ['PATH']}"
    for name, end in (("mytool", " Call it by that path."), (str(tool), "")):
        ran = alone.test(test.format(more="", name=name)).run(PATH=path).ends(failed=1)
        none = r'E +pytest_gvisor\.InsideError: program ".*" was not found in the sandbox .*'
        assert re.search(rf"{none}\nE +{re.escape(told + end)}\n", ran.output), ran.output
    alone.test(f"def test_it(gvisor_sandbox): gvisor_sandbox.popen(['{tool}'])")
    alone.run().ends(failed=1).shows(f"{told}\n")
    pasted = CALL.search(told)
    assert pasted
    alone.test(test.format(more=pasted[1], name=str(tool))).run().ends(passed=1)


def test_a_folder_to_write_to_is_shown(alone: Project, tmp_path: Path) -> None:
    """A shell and `touch` name the path of a file in a folder that is not there."""
    told = (
        f'"{tmp_path}" is a folder here, and not in the sandbox. To write to it, add '
        f"mounts={{'{tmp_path}': '{tmp_path}:rw'}} to the call."
    )
    for args in (["sh", "-c", f"echo 1 >{tmp_path}/new"], ["touch", f"{tmp_path}/other"]):
        tried(alone, repr(args), "pass", told)
    assert {path.name for path in tmp_path.iterdir()} >= {"new", "other"}


def test_a_sandbox_without_network_says_so(alone: Project) -> None:
    """A service of the host on 127.0.0.1 refuses, since that is the sandbox's own."""
    told = (
        "This sandbox has no network, and its 127.0.0.1 is its own. To have the host's, add "
        "network='host' to the call."
    )
    service = "global service; service = socket.create_server(('127.0.0.1', 0))"
    prepare = f"{service}; port = service.getsockname()[1]"
    code = "import socket; socket.create_connection(('127.0.0.1', {port}))"
    tried(alone, f'["python3", "-c", f"{code}"]', prepare, told)
    for code in (
        "socket.getaddrinfo('db.example', 1)",
        "socket.socket().connect(('192.0.2.1', 1))",
    ):
        args = ["python3", "-c", f"import socket; {code}"]
        alone.test(TEST.format(prepare="pass", args=args)).run().ends(failed=1).shows(told)


def test_a_database_is_shown_with_its_folder(alone: Project) -> None:
    """sqlite's message has no path: the program's arguments and its output may have it."""
    folder = alone.folder / "data"
    folder.mkdir()
    told = (
        f'"{folder}" is a folder here, and not in the sandbox. To write to it, add '
        f"mounts={{'{folder}': '{folder}:rw'}} to the call."
    )
    code = f"import sqlite3; sqlite3.connect('{folder}/new.db').execute('create table a (b)')"
    tried(alone, repr(["python3", "-c", code]), "pass", told)
    assert (folder / "new.db").stat().st_size
    hidden = code.replace(f"'{folder}/new.db'", f"'/'.join({['', *folder.parts[1:], 'new.db']})")
    args = repr(["python3", "-c", hidden.replace("create table a", "create table c")])
    told = (
        "If the database lies in a folder of the host, add mounts={'FOLDER': 'FOLDER:rw'} to the "
        "call."
    )
    tried(alone, args, "pass", told, FOLDER=str(folder))


def test_a_module_of_sys_path_is_shown_with_its_folder(alone: Project) -> None:
    """The remedy shows the folder, and names it to Python."""
    folder = alone.folder / "lib"
    alone.write({"lib/mine_alone.py": "import beside_it", "lib/beside_it.py": ""})
    told = (
        f'"{folder}/mine_alone.py" is not found in the sandbox. To have it found as here, add '
        f"mounts={{'{folder}': '{folder}'}}, env={{'PYTHONPATH': '{folder}'}} to the call."
    )
    alone.write({"pytest.ini": "[pytest]\npythonpath = lib\n"})
    tried(alone, '["python3", "-c", "import mine_alone"]', "pass", told)


def test_a_library_of_a_variable_that_is_held_back_is_shown(
    alone: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader finds a library on the host by LD_LIBRARY_PATH, which no sandbox has by itself."""
    alone.write({"mine.c": "int mine(void) { return 0; }"})
    alone.write({"prog.c": "int mine(void); int main(void) { return mine(); }"})
    near, far = alone.folder / "lib", tmp_path_factory.mktemp("lib")
    near.mkdir()
    for folder, mounts in ((near, ""), (far, f"mounts={{'{far}': '{far}'}}, ")):
        for words in (["-shared", "-o", f"{folder}/libmine.so", "mine.c"],
                      ["-o", "prog", "prog.c", f"-L{folder}", "-lmine"]):  # fmt: skip
            subprocess.run(["cc", *words], cwd=alone.folder, check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{folder}")
        told = (
            f'"{folder}/libmine.so" is not found in the sandbox. To have it found as here, add '
            f"{mounts}env={{'LD_LIBRARY_PATH': '{folder}'}} to the call."
        )
        tried(alone, f'["{alone.folder}/prog"], project=True', "pass", told)


def test_a_folder_to_start_in_that_is_empty_inside_warns(alone: Project) -> None:
    """A test that starts in a folder of the host would find none of its files, and may pass."""
    test = """
        def test_it(gvisor, tmp_path):
            (tmp_path / "file").touch()
            assert gvisor.run(["ls"], cwd=tmp_path{more}).stdout == "{out}"
    """
    alone.write({"pytest.ini": "[pytest]"}).test(test.format(more="", out=""))
    ran = alone.run().ends(passed=1, warnings=1)
    folder = ran.basetemp.resolve() / "test_it0"
    ran.shows(
        f'PytestGvisorWarning: cwd="{folder}" is a folder here, and an empty one in the sandbox. '
        f"To show it, add mounts={{'{folder}': '{folder}'}} to the call.\n"
    )
    alone.test(test.format(more=", mounts={str(tmp_path): str(tmp_path)}", out="file\\n"))
    alone.run().ends(passed=1)


def test_the_command_line_has_its_own_remedy(script: Path, alone: Project) -> None:
    """The hint of `pytest-gvisor run` has options of it, and these show the file."""
    words = ["--", "python3", "tools/greet.py"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        tool = [sys.executable, "-m", "pytest_gvisor", "run"]
        return subprocess.run(
            [*tool, *more, *words], cwd=alone.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    told = f"--mount {script.parent}:{script.parent} --cwd {alone.folder}"
    assert run().stderr.splitlines()[-1] == (
        f'pytest-gvisor run: "{script}" exists here but not in the sandbox. To show it, add {told}.'
    )
    done = run(*shlex.split(told))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_is_not_there_is_told_alike_in_all_calls(alone: Project) -> None:
    """`run`, `exec` and `popen` name the program, where it was looked for, and the nearest name."""
    for call in ("gvisor.run", "gvisor_sandbox.exec", "gvisor_sandbox.popen"):
        alone.test(f"def test_it(gvisor, gvisor_sandbox):\n    {call}(['pyton3'])\n")
        ran = alone.run().ends(failed=1).hides("exit status -9", "runsc failed")
        errno = "" if call == "gvisor.run" else " [ENOENT: No such file or directory]"
        told = r'program "pyton3" was not found in the sandbox \(PATH=\S+\)' + re.escape(errno)
        assert re.search(
            rf'E +pytest_gvisor.\w+: {told}\nE +Did you mean "python3"\?\n', ran.output
        )
        if "popen" not in call:
            assert re.search(rf"\n-+ gvisor: pyton3 -+\n{told}\n-+ gvisor: to repeat", ran.output)
    alone.test("def test_it(gvisor_sandbox):\n    gvisor_sandbox.exec(['ls'], cwd='/no')\n")
    alone.run().ends(failed=1).shows(", or the folder cwd='/no' was not [ENOENT: ")


def test_mounts_may_be_written_as_dockers_users_write_them(alone: Project) -> None:
    """A mapping, texts and `bind` are alike; anything else is named, with the way to write it."""
    alone.write({"src/file": "shown", "data/old": ""}).test("""
        import pytest
        from pathlib import Path
        from pytest_gvisor import UsageError, bind

        WORDS = ["sh", "-c", "cat /app/file; echo new >/data/file"]

        @pytest.mark.parametrize("mounts", [
            {"src": "/app", "data": "/data:rw"}, {Path("src"): "/app:ro", Path("data"): "/data:rw"},
            ["src:/app", "data:/data:rw"], ("src:/app", bind("data", "/data", readonly=False)),
        ])
        def test_all(gvisor, mounts):
            assert gvisor.run(WORDS, mounts=mounts, check=True).stdout == "shown"
            assert Path("data/file").read_text() == "new\\n"
            Path("data/file").unlink()
            with gvisor.sandbox(mounts=mounts) as sandbox:
                assert sandbox.exec(WORDS, check=True).stdout == "shown"
            Path("data/file").unlink()

        @pytest.mark.parametrize("mounts", [["/a"], ["/a:/b:x"], {"/a": ""}, [3], "/a:/b", 3])
        def test_none(gvisor, mounts):
            with pytest.raises(UsageError) as caught:
                gvisor.run(["true"], mounts=mounts)
            first, second = str(caught.value).split("\\n")
            assert first.startswith(("mounts ", "mounts=")) and repr(mounts).strip("[]") in first
            assert second == 'Write mounts={"src": "/app", "data": "/data:rw"}, or ' \\
                'mounts=["src:/app", tmpfs("/x")].'
    """)
    alone.run().ends(passed=10)
