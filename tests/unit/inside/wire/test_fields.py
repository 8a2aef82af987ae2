"""Each field of a report from inside has a rule, and a field without one is left out."""

import contextlib
from typing import Any

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.wire import fields
from tests.unit.inside.wire.test_reports import data_of, revived

EXTRA = {
    "format_type": "text", "name": "Text", "content": "all of it", "mime_type": "text/plain",
    "extension": "txt",
}  # fmt: skip


def extras_of(**changes: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The checked form of one pytest-html extra, and the notes about it."""
    data, left_out = fields.checked(data_of(extras=[{**EXTRA, **changes}]))
    return data["extras"], left_out


@pytest.mark.parametrize("name", ["mine", "description", "duration_formatter", "toterminal"])
def test_a_field_without_a_rule_is_left_out_and_named(name: str) -> None:
    """A field without a rule is left out with its name, whatever its value is."""
    data, left_out = fields.checked(data_of(**{name: "x"}))
    assert name not in data
    assert left_out == [name]


def test_a_file_that_hypothesis_would_read_is_left_out() -> None:
    """The field names files that hypothesis on the host would put into a patch."""
    _, left_out = fields.checked(data_of(_hypothesis_failing_examples='[["/etc/shadow","",""]]'))
    assert left_out == ["_hypothesis_failing_examples"]


def test_what_the_host_knows_itself_is_left_out_without_a_word() -> None:
    """Fields of xdist and of this plugin are left out silently."""
    names = ("location", "worker_id", "node", "item_index", "gvisor_cell", "gvisor_roster", "extra")
    data, left_out = fields.checked(data_of(**dict.fromkeys(names, "x")))
    assert not left_out
    assert data.keys().isdisjoint(names)


@pytest.mark.parametrize("depth", [90, 300])
def test_data_that_plugins_could_not_pass_on_are_refused(depth: int) -> None:
    """A worker of xdist would end by deeply nested data, and with it the session."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    expected = contextlib.nullcontext() if depth < 100 else pytest.raises(ValueError, match="deep")
    with expected:
        fields.checked(data_of(user_properties=[["x", value]]))


def test_a_field_that_the_project_names_is_plain_data() -> None:
    """A named field has its texts escaped; a name with another use is refused."""
    data, left_out = fields.checked(data_of(mine=[{"a": "\x1b]0;x\x07"}]), {"mine", "node"})
    assert data["mine"] == [{"a": "\\x1b]0;x\\x07"}]
    assert not left_out
    free = ("mine", "_mine", "description")
    taken = ("extras", "node", "nodeid", "sections", "toterminal", "gvisor_cell", "a b", "")
    assert all(map(fields.is_free, free))
    assert not any(map(fields.is_free, taken))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"format_type": "url", "mime_type": None, "extension": None},
        {"format_type": "html", "mime_type": None, "extension": None, "name": None},
        {"format_type": "json", "content": {"a": [1, None, "b"]}, "extension": "json"},
        {"format_type": "image", "content": "aGVsbG8=", "mime_type": "image/svg+xml"},
        {"format_type": "video", "content": "films/one.mp4", "mime_type": "video/mp4"},
    ],
)
def test_an_extra_of_pytest_html_s_own_making_passes(changes: dict[str, Any]) -> None:
    """Unchanged."""
    assert extras_of(**changes) == ([{**EXTRA, **changes}], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"extension": "/../../x"}, {"extension": "../x"}, {"extension": "a/b"}, {"extension": ""},
        {"extension": "x" * 11}, {"extension": "txt\n"}, {"extension": 7}, {"extension": "ä"},
        {"extension": "."}, {"format_type": "file"}, {"format_type": None}, {"format_type": []},
        {"mime_type": 'x/y" onload="'}, {"mime_type": "text"}, {"content": 7}, {"content": None},
        {"content": ["a"]},
    ],
)  # fmt: skip
def test_an_extra_that_could_name_another_file_is_left_out(changes: dict[str, Any]) -> None:
    """The report keeps its other extras, and a note names the one that is left out."""
    kept, left_out = extras_of(**changes)
    assert not kept
    assert left_out[0].startswith("extras: ")
    data, _ = fields.checked(data_of(extras=[{**EXTRA, **changes}, EXTRA]))
    assert data["extras"] == [EXTRA]


def test_extras_that_are_no_list_or_too_many_are_left_out() -> None:
    """Each is a file on the host."""
    for extras in (7, "x", {"a": 1}, [EXTRA] * 1001):
        data, left_out = fields.checked(data_of(extras=extras))
        assert data["extras"] == []
        assert left_out


def test_what_of_an_extra_is_shown_is_escaped() -> None:
    """An extra's name is escaped, as is a link, which pytest-html may print in a warning."""
    ((extra,), _) = extras_of(name="\x1b[2J", format_type="image", content="\x1b[2J.png")
    assert extra["name"] == "\\x1b[2J"
    assert extra["content"] == "\\x1b[2J.png"


@pytest.mark.parametrize("given", [[], "x", {"call": "x"}, {"setup": [1]}])
def test_what_pytest_json_report_cannot_write_is_no_report(
    pytestconfig: pytest.Config, given: object
) -> None:
    """A phase of pytest-json-report that is no object is a protocol error."""
    with pytest.raises(ProtocolError):
        revived(pytestconfig, _json_report_extra=given)
    report = revived(pytestconfig, _json_report_extra={"call": {}, "metadata": [1]})
    assert vars(report)["_json_report_extra"] == {"call": {}, "metadata": [1]}


@pytest.mark.parametrize("given", [[], "x", None, 1])
def test_what_pytest_json_ctrf_notes_of_a_test_is_an_object(
    pytestconfig: pytest.Config, given: object
) -> None:
    """Tags and parameters come back with escaped texts; anything but an object is an error."""
    with pytest.raises(ProtocolError):
        revived(pytestconfig, _ctrf_metadata=given)
    report = revived(pytestconfig, _ctrf_metadata={"tags": ["a\x1b"], "parameters": {"n": 1}})
    assert vars(report)["_ctrf_metadata"] == {"tags": ["a\\x1b"], "parameters": {"n": 1}}


@pytest.mark.parametrize("rerun", ["../x", 1.5, None, [1]])
def test_a_rerun_is_a_number(pytestconfig: pytest.Config, rerun: object) -> None:
    """pytest-html makes a part of a file name of it."""
    with pytest.raises(ProtocolError):
        revived(pytestconfig, rerun=rerun)
    assert vars(revived(pytestconfig, rerun=2))["rerun"] == 2


@pytest.mark.parametrize("line", ["", "a" * 21], ids=len)
def test_a_traceback_whose_sections_cannot_be_drawn_is_no_report(
    pytestconfig: pytest.Config, line: str
) -> None:
    """pytest divides by the number of the line's characters."""
    traceback: dict[str, Any] = {"reprentries": [], "extraline": None, "style": "long"}
    failure = {
        "reprcrash": None, "reprtraceback": traceback, "chain": None,
        "sections": [["title", "text", line]],
    }  # fmt: skip
    with pytest.raises(ProtocolError):
        revived(pytestconfig, outcome="failed", longrepr=failure)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("rerun", 2**31 - 1, 2**31 - 1), ("rerun", 0, 0),
        ("rerun", 1, 1),
        ("duration", 9e10, 9e10), ("duration", -1.0, 0.0), ("start", -9e10, 0.0),
        ("stop", 99_999_999_999.5, 99_999_999_999.5),
        ("keywords", {"slow": "x"}, {"slow": 1}), ("wasxfail", "caf\u00e9", "caf\u00e9"),
        ("wasxfail", "half \ud800", "half \\ud800"), ("wasxfail", 7, "7"),
    ],
)  # fmt: skip
def test_a_field_is_of_the_host_s_own_shape(field: str, given: object, kept: object) -> None:
    """A number within its bounds, a keyword that is there, a text that can be written."""
    data, _ = fields.checked(data_of(**{field: given}))
    assert (data[field], type(data[field])) == (kept, type(kept))


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("rerun", 2**53), ("rerun", -1), ("start", 2.6e11), ("stop", -2.6e11),
        ("duration", float("nan")), ("duration", "1"), ("keywords", ["slow"]), ("sections", {}),
        ("longrepr", {"reprcrash": []}), ("outcome", "\x1b[1m"), ("outcome", "a" * 41),
    ],
)  # fmt: skip
def test_a_field_of_another_shape_is_no_report(field: str, given: object) -> None:
    """Plugins of the host compute with it."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        fields.checked(data_of(**{field: given}))


def test_as_many_extras_as_may_be_are_kept_and_causes_are_short() -> None:
    """A thousand extras are kept, and a hundred characters of a name that is left out."""
    data, left_out = fields.checked(data_of(extras=[EXTRA] * 1000, **{"x" * 300: 1}))
    assert len(data["extras"]) == 1000
    assert left_out == ["x" * 100]


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("image", "aGVsbG8=", "aGVsbG8="), ("image", "aGVs\x1b[J", "aGVs\\x1b[J"),
        ("video", "a\x07b", "a\\x07b"), ("text", "a\x07b", "a\x07b"),
        ("html", "<b>\x07", "<b>\x07"),
    ],
)  # fmt: skip
def test_a_link_is_escaped_and_a_text_is_not(kind: str, given: str, kept: str) -> None:
    """pytest-html prints a link in a warning, and writes a text into a file of its own."""
    ((extra,), _) = extras_of(format_type=kind, content=given)
    assert extra["content"] == kept
