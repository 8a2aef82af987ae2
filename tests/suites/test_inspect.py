"""The sandbox provider for inspect_ai: inspect_ai's own checks of it, and an evaluation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suites.compare import FETCHED

CHECKS = """
import asyncio, sys, traceback
from inspect_ai.util._sandbox import self_check
from pytest_gvisor.harness.inspect_provider import GvisorSandboxConfig, GvisorSandboxEnvironment

async def main(platform, user):
    config = GvisorSandboxConfig(platform=platform, user=user)
    await GvisorSandboxEnvironment.task_init("checks", config)
    boxes = await GvisorSandboxEnvironment.sample_init("checks", config, {})
    failed = []
    for name in self_check.__all__:
        try:
            await getattr(self_check, name)(boxes["default"])
        except Exception:
            traceback.print_exc()
            failed.append(name)
    await GvisorSandboxEnvironment.sample_cleanup("checks", config, boxes, False)
    await GvisorSandboxEnvironment.task_cleanup("checks", config, True)
    print(len(self_check.__all__), *failed)

asyncio.run(main(*sys.argv[1:]))
"""

HOSTILE = """
import asyncio, resource, sys
from pytest_gvisor.harness.inspect_provider import GvisorSandboxConfig, GvisorSandboxEnvironment

async def main(platform):
    config = GvisorSandboxConfig(platform=platform, user="0:0")
    await GvisorSandboxEnvironment.task_init("hostile", config)
    boxes = await GvisorSandboxEnvironment.sample_init("hostile", config, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for write in ("truncate -s 500M", "echo u:x:1:many::/: | tee"):
        await boxes["default"].exec(["sh", "-c", write + " /etc/passwd"])
        print((await boxes["default"].exec(["id"], user="u")).stderr)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)
    await GvisorSandboxEnvironment.sample_cleanup("hostile", config, boxes, False)
    await GvisorSandboxEnvironment.task_cleanup("hostile", config, True)

asyncio.run(main(*sys.argv[1:]))
"""

EVALUATION = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageTool, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, scorer
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash
from inspect_ai.util import sandbox

def answer(messages, *_):
    last = messages[-1]
    if isinstance(last, ChatMessageTool):
        said = ModelOutput.from_content("mockllm/model", last.text)
    else:
        command = {"command": "tee -a answer.txt < question.txt; echo; id -u; dmesg | head -1"}
        said = ModelOutput.for_tool_call("mockllm/model", "bash", command)
    said.usage = ModelUsage()  # without one, it downloads what counts tokens
    return said

@scorer(metrics=[accuracy()])
def wrote():
    async def score(state, target):
        text = await sandbox().read_file("answer.txt")
        said = state.output.completion
        right = text == target.text and said.startswith(f"{target.text}\\n1000\\n")
        return Score(value=1 if right and "gVisor" in said else 0, explanation=said)
    return score

task = Task(
    dataset=[
        Sample(input="Copy it.", target=f"text {n}", files={"question.txt": f"text {n}"})
        for n in range(10)
    ],
    setup=use_tools(bash(timeout=60)),
    solver=generate(),
    scorer=wrote(),
    sandbox="gvisor",
)
(log,) = eval(
    task, model=get_model("mockllm/model", custom_outputs=answer), log_dir=sys.argv[1],
    display="none", log_realtime=False,
)
assert log.status == "success", log.error
print(len(log.samples), log.results.scores[0].metrics["accuracy"].value)
for sample in log.samples:
    if sample.scores["wrote"].value != 1:
        print(sample.scores, file=sys.stderr)
"""


def run(script: str, *args: str) -> str:
    """The output of a program that has inspect_ai, and this checkout."""
    site = FETCHED / "inspect_ai/site"
    assert site.is_dir(), f"{site} is not there: run scripts/suites"
    env = {**os.environ, "PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("user", "failed"),
    [
        ("1000:1000", []),
        (
            "0:0",
            [
                "test_read_file_not_allowed",
                "test_write_binary_file_without_permissions",
                "test_write_text_file_without_permissions",
            ],
        ),
    ],
)
def test_the_checks_of_inspect_pass(gvisor_platform: str, user: str, failed: list[str]) -> None:
    """All of them for an ordinary user; root has the permissions that three of them refuse."""
    words = run(CHECKS, gvisor_platform, user).split()
    assert (words[0], sorted(words[1:])) == ("44", failed)


def test_a_sample_s_list_of_users_fills_no_memory(gvisor_platform: str) -> None:
    """A list that is too long, or has a group that is no number, names nobody."""
    nobody = "there is no user u in /etc/passwd\n"
    assert run(HOSTILE, gvisor_platform) == f"{nobody}{nobody}True\n"


def test_ten_samples_are_evaluated(tmp_path: Path) -> None:
    """Each in a sandbox of its own, by the name of the provider alone; a model calls the shell."""
    assert run(EVALUATION, str(tmp_path)) == "10 1.0\n"
