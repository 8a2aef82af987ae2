"""The process of the pytest in the sandbox: its user, its standard streams, its configuration.

Begun by begin.py. Descriptor 0 is a socket: commands come from it and messages go to it, each a
frame of `frames`. It is pytest itself with the host's options, plugins and ``sys.path``.

Imports pytest only after ``sys.path`` is the host's, and nothing of pytest_gvisor.
"""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

from pytest_gvisor.guest.tests import first, identity, program
from pytest_gvisor.guest.tests.byte_code import Supply
from pytest_gvisor.guest.tests.debugger import Debugger
from pytest_gvisor.guest.tests.gate import Gate
from pytest_gvisor.guest.tests.link import Link
from pytest_gvisor.guest.tests.terminal_file import Terminal, Unrelayed
from pytest_gvisor.guest.tests.unsent import take_memory
from pytest_gvisor.guest.tests.worker import Plugin

if TYPE_CHECKING:
    from pytest_gvisor.guest.tests.measure import Coverage

GUARD = "PYTEST_GVISOR_INSIDE"  # see plugin/placement.py


def _hook_order(plugin: Plugin) -> None:
    """Mark the hooks whose place in the order matters, now that pytest can be imported."""
    import pytest  # noqa: PLC0415 -- sys.path is the host's only now

    kind = type(plugin)
    for name in ("collection_finish", "configure"):
        pytest.hookimpl(trylast=True)(getattr(kind, f"pytest_{name}"))
    phases = ("runtest_setup", "runtest_call", "runtest_teardown", "runtest_makereport")
    first_ones = ("sessionstart", "collection", "ignore_collect", "collection_modifyitems")
    for name in (*first_ones, "runtestloop", *phases, "unconfigure"):
        pytest.hookimpl(tryfirst=True)(getattr(kind, f"pytest_{name}"))
    pytest.hookimpl(hookwrapper=True)(kind.pytest_fixture_setup)
    pytest.hookimpl(wrapper=True, tryfirst=True)(kind.send_report)
    pytest.hookimpl(wrapper=True)(Unrelayed.pytest_runtest_logreport)


def run(
    link: Link, start: dict[str, Any], words: TextIO, notes: first.Notes, *, gate: Gate,
    debugger: Debugger,
) -> int:  # fmt: skip
    """Configure pytest like the host's, and serve until the host sends ``finish``.

    ``words`` goes to what the host keeps the end of.
    """
    kernel = os.uname()
    os.environ[GUARD] = f"{kernel.release} {kernel.version}"
    for name, value in start["environ"].items():  # this Python has begun with others
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(start["cwd"])
    os.umask(start["umask"])
    sys.path[:] = start["sys_path"]
    program.assume(**start["program"])
    measured: dict[str, Any] | None = start["coverage"]
    coverage: Coverage | None = program.beside("measure").Coverage(measured) if measured else None
    gate.supply.begin()
    from _pytest.config import get_config  # noqa: PLC0415 -- sys.path is the host's only now

    terminal = Terminal(link, words, debugger)
    watch = program.Watch(start["held_back"])
    # As Config.fromdictargs, with a plugin that is there before the others.
    read_as = start["read_as"]
    # A plugin that the ini file switches off still declares its keys, as on the host.
    config = get_config(read_as["arguments"])
    config.option.__dict__.update(start["options"])
    gate.register(config, link, start["sys_path"], has_ini=read_as["has_ini"])
    config.parse(start["args"], addopts=False)
    config.args_source = type(config.args_source)[read_as["args_source"]]
    # A plugin may have put arguments before those of the command line, which come last on the host.
    kept = {name: getattr(config.option, name) for name in ("basetemp", "plugins")}
    config.option.__dict__.update({**start["options"], **read_as["options"], **kept})
    if pickled := start["pickled"]:  # by now the types that a conftest.py declares are there
        config.option.__dict__.update(program.beside("bridges").unpickled(config, pickled))
    plugin = Plugin(
        link, terminal, debugger, notes, files=gate.command["files"], variables=watch,
        coverage=coverage, basetemp=read_as["options"]["basetemp"],
    )  # fmt: skip
    debugger.register(config)
    _hook_order(plugin)
    config.pluginmanager.register(plugin, "gvisor-worker")
    ids = start["worker"]
    if ids and config.pluginmanager.hasplugin("xdist"):
        fixtures = program.beside("bridges").xdist_fixtures(ids)
        config.pluginmanager.register(fixtures, "gvisor-xdist-fixtures")
    if bridges := gate.command["bridges"]:
        program.beside("bridges").register(config, bridges, link.send)
    if names := gate.command["unwanted"]:
        config.pluginmanager.register(program.beside("bridges").LeftOut(names), "gvisor-unwanted")
    link.send("ready", kernel=os.uname().release, holds=link.hold())
    return int(config.hook.pytest_cmdline_main(config=config) or 0)


def main(supply: Supply) -> None:
    """Run the program; ``supply`` finds modules for imports up to the gate."""
    who = identity.wanted(sys.argv[1:])
    change = None if who is None else identity.Change(who)
    del sys.argv[1:]  # a test sees none of it
    memory = take_memory()
    link = Link(memory)
    start = link.receive()
    if start["op"] != "start":
        return
    if start["families"]:
        program.beside("loopback").make_count(start["families"], identity.kernel_calls())
    notes, gate = first.Notes(), Gate(supply)
    if pid := os.fork():
        if memory is not None:
            os.close(memory)
        supply.end()
        if change is not None:
            change.serve(pid)
        first.attend(pid, link, notes, gate)
    link.own()
    # A descriptor of its own: while a test runs, pytest has 2 on a file that dies with the sandbox.
    words = os.fdopen(os.dup(2), "w")
    faulthandler.enable(words)
    # At a deadline the host sends SIGTERM first: the stacks are what it shows of a hanging test.
    faulthandler.register(signal.SIGTERM, file=words, chain=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # with -s the host shows it as it comes
    debugger = Debugger(link)
    debugger.replace_stdin()
    status = 1
    try:
        if change is not None:
            change.become()
        status = run(link, start, words, notes, gate=gate, debugger=debugger)
    except identity.Refused as error:
        link.send("no user", errno=error.errno, text=error.strerror)
    except BaseException as error:  # noqa: BLE001 -- this process ends
        link.send("internal error", text=f"{type(error).__name__}: {error}")
        if type(error).__name__ == "UsageError":  # of pytest's, which shows no traceback either
            status = 4
        else:
            sys.__excepthook__(type(error), error, error.__traceback__)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # An end of Python's own would wait for each thread, and call the functions of atexit.
        os._exit(status)
