"""``scripts/demo``: its last line, and the lines that say how far it is."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# In the place of .venv's Python: the verdicts on platforms, and a pytest.
PYTHON = """#!/bin/bash
case "$*" in
*platforms.py*kvm) printf 'runsc\\t/x/runsc\\t20260905.0\\nkvm\\t%s\\n' "$KVM" ;;
*platforms.py*) printf 'runsc\\t/x/runsc\\t20260905.0\\nsystrap\\tworks\\nptrace\\tworks\\n' ;;
*) echo "pytest: ${*: -2}" ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("kvm", "runs", "last"),
    [
        ("works", ["systrap,ptrace -q", "kvm -q"], "on systrap,ptrace,kvm, "),
        ("no\tno device", ["systrap,ptrace -q"], "on systrap,ptrace, "),
    ],
)
def test_the_last_line_says_what_the_demo_has_shown(
    kvm: str, runs: list[str], last: str, tmp_path: Path
) -> None:
    """Platforms, what ran there, the release and its path."""
    for name in ("common.sh", "demo"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    script(tmp_path / "scripts/setup", "#!/bin/sh\n")
    script(tmp_path / ".venv/bin/python", PYTHON)
    script(tmp_path / ".build/runsc-path", "/x/runsc\n")
    demo = [str(tmp_path / "scripts/demo"), "-q"]
    done = subprocess.run(demo, env={"KVM": kvm}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[8:] for line in lines if line.startswith("pytest: ")] == runs
    assert lines[-1] == (
        f"demo: {last}the examples have run programs, images, warm sandboxes and tests under "
        "gVisor, with runsc 20260905.0 (/x/runsc)"
    )
    assert ("demo: not on kvm: no device" in lines) == (kvm != "works")


def test_a_quiet_command_is_told_of_before_ten_seconds_have_passed(tmp_path: Path) -> None:
    """The line has the end of the command's output. A scripted ``sleep`` counts the seconds."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    (tmp_path / ".build").mkdir()
    slept, told = tmp_path / "slept", tmp_path / "told"
    until = "until [ -e {} ]; do :; done"
    script(
        tmp_path / "bin/sleep",
        f"#!/bin/sh\n{until.format(tmp_path / 'began')}\necho >> {slept}\n"
        f"[ $(wc -l < {slept}) -lt 10 ] || : > {told}\n",
    )
    script(
        tmp_path / "bin/long",
        f"#!/bin/sh\necho step one\n: > {tmp_path / 'began'}\n{until.format(told)}\n",
    )
    script(
        tmp_path / "scripts/try",
        '. "$(dirname "$0")/common.sh"\ntell_how_far\nquietly long\nstop_telling\n',
    )
    done = subprocess.run(
        ["bash", tmp_path / "scripts/try"],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "try: 9 s: step one"
