# The unprivileged user of the suite, with a copy of the checkout and of .venv. Sourced after common.sh, as root.
# shellcheck shell=bash disable=SC2154
user=pytest-gvisor-test
userns_switch=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
copy=
userns_was=

# What the user's programs inherit: how packages are fetched, and nothing else.
clean_environment() {
    local name
    printf '%s\n' "HOME=$1" "USER=$user" "LOGNAME=$user" SHELL=/bin/sh LANG=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin TESTS_STRICT_SKIPS=1 "TESTS_FAILED=$copy/failed"
    for name in "${!PIP_@}" CI COLUMNS GOPROXY TERM SSL_CERT_FILE {http,https,no}_proxy {HTTP,HTTPS,NO}_PROXY; do
        [ -z "${!name:-}" ] || printf '%s\n' "$name=${!name}"
    done
}

as_user() {
    env -i -C "$copy" "${environment[@]}" \
        setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all -- "$@"
}

# Zombies do not count: they are init's to collect.
processes_of_user() { { ps -u "$user" -o stat=,pid=,args= || true; } | awk '!/^Z/'; }

# shellcheck disable=SC2329  # a trap calls it
remove_copy() {
    if [ -n "$userns_was" ]; then
        echo "$userns_was" >"$userns_switch"
        userns_was=
    fi
    if [ -n "$copy" ]; then
        processes_of_user | awk '{ print $2 }' | xargs -r kill -KILL 2>/dev/null || true
        rm -rf "$copy"
        copy=
    fi
}

# Wheels of everything that .venv holds, made once, so that the user's venv needs no network.
make_wheelhouse() {
    local wanted
    wanted=$("$venv/bin/python" -m pip list --format=freeze --exclude-editable | sha256sum)
    [ -e "$build/wheelhouse/stamp" ] && [ "$(cat "$build/wheelhouse/stamp")" = "$wanted" ] && return
    say "collecting wheels for the unprivileged user"
    rm -rf "$build/wheelhouse"
    mkdir -p "$build/wheelhouse"
    "$venv/bin/python" -m pip list --format=freeze --exclude-editable >"$build/wheelhouse/all.txt"
    (cd "$checkout" && quietly "$venv/bin/python" -m pip wheel -w "$build/wheelhouse" \
        -r "$build/wheelhouse/all.txt" 'hatchling>=1.25' editables)
    echo "$wanted" >"$build/wheelhouse/stamp"
}

# Not where it lies in root's home folder, say.
user_has_the_same_python() { as_user "$(readlink -f "$venv/bin/python")" -c '' 2>/dev/null; }

# A copy takes two seconds, and installing the same packages a minute.
copy_venv() {
    local site
    cp -a "$venv" "$copy/.venv"
    rm -f "$copy/.venv/pytest-gvisor.stamp"
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Commands, the settings, and the way to the editable project name the checkout by its path.
    { grep -rlI --exclude-dir=__pycache__ -F "$checkout" "$copy/.venv"/{bin,pyvenv.cfg} || true
        find "$copy${site#"$checkout"}" -maxdepth 2 \( -name '*.pth' -o -name direct_url.json \); } |
        xargs -r sed -i "s#$checkout#$copy#g"
    chown -R "$user:" "$copy/.venv"
}

make_venv_of_wheels() {
    make_wheelhouse
    cp -r "$build/wheelhouse" "$copy/.build/"
    chown -R "$user:" "$copy/.build/wheelhouse"
    quietly as_user /usr/bin/python3 -m venv "$copy/.venv"
    local pip=(as_user "$copy/.venv/bin/python" -m pip --disable-pip-version-check)
    pip+=(install --no-index --find-links "$copy/.build/wheelhouse")
    quietly "${pip[@]}" --upgrade 'pip>=25.1'
    quietly "${pip[@]}" --group test --editable .
}

make_copy() {
    local folder
    copy=$(mktemp -d /var/tmp/pytest-gvisor-test.XXXXXX)
    chmod 0755 "$copy"
    # safe.directory: root may well test a checkout that another user owns.
    git -c safe.directory="$checkout" -C "$checkout" \
        ls-files -z --cached --others --exclude-standard --deduplicate |
        while IFS= read -r -d '' file; do
            # A file that was removed and not yet committed is still listed.
            [ ! -e "$checkout/$file" ] || printf '%s\0' "$file"
        done |
        tar -C "$checkout" --null --files-from=- -c | tar -C "$copy" --no-same-owner -x
    mkdir "$copy/.build"
    cp -r "$build/plugins" "$copy/.build/"
    for folder in "$build"/runsc-{2022,2024,forky}; do
        [ ! -e "$folder" ] || cp -r "$folder" "$copy/.build/"
    done
    mkdir "$copy/.build/images"
    cp "$build"/images/*.tar "$copy/.build/images/"
    chown -R "$user:" "$copy"
    mapfile -t environment < <(clean_environment "$(getent passwd "$user" | cut -d: -f6)")
    if user_has_the_same_python; then copy_venv; else make_venv_of_wheels; fi
}

# Ubuntu keeps user namespaces from programs without an AppArmor profile; runsc --rootless needs one.
allow_user_namespaces() {
    [ -e "$userns_switch" ] && [ "$(cat "$userns_switch")" = 1 ] || return 0
    say "this kernel restricts unprivileged user namespaces: allowing them until the group is over"
    userns_was=1
    echo 0 >"$userns_switch"
}

# with_a_copy COMMAND…: run it while the copy is there. Status 1 too if a process of the user's is left.
with_a_copy() {
    local left
    trap remove_copy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    exec 9>/run/pytest-gvisor-test.lock
    flock -w 3600 9 || die "another run holds the user $user"
    make_copy
    allow_user_namespaces
    "$@" 9>&-
    sleep 2
    left=$(processes_of_user)
    if [ -n "$left" ]; then
        printf '%s\n' "processes left 2 s after the end:" "$left"
        return 1
    fi
}
