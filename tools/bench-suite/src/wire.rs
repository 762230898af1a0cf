//! The network between two endpoints: a batch of datagrams in reused memory.
//!
//! The sender writes bursts: one datagram, or several of one size as for GSO. The receiver
//! takes datagrams in the form that its stack wants (`Endpoint::stage`), outside measured sections, as
//! a NIC or a kernel would have delivered them.

/// No datagram is larger.
pub(crate) const MAX_DATAGRAM_BYTES: usize = 1500;

/// Datagrams on their way in one direction.
#[derive(Default)]
pub(crate) struct Wire {
    bursts: Vec<Burst>,
    used: usize,
    datagrams: usize,
}

#[derive(Default)]
struct Burst {
    bytes: Vec<u8>,
    len: usize,
    segment: usize,
}

impl Wire {
    /// Memory for the next burst, which [`Wire::commit`] will send. It keeps the content of its last
    /// use, so that no time goes to zeroing.
    pub(crate) fn next(&mut self) -> &mut Vec<u8> {
        if self.used == self.bursts.len() {
            self.bursts.push(Burst::default());
        }
        &mut self.bursts[self.used].bytes
    }

    /// Memory for one datagram.
    pub(crate) fn next_datagram(&mut self) -> &mut [u8] {
        let bytes = self.next();
        if bytes.len() != MAX_DATAGRAM_BYTES {
            bytes.resize(MAX_DATAGRAM_BYTES, 0);
        }
        bytes
    }

    /// Sends the first `len` bytes of the buffer of [`Wire::next`], in datagrams of `segment`.
    pub(crate) fn commit(&mut self, len: usize, segment: usize) {
        let burst = &mut self.bursts[self.used];
        (burst.len, burst.segment) = (len, segment);
        self.used += 1;
        self.datagrams += len.div_ceil(segment);
    }

    /// How many datagrams are on their way.
    pub(crate) fn len(&self) -> usize {
        self.datagrams
    }

    /// The sum of their lengths.
    pub(crate) fn bytes(&self) -> usize {
        self.bursts[..self.used].iter().map(|burst| burst.len).sum()
    }

    /// The datagrams, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bursts[..self.used].iter().flat_map(|b| b.bytes[..b.len].chunks(b.segment))
    }

    /// They have arrived: the memory is free for the next batch.
    pub(crate) fn clear(&mut self) {
        (self.used, self.datagrams) = (0, 0);
    }
}

/// Received datagrams in one block of memory, for stacks that decrypt in place.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    lens: Vec<usize>,
}

/// Distance between two frames: a power of two, as in a UMEM.
const FRAME_BYTES: usize = 2048;

impl Frames {
    /// Takes what is on the wire.
    pub(crate) fn fill(&mut self, wire: &mut Wire) {
        self.lens.clear();
        self.bytes.resize(self.bytes.len().max(wire.len() * FRAME_BYTES), 0);
        for (datagram, frame) in wire.iter().zip(self.bytes.chunks_exact_mut(FRAME_BYTES)) {
            frame[..datagram.len()].copy_from_slice(datagram);
            self.lens.push(datagram.len());
        }
        wire.clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lens.len()
    }

    /// The datagram at `index`.
    pub(crate) fn get(&mut self, index: usize) -> &mut [u8] {
        let start = index * FRAME_BYTES;
        &mut self.bytes[start..start + self.lens[index]]
    }

    /// They have been read.
    pub(crate) fn clear(&mut self) {
        self.lens.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_come_out_as_datagrams() {
        let mut wire = Wire::default();
        wire.next_datagram()[..3].copy_from_slice(b"one");
        wire.commit(3, 3);
        wire.next().splice(.., *b"aabbc");
        wire.commit(5, 2);
        assert_eq!((wire.len(), wire.bytes()), (4, 8));
        let mut frames = Frames::default();
        frames.fill(&mut wire);
        let got: Vec<_> = (0..frames.len()).map(|i| frames.get(i).to_vec()).collect();
        assert_eq!(got, [&b"one"[..], b"aa", b"bb", b"c"]);
        assert_eq!(wire.len(), 0);
    }
}
