"""``--gvisor-image``, the marker's ``image``, and the fixture ``gvisor_image``."""

from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.unit.images.conftest import configuration, item, saved, tar

TESTS = """
    import pytest

    def test_default(gvisor, request):
        done = gvisor.run(["/bin/busybox", "cat", "/name"])
        assert done.stdout == "line"

    @pytest.mark.gvisor(image="marker.tar")
    def test_marker(gvisor, gvisor_sandbox):
        assert gvisor.run(["/bin/busybox", "cat", "/name"]).stdout == "marker"
        assert gvisor_sandbox.exec(["/bin/busybox", "cat", "/name"]).stdout == "marker"

    def test_fixture(gvisor, gvisor_image, oci_bundle):
        rootfs = gvisor_image("call.tar")
        assert repr(rootfs).startswith("ImageRootfs(name='call.tar', id='")
        assert gvisor.run(["/bin/busybox", "cat", "/name"], rootfs=rootfs).stdout == "call"
        bundle = oci_bundle([], image="call.tar")
        assert gvisor.run_bundle(bundle).stdout == "call"
        assert gvisor.run(["ls"], image=None).stdout
"""


@pytest.fixture
def images(project: Project) -> Project:
    """A project with three images."""
    busybox = item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    for name in ("line", "marker", "call"):
        layers = [tar([busybox, item("name", name.encode())])]
        config = configuration(layers, {"Cmd": ["/bin/busybox", "cat", "/name"]})
        (project.folder / f"{name}.tar").write_bytes(saved(layers, config))
    return project


def test_images_are_the_root_by_option_marker_and_fixture(images: Project, tmp_path: Path) -> None:
    """The closest source wins; workers share the cache, and used images stay in it."""
    images.test(TESTS)
    cache = tmp_path / "cache"
    for _ in range(2):
        images.run("--gvisor-image", "line.tar", XDG_CACHE_HOME=str(cache)).ends(passed=3)
    kept = list((cache / "pytest-gvisor/images-2").glob("*-*/rootfs"))
    assert len(kept) == 3


def test_an_image_that_cannot_be_had_is_an_error(images: Project, tmp_path: Path) -> None:
    """Never a skip: the message names it."""
    images.test("def test_it(gvisor): ...")
    ran = images.run("--gvisor-image", "no.tar", XDG_CACHE_HOME=str(tmp_path))
    ran.ends(errors=1).shows("no.tar: there is no file or folder /")


@pytest.mark.fault("H1")
def test_no_daemon_is_a_skip_or_a_failure_when_strict(images: Project, tmp_path: Path) -> None:
    """A missing daemon skips, or fails when strict, by marker and fixture; `gvisor.run` raises."""
    images.test(
        """
        import pytest
        from pytest_gvisor import DaemonUnavailable

        @pytest.mark.gvisor(image="some/image:1")
        def test_marker(gvisor): ...

        def test_fixture(gvisor_image):
            gvisor_image("docker:image")

        def test_run(gvisor):
            with pytest.raises(DaemonUnavailable):
                gvisor.run(image="some/image")
        """
    )
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none", "XDG_CACHE_HOME": str(tmp_path)}
    images.run(**environ).ends(passed=1, skipped=2).shows("there is no docker daemon at")
    ran = images.run("--gvisor-strict", **environ).shows("this would be a skip otherwise")
    ran.ends(passed=1, failed=1, errors=1)


def test_what_the_fixture_had_is_answered_by_what_to_write(images: Project) -> None:
    """No daemon builds an image, or is on another machine."""
    images.test(
        """
        import pytest
        from pytest_gvisor import UsageError

        def test_it(gvisor_image):
            with pytest.raises(UsageError, match="docker build --quiet FOLDER"):
                gvisor_image.build(".")
            with pytest.raises(UsageError, match="docker save IMAGE"):
                gvisor_image("some/image", remote=True)
            assert not hasattr(gvisor_image, "nothing")
        """
    )
    images.run().ends(passed=1)


def test_a_test_inside_with_an_image_is_an_error(images: Project, tmp_path: Path) -> None:
    """A test inside runs the host's Python: an image is an error, unless `image=None` drops it."""
    images.test(
        """
        import pytest

        def test_here(): ...

        @pytest.mark.gvisor(image=None)
        def test_without(): ...
        """
    )
    ran = images.run("--in-gvisor", "--gvisor-image", "line.tar", XDG_CACHE_HOME=str(tmp_path))
    ran.ends(passed=1, errors=1)
    ran.shows("test_here (test_it.py:4): a test inside runs with the host's Python")


def test_a_path_of_a_marker_or_option_is_from_where_pytest_was_started(images: Project) -> None:
    """A test's own path is relative to its working folder, unlike these."""
    images.test(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def elsewhere(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)

        @pytest.mark.gvisor(image="marker.tar")
        def test_marker(gvisor):
            assert gvisor.run().stdout == "marker"

        def test_option(gvisor, gvisor_sandbox, gvisor_sandboxes, oci_bundle, gvisor_image):
            assert gvisor.run().stdout == "line"
            done = gvisor_sandboxes().exec(["/bin/busybox", "cat", "/name"])
            assert done.stdout == "line"
            assert gvisor_sandbox.exec(["/bin/busybox", "cat", "/name"]).stdout == "line"
            oci_bundle([])
            with pytest.raises(Exception, match="there is no file"):
                gvisor_image("call.tar")
        """
    )
    images.run("--gvisor-image", "line.tar").ends(passed=2)
