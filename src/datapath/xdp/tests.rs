//! What needs a kernel and privilege: the program by BPF_PROG_TEST_RUN, the slots of the XSKMAP,
//! sockets that stall. Tests through the public API are in `tests/veth_xdp`.

use super::loader::Program;
use super::*;
use crate::datapath::headers::{Verdict, verdict_on};
use quiclane_testkit::netns::privileged;
use std::net::SocketAddr;

mod program;
mod sockets;

/// SplitMix64: a generator of test inputs that needs no state but a number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
