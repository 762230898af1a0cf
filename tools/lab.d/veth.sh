# shellcheck shell=bash
# Rig 1: two namespaces and a veth pair with several queues.

VETH_QUEUES=2

veth_up() {
    while (($#)); do
        case $1 in
            --queues) VETH_QUEUES=${2:?--queues needs a number} && shift 2 ;;
            *) die 2 "no option '$1' for up: tools/lab up [--queues N]" ;;
        esac
    done
    [[ $VETH_QUEUES =~ ^[1-9]$|^1[0-6]$ ]] ||
        die 2 "--queues '$VETH_QUEUES': give 1 to 16"
    veth_need_root
    veth_remove
    veth_make
    cat <<INFO
namespace quiclane-a   lane0   10.78.0.1/24   fd78::1/64   $VETH_QUEUES queues
namespace quiclane-b   peer0   10.78.0.2/24   fd78::2/64   $VETH_QUEUES queues
ip netns exec quiclane-a COMMAND        tools/lab down
INFO
}

veth_down() {
    (($# == 0)) || die 2 "no option '$1' for down: tools/lab down"
    veth_need_root
    veth_remove
}

veth_need_root() {
    ((EUID == 0)) || die "$EXIT_RIG" "namespaces need root, and this is user $EUID: run it with sudo"
}

# Only what veth_make made: deleting a namespace deletes its end of the pair, and with it the other.
veth_remove() {
    local name
    for name in quiclane-a quiclane-b; do
        if [[ -e /run/netns/$name ]]; then
            ip netns delete "$name"
        fi
    done
}

veth_make() {
    local ends="numrxqueues $VETH_QUEUES numtxqueues $VETH_QUEUES"
    ip netns add quiclane-a
    ip netns add quiclane-b
    # shellcheck disable=SC2086
    ip -n quiclane-a link add lane0 $ends type veth peer name peer0 $ends netns quiclane-b
    veth_set_up_end quiclane-a lane0 1
    veth_set_up_end quiclane-b peer0 2
}

# veth_set_up_end NAMESPACE DEV HOST
veth_set_up_end() {
    ip -n "$1" link set lo up
    ip -n "$1" addr add "10.78.0.$3/24" dev "$2"
    ip -n "$1" addr add "fd78::$3/64" dev "$2" nodad
    ip -n "$1" link set "$2" up
    # A veth hands over what the sender left to checksum offload: with it, every UDP checksum
    # that AF_XDP sees is wrong.
    ip netns exec "$1" ethtool -K "$2" tx off >/dev/null
}
