"""The wheel with a runsc: where it is looked for, and whose it may be."""

import os
import shutil
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc, RunscNotFound
from pytest_gvisor.runsc import locate
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.locate import CheckedBinary, Origin
from tests.unit.runsc.conftest import STRANGER, FakeRunsc, needs_root

OWNER = STRANGER + 1


@pytest.fixture
def site(tmp_path: Path, fake_runsc: FakeRunsc) -> Path:
    """A site-packages with the package and the wheel, which others cannot write."""
    site = tmp_path / "site-packages"
    (site / "pytest_gvisor_runsc/bin").mkdir(parents=True)
    (site / "pytest_gvisor").mkdir()
    shutil.copy(fake_runsc(), wheel(site))
    set_modes(site, 0o755)
    return site


def wheel(site: Path) -> Path:
    return site / "pytest_gvisor_runsc/bin/gvisor_sentry"


def parts(site: Path) -> list[Path]:
    return [wheel(site), wheel(site).parent, wheel(site).parent.parent]


def set_modes(site: Path, mode: int) -> None:
    """The modes of package and wheel by one umask."""
    for path in (*parts(site), site / "pytest_gvisor"):
        path.chmod(mode)


def give(site: Path, uid: int) -> None:
    for path in (*parts(site), site / "pytest_gvisor"):
        os.chown(path, uid, -1)


def found(
    site: Path, *trusted: Path, explicit: Path | None = None, euid: int | None = None
) -> CheckedBinary:
    """The runsc that a search finds, closed."""
    judged = locate.find(
        str(explicit) if explicit else None,
        trusted=[str(path) for path in trusted],
        search_path="",
        euid=euid,
        package=str(site / "pytest_gvisor"),
    )
    judged.close()
    return judged


def test_the_package_that_runs_is_the_one_beside_which_it_is_looked_for() -> None:
    """By default the search looks beside the folder of this very code."""
    import pytest_gvisor

    assert Path(pytest_gvisor.__file__).parent == Path(locate.PACKAGE)


def test_the_wheel_comes_after_a_setting_and_before_the_system(site: Path, good: Path) -> None:
    """The wheel is its own sentry, alone in its folder."""
    judged = found(site, good)
    assert (judged.path, judged.origin, judged.passed) == (str(wheel(site)), Origin.WHEEL, "")
    assert judged.sidecars.folder == str(wheel(site).parent)
    assert set(judged.sidecars.states) == {"", "gvisor_sentry"}
    assert judged.sidecars.has_sentry
    named = found(site, explicit=good)
    assert (named.path, named.origin) == (str(good), Origin.NAMED)
    wheel(site).unlink()
    system = found(site, good)
    assert (system.path, system.origin) == (str(good), Origin.SEARCH)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_it_may_be_as_writable_as_the_package(mode: int, site: Path) -> None:
    """The writers of the package, or of a folder above it, control the process already."""
    set_modes(site, mode)
    site.chmod(0o777)
    assert found(site).origin is Origin.WHEEL


@pytest.mark.fault("A2")
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("package", "part"), [(0o755, 0o775), (0o775, 0o777), (0o1777, 0o777)])
def test_it_may_not_be_more_writable_than_the_package(
    package: int, part: int, number: int, site: Path, good: Path
) -> None:
    """Each part of the way counts, and the search does not go on to a good runsc."""
    set_modes(site, 0o755)
    (site / "pytest_gvisor").chmod(package)
    parts(site)[number].chmod(part)
    with pytest.raises(InsecureRunsc, match=r"written by others|group or others may write"):
        found(site, good)


@pytest.mark.fault("A2")
@needs_root
@pytest.mark.parametrize("number", range(3))
def test_a_group_of_its_own_may_not_write_it(number: int, site: Path) -> None:
    """The package's group has the process already, and another group has not."""
    set_modes(site, 0o775)
    os.chown(parts(site)[number], -1, STRANGER)
    with pytest.raises(InsecureRunsc):
        found(site)


@pytest.mark.fault("A2")
@needs_root
def test_a_user_trusts_it_to_the_owner_of_the_package(site: Path) -> None:
    """An environment that another user keeps for this one; a third user may own no part of it."""
    give(site, OWNER)
    assert found(site, euid=STRANGER).origin is Origin.WHEEL
    for number in range(3):
        give(site, OWNER)
        os.chown(parts(site)[number], OWNER + 1, -1)
        with pytest.raises(InsecureRunsc, match=rf"{OWNER + 1}.*"):
            found(site, euid=STRANGER)


@pytest.mark.fault("A2")
@needs_root
@pytest.mark.parametrize("number", range(3))
def test_root_passes_over_a_wheel_that_is_not_roots(number: int, site: Path, good: Path) -> None:
    """The search goes on, and says so; without another runsc the error says it too."""
    os.chown(parts(site)[number], STRANGER, -1)
    judged = found(site, good, euid=0)
    assert (judged.path, judged.origin) == (str(good), Origin.SEARCH)
    note = f"{wheel(site)} was passed over: it is owned by uid {STRANGER} (allowed: root)"
    assert judged.passed == note
    with pytest.raises(RunscNotFound) as caught:
        found(site, euid=0)
    assert note in caught.value.message


@pytest.mark.fault("A2")
@needs_root
def test_root_takes_its_own_wheel_in_another_users_environment(site: Path) -> None:
    """The other user controls the process already."""
    os.chown(site / "pytest_gvisor", STRANGER, -1)
    os.chown(site, STRANGER, -1)
    assert found(site, euid=0).origin is Origin.WHEEL


def test_it_may_be_a_link_into_a_cache(site: Path, tmp_path: Path) -> None:
    """`uv pip install --link-mode symlink` makes one: the folder of the file itself counts."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o755)
    shutil.move(wheel(site), cache / "gvisor_sentry")
    wheel(site).symlink_to(cache / "gvisor_sentry")
    judged = found(site)
    assert judged.origin is Origin.WHEEL
    assert (judged.path, judged.sidecars.folder) == (str(cache / "gvisor_sentry"), str(cache))
    cache.chmod(0o777)
    with pytest.raises(InsecureRunsc, match=f"the folder {cache}"):
        found(site)


def test_a_program_that_comes_beside_it_ends_its_use(site: Path, fake_runsc: FakeRunsc) -> None:
    """runsc would start it, so each start looks again, by the trust of the wheel."""
    flags = r"  -net-disconnect-ok\n    \td.\n  -root string\n    \td.\n  -sidecar-x value\n"
    shutil.copy(fake_runsc(flags=f'fputs("{flags}", stderr)'), wheel(site))
    set_modes(site, 0o775)
    runsc = Runsc.of(locate.find(trusted=(), package=str(site / "pytest_gvisor")))
    try:
        runsc.check_unchanged()
        shutil.copy("/bin/true", wheel(site).parent / "gvisor-sentry-prewarmer")
        with pytest.raises(InsecureRunsc, match="it changed after it was checked"):
            runsc.check_unchanged()
    finally:
        runsc.close()
