/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What steer.bpf.c and src/datapath/xdp/loader.rs share. Sizes are asserted on both sides, the
 * numbers of the verdicts by tests that run the program on every one of them.
 */
#ifndef QUICLANE_STEER_H
#define QUICLANE_STEER_H

#include <linux/types.h>

/* The verdict on a frame, with its reason: headers::Verdict. */
enum steer_verdict {
	STEER_REDIRECT = 0,
	STEER_PASS_SHORT = 1,
	STEER_PASS_NOT_IP = 2,
	STEER_PASS_VLAN_DEPTH = 3,
	STEER_PASS_MALFORMED = 4,
	STEER_PASS_FRAGMENT = 5,
	STEER_PASS_OPTIONS = 6,
	STEER_PASS_EXTENSION = 7,
	STEER_PASS_NOT_UDP = 8,
	STEER_PASS_NOT_LISTENED = 9,
	STEER_PASS_NO_SOCKET = 10,
	STEER_DROP_SMALL_INITIAL = 11,
	STEER_PASS_VLAN = 12,
	STEER_PASS_OTHER_HOST = 13,
	STEER_VERDICTS = 14,
};

/* A registered address and port, in network byte order. */
struct steer_key_v4 {
	__u32 address;
	__u16 port;
	__u16 zero;
};

struct steer_key_v6 {
	__u8 address[16];
	__u16 port;
	__u16 zero;
};

/* Clients' Initials in datagrams below 1200 bytes are dropped (RFC 9000, 14.1). */
#define STEER_DROP_SMALL_INITIALS 1u

struct steer_port {
	__u32 flags;
	/* Where the slots of the port's process begin: 0 unless several share the program. */
	__u32 base;
};

_Static_assert(sizeof(struct steer_key_v4) == 8, "loader.rs: KeyV4");
_Static_assert(sizeof(struct steer_key_v6) == 20, "loader.rs: KeyV6");
_Static_assert(sizeof(struct steer_port) == 8, "loader.rs: Port");

/* Addresses times ports. A hash map that is not preallocated costs what is in it. */
#define STEER_PORTS_MAX 4096
/* Words of 64 bits that hold a bit for each VLAN id. */
#define STEER_VLAN_WORDS 64

/* Receive queues; the loader shrinks it to those that the device has. Where processes share the program, each
 * has 128 slots: loader.rs. */
#define STEER_QUEUES_MAX 1024
#define STEER_INSTANCES_MAX 8

#endif
