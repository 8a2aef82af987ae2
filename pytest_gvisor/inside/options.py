"""The options and ini keys of tests inside, as the command line shows them."""

from __future__ import annotations

import pytest

from pytest_gvisor.plugin.placement import FIELDS, RETURNS


def add_options(parser: pytest.Parser) -> None:
    """Declare them."""
    group = parser.getgroup("gvisor")
    group.addoption(
        "--in-gvisor", dest="in_gvisor", action="store_true", default=False,
        help="run every collected test inside gVisor, apart from those that use a sandbox "
        "themselves. Ini: in_gvisor.",
    )  # fmt: skip
    group.addoption(
        "--no-gvisor", dest="no_gvisor", action="store_true", default=False,
        help="run the tests that would run inside on the host, with the same ids.",
    )  # fmt: skip
    group.addoption(
        "--gvisor-isolation", dest="gvisor_isolation", metavar="UNIT", default=None,
        help="the lifetime of a sandbox for tests inside: session (default), module, or test.",
    )  # fmt: skip
    group.addoption(
        "--gvisor-env", dest="gvisor_env", metavar="NAME[=VALUE]", action="append", default=[],
        help="a variable for tests inside, which otherwise get an allow-list; may be repeated. A "
        "glob names several, and !glob leaves some out. Ini: gvisor_env.",
    )  # fmt: skip
    group.addoption(
        "--gvisor-user", dest="gvisor_user", metavar="USER", default=None,
        help="the user of tests inside: caller (default), root, or UID[:GID]. Ini: gvisor_user.",
    )  # fmt: skip
    group.addoption(
        "--gvisor-writable", dest="gvisor_writable", metavar="PATH", action="append", default=[],
        help="a folder of the host that writes of tests inside go through to; may be repeated.",
    )  # fmt: skip
    group.addoption(
        "--gvisor-readable", dest="gvisor_readable", metavar="PATH", action="append", default=[],
        help="a file or folder of the host that tests inside see, read-only; may be repeated, and "
        "may be a glob. Names in a home folder that begin with a dot stay hidden. Ini: "
        "gvisor_readable.",
    )  # fmt: skip
    parser.addini(
        "gvisor_readable", "files and folders that tests inside see, one a line, relative to the "
        "ini file", type="linelist", default=[],
    )  # fmt: skip
    parser.addini(
        "gvisor_env", "environment variables for tests inside, one a line, as --gvisor-env has "
        "them", type="linelist", default=[],
    )  # fmt: skip
    parser.addini("gvisor_user", "the user of tests inside, as --gvisor-user has it", default="")
    parser.addini(
        RETURNS, "files of tests inside that come back to the host: paths or globs, below "
        "rootdir or absolute, one a line", type="linelist", default=[],
    )  # fmt: skip
    parser.addini("in_gvisor", "run every test inside gVisor", type="bool", default=False)
    parser.addini(
        FIELDS, "attributes of reports that come from tests inside as plain data, for hooks of the "
        "project's own", type="args", default=[],
    )  # fmt: skip
