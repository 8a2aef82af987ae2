"""The markers: their effects, their places, and the errors for wrong ones."""

import pytest

from tests.plugin.conftest import Project

BAD = {
    '"host"': "takes keywords only, not ('host',)",
    'networ="none"': "'networ' is not a setting; did you mean network; there are platform",
    "timeout=0": "timeout=0 is not a finite number of seconds above 0",
    'timeout="soon"': "timeout='soon' is not a number of seconds",
    "timeout=True": "timeout=True is not a number of seconds",
    'network="lan"': "network='lan' is not one of none, sandbox, host",
    "network=None": "network=None is not a word",
    'platform="KVM!"': "platform='KVM!' is not one of systrap, kvm, ptrace",
    "platform=[]": "platform names nothing",
    'rootless="yes"': "rootless='yes' is not one of auto, on, off",
    "runsc=7": "runsc=7 is not a path",
    "memory=1.5": "memory=1.5 is not a size",
    "pids=-1": "pids=-1 is not a whole number of at least 0",
    'cpus="2"': "cpus='2' is not a number",
    "shm=1.5": "shm=1.5 is not a size",
    "nofile=64": "nofile is removed. Write `ulimit -n N` before pytest",
    "max_output=True": "max_output=True is not a whole number",
    "strict=True": "strict is decided on the command line, not by a marker",
    'keep="all"': "keep is decided on the command line, not by a marker",
    "xfail=True": "xfail=True is not {'PLATFORM': 'reason'}",
    'xfail={"KVM!": "x"}': "xfail='KVM!' is not one of systrap, kvm, ptrace",
    'xfail={"ptrace": ""}': "xfail={'ptrace': ''} has no reason in words",
    'forbid=["conect"]': "forbid: 'conect' is no act; did you mean connect; there are read, write",
    'forbid="exec"': "forbid='exec' is not a list such as ['connect', 'write:/app/**']",
    'forbid=["write:app/**"]': "forbid: 'write:app/**' matches nothing: a pattern is of a whole",
    'allow=["pypi.org"]': "allow: 'pypi.org' is not HOST:PORT",
    "debug=True": "debug is decided on the command line, not by a marker",
}


def test_a_bad_gvisor_marker_is_an_error_that_names_the_test(project: Project) -> None:
    """Each wrong argument fails the collection of its file, with the test and its line."""
    project.write(
        {
            f"test_{number}.py": f"""
                import pytest

                @pytest.mark.gvisor({argument})
                def test_bad():
                    pass
            """
            for number, argument in enumerate(BAD)
        }
    )
    ran = project.run()
    # Each of xdist's workers collects, and reports it.
    assert ran.outcomes() == {"errors": len(BAD) * (2 if project.distributed else 1)}
    ran.exits(pytest.ExitCode.INTERRUPTED if not project.distributed else 1)
    ran.hides("During handling", "direct cause")
    for number, message in enumerate(BAD.values()):
        ran.shows(f"test_{number}.py::test_bad (test_{number}.py:4): ")
        assert any(
            line.startswith(f"test_{number}.py::test_bad (") and message in line
            for line in ran.output.splitlines()
        ), message


def test_a_bad_marker_of_a_class_or_module_is_reported_at_its_tests(here: Project) -> None:
    """A bad marker of a class or module names the first test that it applies to."""
    here.write(
        {
            "test_class.py": """
                import pytest

                @pytest.mark.gvisor(timeout=0)
                class TestIt:
                    def test_bad(self):
                        pass
            """,
            "test_module.py": """
                import pytest

                pytestmark = pytest.mark.gvisor("host")

                def test_bad():
                    pass
            """,
        }
    )
    ran = here.run().shows("test_class.py::TestIt::test_bad (test_class.py:6): ")
    ran.shows("test_module.py::test_bad (test_module.py:6): ")


def test_the_closest_marker_wins_setting_by_setting(here: Project) -> None:
    """Function before class before module before the command line; each adds to the others."""
    here.test("""
        import pytest

        pytestmark = [pytest.mark.gvisor(timeout=1, max_output=10), pytest.mark.gvisor(pids=5)]

        def seen(gvisor):
            s = gvisor.settings
            return s.timeout, s.max_output, s.pids, s.network

        def test_module(gvisor):
            assert seen(gvisor) == (1, 10, 5, "host")

        @pytest.mark.gvisor(timeout=2, network="none")
        class TestIt:
            def test_class(self, gvisor):
                assert seen(gvisor) == (2, 10, 5, "none")

            @pytest.mark.gvisor(timeout=3)
            def test_function(self, gvisor):
                assert seen(gvisor) == (3, 10, 5, "none")

            @pytest.mark.gvisor(timeout=3)
            @pytest.mark.gvisor(timeout=4, max_output=20)
            def test_lower_decorator(self, gvisor):
                assert seen(gvisor) == (4, 20, 5, "none")
    """)
    here.run("--gvisor-network", "host", "--gvisor-timeout", "9").ends(passed=4)


@pytest.mark.parametrize(
    "options",
    [["--gvisor-allow=127.0.0.1:9,127.0.0.1:10"], ["-o", "gvisor_allow=127.0.0.1:9,127.0.0.1:10"]],
)
def test_sandboxes_have_the_allow_list_of_the_session(here: Project, options: list[str]) -> None:
    """Warm ones and those of `gvisor.run`. A marker's list counts first."""
    here.test("""
        import pytest

        def entries(sandbox):
            return [one.entry for one in sandbox.exec(["true"]).egress.entries]

        def test_warm(gvisor_sandbox):
            assert entries(gvisor_sandbox) == ["127.0.0.1:9", "127.0.0.1:10"]

        @pytest.mark.gvisor(allow=["127.0.0.1:11"])
        def test_own(gvisor_sandbox):
            assert entries(gvisor_sandbox) == ["127.0.0.1:11"]

        def test_run(gvisor):
            assert gvisor.run(["true"]).egress.entries[0].entry == "127.0.0.1:9"

    """)
    here.run(*options).ends(passed=3)


MISUSES = {
    "requires_platform": 'write @pytest.mark.requires_platform("systrap"), not with () {}',
    "requires_platform()": 'write @pytest.mark.requires_platform("systrap"), not with () {}',
    'requires_platform("kvm", "ptrace")': "not with ('kvm', 'ptrace') {}",
    'requires_platform(name="kvm")': "not with () {'name': 'kvm'}",
    'requires_platform("kvn")': "platform='kvn' is not one of systrap, kvm, ptrace, and no runsc",
    "requires_platform(None)": "requires_platform=None is not a word",
    "requires_runsc(True)": "requires_runsc=True is not a text such as '>=20240729'",
    "requires_kvm(strict=True)": "write @pytest.mark.requires_kvm, not with () {'strict': True}",
}


def test_a_misused_requirement_fails_its_test_and_names_it(here: Project) -> None:
    """A misused requirement fails its test, and never skips it."""
    decorated = [
        f"@pytest.mark.{marker}\ndef test_{number}(): pass\n"
        for number, marker in enumerate(MISUSES)
    ]
    here.test("import pytest\n" + "".join(decorated))
    ran = here.run().ends(errors=len(MISUSES)).hides("During handling")
    for number, message in enumerate(MISUSES.values()):
        assert message in ran.line(f"test_it.py::test_{number} (test_it.py:{2 + 2 * number}): ")
