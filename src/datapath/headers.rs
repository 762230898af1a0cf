//! Ethernet, VLAN, IPv4, IPv6, UDP and their checksums.
