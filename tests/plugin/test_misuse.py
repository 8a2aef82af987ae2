"""Misuse that is an error: forks, scopes, calls with wrong arguments."""

from tests.plugin.conftest import Project


def test_a_fork_of_pytest_cannot_start_sandboxes(alone: Project) -> None:
    """A run in a child that a test forked is a `LaunchError`; the parent goes on as before."""
    alone.test("""
        import os
        import pytest

        @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
        @pytest.mark.parametrize("first", [True, False])
        def test_it(gvisor, first):
            if first:
                gvisor.run(["true"], check=True)
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                said = "nothing"
                try:
                    gvisor.run(["true"])
                except BaseException as error:
                    said = f"{type(error).__name__} {error.stage} {error}"
                finally:
                    os.write(writer, said.encode())
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as pipe:
                said = pipe.read()
            os.waitpid(pid, 0)
            assert said.startswith("LaunchError fork the launch failed at fork: this process is")
            assert gvisor.run(["echo", "on"]).stdout == "on\\n"
    """)
    alone.run().ends(passed=2)


def test_a_wider_scope_cannot_have_a_tests_sandbox(alone: Project) -> None:
    """A module's or session's fixture that asks for ``gvisor`` gets pytest's own scope error."""
    alone.test("""
        import pytest

        @pytest.fixture(scope="module")
        def server(gvisor):
            return gvisor

        @pytest.fixture(scope="session")
        def binary(runsc):
            return runsc.path

        def test_module(server):
            pass

        def test_session(binary):
            assert binary.endswith("runsc")
    """)
    ran = alone.run().ends(passed=1, errors=1)
    ran.shows("ScopeMismatch: You tried to access the function scoped fixture gvisor")


def test_calls_that_cannot_be_meant_are_usage_errors(alone: Project) -> None:
    """A lone string, a setting of a whole test, an unknown one: nothing is started."""
    alone.test("""
        import pytest
        from pytest_gvisor import UsageError

        @pytest.mark.parametrize(
            ("args", "options", "message"),
            [
                ("echo hello", {}, "is not a list"),
                ([b"echo"], {}, "neither a string nor a path"),
                (["true"], {"platform": "ptrace"}, "platform is decided for a whole test"),
                (["true"], {"strict": True}, "strict is decided for a whole test"),
                (["true"], {"networ": "none"}, "'networ' is not a setting.* mean network"),
                (["true"], {"mount": []}, "mean mounts(.|\\n)*There are mounts, env, cwd"),
                (["true"], {"timeout": 0}, "timeout=0 is not a finite number"),
                (["true"], {"netns": "/run/x"}, "netns needs network='sandbox'"),
            ],
        )
        def test_it(gvisor, args, options, message):
            with pytest.raises(UsageError, match=message):
                gvisor.run(args, **options)
    """)
    alone.run().ends(passed=8)
