# shellcheck shell=bash
# Kernel, QEMU and guest tools from Debian's archive, unpacked into $CACHE_DIR.
#
# Everything here works without root and changes nothing on this machine: APT runs with lists,
# caches and sources of its own, packages are downloaded and unpacked, never installed.
#
#   $CACHE_DIR/kernel/VERSION/usr/lib/modules/VERSION/{vmlinuz,vmlinux,kernel/...}
#   $CACHE_DIR/kernel/current -> VERSION
#   $CACHE_DIR/tools/{bin,usr}      what this machine lacks: QEMU, busybox, ethtool, iproute2

# The first kernel whose igb does AF_XDP zero-copy.
KERNEL_MIN=6.14
# Backports lists kernels whose files are gone: try this many, newest first.
KERNEL_TRIES=3

# fetch_all [--refresh]: after it, kernel_release and find_tool answer.
fetch_all() {
    mkdir -p "$CACHE_DIR" || return
    exec {FETCH_LOCK}>"$CACHE_DIR/lock"
    flock "$FETCH_LOCK"
    fetch_tools && fetch_kernel "${1:-}"
    local status=$?
    exec {FETCH_LOCK}>&-
    return "$status"
}

# ---- APT of its own ----------------------------------------------------------------------

# The first Debian mirror in this machine's APT sources.
apt_mirror() {
    if [[ -n ${QUICLANE_LAB_MIRROR:-} ]]; then
        echo "$QUICLANE_LAB_MIRROR"
        return
    fi
    local empty mirror
    empty=$(mktemp -d)
    mkdir "$empty/partial"
    mirror=$(apt-get -o "Dir::State::lists=$empty" update --print-uris 2>/dev/null |
        sed -n "s#^'\(.*/debian\)/dists/[^/]*/InRelease'.*#\1#p" | head -n 1)
    rm -rf "$empty"
    if [[ -z $mirror ]]; then
        say "this machine's APT sources name no Debian mirror: set QUICLANE_LAB_MIRROR"
        return 1
    fi
    echo "$mirror"
}

# Where security updates are, for the same mirror.
apt_security_mirror() {
    echo "${1%/debian}/debian-security"
}

apt_keyring() {
    local keyring
    for keyring in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        if [[ -r $keyring ]]; then
            echo "$keyring"
            return
        fi
    done
    say "no /usr/share/keyrings/debian-archive-keyring.gpg: apt-get install debian-archive-keyring"
    return 1
}

# apt_configure NAME SOURCE...: writes the configuration NAME, prints its path.
apt_configure() {
    local dir=$CACHE_DIR/apt/$1
    shift
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/none"
    cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "$dir/none";
Dir::Etc::preferences "$dir/no-preferences";
Dir::Etc::preferencesparts "$dir/none";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
APT::Sandbox::User "";
APT::Architecture "amd64";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
CONF
    printf '%s\n' "$@" >"$dir/sources.list"
    echo "$dir/apt.conf"
}

# apt_update CONF: all or nothing.
apt_update() {
    APT_CONFIG=$1 apt-get -qq -o APT::Update::Error-Mode=any update >&2
}

# apt_unpack CONF ROOT PACKAGE...: downloads (hashes are checked by APT) and unpacks into ROOT.
apt_unpack() {
    local conf=$1 root=$2 debs deb
    shift 2
    debs=$(mktemp -d "$CACHE_DIR/debs.XXXXXX")
    if ! (cd "$debs" && APT_CONFIG=$conf apt-get -qq download "$@" >&2); then
        rm -rf "$debs"
        return 1
    fi
    mkdir -p "$root"
    for deb in "$debs"/*.deb; do
        if ! dpkg-deb -x "$deb" "$root"; then
            rm -rf "$debs"
            return 1
        fi
    done
    rm -rf "$debs"
}

# ---- the kernel --------------------------------------------------------------------------

# The release that runs in the guest.
kernel_release() {
    if [[ -n ${QUICLANE_LAB_KERNEL:-} ]]; then
        echo "$QUICLANE_LAB_KERNEL"
    else
        readlink "$CACHE_DIR/kernel/current"
    fi
}

# kernel_modules_dir: where vmlinuz and the modules are.
kernel_modules_dir() {
    local release
    release=$(kernel_release)
    echo "$CACHE_DIR/kernel/$release/usr/lib/modules/$release"
}

# fetch_kernel [--refresh]
fetch_kernel() {
    local wanted=${QUICLANE_LAB_KERNEL:-} conf release
    if [[ ${1:-} != --refresh && -d $CACHE_DIR/kernel/${wanted:-current}/ ]]; then
        return
    fi
    say "looking for a kernel in $KERNEL_SUITE"
    conf=$(kernel_apt) || return
    for release in $(kernel_candidates "$conf" "$wanted"); do
        fetch_kernel_release "$conf" "$release" && return
        say "kernel $release cannot be downloaded; trying an older one"
    done
    say "no kernel ${wanted:->= $KERNEL_MIN} in $KERNEL_SUITE: check the network, or set QUICLANE_LAB_SUITE or QUICLANE_LAB_KERNEL"
    return 1
}

kernel_apt() {
    local mirror keyring conf
    mirror=$(apt_mirror) && keyring=$(apt_keyring) || return
    conf=$(apt_configure "kernel-$KERNEL_SUITE" "deb [signed-by=$keyring] $mirror $KERNEL_SUITE main")
    apt_update "$conf" || return
    echo "$conf"
}

# Releases in the archive, newest first, not below the minimum; only WANTED if given.
kernel_candidates() {
    local conf=$1 wanted=$2
    if [[ -n $wanted ]]; then
        echo "$wanted"
        return
    fi
    APT_CONFIG=$conf apt-cache pkgnames linux-image- |
        sed -n 's/^linux-image-\([0-9][0-9.]*+[a-z0-9.]*-amd64\)$/\1/p' |
        sort -rV | kernels_from "$KERNEL_MIN" | head -n "$KERNEL_TRIES"
}

# Passes versions that are not below MIN.
kernels_from() {
    local release
    while read -r release; do
        if printf '%s\n%s\n' "$1" "$release" | sort -VC; then
            echo "$release"
        fi
    done
}

# The packages of a release: one before 6.19, several since.
kernel_packages() {
    local conf=$1 release=$2
    APT_CONFIG=$conf apt-cache show --no-all-versions "linux-image-$release" |
        sed -n 's/^Depends: //p' | tr ',' '\n' |
        sed -n 's/^ *\(linux-\(base\|binary\|modules\)-[0-9][^ ]*\).*/\1/p'
    echo "linux-image-$release"
}

fetch_kernel_release() {
    local conf=$1 release=$2 fresh packages
    fresh=$CACHE_DIR/kernel/.$release.$$
    mapfile -t packages < <(kernel_packages "$conf" "$release" 2>/dev/null)
    say "fetching ${packages[*]}"
    if ! apt_unpack "$conf" "$fresh" "${packages[@]}" || ! kernel_settle "$fresh" "$release"; then
        rm -rf "$fresh"
        return 1
    fi
    rm -rf "$CACHE_DIR/kernel/$release"
    mv "$fresh" "$CACHE_DIR/kernel/$release"
    if [[ -z ${QUICLANE_LAB_KERNEL:-} ]]; then
        ln -sfn "$release" "$CACHE_DIR/kernel/current"
        kernel_forget_others "$release"
    fi
}

# Older packages keep image and modules elsewhere: move them to where new ones do.
kernel_settle() {
    local root=$1 release=$2
    if [[ -d $root/lib/modules && ! -L $root/lib ]]; then
        mkdir -p "$root/usr/lib"
        mv "$root/lib/modules" "$root/usr/lib/modules"
    fi
    local modules=$root/usr/lib/modules/$release
    if [[ -f $root/boot/vmlinuz-$release ]]; then
        mv "$root/boot/vmlinuz-$release" "$modules/vmlinuz"
    fi
    rm -rf "${root:?}/usr/share" "${root:?}/boot"
    [[ -f $modules/vmlinuz && -d $modules/kernel ]] || return
    kernel_unpack_image "$modules/vmlinuz" "$modules/vmlinux"
}

# QEMU boots an ELF image directly (PVH), which saves the guest seconds of unpacking it. If that is not
# possible, the guest boots vmlinuz.
kernel_unpack_image() {
    local image=$1 elf=$2 setup offset length
    # The boot protocol's setup_sects, payload_offset and payload_length.
    setup=$(od -An -tu1 -j 497 -N 1 "$image")
    read -r offset length < <(od -An -tu4 -j 584 -N 8 "$image")
    tail -c "+$(((setup + 1) * 512 + offset + 1))" "$image" | head -c "$length" |
        kernel_decompress >"$elf" 2>/dev/null || true
    [[ $(head -c 4 "$elf" | tail -c 3) == ELF ]] || rm -f "$elf"
}

kernel_decompress() {
    local payload status=1
    payload=$(mktemp)
    cat >"$payload"
    zstd -qdc <"$payload" || xz -qdc <"$payload" || "$(find_tool busybox)" xzcat <"$payload"
    status=$?
    rm -f "$payload"
    return "$status"
}

# The image to boot.
kernel_image() {
    local dir
    dir=$(kernel_modules_dir)
    if [[ -f $dir/vmlinux ]]; then
        echo "$dir/vmlinux"
    else
        echo "$dir/vmlinuz"
    fi
}

# 200 MB each: keep one. Kernels that were requested by name are removed too, when a newer one is fetched.
kernel_forget_others() {
    local dir
    for dir in "$CACHE_DIR"/kernel/*/; do
        dir=${dir%/}
        [[ -L $dir || ${dir##*/} == "$1" ]] || rm -rf "$dir"
    done
}

# ---- QEMU and what the guest needs -------------------------------------------------------

# find_tool NAME: this machine's own, else the one in the cache.
find_tool() {
    local dir
    for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin \
        "$CACHE_DIR"/tools/{usr/sbin,usr/bin,sbin,bin}; do
        if [[ -x $dir/$1 ]]; then
            echo "$dir/$1"
            return
        fi
    done
    return 1
}

# Where the libraries of unpacked tools are.
tool_libraries() {
    echo "$CACHE_DIR/tools/usr/lib/x86_64-linux-gnu:$CACHE_DIR/tools/lib/x86_64-linux-gnu"
}

# qemu ARGS...: the QEMU that has igb.
qemu_command() {
    QEMU=("$(find_qemu)")
    if [[ ${QEMU[0]} == "$CACHE_DIR"/* ]]; then
        QEMU=(env "LD_LIBRARY_PATH=$(tool_libraries)" "${QEMU[0]}"
            -L "$CACHE_DIR/tools/usr/share/qemu" -L "$CACHE_DIR/tools/usr/share/seabios")
    fi
}

# This machine's QEMU if it knows igb (8.0 and newer), else the one in the cache.
find_qemu() {
    local own
    own=$(command -v qemu-system-x86_64 || true)
    if [[ -n $own ]] && grep -q '"igb"' <<<"$("$own" -device help 2>/dev/null)"; then
        echo "$own"
    elif [[ -x $CACHE_DIR/tools/usr/bin/qemu-system-x86_64 ]]; then
        echo "$CACHE_DIR/tools/usr/bin/qemu-system-x86_64"
    else
        return 1
    fi
}

missing_tools() {
    find_qemu >/dev/null || echo qemu-system-x86
    find_tool ethtool >/dev/null || echo ethtool
    find_tool ip >/dev/null && find_tool tc >/dev/null || echo iproute2
    busybox_is_static || echo busybox-static
}

busybox_is_static() {
    local busybox
    busybox=$(find_tool busybox) && ! ldd "$busybox" >/dev/null 2>&1
}

fetch_tools() {
    local missing conf codename packages
    mapfile -t missing < <(missing_tools)
    ((${#missing[@]})) || return 0
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    say "fetching ${missing[*]} for $codename (unpacked in the cache, not installed)"
    conf=$(tools_apt "$codename") || return
    mapfile -t packages < <(tools_closure "$conf" "$codename" "${missing[@]}")
    apt_unpack "$conf" "$CACHE_DIR/tools" "${packages[@]}" || return
    mapfile -t missing < <(missing_tools)
    if ((${#missing[@]})); then
        say "still missing after unpacking: ${missing[*]}; install it (QEMU must be 8.0 or newer, for igb)"
        return 1
    fi
}

tools_apt() {
    local codename=$1 mirror keyring conf
    mirror=$(apt_mirror) && keyring=$(apt_keyring) || return
    local sources=(
        "deb [signed-by=$keyring] $mirror $codename main"
        "deb [signed-by=$keyring] $mirror $codename-updates main"
        "deb [signed-by=$keyring] $mirror $codename-backports main"
        "deb [signed-by=$keyring] $(apt_security_mirror "$mirror") $codename-security main"
    )
    conf=$(apt_configure "tools-$codename" "${sources[@]}")
    apt_update "$conf" || return
    echo "$conf"
}

# The named packages, and their dependencies that are not installed here. The QEMU of bookworm itself is
# too old for igb.
tools_closure() {
    local conf=$1 codename=$2 suite=()
    shift 2
    [[ $codename != bookworm ]] || suite=(-t bookworm-backports)
    APT_CONFIG=$conf apt-get -s install --no-install-recommends "${suite[@]}" "$@" |
        sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)\?(\([^ ]*\) .*/\1=\3/p'
}
