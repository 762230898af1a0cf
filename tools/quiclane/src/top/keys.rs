//! Keys, from the bytes that a terminal sends for them.
//!
//! The drawing library has a reader of its own, but that one never returns from a terminal that is
//! gone. [`crate::sys::hear`] notices that; what is left is to parse a few keys. Pure.

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    CtrlC,
    Escape,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    /// Any other.
    Other,
}

/// The keys in the bytes. An escape character with nothing behind it is the key Esc: [`is_cut`] has
/// checked before whether more bytes are to come.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (key, taken) = first(bytes);
        found.push(key);
        bytes = &bytes[taken.min(bytes.len())..];
    }
    found
}

/// True if bytes of the last key may be missing, as when a slow line delivers it in two parts.
pub(super) fn is_cut(bytes: &[u8]) -> bool {
    let Some(at) = bytes.iter().rposition(|byte| *byte == 0x1b) else { return false };
    match &bytes[at + 1..] {
        [] | [b'O'] => true,
        [b'[', parameters @ ..] => parameters.iter().all(|byte| (0x20..0x40).contains(byte)),
        _ => false,
    }
}

/// The first key, and how many bytes it takes.
fn first(bytes: &[u8]) -> (Key, usize) {
    match *bytes {
        [3, ..] => (Key::CtrlC, 1),
        [0x1b, b'[', ..] => {
            let (key, taken) = control(&bytes[2..]);
            (key, taken + 2)
        }
        // In application mode.
        [0x1b, b'O', letter, ..] => (cursor(letter), 3),
        [0x1b, ..] => (Key::Escape, 1),
        [byte @ b' '..=b'~', ..] => (Key::Char(char::from(byte)), 1),
        [0xc0..=0xff, ..] => {
            // A character of several bytes: not a key here.
            let more = bytes[1..].iter().take_while(|byte| **byte & 0xc0 == 0x80).count();
            (Key::Other, 1 + more)
        }
        _ => (Key::Other, 1),
    }
}

/// What follows `ESC [`: parameters, and the byte that ends them (ECMA-48 §5.4).
fn control(rest: &[u8]) -> (Key, usize) {
    let parameters = rest.iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
    let Some(&end) = rest.get(parameters) else { return (Key::Other, rest.len()) };
    let key = match (&rest[..parameters], end) {
        (b"5", b'~') => Key::PageUp,
        (b"6", b'~') => Key::PageDown,
        (b"1" | b"7", b'~') => Key::Home,
        (b"", letter) => cursor(letter),
        _ => Key::Other,
    };
    (key, parameters + 1)
}

const fn cursor(letter: u8) -> Key {
    match letter {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_by_their_bytes() {
        use Key::*;
        let cases: [(&[u8], &[Key]); 13] = [
            (b"q", &[Char('q')]),
            (b"\x03", &[CtrlC]),
            (b"\x1b", &[Escape]),
            (b"\x1b[A\x1b[B\x1b[H", &[Up, Down, Home]),
            (b"\x1bOA\x1bOB", &[Up, Down]),
            (b"\x1b[C\x1b[D", &[Right, Left]),
            (b"\x1b[5~\x1b[6~\x1b[1~", &[PageUp, PageDown, Home]),
            (b"\x1b[1;5A", &[Other]),
            (b"\x1b[", &[Other]),
            (b"\x1b[12", &[Other]),
            ("é?".as_bytes(), &[Other, Char('?')]),
            (b"\r", &[Other]),
            (b"", &[]),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(keys(bytes), wanted, "{bytes:?}");
        }
        let cases: [(&[u8], &[u8]); 4] =
            [(b"\x1b", b"[A"), (b"q\x1b[", b"A"), (b"\x1b[1;", b"5A"), (b"\x1bO", b"A")];
        for (cut, part) in cases {
            assert!(is_cut(cut) && !is_cut(&[cut, part].concat()), "{cut:?} {part:?}");
        }
        assert!(!is_cut(b"q") && !is_cut(b"\x1b[5~") && !is_cut(b"\x1bq"));
        // No bytes make it panic.
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                assert!(!keys(&[0x1b, a, b]).is_empty() && !keys(&[a, b]).is_empty());
            }
        }
    }
}
