# shellcheck shell=bash
# Captures the machines that tests read: runs guest/capture in the guest, and writes to the sources.

# capture_main [DIR]
capture_main() {
    local dir=${1:-$PROJECT_DIR/tools/fixtures/captured} program
    program=$(cargo build --quiet --manifest-path "$PROJECT_DIR/Cargo.toml" --message-format=json \
        --package quiclane-tools --bin quiclane | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    local lacks virtio=(--virtio)
    lacks=$(virtio_lacks)
    if [[ -n $lacks ]]; then
        virtio=()
        say "SKIPPED: the machine with a virtio NIC: $lacks"
    fi
    vm_run command "${virtio[@]}" --bin "$program" --out "$dir" -- bash /lab/capture
}
