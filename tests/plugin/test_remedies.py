"""Messages that end with a remedy, whole; and the remedy mends it, pasted as it is printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.plugin.conftest import Project, Ran

RUN = """
def test_{name}(gvisor):
    {prepare}
    done = gvisor.run({args}{more})
    assert done.returncode == 0, done.hint
"""
WARM = """
def test_{name}(gvisor):
    with gvisor.sandbox(timeout=100{more}) as sandbox:
        assert sandbox.exec({args}).stdout == "from the host\\n"
        assert sandbox.popen({args}).wait() == 0
"""
HEAD = "import pytest, socket\n"
MARKER = "\n@pytest.mark.gvisor(project=True)"
CALL = re.compile(r"add (.*?) to (?:the call|gvisor\.sandbox\(…\))")
PROJECT = (
    "; or the whole project, with @pytest.mark.gvisor(project=True) on the test, or "
    "gvisor_project = true in the ini file"
)
BY_PATH = " Call it by that path."


class Case(NamedTuple):
    """A call that fails, and the hint of its remedy."""

    args: str
    told: str
    then: str = ""
    """The arguments beside the remedy, if they are others."""

    prepare: str = "pass"
    test: str = RUN
    folder: str = "FOLDER"
    """The word that the reader has to replace."""


def tried(project: Project, cases: dict[str, Case], **environ: str) -> None:
    """Check the hint of each failing call, and that the call passes with what the hint adds."""

    def text(name: str, more: str, args: str) -> str:
        case = cases[name]
        return case.test.format(name=name, prepare=case.prepare, args=args, more=more)

    first = "".join(text(name, "", case.args) for name, case in cases.items())
    failures = by_test(project.test(HEAD + first).run(**environ).ends(failed=len(cases)))
    second = HEAD
    for name, (args, told, then, _, _, folder) in cases.items():
        assert re.search(rf"^(E +)?{re.escape(told)}$", failures[name], re.MULTILINE), name
        pasted = CALL.search(told)
        assert pasted, told
        second += text(name, f", {pasted[1]}".replace("FOLDER", folder), then or args)
    project.test(second).run(**environ).ends(passed=len(cases))


def by_test(ran: Ran) -> dict[str, str]:
    """The output of each failure, by the test's name."""
    _, *rest = re.split(r"^_+ test_(\w+) _+$", ran.output, flags=re.MULTILINE)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def shown(folder: Path, place: Path | None = None) -> str:
    """The remedy that shows a file or folder of the host, elsewhere if a place is given."""
    return f"add mounts={{'{folder}': '{place or folder}'}}"


@pytest.fixture
def script(here: Project) -> Path:
    """A program in a folder of the project, beside a module that it imports."""
    here.write({"tools/greet.py": "import beside", "tools/beside.py": "", "x/marker": ""})
    return here.folder / "tools/greet.py"


def test_a_program_is_shown_with_its_folder_and_where_it_starts(
    here: Project, script: Path
) -> None:
    """A relative path needs the folder to start in too, and a name on the host's PATH a path."""
    here.write({"bin/mytool": "#!/bin/sh\necho from the host\n"})
    tool, link, target = (
        here.folder / "bin/mytool",
        here.folder / "link",
        script.parent / "beside.py",
    )
    tool.chmod(0o755)
    link.symlink_to("tools/beside.py")
    not_here = "exists here but not in the sandbox. To show it,"
    of_tool = f'"{tool}" {not_here} {shown(tool.parent)} to the call{PROJECT}.'
    of_warm = f'"{tool}" {not_here} {shown(tool.parent)} to gvisor.sandbox(…).'
    by_path = f'["{tool}"]'
    cases = {
        "script": Case(
            '["python3", "tools/greet.py"]',
            f"\"{script}\" {not_here} {shown(script.parent)}, cwd='{here.folder}' to the call"
            f"{PROJECT}.",
        ),
        "path": Case(
            f'["python3", "{script}"]',
            f'"{script}" {not_here} {shown(script.parent)} to the call{PROJECT}.',
        ),
        "link": Case(
            f'["python3", "{link}"]',
            f'"{link}" {not_here} {shown(target, link)} to the call{PROJECT}.',
        ),
        "tool": Case(by_path, of_tool),
        "tool_by_name": Case('["mytool"]', of_tool + BY_PATH, then=by_path),
        "warm": Case(by_path, of_warm, test=WARM),
        "warm_by_name": Case('["mytool"]', of_warm + BY_PATH, then=by_path, test=WARM),
    }  # fmt: skip
    tried(here, cases, PATH=f"{tool.parent}:{os.environ['PATH']}")
    of_project = "".join(
        RUN.format(name=name, prepare="pass", args=cases[name].args, more="")
        for name in ("script", "tool")
    )
    marked = of_project.replace("\ndef", f"{MARKER}\ndef")
    here.test(HEAD + marked).run().ends(passed=2)
    here.test(HEAD + of_project).run("-o", "gvisor_project=true").ends(passed=2)


def test_a_folder_to_write_to_is_shown(here: Project, tmp_path: Path) -> None:
    """A shell and `touch` name the path of a file in a folder that is not there.

    sqlite's message has no path: the program's arguments and its output may have it.
    """
    data = here.folder / "data"
    data.mkdir()
    code = f"import sqlite3; sqlite3.connect('{data}/new.db').execute('create table a (b)')"
    hidden = code.replace(f"'{data}/new.db'", f"'/'.join({['', *data.parts[1:], 'new.db']})")

    def told(folder: Path) -> str:
        return (
            f'"{folder}" is a folder here, and not in the sandbox. To write to it, add '
            f"mounts={{'{folder}': '{folder}:rw'}} to the call."
        )

    tried(here, {
        "shell": Case(repr(["sh", "-c", f"echo 1 >{tmp_path}/new"]), told(tmp_path)),
        "touch": Case(repr(["touch", f"{tmp_path}/other"]), told(tmp_path)),
        "database": Case(repr(["python3", "-c", code]), told(data)),
        "hidden": Case(
            repr(["python3", "-c", hidden.replace("create table a", "create table c")]),
            "If the database lies in a folder of the host, add mounts={'FOLDER': 'FOLDER:rw'} to "
            "the call.",
            folder=str(data),
        ),
    })  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} >= {"new", "other"}
    assert (data / "new.db").stat().st_size


def test_a_sandbox_without_network_says_so(alone: Project) -> None:
    """A service of the host on 127.0.0.1 refuses, since that is the sandbox's own."""
    told = (
        "This sandbox has no network, and its 127.0.0.1 is its own. To have the host's, add "
        "network='host' to the call."
    )
    service = "global service; service = socket.create_server(('127.0.0.1', 0))"
    prepare = f"{service}; port = service.getsockname()[1]"
    code = "import socket; socket.create_connection(('127.0.0.1', {port}))"
    tried(alone, {"it": Case(f'["python3", "-c", f"{code}"]', told, prepare=prepare)})
    codes = {
        "name": "socket.getaddrinfo('db.example', 1)",
        "address": "socket.socket().connect(('192.0.2.1', 1))",
    }
    calls = {name: ["python3", "-c", f"import socket; {code}"] for name, code in codes.items()}
    texts = (RUN.format(name=x, prepare="pass", more="", args=args) for x, args in calls.items())
    alone.test(HEAD + "".join(texts))
    failures = by_test(alone.run().ends(failed=2))
    assert [name for name in codes if told not in failures[name]] == []


def test_what_a_variable_or_setting_finds_on_the_host_is_shown(
    here: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A module of sys.path is named to Python, and a library of LD_LIBRARY_PATH to the loader.

    No sandbox has such a variable by itself.
    """
    folder, far = here.folder / "lib", tmp_path_factory.mktemp("lib")
    here.write({
        "lib/mine_alone.py": "import beside_it", "lib/beside_it.py": "",
        "pytest.ini": "[pytest]\npythonpath = lib\n",
    })  # fmt: skip

    def told(path: Path, added: str) -> str:
        found = "is not found in the sandbox. To have it found as here, add"
        return f'"{path}" {found} {added} to the call.'

    added = f"mounts={{'{folder}': '{folder}'}}, env={{'PYTHONPATH': '{folder}'}}"
    call = '["python3", "-c", "import mine_alone"]'
    cases = {"module": Case(call, told(folder / "mine_alone.py", added))}
    for name, place, mounts in (
        ("near", folder, ""), ("far", far, f"mounts={{'{far}': '{far}'}}, "),
    ):  # fmt: skip
        here.write({f"{name}.c": f"int {name}(void) {{ return 0; }}"})
        here.write({f"use_{name}.c": f"int {name}(void); int main(void) {{ return {name}(); }}"})
        for words in (["-shared", "-o", f"{place}/lib{name}.so", f"{name}.c"],
                      ["-o", name, f"use_{name}.c", f"-L{place}", f"-l{name}"]):  # fmt: skip
            subprocess.run(["cc", *words], cwd=here.folder, check=True)
        cases[name] = Case(
            f'["{here.folder}/{name}"], project=True',
            told(place / f"lib{name}.so", f"{mounts}env={{'LD_LIBRARY_PATH': '{place}'}}"),
        )
    tried(here, cases, LD_LIBRARY_PATH=f"/nowhere:{folder}:{far}")


def test_a_folder_to_start_in_that_is_empty_inside_warns(alone: Project) -> None:
    """A test that starts in a folder of the host would find none of its files, and may pass."""
    alone.write({"pytest.ini": "[pytest]"}).test("""
        def test_empty(gvisor, tmp_path):
            (tmp_path / "file").touch()
            assert gvisor.run(["ls"], cwd=tmp_path).stdout == ""

        def test_shown(gvisor, tmp_path):
            (tmp_path / "file").touch()
            mounts = {str(tmp_path): str(tmp_path)}
            assert gvisor.run(["ls"], cwd=tmp_path, mounts=mounts).stdout == "file\\n"
    """)
    ran = alone.run().ends(passed=2, warnings=1)
    folder = ran.basetemp.resolve() / "test_empty0"
    ran.shows(
        f'PytestGvisorWarning: cwd="{folder}" is a folder here, and an empty one in the sandbox. '
        f"To show it, add mounts={{'{folder}': '{folder}'}} to the call.\n"
    )


def test_the_command_line_has_its_own_remedy(script: Path, here: Project) -> None:
    """The hint of `pytest-gvisor run` has options of it, and these show the file."""
    words = ["--", "python3", "tools/greet.py"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        tool = [sys.executable, "-m", "pytest_gvisor", "run"]
        return subprocess.run(
            [*tool, *more, *words], cwd=here.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    told = f"--mount {script.parent}:{script.parent} --cwd {here.folder}"
    assert run().stderr.splitlines()[-1] == (
        f'pytest-gvisor run: "{script}" exists here but not in the sandbox. To show it, add {told}.'
    )
    done = run(*shlex.split(told))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_is_not_there_is_told_alike_in_all_calls(here: Project) -> None:
    """`run`, `exec` and `popen` name the program, where it was looked for, and the nearest name."""
    here.test("""
        def test_run(gvisor):
            gvisor.run(["pyton3"])

        def test_exec(gvisor_sandbox):
            gvisor_sandbox.exec(["pyton3"])

        def test_popen(gvisor_sandbox):
            gvisor_sandbox.popen(["pyton3"])

        def test_folder(gvisor_sandbox):
            gvisor_sandbox.exec(["ls"], cwd="/no")
    """)
    failures = by_test(here.run().ends(failed=4).hides("exit status -9", "runsc failed"))
    for call in ("run", "exec", "popen"):
        errno = "" if call == "run" else " [ENOENT: No such file or directory]"
        told = r'program "pyton3" was not found in the sandbox \(PATH=\S+\)' + re.escape(errno)
        raised = rf'E +pytest_gvisor.\w+: {told}\nE +Did you mean "python3"\?\n'
        assert re.search(raised, failures[call])
        if call != "popen":
            section = rf"\n-+ gvisor: pyton3 -+\n{told}\n-+ gvisor: to repeat"
            assert re.search(section, failures[call])
    assert ", or the folder cwd='/no' was not [ENOENT: " in failures["folder"]


def test_mounts_may_be_written_as_dockers_users_write_them(here: Project) -> None:
    """A mapping, texts and `bind` are alike; anything else is named, with the way to write it."""
    here.write({"src/file": "shown", "data/old": ""}).test("""
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
    here.run().ends(passed=10)
