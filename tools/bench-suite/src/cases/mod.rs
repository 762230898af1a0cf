//! The cases. Each runs on every stack, in interleaved slices.

pub(crate) mod bulk;
pub(crate) mod handshake;
pub(crate) mod idle;
pub(crate) mod rpc;

use std::rc::Rc;

use crate::Failure;
use crate::identity::Identity;
use crate::meter::Sample;
use crate::stack::{Setup, Stack};

/// A case of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// One stream, kept full, in datagrams of this many bytes.
    Bulk(u16),
    /// Requests and responses, spread over this many connections.
    Rpc(usize),
    /// Handshakes, by certificate or by ticket.
    Handshake {
        /// By ticket.
        resume: bool,
    },
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Case; 8] = [
    Case::Bulk(1472),
    Case::Bulk(1200),
    Case::Rpc(1),
    Case::Rpc(100),
    Case::Rpc(1000),
    Case::Rpc(10_000),
    Case::Handshake { resume: false },
    Case::Handshake { resume: true },
];

/// The datagram size of cases that do not vary it.
const USUAL_MTU: u16 = 1472;

impl Case {
    /// The name in the result.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bulk(mtu) => format!("bulk-{mtu}"),
            Self::Rpc(connections) => format!("rpc-{connections}"),
            Self::Handshake { resume: false } => "handshake".into(),
            Self::Handshake { resume: true } => "handshake-resumed".into(),
        }
    }

    /// The names of the two ends in the result: client, server.
    pub(crate) fn sides(self) -> [&'static str; 2] {
        if let Self::Bulk(_) = self { ["sender", "receiver"] } else { ["client", "server"] }
    }

    /// The unit of an operation.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Bulk(_) => "packet",
            Self::Rpc(_) => "request",
            Self::Handshake { .. } => "handshake",
        }
    }

    /// Operations of a slice: 10 to 100 ms, so that what the other stacks left in the caches
    /// is gone early in it.
    pub(crate) fn slice_operations(self) -> u64 {
        match self {
            Self::Bulk(_) => 16_384,
            Self::Rpc(connections) => (connections as u64 * 2).max(8_192),
            Self::Handshake { .. } => 64,
        }
    }

    fn setup(self, identity: Rc<Identity>) -> Setup {
        let mtu = if let Self::Bulk(mtu) = self { mtu } else { USUAL_MTU };
        Setup { mtu, resume: self == Self::Handshake { resume: true }, identity }
    }

    /// The case on one stack, connected and warm.
    pub(crate) fn start<S: Stack>(
        self,
        identity: Rc<Identity>,
    ) -> Result<Box<dyn Runner>, Failure> {
        let setup = self.setup(identity);
        Ok(match self {
            Self::Bulk(_) => Box::new(bulk::Bulk::<S>::start(&setup)?),
            Self::Rpc(connections) => Box::new(rpc::Rpc::<S>::start(&setup, connections)?),
            Self::Handshake { resume } => {
                Box::new(handshake::Handshake::<S>::start(&setup, resume)?)
            }
        })
    }
}

/// A case on a stack.
pub(crate) trait Runner {
    /// Does about `operations` operations; measured unless `warm_up`.
    fn slice(&mut self, operations: u64, warm_up: bool) -> Result<Sample, Failure>;
}
