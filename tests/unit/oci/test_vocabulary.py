import pytest

from pytest_gvisor.oci import vocabulary
from pytest_gvisor.oci.defaults import MOUNTS
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType


def mount(kind: str, *options: str) -> Mount:
    return Mount(destination="/x", type=MountType(kind), source="/y", options=options)


OPTIONS: dict[str, dict[str, str | None]] = {
    "bind": {
        "ro": "ro", "rro": "ro", "rnoexec": "noexec", "rprivate": "rprivate", "noatime": "",
        "rnoatime": "", "relatime": "", "suid": "", "rshared": None, "size=1": None,
        "nosymfollow": None, "sync": None, "xrro": None, "idmap": None,
    },
    "none": {"rbind": "rbind"},
    "tmpfs": {
        "noatime": "noatime", "strictatime": "strictatime", "rslave": "", "size=1": "size=1",
        "size=": None, "size": None, "nr_inodes=1": None, "tmpcopyup": None,
    },
    "devpts": {
        "newinstance": "newinstance", "ptmxmode=0666": "ptmxmode=0666", "ptmxmode=0600": None,
        "gid=5": "", "gid": None,
    },
    "proc": {"mode=0700": None},
    "sysfs": {"strictatime": ""},
}  # fmt: skip
"""For each kind of mount, what an option becomes: "" if it is dropped, None if it is refused."""


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_option_holds_or_is_translated_or_is_refused(kind: str) -> None:
    """The kind of mount decides if an option stays, is replaced, is dropped or is an error."""
    for option, expected in OPTIONS[kind].items():
        made = mount(kind, option)
        assert vocabulary.translated_option(made.kind, option) == expected, option
        assert bool([*vocabulary.option_problems(made.kind, made.options)]) == (expected is None)


@pytest.mark.parametrize(
    "pair", [("ro", "rw"), ("rro", "rw"), ("noexec", "exec"), ("dev", "nodev")]
)
def test_options_that_contradict_each_other_are_refused(pair: tuple[str, str]) -> None:
    """mount(8) and runsc would make different mounts of them."""
    for options in (pair, pair[::-1]):
        found = vocabulary.option_problems(MountType.BIND, options)
        assert [place for place, _ in found] == [".options"]


def test_what_is_adopted_changes_no_more() -> None:
    """Each option once, and a second time the same."""
    given = ("rbind", "ro", "rro", "rslave", "dev")
    options, changes = vocabulary.adopted_options(MountType.BIND, given)
    assert (options, changes) == (("rbind", "ro", "rslave"), ["rro -> ro", "no dev"])
    assert vocabulary.adopted_options(MountType.BIND, options) == (options, [])


def test_the_default_mounts_have_options_that_hold() -> None:
    """The default mounts have no option that runsc ignores."""
    assert [vocabulary.adopted_options(own.kind, own.options)[1] for own in MOUNTS] == [[]] * 6
