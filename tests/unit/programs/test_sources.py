"""The host's files of a run are opened once, checked by the descriptor, and bound from it."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

Alone = Callable[..., Any]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts of its own")

NAMES = """
from pytest_gvisor.programs import sources
from pytest_gvisor.programs.sources import Source

child._own_mounts(users=False)
here = os.getcwd()

def made(*names):
    "Folders, each with a file of its own name."
    for name in names:
        os.makedirs(name, exist_ok=True)
        open(f"{name}/{os.path.basename(name)}", "w").close()

def takes(*names):
    "For each folder the number of the error with which it takes no file, or 0."
    found = []
    for name in names:
        try:
            open(f"{name}/file", "w").close()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(0)
    return found

def failure(*given):
    "The errno and the text of what is refused; None if all is bound."
    try:
        sources.bind(given)
    except OSError as error:
        return [error.errno, error.strerror.replace(here, "")]
"""


def test_what_is_bound_is_read_only_at_its_place_alone(alone: Alone) -> None:
    """Mounts below it are too, a writable one is not, and the source stays as it is."""
    assert alone(
        """
        made("kept", "kept/mounted", "written", "a", "b")
        linux.mount("none", "kept/mounted", "tmpfs", 0, "size=4k")
        sources.bind((Source(f"{here}/kept", f"{here}/a"),
                      Source(f"{here}/written", f"{here}/b", readonly=False)))
        result = [sorted(os.listdir("a")), takes("a", "a/mounted", "b", "kept", "kept/mounted")]
        """,
        before=NAMES,
    ) == [["kept", "mounted"], [errno.EROFS, errno.EROFS, 0, 0, 0]]


@pytest.mark.parametrize("readonly", [True, False])
def test_a_later_mount_of_the_host_is_not_shown(alone: Alone, readonly: bool) -> None:
    """Such a mount would be writable below a read-only place."""
    assert alone(
        f"""
        made("shared", "shared/below", "a")
        linux.mount("shared", "shared", "none", linux.MS_BIND)
        linux.mount("none", "shared", "none", 1 << 20)  # MS_SHARED
        sources.bind((Source(f"{{here}}/shared", f"{{here}}/a", readonly={readonly}),))
        linux.mount("none", "shared/below", "tmpfs", 0, "size=4k")
        result = [os.listdir("shared/below"), os.listdir("a/below")]
        """,
        before=NAMES,
    ) == [[], ["below"]]


def test_what_the_host_made_read_only_stays_so(alone: Alone) -> None:
    """A volume that a container has read-only is not written to because a bind asks to."""
    assert alone(
        """
        made("project/build", "a")
        linux.mount("project", "project", "none", linux.MS_BIND)
        linux.mount("none", f"{here}/project", "none", linux.MS_BIND | 0x21)
        sources.bind((Source(f"{here}/project/build", f"{here}/a", readonly=False),))
        result = takes("a")
        """,
        before=NAMES,
    ) == [errno.EROFS]


def test_a_place_may_lie_in_another(alone: Alone) -> None:
    """Each place is read-only, and what is below it too: a project in a root of folders."""
    assert alone(
        """
        made("one/in", "two", "root/x")
        sources.bind((Source(f"{here}/one", f"{here}/root/x"),
                      Source(f"{here}/two", f"{here}/root/x/in")))
        result = [os.listdir("root/x"), os.listdir("root/x/in"), takes("root/x", "root/x/in")]
        """,
        before=NAMES,
    ) == [["in"], ["two"], [errno.EROFS, errno.EROFS]]


@pytest.mark.parametrize("place", ["link", "link/secret", "above/link"])
def test_no_link_on_the_way_to_a_place_is_followed(alone: Alone, place: str) -> None:
    """A place in a project, where a test has put a link: nothing is bound where that leads."""
    assert alone(
        f"""
        made("project/above", "kept", "secret/secret", "secret/link", "root/x")
        os.symlink(f"{{here}}/secret", "project/link")
        os.symlink(f"{{here}}/secret", "project/above/link")
        number, text = failure(Source(f"{{here}}/project", f"{{here}}/root/x"),
                               Source(f"{{here}}/kept", f"{{here}}/root/x/{place}"))
        result = [number, "/root/x/{place}: a part of this path has become a link" in text,
                  os.path.ismount("secret"), os.path.ismount("secret/secret")]
        """,
        before=NAMES,
    ) == [errno.ELOOP, True, False, False]


@pytest.mark.parametrize(
    ("planted", "path", "number"),
    [
        ("os.symlink('secret', 'link')", "/link", errno.ELOOP),
        ("os.symlink('secret', 'link')", "/link/below", errno.ELOOP),
        ("os.symlink('/proc/self/cwd', 'link')", "/link", errno.ELOOP),
        ("", "/secret/secret", errno.ENOTDIR),
        ("", "/gone", errno.ENOENT),
        ("os.mkfifo('pipe')", "/pipe", errno.ENOTDIR),
    ],
)
def test_what_was_put_in_the_place_of_a_folder_is_refused(
    alone: Alone, planted: str, path: str, number: int
) -> None:
    """A link, a magic link, a file, nothing, a FIFO: the text names the path."""
    found, text = alone(
        f"""
        made("secret/below", "secret", "a", "b")
        {planted}
        result = failure(Source(f"{{here}}/secret", f"{{here}}/a"),
                         Source(f"{{here}}{path}", f"{{here}}/b"))
        """,
        before=NAMES,
    )
    assert found == number
    assert path in text
    assert (f"{path}: No such file or directory" in text) is (number == errno.ENOENT)


def test_a_folder_in_the_place_of_a_file_is_refused(alone: Alone) -> None:
    """The place says what it was."""
    assert alone(
        """
        made("folder")
        open("a", "w").close()
        result = failure(Source(f"{here}/folder", f"{here}/a"))
        """,
        before=NAMES,
    ) == [errno.ENOTDIR, "/folder is no file, as it was when it was checked"]


def test_only_a_source_with_an_identity_must_be_the_very_same(alone: Alone) -> None:
    """A folder made anew is fine: a build makes one, and the next step reads it."""
    assert alone(
        """
        made("root", "a")
        found = os.stat("root")
        same = (found.st_dev, found.st_ino)
        os.rename("root", "old")
        made("root")
        result = [failure(Source(f"{here}/root", f"{here}/a")),
                  failure(Source(f"{here}/old", f"{here}/a", identity=same)),
                  failure(Source(f"{here}/root", f"{here}/a", identity=same))]
        """,
        before=NAMES,
    ) == [None, None, [errno.ESTALE, "/root is another one than was checked"]]
