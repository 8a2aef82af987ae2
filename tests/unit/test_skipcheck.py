import os
from pathlib import Path

import pytest

from tests.skipcheck import ALLOWED, Rule, read_rules

LEG = "root" if os.geteuid() == 0 else "user"
OTHER_LEG = "user" if LEG == "root" else "root"


def test_a_rule_without_a_leg_allows_its_reason_in_both() -> None:
    rule = Rule.parse("no Debian archive*")
    assert rule.allows("no Debian archive: this machine is not Debian", "root")
    assert rule.allows("no Debian archive", "user")


def test_a_rule_with_a_leg_allows_its_reason_in_that_leg_only() -> None:
    rule = Rule.parse("[user] needs root: *")
    assert rule.allows("needs root: a veth pair", "user")
    assert not rule.allows("needs root: a veth pair", "root")


def test_a_rule_is_matched_against_the_whole_reason_and_literally() -> None:
    rule = Rule.parse("no python3.11 on this machine")
    assert not rule.allows("no python3x11 on this machine", "root")
    assert not rule.allows("well, no python3.11 on this machine", "root")


@pytest.mark.parametrize("line", ["[roots] needs root: *", "[] a reason", "[root]"])
def test_a_rule_with_an_unknown_leg_or_no_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a rule"):
        Rule.parse(line)


def test_the_list_gives_a_reason_for_each_rule_in_a_comment_above() -> None:
    lines = ALLOWED.read_text().splitlines()
    rules = [n for n, line in enumerate(lines) if line and not line.startswith("#")]
    assert len(rules) == len(read_rules(ALLOWED))
    assert all(lines[n - 1].startswith("#") for n in rules)


SUITE = """
    import pytest

    def test_listed():
        pytest.skip("no Debian archive: made up")

    @pytest.mark.skip(reason="today is Tuesday")
    def test_marked():
        pass

    def test_called():
        pytest.skip("today is Tuesday")

    @pytest.mark.xfail(strict=True)
    def test_expected_to_fail():
        assert False

    def test_in_this_leg():
        pytest.skip(ALLOWED_HERE)

    def test_in_the_other_leg():
        pytest.skip(ALLOWED_THERE)
"""

REASONS = {"root": "needs an unprivileged user: x", "user": "needs root: x"}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(
        f"    ALLOWED_HERE = {REASONS[LEG]!r}\n    ALLOWED_THERE = {REASONS[OTHER_LEG]!r}\n{SUITE}"
    )
    return pytester


def run(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "tests.skipcheck", *args)


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_unlisted_skips_fail_the_run_and_are_shown_with_their_reason(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    monkeypatch.setenv("TESTS_STRICT_SKIPS", "1")
    result = run(project, *workers)
    result.assert_outcomes(skipped=2, failed=2, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*does not list for the leg*: today is Tuesday"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_file_that_skips_itself_for_an_unlisted_reason_fails_the_run(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTS_STRICT_SKIPS", "1")
    project.makepyfile(test_whole="import pytest; pytest.importorskip('no_such_module')")
    result = run(project, "test_whole.py")
    result.assert_outcomes(errors=1)
    assert result.ret != pytest.ExitCode.OK


def test_without_strictness_skips_are_skips(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TESTS_STRICT_SKIPS", raising=False)
    run(project).assert_outcomes(skipped=5, xfailed=1)
