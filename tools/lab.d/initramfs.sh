# shellcheck shell=bash
# The guest's root: busybox, bash, tools, modules, and what the caller adds; a cpio archive.

# Built in, or loadable; with the modules that they depend on.
GUEST_MODULES=(virtio_pci virtio_console igb virtio_net veth dummy tun 8021q sch_ingress cls_bpf
    act_bpf sch_netem sch_fq udp_diag xsk_diag)
# Not busybox's: its `ip` and `tc` lack features, and a busybox program that starts another prefers its
# own: its `timeout ip` is not `ip`.
GUEST_TOOLS=(bash ethtool ip tc timeout env taskset setsid xargs)
GUEST_LIBRARIES=/usr/lib/x86_64-linux-gnu

# initramfs_base ROOT: everything that does not depend on the command.
initramfs_base() {
    local root=$1 tool
    mkdir -p "$root"/{dev,proc,sys,run,tmp,out,etc,lab/busybox,usr/{bin,sbin,lib,lib64},usr/local/bin}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
    cp "$(find_tool busybox)" "$root/usr/bin/busybox"
    for tool in "${GUEST_TOOLS[@]}"; do
        initramfs_add_program "$root" "$(find_tool "$tool")" "/usr/bin/$tool"
    done
    cp "$LAB_DIR"/guest/* "$root/lab/"
    mv "$root/lab/init" "$root/init"
    chmod a+x "$root/init"
    initramfs_add_modules "$root"
}

# initramfs_add_program ROOT FILE DST: the program and the libraries that the loader names.
initramfs_add_program() {
    local root=$1 file=$2 dst=$3 library
    mkdir -p "$root$(dirname "$dst")"
    initramfs_copy_stripped "$file" "$root$dst"
    while read -r library; do
        initramfs_add_library "$root" "$library"
    done < <(LD_LIBRARY_PATH=$(tool_libraries) ldd "$file" 2>/dev/null |
        sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (0x.*$/\1/p')
}

initramfs_add_library() {
    local root=$1 library=$2 dst
    case $library in
        */ld-linux-*) dst=$root/usr/lib64/${library##*/} ;;
        *) dst=$root$GUEST_LIBRARIES/${library##*/} ;;
    esac
    if [[ ! -e $dst ]]; then
        mkdir -p "$(dirname "$dst")"
        cp -L "$library" "$dst"
    fi
}

# Debug information is most of a Rust binary, and the guest's disk is memory.
initramfs_copy_stripped() {
    cp -L "$1" "$2"
    chmod u+w,a+x "$2"
    if command -v strip >/dev/null; then
        strip --strip-debug "$2" 2>/dev/null || true
    fi
}

# Modules with what they depend on, uncompressed, and the tables that modprobe reads: the
# guest's init loads NICs and ports, everything else comes when it is first asked for.
initramfs_add_modules() {
    local root=$1 module release
    local -A MODULES_DONE=()
    release=$(kernel_release)
    MODULES_DST=$root/usr/lib/modules/$release
    mkdir -p "$MODULES_DST"
    for module in "${GUEST_MODULES[@]}"; do
        initramfs_add_module "$module" || return
    done
    "$(find_tool busybox)" depmod -b "$root" "$release"
}

initramfs_add_module() {
    local name=${1//-/_} file dependency
    [[ -z ${MODULES_DONE[$name]:-} ]] || return 0
    MODULES_DONE[$name]=1
    file=$(module_file "$name")
    if [[ -z $file ]]; then
        module_is_built_in "$name" ||
            die "$EXIT_RIG" "kernel $(kernel_release) has no module '$name': set QUICLANE_LAB_KERNEL to another version"
        return 0
    fi
    module_unpack "$file" "$MODULES_DST/$name.ko"
    while read -r dependency; do
        initramfs_add_module "$dependency"
    done < <(module_dependencies "$MODULES_DST/$name.ko")
}

# File names use - and _ interchangeably.
module_file() {
    find "$(kernel_modules_dir)/kernel" -name "${1//_/[-_]}.ko*" -print -quit
}

module_is_built_in() {
    local list
    list=$(kernel_modules_dir)/modules.builtin
    # Packages before 6.19 generate it at installation: then assume it, the guest would fail without.
    [[ ! -f $list ]] || grep -q "/${1//_/[-_]}\.ko$" "$list"
}

module_unpack() {
    local busybox
    busybox=$(find_tool busybox)
    case $1 in
        *.xz) "$busybox" xzcat "$1" >"$2" ;;
        *.gz) "$busybox" zcat "$1" >"$2" ;;
        *.ko) cp "$1" "$2" ;;
        *) die "$EXIT_RIG" "module $1 is compressed in a way that busybox cannot read: set QUICLANE_LAB_KERNEL to another version" ;;
    esac
}

# `depends=a,b` among the NUL-separated strings of .modinfo.
module_dependencies() {
    tr '\0' '\n' <"$1" | grep -a '^depends=' | head -n 1 | cut -d= -f2 | tr ',' '\n' | sed '/^$/d'
}

# initramfs_pack ROOT FILE: not compressed; unpacking in the guest would take longer than it saves.
initramfs_pack() {
    (cd "$1" && find . | "$(find_tool busybox)" cpio -o -H newc -R 0:0 2>/dev/null) >"$2"
}
