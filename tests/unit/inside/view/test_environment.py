"""The variables of tests inside: an allow-list, the user's entries, and a hint at a missing one."""

import socket

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.inside.view.configuration import families
from pytest_gvisor.inside.view.environment import environment, held_back, hint

HOST = {
    "LANG": "C.UTF-8", "LC_TIME": "C", "CI": "true", "DJANGO_SETTINGS_MODULE": "app.settings",
    "DJANGO_SECRET_KEY": "s", "DJANGO_DB_PASS": "s", "TOX_SIGN_PASSPHRASE": "s",
    "DJANGO_DATABASE": "postgres://u:p/w@host", "PYTEST_PLUGINS": "mine", "PYTEST_ADDOPTS": "-x",
    "PYTEST_GVISOR_STRICT": "1", "PYTEST_DEBUG_TEMPROOT": "/tmp/x", "TOX_ENV_NAME": "py",
    "HYPOTHESIS_PROFILE": "ci", "PYTHONPATH": "lib",
    "PYTEST_XDIST_WORKER": "gw1", "APP_MODE": "test", "APP_TOKEN": "t", "APP_DB": "pg://u:p@h/d",
    "APP_URL": "http://localhost/", "HOME": "/home/me", "PATH": "/x", "SSH_AUTH_SOCK": "/s",
    "VSCODE_PID": "1", "XDG_RUNTIME_DIR": "/run/user/1", "AWS_PROFILE": "work",
}  # fmt: skip
ALWAYS = {
    "LANG", "LC_TIME", "CI", "DJANGO_SETTINGS_MODULE", "PYTEST_PLUGINS", "TOX_ENV_NAME",
    "HYPOTHESIS_PROFILE", "PYTEST_XDIST_WORKER", "PYTHONPATH",
}  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "more"),
    [
        ([], {}),
        (["APP_MODE"], {"APP_MODE": "test"}),
        (["UNSET", "EMPTY="], {"EMPTY": ""}),
        (["OTHER=a=b", "APP_MODE=other"], {"OTHER": "a=b", "APP_MODE": "other"}),
        (["APP_*"], {"APP_MODE": "test", "APP_URL": "http://localhost/"}),
        (["APP_*", "APP_TOKEN"], {"APP_MODE": "test", "APP_URL": "http://localhost/",
                                  "APP_TOKEN": "t"}),
        (["*"], {"APP_MODE": "test", "APP_URL": "http://localhost/", "AWS_PROFILE": "work"}),
        (["*", "!A*"], {}),
        (["!A*", "APP_MODE"], {"APP_MODE": "test"}),
        (["APP_DB", "HOME"], {"APP_DB": "pg://u:p@h/d", "HOME": "/home/me"}),
        (["?WS_[P]*"], {"AWS_PROFILE": "work"}),
    ],
)  # fmt: skip
def test_an_entry_is_a_name_a_value_or_a_glob(entries: list[str], more: dict[str, str]) -> None:
    """A glob passes no secret and no name of the host's own; a name passes whatever it is."""
    assert environment(entries, HOST) == {name: HOST[name] for name in ALWAYS} | more


@pytest.mark.parametrize(
    "name",
    ["APP_SMTP_PASS", "APP_PASSPHRASE", "APP_DB_PWD", "APP_DSN", "APP_CRED", "APP_KEY", "app_token",
     "APP_PAT", "APP_COOKIE", "APP_AUTH", "APP_SALT", "LDAP_BIND_PW", "REDIS_PSW", "PGPASSWORD",
     "MYSQL_PWD", "DATABASE_PASSWD", "appPassword", "APP_JWT", "SESSION_ID", "TOTP_SEED", "HMAC",
     "AZURE_STORAGE_CONNECTION_STRING", "SQLCONNSTR_main", "SENTRY_DSN", "SLACK_WEBHOOK_URL",
     "STRIPE_SK", "USER_PIN", "STORAGE_SAS", "VAULT_UNSEAL", "COOKIE_PEPPER", "BEARER", "MNEMONIC",
     "GOOGLE_APPLICATION_CREDENTIALS", "KUBECONFIG", "RECOVERY_CODES", "TLS_PEM", "APP_P12",
     "npm_config__auth", "DOCKER_AUTH_CONFIG", "OAUTH2", "SIGNING", "CODE_SIGN_ID", "TLS_CERT",
     "AUTHORIZATION", "APIKEY", "AWS_SECRET_ACCESS_KEY", "LICENSE_KEY"],
)  # fmt: skip
def test_a_glob_passes_no_name_of_a_secret(name: str) -> None:
    """Its exact name passes it."""
    assert name not in environment(["*"], {name: "x"})
    assert environment([name], {name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "value",
    ["postgres://u:p/w@host", "redis://:p@h", "https://token@host/x", "-----BEGIN RSA x",
     "eyJhbGciOi.eyJzdWIiOi.x", "Bearer x", "Basic dTpw", "host=h Password=p", "AKIA" + "0" * 16,
     "x ghp_abc", "github_pat_x", "glpat-x", "xoxb-1", "sk-abc", "sk_live_x", "npm_x", "pypi-x",
     "hf_x", "AIza" + "x" * 20, "Endpoint=e;SharedAccessKey=k", "gldt-x", "xapp-1",
     "https://x/?api_key=1", "https://x/?a=1&access_token=z", "https://s3/x?X-Amz-Signature=1",
     "https://hooks.slack.com/services/T0/B0/x", "https://discord.com/api/webhooks/1/x",
     "user:pw@tcp(db:3306)/x", "Server=a;User Id=b;Pwd=c;", '{"client_secret": "x"}',
     '{"auths": {"r": {"auth": "dTpw"}}}', "machine h login u password p", "LS0tLS1CRUdJTiBSU0E",
     "AGE-SECRET-KEY-1X", "GOCSPX-aBc1" + "x" * 20, "dapi" + "0a" * 16, "12345:AAF9k" + "x" * 30,
     "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "x " * 2049],
)  # fmt: skip
def test_a_glob_passes_no_value_of_a_secret(value: str) -> None:
    """Its exact name passes it."""
    assert environment(["APP_*"], {"APP_MODE": value}) == {}
    assert environment(["APP_MODE"], {"APP_MODE": value}) == {"APP_MODE": value}


def test_a_glob_passes_no_value_of_more_than_4096_characters() -> None:
    """A search for secrets in it could take long."""
    longest = "x " * 2048
    assert environment(["APP_*"], {"APP_A": longest, "APP_B": f"{longest}x"}) == {"APP_A": longest}


@pytest.mark.parametrize("value", [
    "", "test", "http://localhost:80/x?y=z", "a@b.example", "1,2", "/usr/bin:/bin", "de_DE.UTF-8",
    "registry.example/app:1.0", "2026-01-01T00:00:00Z", "123e4567-e89b-12d3-a456-426614174000",
    "myproject.backends.FooBar2Backend", '{"a": 1}', "-x --y=z", "app.main:create_app",
])  # fmt: skip
def test_a_glob_passes_other_values(value: str) -> None:
    """An address of mail is no user information in a URL."""
    assert environment(["APP_*"], {"APP_MODE": value}) == {"APP_MODE": value}


@pytest.mark.parametrize("name", [
    "APP_ENV", "APP_DEBUG", "APP_DB_HOST", "APP_DB_USER", "APP_LOG_LEVEL", "APP_AUTHOR", "AUTHORS",
    "APP_KEYBOARD", "APP_KEYWORDS", "TOKENIZERS_PARALLELISM", "APP_DESIGN", "APP_ASSIGNEE",
    "APP_SIGNAL", "APP_CREDITS", "APP_PASSED", "APP_PATTERN", "APP_SPIN", "APP_SESSIONS",
    "APP_SKIP", "APP_OPTIONS", "RANDOM_SEED", "VAULT_ADDR",
])  # fmt: skip
def test_a_glob_passes_other_names(name: str) -> None:
    """Such a name only holds the letters of a secret one."""
    assert environment(["*"], {name: "x"}) == {name: "x"}


def test_names_of_the_allow_list_can_be_left_out() -> None:
    """The last entry that matches a name counts."""
    found = environment(["!PYTEST_*", "!LC_*", "PYTEST_PLUGINS=other"], HOST)
    assert found["PYTEST_PLUGINS"] == "other"
    assert set(found) == ALWAYS - {"PYTEST_XDIST_WORKER", "LC_TIME"}


def test_plugins_of_editors_are_not_loaded_inside() -> None:
    """VS Code's would look for a pipe of the host's."""
    found = environment([], {**HOST, "PYTEST_PLUGINS": "mine,vscode_pytest,other"})
    assert found["PYTEST_PLUGINS"] == "mine,other"
    pipes = {"TEST_RUN_PIPE": "/p", "RUN_TEST_IDS_PIPE": "/i", "TEAMCITY_VERSION": "LOCAL"}
    assert pipes.keys().isdisjoint(environment(["*"], {**HOST, **pipes}))
    assert held_back(found, {**HOST, **pipes}) == held_back(found, HOST)


@pytest.mark.parametrize("entry", ["", "!", "=x", "A\0B=1", "!A=1"])
def test_what_is_no_entry_is_refused(entry: str) -> None:
    """An invalid entry is refused before anything starts."""
    with pytest.raises(UsageError, match="--gvisor-env"):
        environment([entry], {})


def test_names_that_tests_may_miss_are_told() -> None:
    """The host's own names have their own values inside."""
    assert held_back(environment(["APP_MODE"], HOST), HOST) == [
        "APP_DB", "APP_TOKEN", "APP_URL", "AWS_PROFILE", "DJANGO_DATABASE", "DJANGO_DB_PASS",
            "DJANGO_SECRET_KEY", "TOX_SIGN_PASSPHRASE",
    ]  # fmt: skip


@pytest.mark.parametrize("missed", [
    None, 1, "APP_URL", [["APP_URL"]], [{}], ["NOT_OF_THE_HOST"], [*["x"] * 1000, "APP_URL"],
])  # fmt: skip
def test_a_message_from_inside_can_name_nothing_else(missed: object) -> None:
    """A hostile test cannot have the host print what it likes."""
    assert hint(missed, ["APP_URL"]) == ""


def test_a_hint_says_how_to_pass_a_variable_on() -> None:
    """Each name once."""
    text = hint(["APP_URL", "APP_DB", "APP_URL"], ["APP_DB", "APP_URL"])
    assert "looked for APP_URL, APP_DB:" in text
    assert "--gvisor-env APP_URL --gvisor-env APP_DB" in text


@pytest.fixture(params=[set(), {"AF_INET"}, {"AF_INET", "AF_INET6"}], ids=len)
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The families that the host's C library finds addresses of."""

    def find(_host: None, _port: int, family: socket.AddressFamily, *rest: int) -> list[object]:
        assert rest[-1] == socket.AI_ADDRCONFIG
        if family.name not in request.param:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", find)
    found: set[str] = request.param
    return found


def test_those_of_the_host_are_missing_where_there_is_loopback_alone(counting: set[str]) -> None:
    """Without a network, and in a network namespace that the sandbox has for itself."""
    for network in (Network.NONE, Network.SANDBOX):
        assert set(families(Settings(network=network))) == counting


@pytest.mark.parametrize(
    "settings",
    [Settings(network=Network.HOST), Settings(network=Network.SANDBOX, netns="/run/netns/x")],
    ids=["host", "netns"],
)
def test_none_is_missing_where_there_are_real_addresses(
    counting: set[str], settings: Settings
) -> None:
    """The addresses of the host, or of the namespace that was named, decide by themselves."""
    assert len(counting) < 3
    assert families(settings) == []


def test_a_library_that_is_not_found_is_looked_for_by_a_variable_of_the_loader() -> None:
    """No glob passes it on, and it counts as held back: a library may lie in one of its folders."""
    host, text = (
        {"LD_LIBRARY_PATH": "/opt/lib", "LD_PRELOAD": "x"},
        "cannot open shared object file",
    )
    held = held_back(environment(["LD_*"], host), host)
    assert held == ["LD_LIBRARY_PATH"]
    assert "\nTo pass on: --gvisor-env LD_LIBRARY_PATH (or ini gvisor_env)" in hint(
        [], held, [text]
    )
    assert hint([], held, ["other"]) == hint([], [], [text]) == ""
    assert held_back(environment(held, host), host) == []
