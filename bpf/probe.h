/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What probe.bpf.c and src/datapath/xdp/probe.rs share. Sizes are asserted on both sides.
 */
#ifndef QUICLANE_PROBE_H
#define QUICLANE_PROBE_H

#include <linux/types.h>

/* A flow that is looked for. Addresses and ports are in network byte order; an IPv4 address is
 * followed by zeros. */
struct probe_flow {
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	/* IPPROTO_UDP or IPPROTO_TCP. */
	__u8 protocol;
	/* 4 or 6. */
	__u8 version;
	__u16 zero;
};

/* What was seen of it. Packets with equal fields are counted together. */
struct probe_arrival {
	/* The number that the flow was given. */
	__u32 flow;
	__u32 queue;
	/* Valid if `error` is 0. */
	__u32 hash;
	__u32 hash_type;
	/* What bpf_xdp_metadata_rx_hash() returned: 0, or a negative errno. */
	__s32 error;
};

_Static_assert(sizeof(struct probe_flow) == 40, "probe.rs: FLOW_BYTES");
_Static_assert(sizeof(struct probe_arrival) == 20, "probe.rs: ARRIVAL_BYTES");

/* Flows at once. */
#define PROBE_FLOWS_MAX 8
/* A flow has one queue and one hash; there are this many only if those change all the time. */
#define PROBE_ARRIVALS_MAX 4096

#endif
