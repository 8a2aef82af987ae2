# Run a command in the VM that scripts/vm-parts has prepared. Sourced after common.sh.
# shellcheck shell=bash disable=SC2154
mapfile -t options < <(cat "$build/vm/options" 2>/dev/null || true)

# The clock in the VM, as long as its kernel lives: a file that it writes every five seconds.
#
# runsc goes into the VM's memory: each start of a sandbox would read parts of it through 9p again, which
# keeps no pages. The sentry of a release that is the same file once more ($2) is a link: the emulator
# translates the code of a page once, whichever file it belongs to.
#
# The linters and the site of the documents are 8,000 of 12,000 files beside pytest. A sandbox of this
# machine looks at the mode of each, a few milliseconds through 9p: they are hidden.
# shellcheck disable=SC2016
in_guest='(while :; do : >"$0/beat"; sleep 5; done) >/dev/null 2>&1 &
for name in a11y_pygments babel check_jsonschema docutils furo jsonschema markdown_it mdit_py_plugins mypy mypyc \
    myst_parser pip pkg_resources rich ruamel setuptools sphinx sphinxcontrib; do
    for folder in .venv/lib/python3.*/site-packages/"$name"; do
        [ ! -d "$folder" ] || mount -t tmpfs none "$folder"
    done
done
found=$1 same=$2 own=/run/runsc
shift 2
from=${found%/*}
mkdir -p "$own/gvisor-bin"
for file in "$found" "$from"/gvisor-bin/*; do
    to=$own${file#"$from"}
    if [ "$file" = "$same" ]; then
        ln "$own/${found##*/}" "$to"
    elif [ -e "$file" ]; then
        dd if="$file" of="$to" bs=4M status=none
        chmod 0755 "$to"
    fi
done
if [ -d "$from/gvisor-bin" ]; then
    mount --bind "$own" "$from"
else
    mount --bind "$own/${found##*/}" "$found"
fi
"$found" --version >/dev/null 2>&1 || true
"$found" flags >/dev/null 2>&1 || true
"$@"'

# The file that is the same as runsc, if there is one.
same_as() {
    local file
    for file in "${1%/*}"/gvisor-bin/*; do
        ! cmp -s "$1" "$file" || echo "$file"
    done
}

# The emulated processor is some 40 times slower: what pytest does there without need takes seconds. The
# other parts of `make test` judge the same bundles by their schema. A platform's probe has a sixth of
# --gvisor-timeout, and its first sandbox reads all of runsc through 9p.
export TESTS_WITHOUT_SCHEMA=1
plain=(-p no:cacheprovider -p no:hypothesispytest -p no:xdist -p no:pytest_cov)

# The checkout is read-only in the VM: this keeps the bytecode of these tests and of the package there beforehand.
compile_tests() {
    quietly "$venv/bin/python" -m compileall -q pytest_gvisor
    quietly "$venv/bin/python" -m pytest "${plain[@]}" --collect-only -q "$@"
}

# watch FOLDER: end the VM once its clock has stood for two minutes.
watch() {
    while kill -0 "$$" && sleep 10; do
        if [ -n "$(find "$1/clock" -name beat -not -newermt '-120 seconds')" ]; then
            : >"$1/stood-still"
            kill -TERM "$(cat "$1/pid")"
            return
        fi
    done
}

# in_vm SECONDS COMMAND…
#
# The emulated processor is not perfect. Now and then the VM's own kernel dies of that (status 125), or
# stands still. No test has an outcome then, so all run once more. A command that hangs while the VM's
# clock goes on has the status 124, and no second try.
in_vm() {
    local folder status try watcher noted found
    found=$(cat "$build/runsc-path")
    # The search finds another copy of it: see with-runsc.
    [ ! -e "$build/runsc-to-put" ] || found=$(readlink -f /usr/local/bin/runsc)
    for try in first second; do
        folder=$(mktemp -d "$build/vm/run.XXXXXX")
        mkdir "$folder/clock"
        noted=$folder/clock/failed
        : >"$noted"
        watch "$folder" >/dev/null 2>&1 &
        watcher=$!
        status=0
        # shellcheck disable=SC2016
        sh -c 'echo $$ >"$0/pid"; exec "$@"' "$folder" \
            env ${TESTS_FAILED:+"TESTS_FAILED=$noted"} \
            "$venv/bin/python" -m pytest_gvisor vm "${options[@]}" --timeout "$1" --share "$folder/clock" -- \
            bash -c "$in_guest" "$folder/clock" "$found" "$(same_as "$found")" "${@:2}" || status=$?
        kill "$watcher" 2>/dev/null || true
        if [ -e "$folder/stood-still" ]; then
            say "THE VM STOOD STILL: its clock had not moved for two minutes"
            status=125
        fi
        [ -z "${TESTS_FAILED:-}" ] || cat "$noted" >"$TESTS_FAILED"
        rm -rf "$folder"
        [ "$status" -eq 125 ] && [ "$try" = first ] || return "$status"
        say "THE VM DIED, and is started once more: what is above says nothing of the tests"
    done
}
