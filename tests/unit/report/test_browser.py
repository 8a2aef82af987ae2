"""The HTML report in a headless Chromium: filters, cells, keyboard, and its policy."""

import importlib.resources
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor.report import html
from pytest_gvisor.report.model import Report, Row, Run, State
from tests.unit.report.browser import Browser, only_a_snap, program
from tests.unit.report.reports import HOSTILE, cell, hostile, report, row

Show = Callable[[Report], Browser]

VISIBLE = "[...document.querySelectorAll('#matrix tbody tr')].filter(r => !r.hidden).length"
FOCUS = "document.activeElement.closest('td')?.className ?? document.activeElement.id"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of this module: a start takes a second or more."""
    path = program()
    if path is None:
        pytest.skip(
            "Ubuntu's chromium is a snap" if only_a_snap() else "no chromium on this machine"
        )
    made = Browser(path, tmp_path_factory.mktemp("profile"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens a report's HTML; afterwards nothing was asked for, thrown, or refused."""
    path = tmp_path / "report.html"

    def opened(what: Report) -> Browser:
        path.write_text(html.render(what), encoding="utf-8")
        browser.open(path)
        return browser

    yield opened
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert {address.partition("#")[0] for address in browser.requests()} == {path.as_uri()}
    assert browser.complaints() == []


def emulate(browser: Browser, *, width: int = 0, scheme: str = "") -> None:
    """Make the window so many pixels wide, with a colour scheme, until the end of the test."""
    if width:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                     deviceScaleFactor=1, mobile=False)  # fmt: skip
    if scheme:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.call("Emulation.setEmulatedMedia", features=[feature])


def every_state() -> Report:
    """A report with one row a state, and a row that differs."""
    rows = [row(f"t.py::test_{state}", systrap=state, ptrace=state) for state in State]
    return report(*rows, row("t.py::test_differs", systrap=State.PASSED, ptrace=State.FAILED))


def test_filters_show_what_they_say(show: Show) -> None:
    """Differences, states and a part of the name, each for itself and together."""
    browser = show(every_state())
    total = len(State) + 1
    assert browser.run(VISIBLE) == total
    browser.run("document.getElementById('only-differing').click()")
    assert browser.run(VISIBLE) == 1
    browser.run("document.getElementById('only-differing').click()")
    browser.run("document.querySelector('[name=state][value=passed]').click()")
    assert browser.run(VISIBLE) == total - 1  # test_differs has a failed cell still
    browser.run("document.querySelector('[name=state][value=failed]').click()")
    assert browser.run(VISIBLE) == total - 3
    browser.run(
        "const t = document.getElementById('text'); t.value = 'XPASS';"
        "t.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert browser.run(VISIBLE) == 1
    assert browser.run("document.getElementById('shown').textContent") == f"1 of {total} tests"


def test_rows_can_be_sorted_by_their_time_against_the_host(show: Show) -> None:
    """The slowest under gVisor is first, and a row without a ratio last."""

    def timed(test: str, native: float, kvm: float) -> Row:
        return Row(test=test, cells=(cell("native", duration=native), cell("kvm", duration=kvm)))

    failed = row("failed", kvm=State.FAILED)
    browser = show(report(timed("twice", 5, 10), timed("tenfold", 0.2, 2), failed))
    shown = "[...document.querySelectorAll('#matrix tbody tr')].map(r => r.dataset.test).join()"
    assert browser.run(shown) == "failed,twice,tenfold"
    for order, names in (
        ("ratio", "tenfold,twice,failed"), ("time", "twice,tenfold,failed"),
        ("row", "twice,tenfold,failed"), ("", "failed,twice,tenfold"),
    ):  # fmt: skip
        browser.run(
            f"{{ const o = document.getElementById('order'); o.value = '{order}';"
            "o.dispatchEvent(new Event('change', {bubbles: true})) }"
        )
        assert browser.run(shown) == names


def test_a_cell_opens_by_keyboard_and_shows_everything(show: Show) -> None:
    """Tab, arrows, Enter and Escape are enough; the focus comes back to the cell."""
    made = hostile()
    browser = show(made)
    while browser.run(FOCUS) != "s-failed":
        browser.press("Tab")
    browser.press("ArrowRight")
    assert browser.run(FOCUS) == "s-passed"
    browser.run("document.querySelector('td.s-failed button').focus()")
    browser.press("Enter")
    assert browser.run("document.getElementById('detail').open") is True
    shown = browser.run("document.getElementById('detail').textContent")
    for name in ("command", "config.json", "log", "traceback", "standard output",
                 "standard error", "again", "why"):  # fmt: skip
        assert name in shown
    assert shown.count("<script>window.hacked=2</script>") >= 10
    browser.press("Escape")
    assert browser.run("document.getElementById('detail').open") is False
    assert browser.run(FOCUS) == "s-failed"


def test_an_address_opens_a_cell_and_its_command_can_be_copied(show: Show) -> None:
    """The address of an open cell opens it again; the copy is the command and nothing else."""
    test = "t.py::test_x[a b&c=1]"
    browser = show(report(row("t.py::test_a", kvm=State.PASSED), row(test, kvm=State.FAILED)))
    browser.run("document.querySelector('td.s-failed button').click()")
    address = browser.run("location.href")
    assert address.endswith("#test=t.py%3A%3Atest_x%5Ba+b%26c%3D1%5D&platform=kvm")
    browser.press("Escape")
    browser.until("!location.href.includes('#')")
    browser.run(f"location.hash = {address.partition('#')[2]!r}")
    browser.until("document.getElementById('detail').open")
    assert browser.run("document.getElementById('detail-title').textContent") == f"{test} on kvm"
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.run("document.querySelector('.copy').focus()")
    browser.press("Enter")
    browser.until("document.querySelector('.copy').textContent === 'copied'")
    assert browser.run("navigator.clipboard.readText()") == "python -m pytest x"
    browser.press("Escape")
    browser.until("document.activeElement.closest('td.s-failed')")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_test_that_differs_opens_platform_against_platform(
    show: Show, width: int, scheme: str
) -> None:
    """The outputs are compared line by line; in a narrow window the platforms are stacked."""
    good = cell("systrap", runs=(Run(args="x", stdout="one\ntwo\nthree", stderr="warning",
                                 trace="process 1: x\n  read: /a"),))  # fmt: skip
    bad = cell("ptrace", State.FAILED, output="E   assert",
               runs=(Run(args="x", stdout="one\n2\nthree\nfour", stderr="warning",
                         trace="process 1: x\n  read: /b"),))  # fmt: skip
    browser = show(report(Row(test="t.py::test_differs", cells=(good, bad))))
    emulate(browser, width=width, scheme=scheme)
    browser.run("document.querySelector('td.s-failed button').click()")
    diff = browser.run("document.querySelector('.diff').textContent")
    assert diff == "  one\n- two\n+ 2\n  three\n+ four\n"
    did = browser.run("[...document.querySelectorAll('.diff')].map(one => one.textContent)[1]")
    assert did == "  process 1: x\n-   read: /a\n+   read: /b\n"
    assert "standard error: the same" in browser.run("document.getElementById('detail').innerText")
    (left, top), (right, low) = browser.run(
        "[...document.querySelectorAll('.sides > section')].map(side => {"
        " const box = side.getBoundingClientRect(); return [box.left, box.top]; })"
    )
    assert (left < right and top == low) if width == 1280 else (left == right and top < low)
    assert browser.run("document.getElementById('detail').scrollWidth") <= width
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.press("Tab", "Tab", "ArrowUp")  # past "Close", to what it is compared with
    assert browser.run("document.querySelector('.sides')") is None


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_about(show: Show, width: int, scheme: str) -> None:
    """The page and an open comparison pass all rules of axe-core."""
    browser = show(every_state())
    emulate(browser, width=width, scheme=scheme)
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js")
    browser.run(axe.read_text(encoding="utf-8") + ";0")
    found = "axe.run().then(all => all.violations.map(one => [one.id, one.nodes.map(n => n.html)]))"
    assert browser.run(found) == []
    browser.run("document.querySelector('[data-differs] td.s-failed button').click()")
    assert browser.run(found) == []


def test_hostile_text_stays_text(show: Show) -> None:
    """Hostile text neither runs nor becomes an element, in the page or in an opened cell."""
    browser = show(hostile())
    browser.run("document.querySelector('td.s-failed button').click()")
    browser.call("Runtime.evaluate", expression="new Promise(f => setTimeout(f, 200))",
                 awaitPromise=True)  # fmt: skip
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.querySelectorAll('img, svg:not(.chart), iframe').length") == 0
    assert browser.run("document.scripts.length") == 2
    text = browser.run("document.body.textContent")
    assert "{{ 7*7 }}" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_script_that_was_smuggled_in_would_not_run(browser: Browser, tmp_path: Path) -> None:
    """The second line of defence: the policy allows the report's own script alone."""
    path = tmp_path / "report.html"
    text = html.render(report(row("t", systrap=State.PASSED)))
    evil = f"<script>window.hacked=1</script>{HOSTILE.replace(chr(0xD800), '')}</main>"
    path.write_text(text.replace("</main>", evil), encoding="utf-8")
    browser.open(path)
    assert browser.run("typeof window.hacked") == "undefined"
    refused = "".join(browser.complaints())
    assert "Content Security Policy" in refused
