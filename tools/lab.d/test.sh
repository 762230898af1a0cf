# shellcheck shell=bash
# The project's guest tests: tests/guest, built here, run there.

# vm_test FILTER...: only tests whose names contain one of the words.
vm_test() {
    local profile=${QUICLANE_LAB_PROFILE:-test} binaries=() binary bins=() virtio=()
    vm_test_need_kernel || return 0
    vm_test_need_virtio && virtio=(--virtio)
    mapfile -t binaries < <(vm_test_build "$profile")
    ((${#binaries[@]} == 2)) || die "$EXIT_RIG" "cargo built ${#binaries[@]} of the 2 binaries that the guest needs (see above)"
    for binary in "${binaries[@]}"; do
        bins+=(--bin "$binary")
    done
    vm_run command "${virtio[@]}" "${bins[@]}" --timeout "${QUICLANE_LAB_TIMEOUT:-900}" \
        --env QUICLANE_LAB_GUEST=1 --env RUST_BACKTRACE=1 -- "${binaries[0]##*/}" "$@"
}

# Without a kernel nothing can be tested: in CI that is a failure, by hand a loud skip.
vm_test_need_kernel() {
    fetch_all && return
    if [[ ${CI:-} == true ]]; then
        die "$EXIT_RIG" "kernel or QEMU is not available (see above), and in CI the guest tests must run"
    fi
    say "************************************************************************"
    say "SKIPPED: the guest tests. Nothing about zero-copy, RSS or NUMA was tested."
    say "kernel or QEMU is not available (see above); 'tools/lab vm fetch' tries again"
    say "************************************************************************"
    return 1
}

# Without virtio NICs no hash of a device can be compared: in CI a failure, by hand a loud skip.
vm_test_need_virtio() {
    local lacks
    lacks=$(virtio_lacks)
    [[ -n $lacks ]] || return 0
    if [[ ${CI:-} == true ]]; then
        die "$EXIT_RIG" "no virtio NICs, and in CI their tests must run: $lacks"
    fi
    say "************************************************************************"
    say "SKIPPED: the guest tests with virtio NICs. No hash of a device was compared."
    say "$lacks"
    say "************************************************************************"
    return 1
}

# The paths of what cargo built: the tests, then the program, which another test of its package brings along. Of
# the packages that tools/test tests, so that their features are the same and nothing is built once more.
vm_test_build() {
    (
        cd "$PROJECT_DIR" || exit
        cargo test --quiet --profile "$1" --workspace --exclude quiclane-bench --exclude quiclane-peers \
            --test guest --test cli --no-run --message-format=json
    ) | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' |
        awk '/\/guest-[^\/]*$/ { tests = $0 } /\/quiclane$/ { program = $0 } END { if (tests && program) print tests "\n" program }'
}
