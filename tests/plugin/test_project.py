"""``project=True`` and ``gvisor_project``: workloads see the project without its secrets."""

import re
import subprocess

from tests.plugin.conftest import Project

SECRETS = (".env", "sub/.ENV.local", 'sub/deep/it\'s "x"\n.pem', ".git/config", "private/token")

TESTS = """
    import os
    import pytest

    HERE = os.path.dirname(__file__)
    LOOK = "pwd; cat tool.txt; find . -type f -exec cat {} +; echo > new"

    @pytest.mark.gvisor(project=True)
    def test_marker(gvisor, gvisor_sandbox):
        for run in (gvisor.run, gvisor_sandbox.exec):
            done = run(["sh", "-c", LOOK])
            assert done.stdout.startswith(f"{HERE}\\nshown\\n")
            assert "SECRET" not in done.stdout.splitlines()
            assert "Read-only file system" in done.stderr

    def test_call(gvisor, oci_bundle):
        assert gvisor.run(["test", "-e", HERE]).returncode == 1
        whole = gvisor.run(["cat", "tool.txt", ".env"], project=True, cwd=HERE)
        assert whole.stdout == "shown\\n"
        bundle = oci_bundle(["cat", "tool.txt", ".env"], project=True)
        assert gvisor.run_bundle(bundle).stdout == "shown\\n"

    def test_kept(gvisor):
        gvisor.run(["cat", "tool.txt", ".env"], project=True)
        assert 0
"""


def prepare(project: Project) -> None:
    """Write a project with secrets in files and folders of several names."""
    for name in SECRETS:
        path = project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SECRET\n")
    (project.folder / "tool.txt").write_text("shown\n")


def test_a_workload_sees_the_project_and_none_of_its_secrets(here: Project) -> None:
    """A workload starts there and writes nothing, and a kept run shows no more than the run."""
    prepare(here)
    here.test(TESTS)
    ran = here.run("-o", "gvisor_project_hidden=private", "--gvisor-keep=failed")
    ran.ends(passed=2, failed=1)
    (script,) = re.findall(r"repeat it with (\S+/replay\.sh)", ran.output)
    again = subprocess.run(["sh", script], capture_output=True, timeout=60, check=False)
    assert again.stdout == b"shown\n"


def test_the_ini_key_is_for_every_workload(here: Project) -> None:
    """A call may be without it all the same; a mistake in the other key is an error."""
    prepare(here)
    here.test("""
        def test_it(gvisor):
            assert gvisor.run(["cat", "tool.txt"]).stdout == "shown\\n"
            assert gvisor.run(["pwd"], project=False).stdout == "/\\n"
            seen = gvisor.run(["cat", "private/token", ".env"]).stdout
            assert seen == "SECRET\\nSECRET\\n"
    """)
    here.run("-o", "gvisor_project=true", "-o", "gvisor_project_hidden=!.env*").ends(passed=1)
    wrong = here.run("-o", "gvisor_project_hidden=!.envy").ends(errors=1)
    wrong.shows('gvisor_project_hidden: "!.envy" takes away a pattern that is not in the list')
