"""The hooks that a conftest.py may implement."""

from tests.plugin.conftest import Project


def test_modify_spec_changes_what_runs(here: Project) -> None:
    """``pytest_gvisor_modify_spec`` gets the test and config.json's content, and may change it."""
    here.test(
        """
        def test_name(gvisor):
            assert gvisor.run(["hostname"]).stdout == "test-name\\n"

        def test_bundle(gvisor, oci_bundle):
            bundle = oci_bundle(["hostname"])
            assert gvisor.run_bundle(bundle).stdout == "test-bundle\\n"

        def test_untouched(gvisor):
            assert gvisor.run(["hostname"]).stdout == "gvisor\\n"
        """,
        conftest="""
        def pytest_gvisor_modify_spec(item, config_json):
            assert config_json["process"]["args"] == ["hostname"]
            if item.name != "test_untouched":
                config_json["hostname"] = item.name.replace("_", "-")
        """,
    )
    here.run().ends(passed=3)


def test_a_changed_spec_is_validated_like_any_other(here: Project) -> None:
    """All problems of a hook's spec are reported, and nothing runs."""
    here.test(
        """
        def test_it(gvisor):
            gvisor.run(["echo", "was started"])
        """,
        conftest="""
        def pytest_gvisor_modify_spec(config_json):
            config_json["hooks"] = {"prestart": [{"path": "/bin/true"}]}
            config_json["process"]["noNewPriviliges"] = True
            config_json["process"]["cwd"] = "relative"
        """,
    )
    ran = here.run().ends(failed=1).shows("InvalidBundle: config.json: 3 problems")
    ran.shows("hooks", "process.noNewPriviliges", "process.cwd").hides("ran: env")


def test_runsc_args_are_passed(here: Project) -> None:
    """Flags from several hooks are added, before the subcommand."""
    here.test(
        """
        def test_it(gvisor):
            command = gvisor.run(["true"], check=True).command
            flags, _, _ = command.partition(" run --bundle ")
            assert "--net-raw" in flags
            assert "--host-fifo=none" in flags

        def test_other(gvisor):
            assert "--net-raw" not in gvisor.run(["true"]).command
        """,
        conftest="""
        def pytest_gvisor_runsc_args(item):
            if item.name == "test_it":
                return ["--net-raw"]
        """,
        plugin="""
        def pytest_gvisor_runsc_args():
            return ["--host-fifo=none"]
        """,
    )
    here.run("-p", "plugin").ends(passed=2)


def test_a_flag_that_cannot_be_passed_is_a_usage_error(here: Project) -> None:
    """A flag that a setting decides, an unknown flag and any other value are usage errors."""
    flags = {
        "--platform=kvm": "--platform is decided by a setting of pytest-gvisor",
        "-rootless": "--rootless is decided by a setting of pytest-gvisor",
        "--overlay2=none": "--overlay2 is decided by a setting of pytest-gvisor",
        "--no-such-flag": "this runsc has no flag --no-such-flag",
        "boot": "'boot' is not a flag",
    }
    here.test(
        f"""
        import pytest

        @pytest.mark.parametrize("flag", {list(flags)!r})
        def test_it(gvisor, flag):
            gvisor.run(["echo", "was started"])
        """,
        conftest="""
        def pytest_gvisor_runsc_args(item):
            return [item.callspec.params["flag"]]
        """,
    )
    ran = here.run().ends(failed=len(flags)).hides("ran: env")
    for message in flags.values():
        ran.shows(f"UsageError: {message}")


def test_run_finished_hears_of_every_end(here: Project) -> None:
    """``pytest_gvisor_run_finished`` gets the result, the error, or both, for each run."""
    here.test(
        """
        import pytest
        from pytest_gvisor import GvisorError

        def test_result(gvisor):
            gvisor.run(["sh", "-c", "exit 3"])
            gvisor.run(["echo", "again"])

        def test_both(gvisor):
            with pytest.raises(GvisorError):
                gvisor.run(["sh", "-c", "echo partly; sleep 1000"], timeout=10)

        def test_error(gvisor):
            with pytest.raises(GvisorError):
                gvisor.run(["true"], cwd="relative")

        def test_status_asked_for(gvisor):
            with pytest.raises(GvisorError):
                gvisor.run(["false"], check=True)
        """,
        conftest="""
        from pathlib import Path

        def pytest_gvisor_run_finished(item, completed, error):
            shown = None if completed is None else (str(completed.outcome), completed.stdout)
            with Path(__file__).with_name("heard").open("a") as file:
                file.write(f"{item.name} {shown} {type(error).__name__}\\n")
        """,
    )
    ran = here.run().ends(passed=4)
    heard = sorted(ran.lines("heard"))
    assert heard == [
        "test_both ('timed out', 'partly\\n') WorkloadTimeout",
        "test_error None InvalidBundle",
        "test_result ('exited', '') NoneType",
        "test_result ('exited', 'again\\n') NoneType",
        "test_status_asked_for ('exited', '') NoneType",
    ]


def test_sandboxes_that_belong_to_no_one_test_have_no_hooks_and_are_not_kept(here: Project) -> None:
    """Sandboxes of the session and of tests inside have no hooks; a warm one has each once."""
    here.test(
        """
        import pytest

        def test_shared(gvisor_sandboxes):
            gvisor_sandboxes().exec(["true"])

        @pytest.mark.in_gvisor
        def test_inside(): ...

        def test_warm(gvisor_sandbox):
            for _ in range(2):
                with pytest.raises(Exception, match="exit status 1"):
                    gvisor_sandbox.exec(["false"], check=True)
        """,
        conftest="""
        def pytest_gvisor_run_finished(item, completed, error):
            with (item.config.rootpath / "finished").open("a") as file:
                file.write(f"{item.name} {error}\\n")
        """,
    )
    ran = here.run("--gvisor-keep=all").ends(passed=3)
    assert ran.lines("finished") == ["test_warm None"]
    assert len(ran.kept()) == 1
