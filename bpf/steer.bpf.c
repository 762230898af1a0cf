// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Steers UDP flows into AF_XDP sockets.
 *
 * A frame that carries UDP to a registered address and port goes to the AF_XDP socket of the
 * receive queue it arrived on. Every other frame, and every frame that this program does not
 * understand, goes to the kernel untouched. Fragments, IPv4 options and IPv6 extension headers are
 * not understood on purpose: a kernel socket beside each port receives what is in them.
 *
 * Headers are checked only as far as is needed to find address and port. Wrong lengths and checksums
 * are left to the parser behind the socket, which drops and counts them (src/datapath/headers.rs).
 * headers::verdict makes the same decision in Rust: a change here needs a change there, and a test
 * compares both on tens of thousands of frames.
 *
 * Only frames to the MAC of the device, without a tag or with tags of allowed VLANs, are redirected:
 * the kernel would not let a neighbour of another VLAN reach the port. The reply has the same tags.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "frame.h"
#include "steer.h"

#define INITIAL_MIN_BYTES 1200
#define QUIC_VERSION_1 1

/* A long header of QUIC up to its version (RFC 8999, 5.1). */
struct quic_long {
	__u8 first;
	__be32 version;
} __attribute__((packed));

/* Written by the loader before it loads; constant from then on. */
const volatile __u16 device_mac[ETH_ALEN / 2];
const volatile __u64 vlans[STEER_VLAN_WORDS];

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, STEER_QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_PORTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_key_v4);
	__type(value, struct steer_port);
} ports_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_PORTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_key_v6);
	__type(value, struct steer_port);
} ports_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

/* Which process has which slots, where several share the program: for the loader alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_INSTANCES_MAX);
	__type(key, __u32);
	__type(value, __u64);
} instances SEC(".maps");

/*
 * RFC 9000, 14.1, by the length that the UDP header declares. Budgets per source prefix belong
 * here too: this is where a client's first packet is known.
 */
static __always_inline int small_initial(void *payload, void *end, __u32 udp_bytes)
{
	struct quic_long *quic = payload;

	if (udp_bytes < sizeof(struct udphdr) + sizeof(*quic) ||
	    udp_bytes >= sizeof(struct udphdr) + INITIAL_MIN_BYTES)
		return 0;
	if ((void *)(quic + 1) > end)
		return 0;
	/* RFC 9000, 17.2: the form bit, and 00 as the type. */
	return (quic->first & 0xb0) == 0x80 && quic->version == bpf_htonl(QUIC_VERSION_1);
}

/* Whether a frame for a registered port is for this device, in an allowed VLAN. */
static __always_inline __u32 admit(void *frame, void *end)
{
	struct ethhdr *ethernet = frame;
	__u16 *mac = frame;
	struct vlan_tag *tag = (void *)(ethernet + 1);
	__be16 ethertype;

	if ((void *)(ethernet + 1) > end)
		return STEER_PASS_SHORT;
	if (mac[0] != device_mac[0] || mac[1] != device_mac[1] || mac[2] != device_mac[2])
		return STEER_PASS_OTHER_HOST;
	ethertype = ethernet->h_proto;
#pragma unroll
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		__u32 id;

		if (!is_vlan(ethertype))
			break;
		if ((void *)(tag + 1) > end)
			return STEER_PASS_SHORT;
		id = bpf_ntohs(tag->tci) & VLAN_ID_BITS;
		if (!(vlans[id / 64] >> (id % 64) & 1))
			return STEER_PASS_VLAN;
		ethertype = tag->ethertype;
		tag += 1;
	}
	return STEER_REDIRECT;
}

/* Behind the network header; `port` is the entry of the destination address and port. */
static __always_inline __u32 judge(const struct steer_port *port, struct udphdr *udp, void *frame,
				   void *end, __u32 *base)
{
	__u32 admitted;

	if (!port)
		return STEER_PASS_NOT_LISTENED;
	*base = port->base;
	admitted = admit(frame, end);
	if (admitted != STEER_REDIRECT)
		return admitted;
	if (port->flags & STEER_DROP_SMALL_INITIALS &&
	    small_initial(udp + 1, end, bpf_ntohs(udp->len)))
		return STEER_DROP_SMALL_INITIAL;
	return STEER_REDIRECT;
}

static __always_inline __u32 judge_v4(void *frame, void *at, void *end, __u32 *base)
{
	struct steer_key_v4 key = {};
	struct iphdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > end)
		return STEER_PASS_SHORT;
	if (ip->version != 4 || ip->ihl < 5)
		return STEER_PASS_MALFORMED;
	if (ip->frag_off & bpf_htons(FRAGMENT_BITS))
		return STEER_PASS_FRAGMENT;
	if (ip->ihl > 5)
		return STEER_PASS_OPTIONS;
	if (ip->protocol != IPPROTO_UDP)
		return STEER_PASS_NOT_UDP;
	if ((void *)(udp + 1) > end)
		return STEER_PASS_SHORT;
	key.address = ip->daddr;
	key.port = udp->dest;
	return judge(bpf_map_lookup_elem(&ports_v4, &key), udp, frame, end, base);
}

static __always_inline int is_extension(__u8 next)
{
	switch (next) {
	case 0:   /* hop by hop */
	case 43:  /* routing */
	case 50:  /* encapsulating security payload */
	case 51:  /* authentication */
	case 60:  /* destination options */
	case 135: /* mobility */
	case 139: /* host identity */
	case 140: /* shim6 */
		return 1;
	}
	return 0;
}

static __always_inline __u32 judge_v6(void *frame, void *at, void *end, __u32 *base)
{
	struct steer_key_v6 key = {};
	struct ipv6hdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > end)
		return STEER_PASS_SHORT;
	if (ip->version != 6)
		return STEER_PASS_MALFORMED;
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return STEER_PASS_FRAGMENT;
	if (is_extension(ip->nexthdr))
		return STEER_PASS_EXTENSION;
	if (ip->nexthdr != IPPROTO_UDP)
		return STEER_PASS_NOT_UDP;
	if ((void *)(udp + 1) > end)
		return STEER_PASS_SHORT;
	__builtin_memcpy(key.address, &ip->daddr, sizeof(key.address));
	key.port = udp->dest;
	return judge(bpf_map_lookup_elem(&ports_v6, &key), udp, frame, end, base);
}

static __always_inline __u32 judge_frame(struct xdp_md *ctx, __u32 *base)
{
	void *end = (void *)(long)ctx->data_end;
	__be16 ethertype;
	void *frame = (void *)(long)ctx->data;
	void *at = behind_tags(frame, end, &ethertype);

	if (!at)
		return STEER_PASS_SHORT;
	if (ethertype == bpf_htons(ETH_P_IP))
		return judge_v4(frame, at, end, base);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return judge_v6(frame, at, end, base);
	return is_vlan(ethertype) ? STEER_PASS_VLAN_DEPTH : STEER_PASS_NOT_IP;
}

SEC("xdp")
int quiclane_steer(struct xdp_md *ctx)
{
	__u32 base = 0;
	__u32 verdict = judge_frame(ctx, &base);
	int action = XDP_PASS;
	__u64 *count;

	if (verdict == STEER_REDIRECT) {
		/* An empty slot returns XDP_PASS; without that flag the frame would be lost. */
		action = bpf_redirect_map(&xsks, base + ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			verdict = STEER_PASS_NO_SOCKET;
	} else if (verdict == STEER_DROP_SMALL_INITIAL) {
		action = XDP_DROP;
	}
	count = bpf_map_lookup_elem(&verdicts, &verdict);
	if (count)
		*count += 1;
	return action;
}

/* For BPF_PROG_TEST_RUN, never attached: returns the verdict on a frame, and does nothing. */
SEC("xdp")
int quiclane_judge(struct xdp_md *ctx)
{
	__u32 base = 0;

	return judge_frame(ctx, &base);
}

/*
 * For BPF_PROG_TEST_RUN, never attached. User space cannot read an XSKMAP, programs can: the frame
 * is a slot number in host byte order, the answer the queue that its socket is bound to plus one,
 * or 0 for an empty slot. A slot with the socket of another queue loses every packet, and no
 * counter of the kernel says so.
 */
SEC("xdp")
int quiclane_slot(struct xdp_md *ctx)
{
	__u32 *slot = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct bpf_xdp_sock *socket;
	__u32 index;

	if ((void *)(slot + 1) > end)
		return 0;
	index = *slot;
	socket = bpf_map_lookup_elem(&xsks, &index);
	return socket ? socket->queue_id + 1 : 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
