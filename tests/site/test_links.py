"""The links of the documents: to files, to titles, and to other sites."""

import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

CHECKOUT = Path(__file__).parents[2]
PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]


def slug(title: str) -> str:
    """The anchor that GitHub makes of a title."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


MARKDOWN = MarkdownIt("gfm-like", {"linkify": False}).use(
    anchors_plugin, max_level=6, slug_func=slug
)
CONF = f"""
import sys
sys.path.insert(0, "{CHECKOUT}/docs/_ext")
extensions = ["myst_parser", "reachable_links"]
linkcheck_retries = 1
"""


def tokens(page: Path) -> Iterator[Token]:
    """The parts of a page, those inside of lines too."""
    for token in MARKDOWN.parse(page.read_text()):
        yield token
        yield from token.children or []


def titles(page: Path) -> set[str]:
    """The anchors that GitHub gives a page."""
    return {str(token.attrs["id"]) for token in tokens(page) if "id" in token.attrs}


def broken(page: Path) -> list[str]:
    """The links of a page to files of the checkout, or to titles, that are not there."""
    found = []
    for token in tokens(page):
        link = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if not link or re.match(r"[a-z]+:", link):
            continue
        name, _, title = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (title and title not in titles(target)):
            found.append(link)
    return found


def test_each_link_leads_to_a_file_and_to_a_title_of_it() -> None:
    """On GitHub too, where nothing warns about a title that has changed."""
    assert {page.name: links for page in PAGES if (links := broken(page))} == {}


def test_a_link_to_a_title_that_is_not_there_is_found(tmp_path: Path) -> None:
    """So is one to a file or a picture; other sites are linkcheck's."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, or two\n\n[a](#a-title-or-two) [b](#b) [c](c.md) [d](page.md#d) ![e](e.png)\n"
        "[f](https://example.com/#f)\n"
    )
    assert broken(page) == ["#b", "c.md", "page.md#d", "e.png"]


class Site(BaseHTTPRequestHandler):
    """A site with one page."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a site of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("page", "status"), [("/there", 0), ("/gone", 1)])
def test_a_link_fails_unless_its_host_has_no_address(
    tmp_path: Path, site: str, page: str, status: int
) -> None:
    """The hosts that were not tried are listed, so that success says no more than it should."""
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text(f"# A\n\n<{site}{page}> <http://no-such-host.invalid/x>\n")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qW", "-b", "linkcheck", tmp_path, tmp_path / "out"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("/gone" in done.stderr) is bool(status)
    assert "no-such-host.invalid" not in done.stderr
    assert done.stdout == (
        "links not tried, because no-such-host.invalid does not resolve here: 1\n"
    )
