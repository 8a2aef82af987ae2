"""Draw the pictures of README from real runs: a failed test in a terminal, and the HTML report.

pictures.py FOLDER    (docs/pictures; the second picture needs chromium)
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 92
TEST = """\
def judge(run, source):
    done = run(["python3", "-c", source], timeout=10)
    return "accepted" if done.returncode == 0 else "runtime error"


def test_a_right_answer(gvisor):
    assert judge(gvisor.run, "print(6 * 7)") == "accepted"


def test_division(gvisor):
    done = gvisor.run(["python3", "-c", "print(84 // 2); print(1 / 0)"])
    assert done.returncode == 0
"""
DIFFERENCES = """\
def test_answer(gvisor):
    assert gvisor.run(["echo", "42"]).stdout == "42\\n"


def test_threads(gvisor):
    done = gvisor.run(["grep", "TracerPid", "/proc/self/status"])
    assert done.stdout == "TracerPid:\\t0\\n"


def test_many_processes(gvisor):
    script = "for i in 1 2 3 4 5 6 7 8; do /bin/true; done; echo done"
    assert gvisor.run(["sh", "-c", script], check=True).stdout == "done\\n"


def test_on_systrap_alone(gvisor, gvisor_platform):
    message = f"the program printed this on {gvisor_platform}"
    gvisor.run(["echo", message])
    assert gvisor_platform == "systrap"
"""
WINDOW = "1080,890"
# pytest prints a failure's whole message in its summary where CI or BUILD_NUMBER is set.
NOT_A_TERMINAL = {"CI", "BUILD_NUMBER", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "PYTEST_ADDOPTS"}


def run(folder: Path, *arguments: str) -> str:
    """Run pytest in a folder, as at a terminal; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_A_TERMINAL}
    environment |= {"COLUMNS": str(COLUMNS), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.stdout


def failure(folder: Path) -> str:
    """Return the output of pytest with a failed test, in colours."""
    (folder / "test_runner.py").write_text(TEST)
    return run(folder, "-q", "--color=yes", "--gvisor-platform=systrap", "test_runner.py")


def as_svg(output: str) -> str:
    """Return terminal output as an SVG without fonts of other servers."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    console.print(Text.from_ansi("$ pytest -q test_runner.py\n" + output), soft_wrap=False)
    svg = console.export_svg(title="pytest", unique_id="failure")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def text_of(svg: str) -> str:
    """Return the text of such an SVG without white space, with 0 for each number."""
    inner = "".join(re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL))
    plain = re.sub(r"(&#160;|\s)+", "", inner)
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "0", plain)


def draw_report(folder: Path, picture: Path) -> None:
    """Write a report of two platforms, and photograph it."""
    (folder / "test_runner.py").write_text(DIFFERENCES)
    run(folder, "--gvisor-platform=systrap,ptrace", "--gvisor-report=matrix.html")
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={WINDOW}",
         f"--screenshot={picture}", (folder / "matrix.html").as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip


def main(place: str) -> None:
    """Draw both pictures into a folder."""
    target = Path(place).absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "runner"
        folder.mkdir()
        (target / "failure.svg").write_text(as_svg(failure(folder)))
        draw_report(folder, target / "report.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
