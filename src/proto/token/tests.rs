//! Tokens that work, and all that must not.

use super::*;
use crate::time::SECOND_NS;
use proptest::prelude::*;

/// In the middle of a key's period.
const NOW: Instant = Instant::from_nanos(1_000_030 * SECOND_NS);
const SECRET: [u8; TOKEN_KEY_LEN] = [0x5a; TOKEN_KEY_LEN];

fn tokens() -> Tokens {
    with_secret(&SECRET, 1_000)
}

fn with_secret(secret: &[u8; TOKEN_KEY_LEN], capacity: usize) -> Tokens {
    let config = TokenConfig::default();
    Tokens::new(secret, config, UsedTokens::new(&config, capacity))
}

fn v4() -> SocketAddr {
    "192.0.2.7:4433".parse().unwrap()
}

fn v6() -> SocketAddr {
    "[2001:db8::7]:4433".parse().unwrap()
}

fn cid(bytes: &[u8]) -> ConnectionId {
    ConnectionId::new(bytes).unwrap()
}

fn retry(tokens: &mut Tokens, remote: SocketAddr) -> Vec<u8> {
    retry_at(tokens, NOW, remote)
}

fn retry_at(tokens: &mut Tokens, now: Instant, remote: SocketAddr) -> Vec<u8> {
    let mut token = Vec::new();
    tokens.retry(now, &[1; 12], remote, &cid(b"original"), &cid(b"chosen by us"), &mut token);
    token
}

fn new_token(tokens: &mut Tokens, nonce: u8, remote: SocketAddr) -> Vec<u8> {
    let mut token = Vec::new();
    tokens.new_token(NOW, &[nonce; 12], remote.ip(), &mut token);
    token
}

const GOOD_RETRY: fn() -> Validation =
    || Validation::Retry { original_dcid: cid(b"original"), retry_scid: cid(b"chosen by us") };

#[test]
fn a_retry_token_gives_back_both_ids() {
    let mut tokens = tokens();
    for remote in [v4(), v6()] {
        let token = retry(&mut tokens, remote);
        assert_eq!(tokens.validate(NOW, remote, &token), GOOD_RETRY());
        // Duplicated Initials are normal: within its seconds a Retry token is not used up.
        assert_eq!(tokens.validate(NOW, remote, &token), GOOD_RETRY());
    }
}

#[test]
fn ids_of_every_length_fit() {
    let mut tokens = tokens();
    for len in 0..=20 {
        let (dcid, scid) = (cid(&vec![0xd0; len]), cid(&vec![0x5c; 20 - len]));
        let mut token = b"before".to_vec();
        tokens.retry(NOW, &[9; 12], v6(), &dcid, &scid, &mut token);
        assert_eq!(&token[..6], b"before");
        assert_eq!(
            tokens.validate(NOW, v6(), &token[6..]),
            Validation::Retry { original_dcid: dcid, retry_scid: scid }
        );
    }
    let mut token = Vec::new();
    tokens.retry(NOW, &[9; 12], v6(), &cid(&[1; 20]), &cid(&[2; 20]), &mut token);
    assert_eq!(token.len(), MAX_TOKEN_LEN);
}

#[test]
fn tokens_show_nothing_of_what_is_inside() {
    let mut tokens = tokens();
    let (one, other) = (retry(&mut tokens, v4()), retry(&mut tokens, v6()));
    assert_eq!(one.len(), other.len());
    let contains = |bytes: &[u8]| one.windows(bytes.len()).any(|window| window == bytes);
    assert!(!contains(b"original") && !contains(b"chosen") && !contains(&[192, 0, 2, 7]));
}

/// ATTACKS row 6: another address or, for a Retry, another port.
#[test]
fn attack_06_tokens_from_elsewhere() {
    let mut tokens = tokens();
    let token = retry(&mut tokens, v4());
    for elsewhere in ["192.0.2.8:4433", "192.0.2.7:4434", "[2001:db8::7]:4433"] {
        assert_eq!(
            tokens.validate(NOW, elsewhere.parse().unwrap(), &token),
            Validation::BadRetry(Refusal::WrongAddress),
            "{elsewhere}"
        );
    }
    let token = new_token(&mut tokens, 1, v4());
    assert_eq!(
        tokens.validate(NOW, "192.0.2.8:4433".parse().unwrap(), &token),
        Validation::Absent(Refusal::WrongAddress)
    );
    // Being tried from elsewhere does not use it up; another port is fine.
    assert_eq!(tokens.validate(NOW, "192.0.2.7:9".parse().unwrap(), &token), Validation::NewToken);
}

/// ATTACKS row 6: a NEW_TOKEN token works once.
#[test]
fn attack_06_new_token_twice() {
    let mut tokens = tokens();
    let (one, other) = (new_token(&mut tokens, 1, v6()), new_token(&mut tokens, 2, v6()));
    assert_eq!(tokens.validate(NOW, v6(), &one), Validation::NewToken);
    let lifetime_ns = nanos(TokenConfig::default().new_token_lifetime);
    for later_ns in [0, 1, lifetime_ns / 2, lifetime_ns - 1] {
        let later = NOW.plus_ns(later_ns);
        assert_eq!(tokens.validate(later, v6(), &one), Validation::Absent(Refusal::Replayed));
    }
    assert_eq!(tokens.validate(NOW, v6(), &other), Validation::NewToken);
    assert_eq!(tokens.used.len(), 2);
}

/// ATTACKS row 5: expired, and from the future (a clock set back, or forged by a neighbour).
#[test]
fn attack_05_expired_tokens() {
    let mut tokens = tokens();
    let config = TokenConfig::default();
    let token = retry(&mut tokens, v4());
    let expires = NOW + config.retry_lifetime;
    let just_before = Instant::from_nanos(expires.as_nanos() - 1);
    assert_eq!(tokens.validate(just_before, v4(), &token), GOOD_RETRY());
    let too_early = Instant::from_nanos(NOW.as_nanos() - CLOCK_SKEW_NS - 1);
    for when in [expires, too_early] {
        assert_eq!(
            tokens.validate(when, v4(), &token),
            Validation::BadRetry(Refusal::Expired),
            "{when:?}"
        );
    }
    assert!(!is_good(tokens.validate(Instant::NEVER, v4(), &token)));
    assert!(!is_good(tokens.validate(Instant::EPOCH, v4(), &token)));
    let token = new_token(&mut tokens, 1, v4());
    assert_eq!(
        tokens.validate(NOW + config.new_token_lifetime, v4(), &token),
        Validation::Absent(Refusal::Expired)
    );
}

/// ATTACKS row 5: any damage. What still says that it is of one of our Retries is a bad Retry
/// token, and what does not is none.
#[test]
fn attack_05_damaged_tokens() {
    let mut tokens = tokens();
    for token in [retry(&mut tokens, v4()), new_token(&mut tokens, 1, v4())] {
        for at in 0..token.len() * 8 {
            let mut damaged = token.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let is_ours = !(1..=MARK_LEN).contains(&(at / 8)) && !(13..17).contains(&(at / 8));
            let expected = if is_ours && damaged[0] & RETRY_BIT != 0 {
                Validation::BadRetry(Refusal::Unreadable)
            } else {
                Validation::Absent(Refusal::Unreadable)
            };
            assert_eq!(tokens.validate(NOW, v4(), &damaged), expected, "bit {at}");
        }
        for len in 0..token.len() {
            assert!(!is_good(tokens.validate(NOW, v4(), &token[..len])));
        }
        let mut longer = token.clone();
        longer.push(0);
        assert!(!is_good(tokens.validate(NOW, v4(), &longer)));
        assert!(is_good(tokens.validate(NOW, v4(), &token)));
    }
}

/// A token of another server, whatever it looks like, is no bad Retry token of ours.
#[test]
fn tokens_of_others_count_as_none() {
    let (mut ours, mut theirs) = (tokens(), with_secret(&[3; TOKEN_KEY_LEN], 10));
    for token in [retry(&mut theirs, v4()), new_token(&mut theirs, 1, v4())] {
        assert_eq!(ours.validate(NOW, v4(), &token), Validation::Absent(Refusal::Unreadable));
    }
}

fn is_good(validation: Validation) -> bool {
    matches!(validation, Validation::Retry { .. } | Validation::NewToken)
}

#[test]
fn one_kind_cannot_pass_for_the_other() {
    let mut tokens = tokens();
    for token in [retry(&mut tokens, v4()), new_token(&mut tokens, 1, v4())] {
        let mut other = token.clone();
        other[0] ^= RETRY_BIT;
        assert!(!is_good(tokens.validate(NOW, v4(), &other)));
    }
}

#[test]
fn keys_change_with_time_and_the_one_before_still_opens() {
    let period_ns = RETRY_PERIOD_MIN_NS;
    let lifetime = TokenConfig { retry_lifetime: Duration::from_secs(60), ..Default::default() };
    let used = UsedTokens::new(&lifetime, 10);
    let mut tokens = Tokens::new(&SECRET, lifetime, used.clone());
    // Made just before a change of keys, and used just after it and until it expires.
    let change = Instant::from_nanos((NOW.as_nanos() / period_ns + 1) * period_ns);
    let made = Instant::from_nanos(change.as_nanos() - 1);
    let token = retry_at(&mut tokens, made, v4());
    assert_ne!(token[0], retry_at(&mut tokens, change, v4())[0], "the key did not change");
    assert_eq!(tokens.validate(change, v4(), &token), GOOD_RETRY());
    let last = Instant::from_nanos(made.as_nanos() + period_ns - 1);
    assert_eq!(tokens.validate(last, v4(), &token), GOOD_RETRY());
    // Two periods later there is no key for it, and four later there is another under its
    // number.
    for periods in [2, 4] {
        assert_eq!(
            tokens.validate(change.plus_ns(periods * period_ns), v4(), &token),
            Validation::BadRetry(Refusal::Unreadable)
        );
    }
    // The old period's key is made again for a host whose clock is still in it.
    assert_eq!(tokens.validate(change, v4(), &token), GOOD_RETRY());
}

#[test]
fn workers_understand_each_other_without_a_word() {
    let config = TokenConfig::default();
    let used = UsedTokens::new(&config, 10);
    let mut workers = [0, 1].map(|_| Tokens::new(&SECRET, config, used.clone()));
    let token = retry(&mut workers[0], v4());
    assert_eq!(workers[1].validate(NOW, v4(), &token), GOOD_RETRY());
    // One whose clock is a little behind, across a change of keys.
    let change = Instant::from_nanos((NOW.as_nanos() / RETRY_PERIOD_MIN_NS) * RETRY_PERIOD_MIN_NS);
    let token = retry_at(&mut workers[0], change, v4());
    let behind = |ns| Instant::from_nanos(change.as_nanos() - ns);
    assert_eq!(workers[1].validate(behind(CLOCK_SKEW_NS), v4(), &token), GOOD_RETRY());
    assert_eq!(
        workers[1].validate(behind(CLOCK_SKEW_NS + 1), v4(), &token),
        Validation::BadRetry(Refusal::Expired)
    );
    // What one used up, the other does not take.
    let token = new_token(&mut workers[0], 1, v4());
    assert_eq!(workers[1].validate(NOW, v4(), &token), Validation::NewToken);
    assert_eq!(workers[0].validate(NOW, v4(), &token), Validation::Absent(Refusal::Replayed));
    // Another server, with a secret of its own.
    let mut stranger = with_secret(&[3; TOKEN_KEY_LEN], 10);
    assert!(!is_good(stranger.validate(NOW, v4(), &token)));
}

#[test]
fn a_mapped_address_is_the_address() {
    let mut tokens = tokens();
    let token = retry(&mut tokens, v4());
    let mapped = "[::ffff:192.0.2.7]:4433".parse().unwrap();
    assert_eq!(tokens.validate(NOW, mapped, &token), GOOD_RETRY());
    let token = retry(&mut tokens, mapped);
    assert_eq!(tokens.validate(NOW, v4(), &token), GOOD_RETRY());
}

#[test]
fn too_many_used_tokens_count_as_none() {
    let mut tokens = with_secret(&SECRET, 2);
    let all: Vec<_> = (0..3).map(|nonce| new_token(&mut tokens, nonce, v4())).collect();
    assert_eq!(tokens.validate(NOW, v4(), &all[0]), Validation::NewToken);
    assert_eq!(tokens.validate(NOW, v4(), &all[1]), Validation::NewToken);
    assert_eq!(tokens.validate(NOW, v4(), &all[2]), Validation::Absent(Refusal::FilterFull));
}

/// ATTACKS row 69: a client that uses up tokens by the thousand takes nothing from others.
#[test]
fn attack_69_used_tokens_of_one_address_leave_others_theirs() {
    let mut tokens = with_secret(&SECRET, 1_000);
    let honest = new_token(&mut tokens, 1, v6());
    let mut taken = 0;
    for n in 0..3_000_u64 {
        let mut nonce = [9; 12];
        nonce[..8].copy_from_slice(&n.to_le_bytes());
        let (now, mut token) = (NOW.plus_ns(n), Vec::new());
        tokens.new_token(now, &nonce, v4().ip(), &mut token);
        taken += usize::from(tokens.validate(now, v4(), &token) == Validation::NewToken);
    }
    assert!(taken < 100, "{taken}");
    assert_eq!(tokens.validate(NOW.plus_ns(5_000), v6(), &honest), Validation::NewToken);
}

#[test]
fn reset_tokens_compare_as_bytes_do() {
    let token = [7; 16];
    assert!(same_reset_token(&token, &[7; 16]));
    for at in 0..128 {
        let mut other = token;
        other[at / 8] ^= 1 << (at % 8);
        assert!(!same_reset_token(&token, &other), "bit {at}");
    }
}

proptest! {
    #[test]
    fn bytes_that_are_no_token_are_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!is_good(tokens().validate(NOW, v4(), &bytes)));
        // With our mark on it, which anyone can copy from a token of theirs.
        let mut marked = retry(&mut tokens(), v4());
        marked.truncate(1 + TOKEN_NONCE_LEN + MARK_LEN);
        marked.extend_from_slice(&bytes);
        prop_assert!(!is_good(tokens().validate(NOW, v4(), &marked)));
    }
}
