"""The sections about sandboxes in the report of a failed test."""

import shlex
import subprocess

import pytest

from tests.plugin.conftest import Project


def test_a_failed_test_shows_how_each_run_ended(project: Project) -> None:
    """Each run has its end, its settings, and what it wrote; how to repeat the test comes once."""
    project.test("""
        def test_it(gvisor):
            gvisor.run(["true"])
            done = gvisor.run(["sh", "-c", "echo out; echo 'the reason' >&2; exit 3"], cwd="/tmp")
            assert done.returncode == 0
    """)
    ran = project.run("--gvisor-platform", "ptrace").ends(failed=1)
    ran.shows(" gvisor: true -", " gvisor: sh -c 'echo out; echo '\"'\"'the reason'")
    ran.shows("<Completed returncode=3 stdout='out\\n' stderr='the reason\\n' args=[")
    lines = ran.output.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("exit status 3 after "))
    assert lines[start].endswith(" s on ptrace, cwd='/tmp'")
    assert lines[start + 1 : start + 5] == ["stdout:", "| out", "stderr:", "| the reason"]
    assert len([line for line in lines if line.startswith("again: ")]) == 1
    ran.hides("ran: ", "env -i")


@pytest.mark.fault("B11", "B15")
def test_what_runsc_ignores_of_a_bundle_is_shown_where_its_test_fails(here: Project) -> None:
    """The notes of `Bundle.open`: the reader of a failure has not seen them."""
    here.test("""
        import json
        from pytest_gvisor import Bundle

        def test_it(gvisor, oci_bundle):
            made = oci_bundle(["true"])
            path = f"{made.path}/config.json"
            with open(path) as file:
                config = json.load(file)
            config["linux"]["maskedPaths"] = ["/proc/kcore"]
            config["annotations"] = {"dev.gvisor.flag.debug": "true"}
            config["root"]["path"] = str(made.spec.root.path).removeprefix(made.path + "/")
            with open(path, "w") as file:
                json.dump(config, file)
            assert gvisor.run_bundle(Bundle.open(made.path, allow_dangerous=True)).returncode == 1
    """)
    ran = here.run().ends(failed=1)
    assert "ignored by runsc" in ran.line("noted: linux.maskedPaths")
    assert "dev.gvisor.flag.debug" in ran.line("noted: dropped annotations")


def test_a_timeout_and_a_bundle_that_is_not_valid_have_their_sections(here: Project) -> None:
    """An error in the place of a result is shown as how the run ended."""
    here.test("""
        def test_timeout(gvisor):
            gvisor.run(["sh", "-c", "echo on the way >&2; sleep 1000"], timeout=10)

        def test_invalid(gvisor):
            gvisor.run(["true"], cwd="not absolute")
    """)
    ran = here.run().ends(failed=2)
    ran.shows("pytest_gvisor.WorkloadTimeout", "timed out after ", "InvalidBundle", "not absolute")
    ran.shows("| on the way")


def test_a_passed_test_shows_nothing(here: Project) -> None:
    """A test that passes, skips or fails as expected has no section, not even with `-rA`."""
    here.test("""
        import pytest

        def test_passes(gvisor):
            gvisor.run(["sh", "-c", "echo no >&2; exit 1"])

        def test_skips(gvisor):
            gvisor.run(["sh", "-c", "echo no >&2; exit 1"])
            pytest.skip("for a reason")

        @pytest.mark.xfail
        def test_fails_as_expected(gvisor):
            gvisor.run(["sh", "-c", "echo no >&2; exit 1"], check=True)
    """)
    ran = here.run("-rA", "--gvisor-debug").ends(passed=1, skipped=1, xfailed=1)
    ran.hides("ran: ", "| no", "strace", " gvisor: sh")


def test_a_failure_shows_what_each_traced_run_did(here: Project) -> None:
    """A program in a warm sandbox has its own. No section has more than 20 lines."""
    here.test(r"""
        CODE = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
        MANY = "for n in range(30): open(f'/tmp/\x1b[2J{n}', 'w').close()"

        def test_it(gvisor):
            gvisor.run(["python3", "-I", "-S", "-c", CODE])
            gvisor.run(["python3", "-I", "-S", "-c", MANY])
            gvisor.run(["true", "untraced"], trace=False)
            with gvisor.sandbox() as box:
                box.exec(["true", "in a warm one"])
            assert 0
    """)
    ran = here.run("--gvisor-trace").ends(failed=1)
    assert ran.output.count("- gvisor: what it did -") == 3
    ran.shows(
        "  connected: 127.0.0.1:9 (ECONNREFUSED), by process 1\n  executed: python3 -I -S -c ",
        r"  written, created: /tmp/\x1b[2J18, by process 1" "\n  …\n",
        "/true in a warm one, by process ",
    )
    ran.hides("2J19, by", "true untraced, by", "\x1b[2J")


def test_a_failure_in_teardown_has_the_sections_too(here: Project) -> None:
    """A fixture that fails in teardown shows the runs of its test."""
    here.test("""
        import pytest

        @pytest.fixture
        def fails():
            yield
            raise RuntimeError("in teardown")

        def test_it(fails, gvisor):
            gvisor.run(["echo", "hello"])
    """)
    here.run().ends(passed=1, errors=1).shows(" gvisor: echo hello -", "| hello")


def test_only_the_last_runs_of_many_are_shown(here: Project) -> None:
    """A test with many runs shows the last five, and only both ends of a long stderr."""
    here.test("""
        def test_it(gvisor):
            for n in range(7):
                gvisor.run(["sh", "-c", f"echo start{n} >&2; seq 10000 >&2; echo end{n} >&2"])
            assert 0
    """)
    ran = here.run().ends(failed=1).hides("| start1", "| end1").shows("| start2", "| end6")
    ran.shows("2 earlier runs of this test are not shown")
    assert len(ran.output) < 10_000


def test_both_ends_of_a_long_output_are_shown_and_where_the_rest_is(here: Project) -> None:
    """The place that the line names has the rest. The characters of few long lines are limited."""
    here.test("""
        import pytest
        from pytest_gvisor import WorkloadFailed

        LINES = [str(n) for n in range(1, 601)]

        def test_it(gvisor):
            done = gvisor.run(["seq", "600"])
            assert done.stdout.splitlines() == LINES
            with pytest.raises(WorkloadFailed) as caught:
                gvisor.run(["sh", "-c", "seq 600 >&2; exit 3"], check=True)
            assert caught.value.stderr.splitlines() == LINES
            gvisor.run(["sh", "-c", "seq 50; seq -s '' 9000 >&2"])
            pytest.fail("at the end")
    """)
    ran = here.run().ends(failed=1)
    shown = [line[2:] for line in ran.output.splitlines() if line.startswith("| ")]
    numbers = [str(n) for n in range(1, 601)]
    gap = "[… 550 lines between: {} of the result, or of the error, has them …]"
    for name in ("stdout", "stderr"):
        assert shown[:51] == [*numbers[:10], gap.format(name), *numbers[-40:]]
        del shown[:51]
    assert shown[:50] == numbers[:50]
    assert [len(line) for line in shown[51:]] == [4000]


def test_an_error_points_at_the_line_of_the_test(here: Project) -> None:
    """The traceback of a `GvisorError` ends at the call, unless ``--full-trace`` asks for all."""
    here.test("""
        import pytest

        @pytest.fixture
        def server(gvisor):
            gvisor.run(["false"], check=True)

        def test_it(gvisor):
            gvisor.run(["false"], check=True)

        def test_fixture(server):
            pass

        def test_another_error(gvisor):
            gvisor.run(7)
    """)
    ran = here.run().ends(failed=2, errors=1)
    ran.shows('>       gvisor.run(["false"], check=True)', "test_it.py:9: WorkloadFailed")
    ran.shows(">   ", "test_it.py:6: WorkloadFailed")
    ran.hides("runner.py", "gvisor.py", "completed.py")
    here.run("--full-trace").ends(failed=2, errors=1).shows("gvisor.py", "completed.py")


def test_an_unexpected_error_keeps_its_traceback(here: Project) -> None:
    """An error from elsewhere, such as in a hook, is shown with every frame."""
    here.test(
        "def test_it(gvisor): gvisor.run(['true'])",
        conftest="def pytest_gvisor_modify_spec(config_json): raise RuntimeError('in the hook')",
    )
    ran = here.run().ends(failed=1)
    ran.shows("RuntimeError: in the hook", "gvisor.py", "conftest.py:1")


def test_the_command_is_one_that_a_shell_takes(here: Project) -> None:
    """Quotes and newlines in the arguments survive in it, and do not break its section's title."""
    here.test(r"""
        def test_it(gvisor):
            done = gvisor.run(["sh", "-c", "echo \"it's\"\nexit 3"])
            print("WORDS", done.command)
            assert done.returncode == 0
    """)
    ran = here.run("--gvisor-debug").ends(failed=1)
    ran.shows(r"""- gvisor: sh -c 'echo "it'"'"'s"\nexit 3' -""")
    line = ran.line("ran: ").removeprefix("ran: ")
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words == shlex.split(ran.line("WORDS ").removeprefix("WORDS "))


def test_a_command_line_of_megabytes_is_cut(here: Project) -> None:
    """The report has its beginning; the run itself has all of it."""
    here.test(
        """
        def test_it(gvisor):
            done = gvisor.run(["sh", "-c", "echo $#", "sh", *["x" * 100] * 10_000])
            assert done.stdout == "9\\n"
        """
    )
    ran = here.run().ends(failed=1)
    ran.shows(" gvisor: sh -c 'echo $#' sh xxxx", "xx… -", "assert '10000\\n' == '9\\n'")
    assert len(ran.output) < 10_000


TEST = """
    def test_it(gvisor):
        done = gvisor.run(["cat", "/etc/hostname", "/no/such/file"])
        print("COMMAND", done.command)
        assert done.stdout == "gvisor\\n"
        assert done.stderr == "cat: /no/such/file: No such file or directory\\n"
        assert done.returncode == 0
"""


def test_a_failed_test_shows_boot_log_and_strace(here: Project) -> None:
    """The strace has the system calls of the workload, with their arguments and results."""
    ran = here.test(TEST).run("--gvisor-debug").ends(failed=1)
    ran.shows(": boot log -", ": strace -")
    _, _, strace = ran.output.partition(": strace -")
    lines = [line for line in strace.splitlines() if line.startswith("| ")]
    assert any("cat X openat(" in line and "/no/such/file" in line for line in lines)
    assert any("errno=2 (no such file or directory)" in line for line in lines)
    assert any("cat E exit_group(0x1)" in line for line in lines)


def test_without_it_there_are_neither(here: Project) -> None:
    """A failure without the option shows no logs, and runsc starts without them."""
    ran = here.test(TEST).run().ends(failed=1).hides(": boot log", ": strace", "ran: ")
    command = ran.line("COMMAND ")
    assert "--root" in command
    assert not {"--debug-log", "--strace"} & set(shlex.split(command))


def test_an_option_without_a_value_is_repeated_without_one(project: Project) -> None:
    """The option traces the run, so the test fails again as it did."""
    project.test("""
        def test_it(gvisor):
            assert gvisor.run(["true"]).trace is None
    """)
    ran = project.run("--gvisor-trace").ends(failed=1)
    (line,) = [line for line in ran.output.splitlines() if line.startswith("again: ")]
    words = shlex.split(line.removeprefix("again: python -m pytest "))
    assert words[-3:] == ["--gvisor-trace", "--gvisor-keep", "failed"]
    project.run(*words).ends(failed=1)
