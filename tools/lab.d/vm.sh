# shellcheck shell=bash
# Boot the guest, run a command in it, bring back output, files and exit status.

GUEST_TIMEOUT_SECONDS=300
# Two nodes of this much; the initramfs is in it.
NODE_MEMORY=1024M
# The most boots of a guest whose QEMU aborts before the command runs.
BOOT_TRIES=3
EXIT_ABORTED=134

vm_main() {
    case ${1:-} in
        test) shift && vm_test "$@" ;;
        fetch) shift && vm_fetch "$@" ;;
        shell) shift && vm_run shell "$@" ;;
        *) vm_run command "$@" ;;
    esac
}

vm_fetch() {
    fetch_all "$@" || die "$EXIT_RIG" "the cache $CACHE_DIR is not complete"
    say "kernel $(kernel_release), $(find_qemu)"
}

# vm_run command|shell OPTIONS -- COMMAND...
vm_run() {
    local mode=$1
    shift
    vm_parse "$@"
    [[ $mode == shell ]] || ((${#GUEST_COMMAND[@]})) ||
        die 2 "no command: tools/lab vm [OPTIONS] -- COMMAND... (see 'tools/lab help')"
    [[ $(uname -m) == x86_64 ]] ||
        die "$EXIT_RIG" "this machine is $(uname -m); the guest's binaries come from it and must be x86_64"
    [[ -z $GUEST_VIRTIO ]] || virtio_need
    fetch_all || die "$EXIT_RIG" "kernel or QEMU is not available (see above)"
    RUN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/quiclane-lab.XXXXXX")
    trap vm_clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    vm_stage
    qemu_command
    if [[ -n $GUEST_VIRTIO ]]; then
        virtio_up
        QEMU=(ip netns exec "$VIRTIO_NAMESPACE" "${QEMU[@]}")
    fi
    vm_boot "$mode"
}

vm_parse() {
    GUEST_BINS=() GUEST_FILES=() GUEST_ENV=() GUEST_COMMAND=() GUEST_OUT='' SHOW_CONSOLE='' GUEST_VIRTIO=''
    while (($#)); do
        case $1 in
            --bin) GUEST_BINS+=("${2:?--bin needs a file}") && shift 2 ;;
            --file) GUEST_FILES+=("${2:?--file needs SRC:DST}") && shift 2 ;;
            --env) GUEST_ENV+=("${2:?--env needs NAME=VALUE}") && shift 2 ;;
            --out) GUEST_OUT=${2:?--out needs a directory} && shift 2 ;;
            --timeout) GUEST_TIMEOUT_SECONDS=${2:?--timeout needs seconds} && shift 2 ;;
            --console) SHOW_CONSOLE=1 && shift ;;
            --virtio) GUEST_VIRTIO=1 && shift ;;
            --) shift && GUEST_COMMAND=("$@") && return ;;
            *) die 2 "no option '$1' for vm: see 'tools/lab help'" ;;
        esac
    done
}

# Builds $RUN_DIR/initrd.
vm_stage() {
    local root=$RUN_DIR/root file
    initramfs_base "$root"
    for file in "${GUEST_BINS[@]}"; do
        [[ -x $file ]] || die 2 "--bin '$file' is not an executable file: build it first"
        initramfs_add_program "$root" "$file" "/usr/local/bin/${file##*/}"
    done
    for file in "${GUEST_FILES[@]}"; do
        vm_stage_file "$root" "${file%%:*}" "${file#*:}"
    done
    vm_write_command >"$root/lab/command"
    initramfs_pack "$root" "$RUN_DIR/initrd"
    rm -rf "$root"
}

# What the guest's init sources.
vm_write_command() {
    local variable
    for variable in "${GUEST_ENV[@]}"; do
        printf 'export %q\n' "$variable"
    done
    printf '%q ' "${GUEST_COMMAND[@]}"
    echo
}

vm_stage_file() {
    local root=$1 src=$2 dst=$3
    [[ -e $src && $dst == /* ]] || die 2 "--file '$src:$dst': SRC must exist and DST begin with /"
    mkdir -p "$root$(dirname "$dst")"
    cp -rL "$src" "$root$dst"
}

# ---- the machine -------------------------------------------------------------------------

vm_machine() {
    local node
    # shellcheck disable=SC2054 # the commas are QEMU's
    MACHINE=(-nodefaults -no-user-config -display none -no-reboot
        -machine q35 -accel tcg,thread=multi -cpu max -smp 4,sockets=2,cores=2 -m 2048M)
    for node in 0 1; do
        MACHINE+=(-object "memory-backend-ram,size=$NODE_MEMORY,id=mem$node"
            -numa "node,nodeid=$node,cpus=$((2 * node))-$((2 * node + 1)),memdev=mem$node"
            -device "pxb-pcie,id=pxb$node,bus=pcie.0,bus_nr=$((32 + 32 * node)),numa_node=$node")
    done
    vm_add_nic 0 0 0
    vm_add_nic 0 1 1
    vm_add_nic 1 0 1
    vm_add_nic 1 1 0
    if [[ -n $GUEST_VIRTIO ]]; then
        virtio_add_nic 0 0
        virtio_add_nic 1 1
    fi
}

# vm_add_nic PAIR SIDE NODE: side 0 is ours, side 1 the peer; the node is where it is plugged in.
vm_add_nic() {
    local pair=$1 side=$2 node=$3 id=$1$2
    MACHINE+=(-netdev "hubport,id=net$id,hubid=$pair"
        -device "pcie-root-port,id=port$id,bus=pxb$node,chassis=$((1 + 2 * pair + side)),slot=$((1 + 2 * pair + side))"
        -device "igb,bus=port$id,netdev=net$id,mac=52:54:00:77:0$pair:0$side,romfile=")
}

vm_add_ports() {
    local name
    MACHINE+=(-device "virtio-serial-pci,bus=pcie.0")
    for name in stdout stderr status files; do
        MACHINE+=(-chardev "file,id=$name,path=$RUN_DIR/$name"
            -device "virtserialport,chardev=$name,name=$name")
    done
}

# vm_boot command|shell
vm_boot() {
    local mode=$1 append
    # Effects of a busy host are not tested: the timer's interrupt may come late (no_timer_check), and so
    # may a CPU (no watchdogs, no RCU stall reports).
    # One CPU until init brings the others: while the kernel sizes the BARs, QEMU maps them anew
    # each time, and another CPU whose APIC is written to then makes it abort now and then
    # ("iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed").
    append="console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check nowatchdog maxcpus=1
        rcupdate.rcu_cpu_stall_suppress=1 nokaslr mitigations=off audit=0 cryptomgr.notests"
    append=$(tr -s ' \n' ' ' <<<"$append")
    append+=${GUEST_VIRTIO:+ lab.virtio}
    vm_machine
    MACHINE+=(-kernel "$(kernel_image)" -initrd "$RUN_DIR/initrd")
    if [[ $mode == shell ]]; then
        "${QEMU[@]}" "${MACHINE[@]}" -append "$append lab.shell" -serial mon:stdio
        return
    fi
    vm_add_ports
    MACHINE+=(-append "$append" -serial "file:$RUN_DIR/console")
    local boots=1 status=0
    vm_boot_once || status=$?
    # An assertion of QEMU itself, while the guest booted: nothing of ours had run.
    while ((status == EXIT_ABORTED && boots < BOOT_TRIES)) && [[ ! -s $RUN_DIR/status ]]; do
        cat "$RUN_DIR/qemu" >&2
        say "QEMU itself aborted before the command was run: booting again"
        boots=$((boots + 1)) status=0
        vm_boot_once || status=$?
    done
    vm_result "$status"
}

# Returns QEMU's exit status.
vm_boot_once() {
    local status=0
    vm_start_readers
    # The guest ends with the first of these: its time limit, timeout(1), or this script.
    setpriv --pdeathsig TERM timeout --kill-after=5 "$GUEST_TIMEOUT_SECONDS" \
        setpriv --pdeathsig KILL "${QEMU[@]}" "${MACHINE[@]}" </dev/null >"$RUN_DIR/qemu" 2>&1 &
    GUEST_PID=$!
    wait "$GUEST_PID" || status=$?
    GUEST_PID=''
    vm_stop_readers
    return "$status"
}

# The command's stdout and stderr arrive through pipes, as it writes them.
vm_start_readers() {
    rm -f "$RUN_DIR"/{stdout,stderr,status}
    mkfifo "$RUN_DIR/stdout" "$RUN_DIR/stderr"
    cat "$RUN_DIR/stdout" &
    READER_PIDS=($!)
    cat "$RUN_DIR/stderr" >&2 &
    READER_PIDS+=($!)
    if [[ -n $SHOW_CONSOLE ]]; then
        : >"$RUN_DIR/console"
        tail -f "$RUN_DIR/console" >&2 &
        CONSOLE_PID=$!
    fi
}

# A reader may still wait for QEMU to open its pipe: open and close it once, which blocks no process.
vm_stop_readers() {
    local name fd
    for name in stdout stderr; do
        exec {fd}<>"$RUN_DIR/$name"
        exec {fd}>&-
    done
    wait "${READER_PIDS[@]}" || true
    READER_PIDS=()
}

# vm_result QEMU_STATUS: exits with the command's status, or says why there is none.
vm_result() {
    local code=''
    [[ ! -s $RUN_DIR/status ]] || code=$(tail -n 1 "$RUN_DIR/status")
    if [[ -n $GUEST_OUT && -s $RUN_DIR/files ]]; then
        mkdir -p "$GUEST_OUT"
        tar -C "$GUEST_OUT" -xf "$RUN_DIR/files"
    fi
    if [[ $code == [0-9]* && $code != "$EXIT_RIG" ]]; then
        exit "$code"
    fi
    {
        [[ -n $SHOW_CONSOLE ]] || tail -n 40 "$RUN_DIR/console" 2>/dev/null || true
        grep -v 'is not connected to host network' "$RUN_DIR/qemu" || true
    } >&2
    if (($1 == EXIT_TIMED_OUT)); then
        die "$EXIT_TIMED_OUT" "the guest was still busy after $GUEST_TIMEOUT_SECONDS s: --timeout SECONDS gives it longer"
    fi
    die "$EXIT_RIG" "the guest ended without a result (QEMU exit $1); its console is above"
}

vm_clean() {
    local pid
    for pid in ${GUEST_PID:-} ${CONSOLE_PID:-} "${READER_PIDS[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    [[ -z ${GUEST_PID:-} ]] || wait "$GUEST_PID" 2>/dev/null || true
    virtio_down
    rm -rf "$RUN_DIR"
}
READER_PIDS=()
