"""The message of a run: it comes back as it was, and another shape is refused."""

import json

import pytest

from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.sources import Source

FULL = Order(
    id="g1", argv=("runsc", "run"), term=("runsc", "kill"),
    env={"A": "b", "C": ""}, folder="/s/g1", root="/s/g1/root", cgroups=("/sys/fs/cgroup/x",),
    hide_net_sysctls=True, own_users=True, skip_membarrier=True, netns="/s/g1/netns",
    sources=(Source("/a", "/b"), Source("/c", "/d", False, (1, 2))), link=True, first=("runsc",),
    terminal=True,
)  # fmt: skip
LEAST = Order(id="", argv=(), term=(), env={}, folder="", root="")
FIELDS = Order.__annotations__

ANYTHING: tuple[object, ...] = (
    None, True, 7, 1.5, "text", [], ["text"], [7], [None], [["a"]], [["a", "b"]], [["a", "b", "c"]],
    [["a", 7]], [["a", "b", True, [1, 2]]], [["a", "b", True, [1]]], [["a", "b", "", [1, 2]]],
    ["ab"], {}, {"A": "b"}, {"A": 7}, {"A": None},
)  # fmt: skip
"""One value of each shape that JSON has, and some that are nearly right."""

FITS: dict[object, tuple[object, ...]] = {
    str: ("text",),
    bool: (True,),
    tuple[str, ...]: ([], ["text"], ["ab"]),
    tuple[Source, ...]: ([], [["a", "b", True, [1, 2]]]),
    dict[str, str]: ({}, {"A": "b"}),
}


def message(**changes: object) -> bytes:
    """The message of an order with these fields in the place of its own."""
    return json.dumps({**json.loads(FULL.to_json()), **changes}).encode()


@pytest.mark.parametrize("order", [FULL, LEAST], ids=["full", "least"])
def test_an_order_comes_back_as_it_was(order: Order) -> None:
    """Every field of it, lists as the tuples that they were."""
    assert Order.from_json(order.to_json()) == order


def test_the_full_order_leaves_no_field_at_its_default() -> None:
    """So a new field cannot be forgotten above."""
    for name in FIELDS:
        assert getattr(FULL, name) != Order._field_defaults.get(name)


def test_a_name_that_is_no_utf_8_comes_back_as_it_was() -> None:
    """Python holds its bytes as surrogates."""
    odd = FULL._replace(folder="/s/\udcff", sources=(Source("/\udc80", "/a"),))
    assert Order.from_json(odd.to_json()) == odd


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_takes_values_of_its_own_type_alone(name: str) -> None:
    """Each of the others is refused, and the field is named."""
    for value in ANYTHING:
        if any(json.dumps(value) == json.dumps(fit) for fit in FITS[FIELDS[name]]):
            Order.from_json(message(**{name: value}))
        else:
            with pytest.raises(ValueError, match=f"^{name} cannot be "):
                Order.from_json(message(**{name: value}))


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_needed(name: str) -> None:
    """Also one that has a default."""
    fields = json.loads(FULL.to_json())
    del fields[name]
    with pytest.raises(ValueError, match="not the fields of an order"):
        Order.from_json(json.dumps(fields).encode())


def test_a_field_that_nobody_knows_is_refused() -> None:
    """Its writer means something that this reader would not do."""
    with pytest.raises(ValueError, match="not the fields of an order"):
        Order.from_json(message(more=1))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[1, 2]", b"7", b"null", b"\xff\xfe{", b"{", b"[" * 60_000, b'{"id": ' * 60_000],
    ids=["empty", "no field", "a list", "a number", "null", "no UTF-8", "cut", "deep", "deeper"],
)
def test_a_message_that_is_no_order_is_a_value_error(data: bytes) -> None:
    """Whatever the bytes are."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the words are json's
        Order.from_json(data)


def test_another_command_of_the_same_runsc_has_no_mounts() -> None:
    """Neither cgroups, nor namespaces, nor a terminal: those are the run's."""
    other = FULL.command(("runsc", "list"))
    assert other == Order(
        id=FULL.id, argv=("runsc", "list"), term=(), env=FULL.env, folder=FULL.folder,
        root=FULL.root,
    )  # fmt: skip
