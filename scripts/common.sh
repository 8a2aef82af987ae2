# Strict mode, the checkout's paths, and functions for messages. Sourced by the other scripts.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$checkout/.venv
build=$checkout/.build
export LC_ALL=C.UTF-8
# Some containers set it. The tests start some 2,000 interpreters, and each would compile the package,
# through pytest's rewriting of assertions: a quarter of all processor time.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s: %s\n' "$(basename "$0")" "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command and shows what it printed only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        printf '%s: exit status %s: %s\n' "$(basename "$0")" "$status" "$*" >&2
    fi
    rm -f "$log"
    return "$status"
}
