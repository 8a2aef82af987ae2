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

# Says at least each ten seconds that this script goes on, with the last line of the command that runs quietly,
# until stop_telling or the script's end.
tell_how_far() {
    local seconds last
    for ((seconds = 1; ; seconds++)); do
        sleep 1
        [ -e "/proc/$$/exe" ] || exit 0 # it is gone, or a zombie
        last=$(tail -n 1 "$build/quiet" | tr -cd "[:print:]" | cut -c 1-100) || true
        ((seconds % 9)) || say "$seconds s${last:+: $last}"
    done 2>/dev/null </dev/null &
    teller=$!
    trap stop_telling EXIT
}
stop_telling() { { kill "$teller" && wait "$teller"; } 2>/dev/null || true; }

# Runs a command and shows what it printed only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    [ ! -d "$build" ] || ln -sfn "$log" "$build/quiet"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        printf '%s: exit status %s: %s\n' "$(basename "$0")" "$status" "$*" >&2
    fi
    rm -f "$log"
    return "$status"
}
