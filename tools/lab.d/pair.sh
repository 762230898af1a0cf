# shellcheck shell=bash
# Two network namespaces joined by a veth pair of 2 queues, for scripts that clean up after
# themselves: host 1 has lane0 with 10.79.0.1, host 2 has peer0 with 10.79.0.2.

# pair_make NAMESPACE1 NAMESPACE2
pair_make() {
    local queues="numrxqueues 2 numtxqueues 2"
    ip netns add "$1"
    ip netns add "$2"
    # shellcheck disable=SC2086
    ip -n "$1" link add lane0 $queues type veth peer name peer0 $queues netns "$2"
    pair_end "$1" lane0 1
    pair_end "$2" peer0 2
}

# pair_end NAMESPACE DEV HOST
pair_end() {
    ip -n "$1" link set lo up
    ip -n "$1" addr add "10.79.0.$3/24" dev "$2"
    ip -n "$1" link set "$2" up
    # What a veth leaves to checksum offload arrives with a wrong checksum.
    ip netns exec "$1" ethtool -K "$2" tx off >/dev/null
}

# pair_remove NAMESPACE...: deleting a namespace deletes its end of the pair, and so the other.
pair_remove() {
    local name
    for name in "$@"; do
        if [[ -e /run/netns/$name ]]; then
            ip netns delete "$name"
        fi
    done
}

# pair_wait_for PATTERN FILE PID: until a started process has said so; 1 if it ended or took
# more than 10 seconds.
pair_wait_for() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        grep -qs "$1" "$2" && return 0
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
