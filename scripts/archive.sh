# Functions to unpack packages of other suites of Debian's archive, without an installation. Sourced.
# shellcheck shell=bash disable=SC2034
#
# The archive's address is that of this machine's own apt, with another suite. apt gets a private
# state and cache, so the machine's package lists stay unchanged. Debian's signature is checked.

# Sets $address and $keyring; without an archive the status is 1 and $archive_reason has the cause.
find_archive() {
    local file
    address='' keyring='' archive_reason=''
    if ! command -v apt-get >/dev/null; then
        archive_reason="this machine has no apt"
    elif ! (. /etc/os-release && [ "$ID" = debian ]); then
        archive_reason="this machine is not Debian"
    else
        # One line a package index: base address, suite, component, keyring. The Debian archive proper
        # has a suite of one word; trixie-security and trixie-updates do not carry older releases.
        # shellcheck disable=SC2016  # these are apt's variables
        address=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
            awk '$3 == "main" && $2 !~ /[-\/]/ { print $1; exit }')
        [ -n "$address" ] || archive_reason="apt's configuration names no archive with a component main"
    fi
    [ -z "$archive_reason" ] || return 1
    for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [ -e "$file" ] && keyring=$file && break
    done
    [ -n "$keyring" ] || archive_reason="debian-archive-keyring is not installed"
    [ -z "$archive_reason" ]
}

# What apt needs for some suites alone: their sources, and empty lists of its own.
make_state() {
    local work=$1 suite
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,parts}
    for suite in "${@:2}"; do
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$address" "$suite"
    done >"$work/sources.list"
    : >"$work/state/status"
}

# Sets $private, the options with which apt uses a state that make_state made.
private_options() {
    local work=$1
    private=(
        -o Dir::State="$work/state"
        -o Dir::State::status="$work/state/status"
        -o Dir::Cache="$work/cache"
        -o Dir::Etc::sourcelist="$work/sources.list"
        -o Dir::Etc::sourceparts="$work/parts"
        -o Dir::Etc::preferences="$work/parts/none"
        -o Dir::Etc::preferencesparts="$work/parts"
        -o APT::Sandbox::User=root
        -o APT::Update::Error-Mode=any
        -o Acquire::Languages=none
        -o Acquire::Retries=3
    )
}

private_apt() {
    local -a private
    private_options "$1"
    quietly apt-get "${private[@]}" "${@:2}"
}

private_apt_cache() {
    local -a private
    private_options "$1"
    apt-cache "${private[@]}" "${@:2}"
}

# Unpacks a package of a suite into a folder; further arguments are options of apt-get update.
# Its steps are joined by &&: "set -e" is off in a function whose status is asked for.
unpack() {
    local suite=$1 package=$2 target=$3 work=$4
    make_state "$work" "$suite" &&
        private_apt "$work" "${@:5}" update &&
        (cd "$work" && private_apt "$work" download "$package") &&
        unpack_file "$work/$package"_*.deb "$target" "$work"
}

# unpack_file FILE TARGET WORK
unpack_file() {
    dpkg -x "$1" "$3/unpacked" &&
        # What a validated binary must be: of root (or of who runs this), and writable by nobody else.
        chmod -R u=rwX,go=rX "$3/unpacked" &&
        rm -rf "$2" &&
        mv "$3/unpacked" "$2"
}
