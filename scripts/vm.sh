# Run a command in the VM that scripts/vm-parts has prepared. Sourced after common.sh.
# shellcheck shell=bash disable=SC2154
mapfile -t options < <(cat "$build/vm/options" 2>/dev/null || true)

# The clock in the VM, as long as its kernel lives: a file that it writes every five seconds.
# Through 9p the first read of a hundred megabytes takes longer than runsc may take for an answer.
# shellcheck disable=SC2016
in_guest='(while :; do : >"$0/beat"; sleep 5; done) >/dev/null 2>&1 &
found=$(cat .build/runsc-path)
cat "$found" "${found%/*}"/gvisor-bin/* >/dev/null 2>&1 || true
"$found" --version >/dev/null 2>&1 || true
"$@"'

# The emulated processor is some 40 times slower: what pytest does there without need takes seconds. The
# other parts of `make test` judge the same bundles by their schema. A platform's probe has a sixth of
# --gvisor-timeout, and its first sandbox reads all of runsc through 9p.
export TESTS_WITHOUT_SCHEMA=1
plain=(-p no:cacheprovider -p no:hypothesispytest -p no:xdist -p no:pytest_cov -p no:platformdirs)

# The checkout is read-only in the VM: this keeps the bytecode of these tests there beforehand.
compile_tests() { quietly "$venv/bin/python" -m pytest "${plain[@]}" --collect-only -q "$@"; }

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
    local folder status try watcher
    for try in first second; do
        folder=$(mktemp -d "$build/vm/run.XXXXXX")
        mkdir "$folder/clock"
        watch "$folder" >/dev/null 2>&1 &
        watcher=$!
        status=0
        # shellcheck disable=SC2016
        sh -c 'echo $$ >"$0/pid"; exec "$@"' "$folder" \
            "$venv/bin/python" -m pytest_gvisor vm "${options[@]}" --timeout "$1" --share "$folder/clock" -- \
            bash -c "$in_guest" "$folder/clock" "${@:2}" || status=$?
        kill "$watcher" 2>/dev/null || true
        if [ -e "$folder/stood-still" ]; then
            say "THE VM STOOD STILL: its clock had not moved for two minutes"
            status=125
        fi
        rm -rf "$folder"
        [ "$status" -eq 125 ] && [ "$try" = first ] || return "$status"
        say "THE VM DIED, and is started once more: what is above says nothing of the tests"
    done
}
