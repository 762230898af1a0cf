# shellcheck shell=bash
# virtio NICs for the guest: the network namespace that they need on this machine.
#
# A virtio NIC has several queues, and reports the hash of each packet, only where QEMU gets its
# packets from a tap device with several queues. Two of them are joined by a bridge, so that the
# guest has a pair like those of its igb NICs:
#
#     guest   lane2 -- tap lane2 --.                                    .-- tap peer2 -- peer2
#                                  '-- bridge, in a namespace of ours --'
#
# QEMU runs in the namespace, which is removed with everything in it, also on interruption.

# Prints what this machine lacks for it; nothing if it is possible.
virtio_lacks() {
    if ((EUID != 0)); then
        echo "it needs root for network namespaces and tap devices, and this is user $EUID: run it with sudo"
    elif [[ ! -c /dev/net/tun ]]; then
        echo "there is no /dev/net/tun: modprobe tun, or mknod /dev/net/tun c 10 200"
    elif ! find_tool ip >/dev/null; then
        echo "there is no ip(8): apt-get install iproute2"
    fi
}

virtio_need() {
    local lacks
    lacks=$(virtio_lacks)
    [[ -z $lacks ]] || die "$EXIT_RIG" "--virtio: $lacks"
}

# Sets VIRTIO_NAMESPACE. Call virtio_down afterwards, also after a failure.
virtio_up() {
    local dev
    virtio_sweep
    VIRTIO_NAMESPACE=quiclane-vm-$BASHPID-$RANDOM
    ip netns add "$VIRTIO_NAMESPACE"
    # Nothing but the guest's packets: no router solicitations, no multicast listeners.
    ip netns exec "$VIRTIO_NAMESPACE" bash -c 'echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6' ||
        true # there is no IPv6
    ip -n "$VIRTIO_NAMESPACE" link add bridge2 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    for dev in lane2 peer2; do
        ip -n "$VIRTIO_NAMESPACE" tuntap add "$dev" mode tap multi_queue vnet_hdr
        ip -n "$VIRTIO_NAMESPACE" link set "$dev" master bridge2 up
    done
    ip -n "$VIRTIO_NAMESPACE" link set bridge2 up
}

virtio_down() {
    if [[ -n ${VIRTIO_NAMESPACE:-} && -e /run/netns/$VIRTIO_NAMESPACE ]]; then
        ip netns delete "$VIRTIO_NAMESPACE"
    fi
}

# Removes what killed runs left behind: the name has the id of their process.
virtio_sweep() {
    local path pid
    for path in /run/netns/quiclane-vm-*; do
        pid=${path#*/quiclane-vm-} pid=${pid%-*}
        [[ ! -e $path || -e /proc/$pid ]] || ip netns delete "${path##*/}"
    done
}

# virtio_add_nic SIDE NODE: as vm_add_nic, with 4 queues, receive-side scaling and its hash.
# Two vectors for each queue pair, and two more.
virtio_add_nic() {
    local side=$1 node=$2 dev=lane2 id=2$1
    ((side == 0)) || dev=peer2
    MACHINE+=(-netdev "tap,id=net$id,ifname=$dev,queues=4,script=no,downscript=no,vhost=off"
        -device "pcie-root-port,id=port$id,bus=pxb$node,chassis=$((5 + side)),slot=$((5 + side))"
        -device "virtio-net-pci,bus=port$id,netdev=net$id,mac=52:54:00:77:02:0$side,romfile=,mq=on,vectors=10,rss=on,hash=on,iommu_platform=on,disable-legacy=on")
}
