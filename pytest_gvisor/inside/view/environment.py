"""The environment of tests inside: an allow-list, changed by the user's entries.

An entry is ``NAME``, ``NAME=VALUE``, a glob such as ``APP_*``, or ``!glob`` for names to leave out.
The last entry that matches a name counts. Does no input or output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import escape

KEY: Final = "gvisor_env"
"""The ini key, and where argparse puts the option."""

# Names that say how programs and test tools behave, and nothing about this machine or its user. No
# glob: projects keep passwords under the prefixes of their tools, such as DJANGO_DB_PASS.
ALLOWED: Final = (
    "LANG", "LANGUAGE", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION",
    "LC_MEASUREMENT", "LC_MESSAGES", "LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER",
    "LC_TELEPHONE", "LC_TIME", "TZ", "TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR",
    "PY_COLORS", "CI", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONDEVMODE", "PYTHONUTF8",
    "PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER",
    "PYTHONINTMAXSTRDIGITS", "PYTHONIOENCODING", "PYTHONMALLOC", "PYTHONNODEBUGRANGES",
    "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH", "PYTHONTRACEMALLOC",
    "PYTHONUNBUFFERED", "PYTHONCOERCECLOCALE", "PYTHONWARNDEFAULTENCODING",
    "PYTHON_CONTEXT_AWARE_WARNINGS", "PYTHON_CPU_COUNT", "PYTHON_GIL",
    "PYTHON_THREAD_INHERIT_CONTEXT", "SOURCE_DATE_EPOCH",
    "DJANGO_ALLOW_ASYNC_UNSAFE", "DJANGO_CONFIGURATION", "DJANGO_SETTINGS_MODULE",
    "HYPOTHESIS_DATABASE_FILE", "HYPOTHESIS_PROFILE", "HYPOTHESIS_VERBOSITY_LEVEL",
    "NOX_CURRENT_SESSION", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_PLUGINS", "PYTEST_THEME",
    "PYTEST_THEME_MODE", "PYTEST_TIMEOUT", "PYTEST_VERSION", "PYTEST_XDIST_AUTO_NUM_WORKERS",
    "PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT",
    "TOX_ENV_DIR", "TOX_ENV_NAME", "TOX_WORK_DIR",
    # Of the host's folders, but tests see what is on sys.path: a Python that they start has to.
    "PYTHONPATH",
)  # fmt: skip
# Names that a glob does not pass: of the host's folders, sockets, loader and editors, and of the
# pytest on the host itself.
_OF_THE_HOST: Final = frozenset({
    "_", "HOME", "PATH", "PWD", "OLDPWD", "SHELL", "SHLVL", "USER", "LOGNAME", "HOSTNAME", "MAIL",
    "TMPDIR", "TEMP", "TMP", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE",
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "STY", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST",
    "TEST_RUN_PIPE", "RUN_TEST_IDS_PIPE", "IDE_PROJECT_ROOTS",
})  # fmt: skip
_HOST_PREFIXES: Final = (
    "XDG_", "LD_", "VIRTUAL_ENV", "CONDA_", "PYENV_", "SSH_", "GPG_", "DBUS_", "DOCKER_", "JPY_",
    "TMUX", "TERM_PROGRAM", "BASH", "PYTEST_GVISOR_", "PYTEST_DEBUG", "COV_CORE_", "VSCODE_",
    "PYCHARM_", "PYDEVD_", "DEBUGPY_", "TEAMCITY_", "_JB_", "JB_", "JETBRAINS_",
)  # fmt: skip
# Compiled when a glob is given first: it takes milliseconds.
_SECRET_NAME: Final = (
    r"(?i)"
    r"PASS(?!ED)|PHRASE|PWD|PSW|CRED(?!IT)|SECRET|TOKEN(?!IZ)|KEY(?!BOARD|WORD)|PRIVATE|UNSEAL"
    r"|AUTH(?!ORS?($|_))|COOKIE|SESSION_?ID|DSN|CONN(ECTION)?_?STR|SALT|PEPPER|WEBHOOK|KUBECONFIG"
    r"|CERT(?!AIN)|(?<!DE)(?<!AS)SIGN(?!AL)|JWT|HMAC|BEARER|MNEMONIC|RECOVERY"
    r"|(^|_)(PW|PAT|PIN|T?OTP|SAS|SK|PEM|P12|PFX)($|_)"
)
# User information in a URL or before a host, PEM, a JWT, an Authorization header, a password in a
# query, a connection string or JSON, what the tokens of well-known services begin with, and long
# words of random letters and digits.
_SECRET_VALUE: Final = (
    r"(?i:[a-z][a-z0-9+.-]*://\S*@|^[^\s/:@]+:[^\s@]+@|-----BEGIN |\b(basic|bearer) \S"
    r"|\bpass(word|wd)\b|(pass|pwd|secret|token|key|auth|sig|signature)[\"']?\s*[:=]|secret-key"
    r"|hooks\.slack\.com|/api/webhooks/)|LS0tLS1CRUdJTi|\beyJ[\w-]+\.[\w-]+\."
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}|\bgh[oprsu]_|\bgithub_pat_|\bgl[a-z]{2,4}-|\bxox[a-z]-|\bxapp-"
    r"|\b[prs]k[-_]|\b(npm|hf|dop_v1)_|\bpypi-|\bSG\.|\bAIza|[0-9a-f]{32}"
    r"|\b(?=[\w-]{,39}[a-z])(?=[\w-]{,39}[A-Z])(?=[\w-]{,39}\d)[\w-]{20}"
    r"|(?<![\w+/=-])(?=\S*\d)[A-Za-z0-9+/]{40}(?![\w+/=-])"
)
_LONGEST: Final = 4096
_LOADER_PATH: Final = "LD_LIBRARY_PATH"
_PLUGINS: Final = "PYTEST_PLUGINS"
# VS Code gives -p vscode_pytest. PyCharm hands its plugin over as a module; who has
# teamcity-messages installed has the same plugin by its entry point.
_EDITORS: Final = frozenset({
    "vscode_pytest", "pytest-teamcity", "pytest_teamcity", "teamcity.pytest_plugin",
})  # fmt: skip
_GLOB: Final = frozenset("*?[")
_MOST_MISSED: Final = 1000


def environment(entries: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of tests inside. Raises `UsageError` for what is no entry."""
    found: dict[str, str] = {}
    for entry in (*ALLOWED, *entries):
        pattern, equals, value = entry.removeprefix("!").partition("=")
        if not pattern or "\0" in entry or (equals and entry.startswith("!")):
            raise UsageError(
                f"--gvisor-env {entry!r}",
                next_step="Write NAME, NAME=VALUE, a glob, or !glob for names to leave out. The "
                f"ini key {KEY} takes the same.",
            )
        if equals:
            found[pattern] = value
        elif entry.startswith("!"):
            found = {name: v for name, v in found.items() if not fnmatchcase(name, pattern)}
        elif _GLOB.isdisjoint(pattern):
            found |= {pattern: environ[pattern]} if pattern in environ else {}
        else:
            found |= {n: v for n, v in environ.items() if fnmatchcase(n, pattern) and _passes(n, v)}
    if found.get(_PLUGINS) == environ.get(_PLUGINS, ""):
        found[_PLUGINS] = ",".join(without_editors(found[_PLUGINS].split(",")))
    return found


def without_editors(plugins: Iterable[str]) -> list[str]:
    """Return the names of plugins for the pytest inside.

    Those that report to an editor, through a pipe or standard output of the host, stay here. They
    see the reports of tests inside like all others.
    """
    return [name for name in plugins if name not in _EDITORS]


def _passes(name: str, value: str) -> bool:
    """Whether a glob passes a variable that is no secret by its name or by its value."""
    # A longer value is a file's content, and would take the expressions long.
    secret = (
        len(value) > _LONGEST or re.search(_SECRET_NAME, name) or re.search(_SECRET_VALUE, value)
    )
    return not (secret or _is_of_the_host(name))


def _is_of_the_host(name: str) -> bool:
    is_socket = re.search(r"_SOCK(ET)?\Z", name) is not None
    return name in _OF_THE_HOST or name.startswith(_HOST_PREFIXES) or is_socket


def held_back(found: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return the names of the host that tests inside may miss, sorted."""
    missed = environ.keys() - found.keys()
    return sorted(n for n in missed if not _is_of_the_host(n) or n == _LOADER_PATH)


def hint(missed: Any, held: Iterable[str], texts: Iterable[str] = ()) -> str:
    """Return what to say of variables that a failed test looked for; nothing if none is held back.

    ``missed`` comes from inside, and so do the ``texts`` of the failure.
    """
    known = list(held)  # a hostile entry may have no hash
    names = [n for n in missed[:_MOST_MISSED] if n in known] if isinstance(missed, list) else []
    if _LOADER_PATH in known and any("cannot open shared object" in text for text in texts):
        names.append(_LOADER_PATH)
    if not names:
        return ""
    listed = ", ".join(escape(name) for name in dict.fromkeys(names))
    options = " ".join(f"--gvisor-env {escape(name)}" for name in dict.fromkeys(names))
    return (
        f"the test looked for {listed}: set on the host, and held back from tests inside.\n"
        f"To pass on: {options} (or ini {KEY})"
    )
