# Run a command in the VM that scripts/vm-parts has prepared. Sourced after common.sh.
# shellcheck shell=bash disable=SC2154
mapfile -t options < <(cat "$build/vm/options" 2>/dev/null || true)

# The clock in the VM, as long as its kernel lives: a file that it writes every five seconds.
# shellcheck disable=SC2016
beating='(while :; do : >"$0/beat"; sleep 5; done) >/dev/null 2>&1 &
"$@"'

# in_vm SECONDS COMMAND…
#
# The emulated processor is not perfect. Now and then the VM's own kernel dies of that (status 125), or
# stands still. No test has an outcome then, so all run once more. A command that hangs while the VM's
# clock goes on has the status 124, and no second try.
in_vm() {
    local folder status try
    for try in first second; do
        folder=$(mktemp -d "$build/vm/clock.XXXXXX")
        status=0
        "$venv/bin/python" -m pytest_gvisor vm "${options[@]}" --timeout "$1" --share "$folder" -- \
            bash -c "$beating" "$folder" "${@:2}" || status=$?
        if [ "$status" -eq 124 ] && [ -z "$(find "$folder" -name beat -newermt '-60 seconds')" ]; then
            say "THE VM STOOD STILL: its clock stopped a minute and more before the deadline of $1 s"
            status=125
        fi
        rm -rf "$folder"
        [ "$status" -eq 125 ] && [ "$try" = first ] || return "$status"
        say "THE VM DIED, and is started once more: what is above says nothing of the tests"
    done
}
