"""YAML that comes back calls nothing on the host."""

import sys

import pytest

from pytest_gvisor.inside.plugins.cassettes import is_plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("interactions: [{a: 1}]", True),
        ("a: 'b! <!DOCTYPE html>'", True),
        ("a: !!binary aGk=", True),
        ("a: !Ref b", True),
        ("a: ! b", True),
        ("a: !!python/tuple [!!python/str b, !!python/unicode c]", True),
        (
            "a: !!python/object/new:_io.BytesIO {state: !!python/tuple [!!binary aGk=, 0, null]}",
            True,
        ),
        ("a: !!python/object/apply:builtins.iter {args: [[1]]}", True),
        ("a: !!python/object/apply:os.system [id]", False),
        ("a: !!python/name:os.system", False),
        ("a: !!pyth%6fn/object/apply:os.system [id]", False),
        ("a: !<tag:yaml.org,2002:python/object/apply:os.system> [id]", False),
        ("%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [id]", False),
        ("a: 1\n---\n!!python/module:os x", False),
        ("a: [! b", False),
    ],
)
def test_no_tag_names_an_object_of_python(text: str, plain: bool) -> None:
    """vcrpy writes some that hold data alone, and other tags mean nothing to Python."""
    assert is_plain(text.encode()) == plain
    assert is_plain(text.encode("utf-16")) == plain


def test_without_pyyaml_nobody_reads_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin for snapshots may do without it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert is_plain(b"!!python/name:os.system x")


def test_without_libyaml_a_tag_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser that PyYAML has itself would keep the host busy."""
    monkeypatch.delattr("yaml.CSafeLoader")
    assert is_plain(b"a: 1")
    assert not is_plain(b"a: !!binary " + b"[" * 100_000)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be"])
def test_no_handles_of_tags_keep_the_host_busy(encoding: str) -> None:
    """libyaml took hours for 64 MiB of them, in one call that Ctrl-C does not end."""
    handles = "".join(f"%TAG !{number}! x:\n" for number in range(9))
    assert not is_plain(f"\ufeff{handles}--- !1!x".encode(encoding))
    assert is_plain("\ufeff--- !x".encode(encoding))
