/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What the programs share that parse frames.
 */
#ifndef QUICLANE_FRAME_H
#define QUICLANE_FRAME_H

#include <linux/if_ether.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Of frag_off in an IPv4 header: more fragments, and the offset. */
#define FRAGMENT_BITS 0x3fff
#define VLAN_TAGS_MAX 2
/* Of a tag: the VLAN; the rest is priority. */
#define VLAN_ID_BITS 0x0fff

struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

static __always_inline int is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/*
 * Skips the Ethernet header and up to VLAN_TAGS_MAX tags. Returns the header behind them, and its
 * type in *ethertype; NULL if the frame ends before.
 */
static __always_inline void *behind_tags(void *at, void *end, __be16 *ethertype)
{
	struct ethhdr *ethernet = at;

	if ((void *)(ethernet + 1) > end)
		return NULL;
	*ethertype = ethernet->h_proto;
	at = ethernet + 1;
#pragma unroll
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		struct vlan_tag *tag = at;

		if (!is_vlan(*ethertype))
			break;
		if ((void *)(tag + 1) > end)
			return NULL;
		*ethertype = tag->ethertype;
		at = tag + 1;
	}
	return at;
}

#endif
