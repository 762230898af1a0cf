//! Idle connections: what each costs in memory, per side.
//!
//! The heap is read before and after every section of the handshakes and of the silence that follows,
//! so that memory, of C code too, counts for the side that took it or gave it back. Memory that an
//! endpoint has before its first connection does not count.

use std::rc::Rc;

use crate::Failure;
use crate::identity::Identity;
use crate::meter::{End, Mode};
use crate::pair::Pair;
use crate::stack::{Setup, Stack};

/// Connections that are made before counting begins: tables have their first size.
const FIRST: usize = 64;
/// Silence after the last handshake: longer than what any stack waits before it gives memory back, and
/// shorter than its idle timeout.
const REST_NS: u64 = 3_000_000_000;

/// Bytes per idle connection of the client and of the server.
pub(crate) fn bytes_per_connection<S: Stack>(
    identity: Rc<Identity>,
    count: usize,
) -> Result<[f64; 2], Failure> {
    let setup = Setup { mtu: super::USUAL_MTU, resume: false, identity };
    let mut pair = Pair::<S>::new(&setup)?;
    pair.connect(FIRST)?;
    pair.meter.mode = Mode::Heap;
    pair.connect(count)?;
    pair.rest(REST_NS);
    let per = |end| pair.meter.heap_bytes(end) as f64 / count as f64;
    Ok([per(End::Client), per(End::Server)])
}
