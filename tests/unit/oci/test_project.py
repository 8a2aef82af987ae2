"""The mounts that show a project, and those that hide its secrets."""

import os
from pathlib import Path

import pytest

from pytest_gvisor import bind
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.oci import packages, project, skeleton
from pytest_gvisor.oci.project import PATTERNS, Finder, Project, patterns
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No editable packages: this project is one."""
    monkeypatch.setattr(packages, "sources", list)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root folder of a project."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/.env").touch()
    (folder / ".git").mkdir()
    return folder


def covers(made: Project, folder: Path, *others: Mount) -> dict[str, Mount]:
    """The mounts that hide what is left out, by their places."""
    own = made.mounts()
    return {one.destination: one for one in made.covers(own, [*own, *others], str(folder))}


def test_a_root_folder_is_shown_read_only_by_both_of_its_names(root: Path, tmp_path: Path) -> None:
    """Where the way there has a link, secrets are hidden at both paths."""
    (tmp_path / "link").symlink_to("project")
    made = Project(root=str(tmp_path / "link"))
    assert made.mounts() == [bind(root, tmp_path / "link"), bind(root, root)]
    assert {*covers(made, tmp_path)} == {
        str(way / name) for way in (root, tmp_path / "link") for name in (".git", "sub/.env")
    }


def test_an_empty_file_or_folder_is_in_the_place_of_a_secret(root: Path, tmp_path: Path) -> None:
    """Nobody can write to either; one file is enough for all."""
    (root / "a.key").touch()
    hidden = covers(Project(root=str(root)), tmp_path)
    assert hidden[f"{root}/.git"].type is MountType.TMPFS
    files = [hidden[f"{root}/{name}"] for name in ("a.key", "sub/.env")]
    assert {one.source for one in files} == {str(tmp_path / "hidden")}
    assert (tmp_path / "hidden").read_bytes() == b""
    assert (tmp_path / "hidden").stat().st_mode & 0o777 == 0o444
    assert all("ro" in one.options for one in hidden.values())


def test_what_is_named_is_not_hidden(root: Path, tmp_path: Path) -> None:
    """A mount of the caller's own is in its place, and what a hidden folder holds is hidden."""
    (root / ".git/config.key").touch()
    (root / "link.key").symlink_to(".git/config.key")
    mine = bind(root / "sub/.env", root / "sub/.env")
    assert {*covers(Project(root=str(root)), tmp_path, mine)} == {f"{root}/.git"}


def test_sources_of_editable_packages_are_shown_without_secrets(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources in the project are there already, and so are those of the system."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.pem").touch()
    found = [str(other), str(root / "sub"), "/usr/lib", "/"]
    monkeypatch.setattr(packages, "sources", lambda: found)
    made = Project(root=str(root))
    assert [one.destination for one in made.mounts()] == [str(root), str(other)]
    assert f"{other}/x.pem" in covers(made, tmp_path)


@pytest.mark.parametrize("path", ["/", "/tmp", "/home", "HOME"])
def test_a_root_folder_that_is_nobodys_own_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder would show other projects, or a whole home folder."""
    monkeypatch.setattr(skeleton, "home", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="project=True would show all of"):
        Project(root=path.replace("HOME", str(tmp_path))).mounts()


def test_a_name_that_config_json_cannot_hold_is_an_error(root: Path, tmp_path: Path) -> None:
    """For runsc it would be another file, and the secret would be seen."""
    (root / os.fsdecode(b".env\xff")).touch()
    with pytest.raises(UsageError, match=r"cannot be hidden: its name is not UTF-8"):
        covers(Project(root=str(root)), tmp_path)


def test_too_many_secrets_are_an_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a mount; those in a hidden folder do not count."""
    for number in range(3):
        (root / f".git/{number}.key").touch()
        (root / f"sub/{number}.key").touch()
    monkeypatch.setattr(project, "MOST_HIDDEN", 4)
    with pytest.raises(UsageError, match="has 5 files and folders to hide: 4 at most"):
        covers(Project(root=str(root)), tmp_path)
    assert len(covers(Project(root=str(root), hidden=(".git", "sub")), tmp_path)) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root lists all folders")
def test_a_root_folder_that_cannot_be_listed_is_refused(root: Path, tmp_path: Path) -> None:
    """Nobody knows what is in it."""
    root.chmod(0o300)
    with pytest.raises(UsageError, match="cannot be searched for secrets"):
        covers(Project(root=str(root)), tmp_path)
    root.chmod(0o700)


ordinary = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root can list every folder"
)


def make(folder: Path, *names: str) -> None:
    """Make empty files of these names, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, *passed_by: Path, asked: tuple[str, ...] = PATTERNS) -> list[str]:
    """The hidden entries below a folder, relative to it."""
    entries = Finder(asked, list(map(str, passed_by))).find(str(folder))
    return sorted(os.path.relpath(entry, folder) for entry in entries)


def test_secrets_are_found_in_every_folder_and_whatever_their_case(tmp_path: Path) -> None:
    """Files and folders count by their names, and nothing is looked for in a hidden folder."""
    make(tmp_path, ".env", "a/.env.local", "a/b/SERVER.PEM", "a/Id_Rsa", ".git/x.key", "a/.git")
    make(tmp_path, "env", "a/environment.py", "key", "a/git", "a/pem.txt", "x/.config/other")
    make(tmp_path, "x/.config/gcloud/token")
    assert found(tmp_path) == [
        ".env", ".git", "a/.env.local", "a/.git", "a/Id_Rsa", "a/b/SERVER.PEM", "x/.config/gcloud",
    ]  # fmt: skip


KEPT = (
    "prod.env .flaskenv .envrc .direnv/x .dev.vars client_secret_1.json Client_Secret.json"
    " service-account-1.json service_account.json serviceAccountKey.json my-adminsdk-x.json"
    " application_default_credentials.json .npmrc .pypirc .netrc pip.conf .venv/pip.conf"
    " env/conda-meta/state id_ed25519 id_ed25519_sk a.pem a.p12 a.jks release.keystore AuthKey.p8"
    " keystore.properties terraform.tfstate terraform.tfstate.backup prod.auto.tfvars.json"
    " secrets.yml app-secret.yaml secrets.enc.yaml .streamlit/secrets.toml local_settings.py"
    " wp-config.php .dockerconfigjson .docker/config.json kubeconfig prod.kubeconfig .vault-token"
    " .vault_pass .aws/credentials .cargo/credentials.toml .m2/settings.xml .config/gh/hosts.yml"
    " worktree/.git auth.json NuGet.Config .htpasswd .databrickscfg .psql_history kaggle.json"
    " vault-password.txt"
)
SHOWN = (
    "env.py environment.yml settings.py secrets.py test_secrets.py credentials.py tokens.json"
    " keys.py monkey.json package.json config.json auth/__init__.py history.txt public.asc"
    " docker/Dockerfile pip/conf.py state.json vault.py keystore.py kubeconfig.py"
)


@pytest.mark.parametrize("name", KEPT.split())
def test_names_of_secrets_in_real_projects_are_hidden(tmp_path: Path, name: str) -> None:
    """A file, or the folder that it lies in."""
    make(tmp_path, name)
    assert len(found(tmp_path)) == 1


def test_names_of_code_and_plain_data_are_shown(tmp_path: Path) -> None:
    """A module called ``secrets`` is code."""
    make(tmp_path, *SHOWN.split())
    assert found(tmp_path) == []


def test_every_name_of_a_secret_file_is_hidden(root: Path, tmp_path: Path) -> None:
    """A hard link in another folder too; a file of the same content is another one."""
    (root / "sub/.env").write_text("x")
    (root / "settings").write_text("x")
    os.link(root / "sub/.env", root / "plain")
    hidden = covers(Project(root=str(root)), tmp_path)
    assert {*hidden} == {f"{root}/{name}" for name in (".git", "sub/.env", "plain")}


def test_a_secret_link_hides_its_target_where_the_system_holds_the_project(
    root: Path, tmp_path: Path
) -> None:
    """A project in /usr/src lies in a mount of the system's."""
    make(root, "config/prod", "keys/id")
    (root / "config/.env").symlink_to("prod")
    (root / ".ssh").symlink_to("keys")
    hidden = covers(Project(root=str(root)), tmp_path, bind(tmp_path, tmp_path, follow=True))
    assert {*hidden} == {f"{root}/{name}" for name in (".git", "sub/.env", "config/prod", "keys")}


def test_hostile_names_are_names(tmp_path: Path) -> None:
    """Line breaks, quotes, glob characters and bytes that are no UTF-8 hide nothing from us."""
    names = [".env\nx", '.env"\\', ".env*[a]", " .env ", "*/.env", os.fsdecode(b".env\xff")]
    make(tmp_path, *names)
    assert found(tmp_path) == sorted({*names} - {" .env "})


def test_no_link_is_followed_and_a_secret_one_hides_its_target(tmp_path: Path) -> None:
    """A loop ends, a folder outside is not searched, and a link to nothing hides nothing."""
    make(tmp_path, "project/a/settings", "outside/.env")
    project = tmp_path / "project"
    for link, target in (
        ("loop", "."), ("away", "../outside"), ("a/.env", "settings"), (".git", "."),
        ("x.pem", "x.pem"), ("y.pem", "nowhere"),
    ):  # fmt: skip
        (project / link).symlink_to(target)
    assert found(project) == ["a/settings"]


def test_what_is_shown_for_another_reason_stays(tmp_path: Path) -> None:
    """A Python in the project, and what a link leads to in it, are not hidden."""
    make(tmp_path, ".env/lib/cacert.pem", "venv/lib/cacert.pem")
    (tmp_path / "ca.pem").symlink_to("venv/lib/cacert.pem")
    assert found(tmp_path, tmp_path / ".env", tmp_path / "venv") == []


@ordinary
def test_a_folder_that_cannot_be_listed_is_hidden(tmp_path: Path) -> None:
    """A workload of the same user could open a file in it by name."""
    make(tmp_path, "closed/.env")
    (tmp_path / "closed").chmod(0o300)
    assert found(tmp_path) == ["closed"]
    (tmp_path / "closed").chmod(0o700)


def test_a_file_has_no_entries(tmp_path: Path) -> None:
    """The source of an editable module is a file, and a folder may be gone by now."""
    make(tmp_path, "module.py")
    assert found(tmp_path / "module.py") == found(tmp_path / "gone") == []


def test_too_many_entries_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search has an end, and a folder that is left out is not searched."""
    monkeypatch.setattr(project, "MOST_ENTRIES", 3)
    make(tmp_path, "many/1", "many/2", "many/3", "other/1")
    with pytest.raises(UsageError, match="more than 3 files") as caught:
        found(tmp_path)
    assert "gvisor_project_hidden" in caught.value.next_step
    assert found(tmp_path, asked=("many",)) == ["many"]


def test_a_way_that_is_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be searched is not shown."""
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(UsageError, match="File name too long"):
        found(tmp_path)


def test_the_ini_key_adds_names_and_takes_them_off() -> None:
    """``!`` takes a name off the list; one that is not in the list is a mistake."""
    chosen = patterns(["", " fixtures/private/ ", "!*.pem"])
    assert {*chosen} == {*PATTERNS, "fixtures/private"} - {"*.pem"}
    assert patterns([]) == PATTERNS
    with pytest.raises(UsageError, match=r'gvisor_project_hidden: "!\*\.pam" takes away'):
        patterns(["!*.pam"])
