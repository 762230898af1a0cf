use super::testing::{Kernel, consumer, producer};
use super::*;

/// Just below the wrap of the index.
const NEAR_WRAP: u32 = u32::MAX - 2;

#[test]
fn what_is_pushed_arrives_in_order_across_the_wrap_of_the_index() {
    let (mut ring, kernel) = producer::<u64>(4, NEAR_WRAP);
    let mut expected = 0..;
    let mut sent = 0;
    for round in 0..20u64 {
        for _ in 0..1 + round % 4 {
            assert!(ring.push(sent));
            sent += 1;
        }
        assert_eq!(kernel.take(), None, "nothing before submit");
        ring.submit();
        while let Some(entry) = kernel.take() {
            assert_eq!(Some(entry), expected.next());
        }
    }
    assert_eq!(expected.next(), Some(sent));
}

#[test]
fn a_full_ring_takes_nothing_until_the_kernel_did() {
    let (mut ring, kernel) = producer::<u64>(4, NEAR_WRAP);
    for entry in 0..4 {
        assert!(ring.push(entry));
    }
    assert!(!ring.push(9));
    ring.submit();
    assert_eq!(ring.waiting(), 4);
    assert!(!ring.has_room(1));
    kernel.take();
    assert!(ring.has_room(1) && !ring.has_room(2));
    assert_eq!(ring.waiting(), 3);
}

#[test]
fn entries_are_read_once_and_room_comes_back_with_release() {
    let (mut ring, kernel) = consumer::<u64>(4, NEAR_WRAP);
    assert_eq!(ring.available(64), 0);
    for round in 0..10 {
        for entry in 0..3 {
            kernel.put(round * 10 + entry);
        }
        assert_eq!(ring.available(2), 2);
        assert_eq!((ring.peek(0), ring.peek(1)), (round * 10, round * 10 + 1));
        ring.release(2);
        assert_eq!(ring.available(64), 1);
        assert_eq!(ring.peek(0), round * 10 + 2);
        ring.release(1);
    }
    assert_eq!(ring.available(1), 0);
}

#[test]
fn an_index_that_runs_away_is_held_to_the_size_of_the_ring() {
    let (mut ring, kernel) = consumer::<u64>(4, 0);
    for entry in 0..100 {
        kernel.put(entry);
    }
    assert_eq!(ring.available(64), 4);
}

#[test]
fn the_wish_to_be_woken_is_seen() {
    let (ring, kernel) = producer::<u64>(4, 0);
    assert!(!ring.needs_wakeup());
    kernel.set_needs_wakeup(true);
    assert!(ring.needs_wakeup());
}

/// The C functions that xsk-rs calls for each descriptor move what we move. What that costs is
/// printed: `cargo test --release --lib rings::tests::figures -- --nocapture`.
#[test]
fn figures() {
    for burst in [1, 32, 64] {
        let (mut by_hand, mut through_c) = (Watching::default(), Watching::default());
        rings_by_hand(burst, &mut by_hand);
        rings_through_c(burst, &mut through_c);
        assert_eq!(by_hand.arrived, u64::from(ROUNDS * burst));
        for moved in [&by_hand, &through_c] {
            let numbers: Vec<u64> = (0..moved.arrived).collect();
            assert_eq!(moved.filled, numbers, "what was read goes back to the kernel");
            assert_eq!(moved.sent, numbers.iter().map(|&n| numbered(n)).collect::<Vec<_>>());
        }
        let by_hand = median(|| rings_by_hand(burst, &mut Blind));
        let through_c = median(|| rings_through_c(burst, &mut Blind));
        println!(
            "burst {burst}: by hand {by_hand:.1} ns, through xsk-rs' calls {through_c:.1} ns a \
             packet (RX + fill + TX + completion)"
        );
    }
}

const ROUNDS: u32 = if cfg!(debug_assertions) { 20 } else { 20_000 };
const SIZE: u32 = 1024;

fn median(mut measure: impl FnMut() -> f64) -> f64 {
    let mut runs: Vec<f64> = (0..9).map(|_| measure()).collect();
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

fn timed(burst: u32, mut round: impl FnMut()) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "figures for a reader of the output")]
    let start = std::time::Instant::now();
    for _ in 0..ROUNDS {
        round();
    }
    start.elapsed().as_nanos() as f64 / f64::from(ROUNDS * burst)
}

/// The kernel's ends of the four rings of a socket.
struct Ends {
    rx: Kernel<Descriptor>,
    fill: Kernel<u64>,
    tx: Kernel<Descriptor>,
    completion: Kernel<u64>,
}

/// What the kernel does in a round.
trait Kernels {
    /// A burst of packets arrives.
    fn deliver(&mut self, ends: &Ends, burst: u32);
    /// A burst is sent, and its frames come back.
    fn send(&mut self, ends: &Ends, burst: u32);
}

/// Costs next to nothing, and looks at nothing.
struct Blind;

impl Kernels for Blind {
    fn deliver(&mut self, ends: &Ends, burst: u32) {
        ends.rx.advance_producer(burst);
    }

    fn send(&mut self, ends: &Ends, burst: u32) {
        ends.fill.advance_consumer(burst);
        ends.tx.advance_consumer(burst);
        ends.completion.advance_producer(burst);
    }
}

/// Numbers what arrives, and notes what it gets.
#[derive(Default)]
struct Watching {
    arrived: u64,
    filled: Vec<u64>,
    sent: Vec<Descriptor>,
}

const fn numbered(number: u64) -> Descriptor {
    Descriptor { address: number, length: number as u32 % 1_500, options: number as u32 % 2 }
}

impl Kernels for Watching {
    fn deliver(&mut self, ends: &Ends, burst: u32) {
        for _ in 0..burst {
            ends.rx.put(numbered(self.arrived));
            self.arrived += 1;
        }
    }

    fn send(&mut self, ends: &Ends, _burst: u32) {
        self.filled.extend(std::iter::from_fn(|| ends.fill.take()));
        while let Some(descriptor) = ends.tx.take() {
            ends.completion.put(descriptor.address);
            self.sent.push(descriptor);
        }
    }
}

fn rings_by_hand(burst: u32, kernel: &mut impl Kernels) -> f64 {
    let (mut rx, rx_end) = consumer::<Descriptor>(SIZE, 0);
    let (mut fill, fill_end) = producer::<u64>(SIZE, 0);
    let (mut tx, tx_end) = producer::<Descriptor>(SIZE, 0);
    let (mut completion, completion_end) = consumer::<u64>(SIZE, 0);
    let ends = Ends { rx: rx_end, fill: fill_end, tx: tx_end, completion: completion_end };
    timed(burst, || {
        kernel.deliver(&ends, burst);
        let count = rx.available(burst);
        for offset in 0..count {
            let descriptor = rx.peek(offset);
            fill.push(descriptor.address);
            tx.push(descriptor);
        }
        fill.submit();
        rx.release(count);
        tx.submit();
        kernel.send(&ends, burst);
        let count = completion.available(burst);
        // Volatile reads: the compiler drops none.
        let addresses = (0..count).fold(0, |sum, offset| sum ^ completion.peek(offset));
        std::hint::black_box(addresses);
        completion.release(count);
    })
}

/// The loops of xsk-rs 0.11 (`RxQueue::consume`, `FillQueue::produce`, `TxQueue::produce`,
/// `CompQueue::consume`) over the same memory.
fn rings_through_c(burst: u32, kernel: &mut impl Kernels) -> f64 {
    let (rx, rx_end) = consumer::<Descriptor>(SIZE, 0);
    let (fill, fill_end) = producer::<u64>(SIZE, 0);
    let (tx, tx_end) = producer::<Descriptor>(SIZE, 0);
    let (completion, completion_end) = consumer::<u64>(SIZE, 0);
    let ends = Ends { rx: rx_end, fill: fill_end, tx: tx_end, completion: completion_end };
    let mut rx = rx.ring.as_c_consumer();
    let mut completion = completion.ring.as_c_consumer();
    let mut fill = fill.ring.as_c_producer();
    let mut tx = tx.ring.as_c_producer();
    /// As large as the descriptors of xsk-rs.
    #[derive(Clone, Copy, Default)]
    struct Frame {
        address: usize,
        options: u32,
        headroom: usize,
        length: usize,
    }
    let mut frames = vec![Frame::default(); burst as usize];
    timed(burst, || {
        kernel.deliver(&ends, burst);
        let mut index = 0;
        // SAFETY: the four structures describe rings that live on in the kernel's ends; each index
        // is one that the call before has granted.
        unsafe {
            let count = xdp::xsk_ring_cons__peek(&raw mut rx, burst, &raw mut index);
            for frame in frames.iter_mut().take(count as usize) {
                let descriptor = xdp::xsk_ring_cons__rx_desc(&raw const rx, index);
                frame.address = (*descriptor).addr as usize;
                frame.length = (*descriptor).len as usize;
                frame.headroom = 0;
                frame.options = (*descriptor).options;
                index = index.wrapping_add(1);
            }
            xdp::xsk_ring_cons__release(&raw mut rx, count);
            let count = xdp::xsk_ring_prod__reserve(&raw mut fill, burst, &raw mut index);
            for frame in frames.iter().take(count as usize) {
                *xdp::xsk_ring_prod__fill_addr(&raw mut fill, index) = frame.address as u64;
                index = index.wrapping_add(1);
            }
            xdp::xsk_ring_prod__submit(&raw mut fill, count);
            let count = xdp::xsk_ring_prod__reserve(&raw mut tx, burst, &raw mut index);
            for frame in frames.iter().take(count as usize) {
                let descriptor = xdp::xsk_ring_prod__tx_desc(&raw mut tx, index);
                (*descriptor).addr = frame.address as u64;
                (*descriptor).options = frame.options;
                (*descriptor).len = frame.length as u32;
                index = index.wrapping_add(1);
            }
            xdp::xsk_ring_prod__submit(&raw mut tx, count);
            kernel.send(&ends, burst);
            let count = xdp::xsk_ring_cons__peek(&raw mut completion, burst, &raw mut index);
            for frame in frames.iter_mut().take(count as usize) {
                frame.address =
                    *xdp::xsk_ring_cons__comp_addr(&raw const completion, index) as usize;
                frame.length = 0;
                frame.headroom = 0;
                frame.options = 0;
                index = index.wrapping_add(1);
            }
            xdp::xsk_ring_cons__release(&raw mut completion, count);
        }
        std::hint::black_box(&frames);
    })
}

impl<T: Entry> Ring<T> {
    fn as_c_consumer(&self) -> xdp::xsk_ring_cons {
        xdp::xsk_ring_cons {
            cached_prod: 0,
            cached_cons: 0,
            mask: self.mask,
            size: self.size(),
            producer: self.producer.as_ptr().cast(),
            consumer: self.consumer.as_ptr().cast(),
            ring: self.entries.as_ptr().cast(),
            flags: self.flags.as_ptr().cast(),
        }
    }

    fn as_c_producer(&self) -> xdp::xsk_ring_prod {
        xdp::xsk_ring_prod {
            cached_prod: 0,
            cached_cons: self.size(),
            mask: self.mask,
            size: self.size(),
            producer: self.producer.as_ptr().cast(),
            consumer: self.consumer.as_ptr().cast(),
            ring: self.entries.as_ptr().cast(),
            flags: self.flags.as_ptr().cast(),
        }
    }
}
