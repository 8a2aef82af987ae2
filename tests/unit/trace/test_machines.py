"""The machines whose system calls can be traced."""

import os

import pytest

from pytest_gvisor.base.errors import TraceError
from pytest_gvisor.trace import points


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_machine_of_gvisor_has_its_numbers(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    """arm64 has no open and no creat."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", machine)))
    found = points.calls()
    assert {*points.EXECS, *points.SENDS, "openat", "openat2"} <= found.keys()
    assert len({*found.values()}) == len(found)
    wanted = [one.name for one in points.wanted(found)]
    assert ("syscall/open/exit" in wanted) == (machine == "x86_64")


def test_another_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", "riscv64")))
    with pytest.raises(TraceError, match="riscv64 cannot be traced"):
        points.calls()


TABLE = """{"linux": {"amd64": {"syscalls": {
    "0": {
      "name": "read",
      "support": "Full Support"
    },
    "148": {
      "name": "sched_rr_get_interval",
      "support": "Unimplemented",
      "note": "it"
    }}},
  "arm64": {"syscalls": {
    "127": {
      "name": "sched_rr_get_interval",
      "support": "Unimplemented"
    }}}}}"""


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 148), ("aarch64", 127)])
def test_the_table_of_a_binary_names_unimplemented_calls_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, number: int
) -> None:
    """Others are supported, whole or in part."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", machine)))
    assert points.unsupported(TABLE) == {number: "sched_rr_get_interval"}
    assert points.unsupported("") == {}
