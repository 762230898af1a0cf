use super::*;
use proptest::prelude::*;

const WINDOW: u64 = 1 << 16;

fn pool() -> Pool {
    Pool::new(WINDOW)
}

fn filled(pool: &mut Pool, offset: u64, data: &[u8]) -> RecvBuffer {
    let mut buffer = pool.take(0);
    buffer.insert(pool, WINDOW, offset, data);
    buffer
}

#[test]
fn the_front_waits_for_the_gap() {
    let mut pool = pool();
    let mut buffer = filled(&mut pool, 3, b"def");
    assert!(!buffer.has_front());
    assert_eq!(buffer.front(), (&b""[..], false));
    buffer.insert(&mut pool, WINDOW, 0, b"abc");
    buffer.set_end(6);
    assert_eq!(buffer.front(), (&b"abcdef"[..], true));
    buffer.skip(2);
    assert_eq!(buffer.front(), (&b"cdef"[..], true));
    buffer.set_end(u64::MAX);
    assert_eq!(buffer.front(), (&b"cdef"[..], false));
    buffer.skip(4);
    assert!(buffer.is_empty() && !buffer.has_front());
}

#[test]
fn what_came_first_stays() {
    let mut pool = pool();
    let mut buffer = filled(&mut pool, 2, b"CD");
    buffer.insert(&mut pool, WINDOW, 6, b"GH");
    buffer.insert(&mut pool, WINDOW, 0, b"abxxefyyij");
    assert_eq!(buffer.front().0, b"abCDefGHij");
}

#[test]
fn data_lies_in_two_pieces_where_the_ring_wraps() {
    let mut pool = pool();
    let text: Vec<u8> = (0..RING_MIN as u8).collect();
    let mut buffer = filled(&mut pool, 0, &text);
    buffer.skip(40);
    buffer.insert(&mut pool, WINDOW, RING_MIN as u64, &[100; 30]);
    buffer.set_end(RING_MIN as u64 + 30);
    assert_eq!(buffer.inner.ring.len(), RING_MIN, "the ring need not have grown");
    assert_eq!(buffer.front(), (&text[40..], false));
    buffer.skip(24);
    assert_eq!(buffer.front(), (&[100; 30][..], true));
}

#[test]
fn growing_keeps_what_wraps() {
    let mut pool = pool();
    let mut buffer = filled(&mut pool, 0, &[1; RING_MIN]);
    buffer.skip(50);
    buffer.insert(&mut pool, WINDOW, RING_MIN as u64, &[2; 40]);
    buffer.insert(&mut pool, WINDOW, RING_MIN as u64 + 40, &[3; 100]);
    assert_eq!(buffer.inner.head, 0);
    assert_eq!(buffer.front().0, [vec![1; 14], vec![2; 40], vec![3; 100]].concat());
}

#[test]
fn a_ring_is_at_most_a_quarter_too_long_and_never_beyond_the_window() {
    for need in 1..5_000 {
        let len = round_up(need);
        assert!(len >= need && len <= (need + need / 4 + 1).max(RING_MIN), "{need} -> {len}");
    }
    let mut pool = pool();
    let window = 1_100;
    let mut buffer = pool.take(0);
    buffer.insert(&mut pool, window, window - 1, b"x");
    assert_eq!(buffer.inner.ring.len(), window as usize);
}

#[test]
fn attack_28_spans_are_bounded_by_what_they_reach() {
    let mut pool = pool();
    let mut buffer = pool.take(0);
    let mut refused = 0;
    for offset in (1..WINDOW).step_by(2) {
        if buffer.refuses(offset, offset + 1) {
            refused += 1;
        } else {
            buffer.insert(&mut pool, WINDOW, offset, b"x");
        }
        let bound = (WINDOW as usize) * 8 / 5;
        assert!(buffer.heap_bytes() <= bound, "{} bytes at {offset}", buffer.heap_bytes());
    }
    assert!(refused > 30_000);
    // What is next in order is never refused: the stream goes on.
    assert!(!buffer.refuses(0, 1));
    // Nor is what joins a range.
    let last = buffer.inner.ranges.last().unwrap();
    assert!(!buffer.refuses(last.hi, last.hi + 1));
}

#[test]
fn the_pool_keeps_few_and_never_more_than_the_window() {
    let mut pool = pool();
    let buffers: Vec<RecvBuffer> = (0..20).map(|_| filled(&mut pool, 0, &[0; 100])).collect();
    buffers.into_iter().for_each(|buffer| pool.give(buffer));
    assert_eq!(pool.free.len(), POOL_MAX);
    // A ring that needs the whole window pushes the others out.
    let buffer = filled(&mut pool, WINDOW - 1, b"x");
    assert_eq!(pool.ring_bytes, WINDOW as usize);
    pool.give(buffer);
    assert_eq!(pool.free.len(), 1);
    pool.shrink();
    assert_eq!((pool.heap_bytes(), pool.ring_bytes), (0, 0));
}

#[test]
fn a_recycled_buffer_is_as_new() {
    let mut pool = pool();
    let mut buffer = filled(&mut pool, 0, &[9; 300]);
    buffer.skip(7);
    pool.give(buffer);
    let mut buffer = pool.take(1_000);
    assert!(buffer.is_empty());
    buffer.insert(&mut pool, WINDOW, 990, b"0123456789abc");
    assert_eq!(buffer.front().0, b"abc");
}

proptest! {
    /// Against a plain map of offset to byte.
    #[test]
    fn behaves_as_a_map_from_offsets(
        steps in prop::collection::vec((0..200u64, 1..90usize, 0..70u64, any::<u8>()), 1..80),
    ) {
        let mut pool = pool();
        let mut buffer = pool.take(0);
        let mut model = std::collections::BTreeMap::new();
        let mut start = 0u64;
        for (ahead, len, take, byte) in steps {
            let offset = (start + ahead).saturating_sub(20);
            let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
            buffer.insert(&mut pool, WINDOW, offset, &data);
            for (i, &byte) in data.iter().enumerate() {
                let at = offset + i as u64;
                if at >= start {
                    model.entry(at).or_insert(byte);
                }
            }
            let mut left = take;
            while left > 0 && buffer.has_front() {
                let shown = buffer.front().0.to_vec();
                for (i, byte) in shown.iter().enumerate() {
                    prop_assert_eq!(model.get(&(start + i as u64)), Some(byte));
                }
                let n = left.min(shown.len() as u64);
                buffer.skip(n);
                start += n;
                left -= n;
                model = model.split_off(&start);
            }
            prop_assert_eq!(buffer.first_offset(), model.keys().next().copied());
        }
    }
}
