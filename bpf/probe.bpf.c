// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Asks the driver for the hash of each packet of a flow, and notes it with the queue.
 *
 * For diagnosis alone (`quiclane flow explain --verify`): every packet goes to the kernel
 * untouched, whatever comes of it. bpf_xdp_metadata_rx_hash() makes the program one that is bound
 * to a device when it is loaded, and that runs in the driver or not at all.
 *
 * Fragments, IPv4 options and IPv6 extension headers are not looked into: NICs hash such packets
 * by other fields.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "frame.h"
#include "probe.h"

/* The first bytes of a UDP and of a TCP header. */
struct ports {
	__be16 source;
	__be16 destination;
};

/* The kernel's, of which only the size matters here. */
enum xdp_rss_hash_type {
	XDP_RSS_TYPE_NONE = 0,
};

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash,
				    enum xdp_rss_hash_type *rss_type) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROBE_FLOWS_MAX);
	__type(key, struct probe_flow);
	__type(value, __u32);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROBE_ARRIVALS_MAX);
	__type(key, struct probe_arrival);
	__type(value, __u64);
} arrivals SEC(".maps");

/* Packets that did not fit into `arrivals`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} unnoted SEC(".maps");

/* Behind the network header. */
static __always_inline int read_ports(struct probe_flow *flow, struct ports *ports, void *end)
{
	if ((void *)(ports + 1) > end)
		return 0;
	flow->source_port = ports->source;
	flow->destination_port = ports->destination;
	return flow->protocol == IPPROTO_UDP || flow->protocol == IPPROTO_TCP;
}

static __always_inline int read_v4(struct probe_flow *flow, struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5)
		return 0;
	if (ip->frag_off & bpf_htons(FRAGMENT_BITS))
		return 0;
	flow->version = 4;
	flow->protocol = ip->protocol;
	__builtin_memcpy(flow->source, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(flow->destination, &ip->daddr, sizeof(ip->daddr));
	return read_ports(flow, (void *)(ip + 1), end);
}

static __always_inline int read_v6(struct probe_flow *flow, struct ipv6hdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 6)
		return 0;
	flow->version = 6;
	flow->protocol = ip->nexthdr;
	__builtin_memcpy(flow->source, &ip->saddr, sizeof(flow->source));
	__builtin_memcpy(flow->destination, &ip->daddr, sizeof(flow->destination));
	return read_ports(flow, (void *)(ip + 1), end);
}

/* True if the frame is of a flow with ports. */
static __always_inline int read_flow(struct probe_flow *flow, struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	__be16 ethertype;
	void *at = behind_tags((void *)(long)ctx->data, end, &ethertype);

	if (!at)
		return 0;
	if (ethertype == bpf_htons(ETH_P_IP))
		return read_v4(flow, at, end);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return read_v6(flow, at, end);
	return 0;
}

static __always_inline void note(const struct probe_arrival *arrival)
{
	__u64 none = 0, *count;
	__u32 first = 0;

	count = bpf_map_lookup_elem(&arrivals, arrival);
	if (!count) {
		/* Another CPU may have been faster: its entry is as good. */
		bpf_map_update_elem(&arrivals, arrival, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&arrivals, arrival);
	}
	if (!count)
		count = bpf_map_lookup_elem(&unnoted, &first);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Frames of several buffers are accepted: headers are in the first. */
SEC("xdp.frags")
int quiclane_probe(struct xdp_md *ctx)
{
	enum xdp_rss_hash_type hash_type = XDP_RSS_TYPE_NONE;
	struct probe_arrival arrival = {};
	struct probe_flow flow = {};
	__u32 *number, hash = 0;

	if (!read_flow(&flow, ctx))
		return XDP_PASS;
	number = bpf_map_lookup_elem(&flows, &flow);
	if (!number)
		return XDP_PASS;
	arrival.flow = *number;
	arrival.queue = ctx->rx_queue_index;
	arrival.error = bpf_xdp_metadata_rx_hash(ctx, &hash, &hash_type);
	if (arrival.error == 0) {
		arrival.hash = hash;
		arrival.hash_type = hash_type;
	}
	note(&arrival);
	return XDP_PASS;
}

/* Needed for a kfunc: the kernel takes this as a licence that is compatible with its own. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
