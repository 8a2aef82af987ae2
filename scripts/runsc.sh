# The choice of the runsc that the other scripts use, with the reasons. Sourced by scripts/setup.
#
# The choice is the first of these that passes a bounded run on systrap:
#
# 1. the runsc that the plugin's search finds
# 2. an earlier choice in .build/
# 3. the package: of Debian 13 on each Debian, else the machine's own
# 4. gVisor's release
# 5. a build of gVisor's Go module
#
# For tests and benchmarks the package comes last: they are of the current release. If none passes,
# the choice is the first on which any platform works. It is kept for a day, because the others cost
# downloads that fail. Downloads and builds stay in .build/. The path of the choice is in
# .build/runsc-path.
# shellcheck shell=bash disable=SC2034,SC2154
. "$checkout/scripts/archive.sh"

runsc_file=$build/runsc-path
to_put=$build/runsc-to-put
last_resort=$build/runsc-last-resort
# The newest version of the module that the suite has passed with.
go_version=v0.0.0-20260905035102-160fafc42237

# --- what the choice asks of the machine; tests put others in the place of these

# [--find] [--runsc PATH] [NAME…]: see there.
ask_platforms() { "$venv/bin/python" "$checkout/scripts/platforms.py" "$@"; }

pytest_gvisor() { "$venv/bin/pytest-gvisor" "$@"; }

go_runsc() { "$checkout/scripts/go-runsc" "$@"; }

# Without a mount namespace no runsc can start a sandbox, with or without a user namespace first.
machine_allows_sandboxes() {
    { [ "$(id -u)" -eq 0 ] && unshare --mount true || unshare --user --map-root-user --mount true; } 2>/dev/null
}

# --- the candidates: each prints the path of a runsc to try, or says why there is none

runsc_of_search() {
    local kind path rest
    IFS=$'\t' read -r kind path rest <<<"$(ask_platforms --find)" || true
    if [ "${path:-no}" = no ]; then
        echo "${rest:-it cannot be asked}"
        return 1
    fi
    echo "$path"
}

runsc_of_settled() { [ -n "$(find "$last_resort" -mmin -1440 2>/dev/null)" ] && kept_runsc; }

runsc_of_before() { [ ! -e "$last_resort" ] && kept_runsc; }

kept_runsc() {
    local path=
    [ ! -e "$runsc_file" ] || path=$(cat "$runsc_file")
    [ -n "$path" ] && [ -x "$path" ] || return 1
    [ -z "${wants_current:-}" ] || [[ $path != */usr/bin/runsc ]] || return 1
    echo "$path"
}

# It is unpacked, not installed. apt checks the archive's signature.
runsc_of_package() {
    local folder work version
    if find_archive; then
        folder=$build/runsc-2024
        fetch() { unpack trixie runsc "$folder" "$1"; }
    else
        version=$(candidate_version runsc)
        if [ -z "$version" ] && [ "$(id -u)" -eq 0 ]; then
            apt-get update >/dev/null 2>&1 || true
            version=$(candidate_version runsc)
        fi
        if [ -z "$version" ]; then
            echo "$archive_reason, and apt has no package of that name (on Ubuntu it is in the component universe)"
            return 1
        fi
        folder=$build/runsc-package-${version//[^[:alnum:].~+-]/_}
        fetch() { (cd "$1" && apt-get -o APT::Sandbox::User=root download runsc) && unpack_file "$1"/runsc_*.deb "$folder" "$1"; }
    fi
    if ! [ -x "$folder/usr/bin/runsc" ]; then
        mkdir -p "$build"
        work=$(mktemp -d "$build/runsc-package.XXXXXX")
        if ! fetch "$work" >"$work/log" 2>&1; then
            echo "it cannot be downloaded: $(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log")"
            rm -rf "$work"
            return 1
        fi
        rm -rf "$work"
    fi
    echo "$folder/usr/bin/runsc"
}

# apt's candidate of a package, or nothing.
candidate_version() { apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# Its site may be out of reach; a server that is silent for 20 seconds ends it too.
runsc_of_release() {
    local folder=$build/runsc-release said
    if ! [ -x "$folder/runsc" ]; then
        say "trying: pytest-gvisor install --to $folder" >&2
        if ! said=$(pytest_gvisor install --to "$folder" --timeout 300 2>&1 </dev/null); then
            # What went wrong, not what to do next.
            head -n 1 <<<"${said#pytest-gvisor install: }"
            return 1
        fi
    fi
    echo "$folder/runsc"
}

runsc_of_go() {
    local folder=$build/runsc-go-$go_version
    [ -x "$folder/runsc" ] || go_runsc "$go_version" "$folder" || return 1
    echo "$folder/runsc"
}

# --- the choice

declare -A runsc_names=(
    [search]="the machine's own" [settled]="the last resort, of less than a day ago" [before]="kept in .build" [package]="the package"
    [release]="gVisor's release" [go]="a build of gVisor's Go module"
)

nowhere="; this machine lets nobody start a sandbox"
on_others=", on the platforms that it has"

# Sets chosen, how and passed: the path, where it is from, and why not those before it. With an
# argument, tests or benchmarks want the current release.
choose_runsc() {
    local candidate path lines wants_current=${1:-} package=package last=
    [ -z "$wants_current" ] || package='' last=package
    local -a there=() names=() wanted
    chosen='' how='' passed=()
    for candidate in search settled before $package release go $last; do
        if ! path=$("runsc_of_$candidate"); then
            [ -z "$path" ] || passed+=("${runsc_names[$candidate]}: $path")
            continue
        fi
        wanted=(systrap)
        [ "$candidate" != settled ] || wanted=()
        if lines=$(ask_platforms --runsc "$path" "${wanted[@]}"); then
            chosen=$path how=${runsc_names[$candidate]}
            return
        fi
        # Where no sandbox starts at all, each that has systrap is as good as the next.
        if [[ $lines != *"not compiled in"* ]] && ! machine_allows_sandboxes; then
            chosen=$path how="${runsc_names[$candidate]}$nowhere"
            return
        fi
        passed+=("${runsc_names[$candidate]}: $(why_not "$lines")")
        there+=("$path") names+=("${runsc_names[$candidate]}")
    done
    if [ "${#there[@]}" -gt 0 ] && ! machine_allows_sandboxes; then
        chosen=${there[0]} how="${names[0]}$nowhere"
        return
    fi
    for candidate in "${!there[@]}"; do
        if ask_platforms --runsc "${there[$candidate]}" >/dev/null; then
            chosen=${there[$candidate]} how="${names[$candidate]}$on_others"
            return
        fi
    done
    return 1
}

# The last line of what platforms.py says, for people.
why_not() {
    local name verdict reason
    IFS=$'\t' read -r name verdict reason < <(tail -n 1 <<<"$1") || true
    if [ "${name:-}" = runsc ]; then echo "$reason"; else echo "$name does not work: ${reason:-it cannot be asked}"; fi
}

# Chooses, says so where it is another one than the last time, and keeps it. Its argument is that of
# choose_runsc.
find_a_runsc() {
    local reason
    if ! choose_runsc "$@"; then
        printf 'setup: no runsc works here\n' >&2
        [ "${#passed[@]}" -eq 0 ] || printf '  not %s\n' "${passed[@]}" >&2
        printf '  pytest-gvisor doctor says more of this machine: %s doctor\n' "$venv/bin/pytest-gvisor" >&2
        exit 1
    fi
    mkdir -p "$build"
    case $how in
    *"$on_others") : >"$last_resort" ;;
    "${runsc_names[settled]}") ;;
    *) rm -f "$last_resort" ;;
    esac
    [ -e "$runsc_file" ] && [ "$(cat "$runsc_file")" = "$chosen" ] && return
    say "runsc is $chosen: $how"
    for reason in "${passed[@]}"; do say "  not $reason"; done
    echo "$chosen" >"$runsc_file"
}

# The tests let the plugin search, so the choice has to be where it looks: $to_put has the path of the one that
# scripts/with-runsc puts there.
what_to_put() {
    local lines
    rm -f "$to_put"
    [ "$how" != "${runsc_names[search]}" ] || return 0
    lines=$(ask_platforms systrap) && return
    # None is better than what is found, and something works on it.
    case $how in *"$on_others" | "${runsc_names[settled]}") ask_platforms >/dev/null && return ;; esac
    [ "$(id -u)" -eq 0 ] ||
        die "the plugin's search finds no runsc that works ($(why_not "$lines")): run $venv/bin/pytest-gvisor install"
    echo "$chosen" >"$to_put"
}
