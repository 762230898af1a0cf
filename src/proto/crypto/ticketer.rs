//! The keys of session tickets.
//!
//! A ticket carries its session, sealed under a key that only this server has. The key is
//! replaced every [`PERIOD_NS`] and forgotten a period later: who takes a server learns nothing
//! of older tickets. The time is the one that the caller of a session passes in, and the random
//! bytes are the provider's.
//!
//! Who resumes gets another ticket. So the time of the handshake that had certificates is in all that follow from
//! it, and a day later there has to be another one (RFC 8446 §4.6.1): certificates run out, and are revoked.
//!
//! ```text
//! key name (8) | nonce (12) | sealed: length (2), application's data, time (8), session | tag (16)
//! ```

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

use rustls::crypto::SecureRandom;
use rustls::server::ProducesTickets;

use super::aside::current;
use super::seal::{TOKEN_KEY_LEN, TOKEN_NONCE_LEN, TokenKey};
use super::time;
use crate::time::{Instant, SECOND_NS};

/// How long tickets are made with one key. At 2^32 tickets the chance that two share a nonce
/// is 2^-32: 190,000 tickets a second.
const PERIOD_NS: u64 = 6 * 3_600 * SECOND_NS;
/// What clients are told that a ticket is good for: two periods, of which it gets at least one.
const LIFETIME_S: u32 = (2 * PERIOD_NS / SECOND_NS) as u32;
/// How long after a handshake with certificates sessions that follow from it are resumed.
const SESSION_MAX_NS: u64 = 24 * 3_600 * SECOND_NS;
/// Says which key a ticket was sealed with.
const NAME_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// The length of the application's data.
const SIZE_LEN: usize = 2;
/// The time of the handshake with certificates, in nanoseconds.
const TIME_LEN: usize = 8;
/// What a ticket has besides data and session.
const OVERHEAD: usize = NAME_LEN + TOKEN_NONCE_LEN + SIZE_LEN + TIME_LEN + TAG_LEN;
/// The most that an application may keep in a ticket, in bytes.
pub const TICKET_DATA_MAX_BYTES: usize = 1_000;
/// The longest ticket. The client sends it back in its ClientHello, of which a server takes 4 KiB from an address that
/// is not validated: with a longer one the client could not connect. What makes tickets long is the certificates of
/// clients: their session is not resumed then.
pub(crate) const TICKET_MAX_BYTES: usize = 1_536;

/// Says whether a client may resume, by what the application had kept in its ticket.
pub(super) type TicketFilter = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A key and the period that it is for.
struct TicketKey {
    period: u64,
    name: [u8; NAME_LEN],
    key: TokenKey,
}

/// Seals sessions into tickets.
pub(super) struct Ticketer {
    random: &'static dyn SecureRandom,
    /// The newest last; two at most. Written once in a period.
    keys: RwLock<Vec<TicketKey>>,
    filter: Option<TicketFilter>,
}

impl Ticketer {
    pub(super) fn new(random: &'static dyn SecureRandom, filter: Option<TicketFilter>) -> Self {
        Self { random, keys: RwLock::new(Vec::new()), filter }
    }

    fn bytes<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).ok()?;
        Some(bytes)
    }

    /// What the application says to a ticket in which it had kept `data`. If it panics, the client has a full
    /// handshake: no other connection of the worker is to end with it.
    fn may_resume(&self, data: &[u8]) -> bool {
        let Some(filter) = &self.filter else { return true };
        catch_unwind(AssertUnwindSafe(|| filter(data))).unwrap_or_else(|panic| {
            // A payload that panics as it is dropped would get past this.
            std::mem::forget(panic);
            current(|aside| aside.tickets.panics += 1);
            false
        })
    }

    /// The keys are those of the period that `period` is, or of a later one: clocks that are set
    /// back bring no key back.
    fn roll(&self, period: u64) -> Option<()> {
        let is_new = |keys: &[TicketKey]| keys.last().is_none_or(|key| key.period < period);
        if !is_new(&self.keys.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(());
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // Another worker may have been faster.
        if is_new(&keys) {
            let key = TokenKey::new(&self.bytes::<TOKEN_KEY_LEN>()?);
            keys.retain(|key| key.period + 1 == period);
            keys.push(TicketKey { period, name: self.bytes()?, key });
        }
        Some(())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now = time::now();
        self.roll(now.as_nanos() / PERIOD_NS)?;
        let nonce = self.bytes::<TOKEN_NONCE_LEN>()?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let TicketKey { name, key, .. } = keys.last()?;
        let (data, began) = current(|aside| (aside.ticket_data.clone(), aside.began));
        let data = data.as_deref().unwrap_or_default();
        let len = OVERHEAD + data.len() + plain.len();
        if len > TICKET_MAX_BYTES {
            current(|aside| aside.tickets.withheld += 1);
            return None;
        }
        let mut ticket = Vec::with_capacity(len);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&nonce);
        // At most `TICKET_DATA_MAX_BYTES`.
        ticket.extend_from_slice(&(data.len() as u16).to_be_bytes());
        ticket.extend_from_slice(data);
        ticket.extend_from_slice(&began.unwrap_or(now).as_nanos().to_be_bytes());
        ticket.extend_from_slice(plain);
        let tag = key.seal(&nonce, name, &mut ticket[NAME_LEN + TOKEN_NONCE_LEN..])?;
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = time::now();
        self.roll(now.as_nanos() / PERIOD_NS)?;
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<TOKEN_NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.iter().find(|key| key.name == *name)?;
        let len = key.key.open(nonce, name, &mut sealed)?.len();
        // The filter is the application's code, and takes its time.
        drop(keys);
        sealed.truncate(len);
        let (data_len, rest) = sealed.split_first_chunk::<SIZE_LEN>()?;
        let (data, rest) = rest.split_at_checked(u16::from_be_bytes(*data_len).into())?;
        let (began, session) = rest.split_first_chunk::<TIME_LEN>()?;
        let began = Instant::from_nanos(u64::from_be_bytes(*began));
        if now.ns_since(began) > SESSION_MAX_NS || !self.may_resume(data) {
            return None;
        }
        current(|aside| (aside.shown, aside.began) = (Some(data.into()), Some(began)));
        Some(session.to_vec())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::aside::{Aside, beside};
    use super::*;
    use crate::proto::crypto::default_provider;

    /// After so many periods.
    fn after(periods: u64, ns: u64) -> Instant {
        Instant::from_nanos(periods * PERIOD_NS + ns)
    }

    #[test]
    fn a_ticket_opens_for_a_period_at_least_and_never_after_two() {
        let tickets = Ticketer::new(default_provider().secure_random, None);
        let early = time::at(after(7, 0), || tickets.encrypt(b"a session")).unwrap();
        let late = time::at(after(7, PERIOD_NS - 1), || tickets.encrypt(b"a session")).unwrap();
        let open = |now, ticket: &[u8]| time::at(now, || tickets.decrypt(ticket));
        for (now, opens) in [(after(7, PERIOD_NS - 1), true), (after(8, PERIOD_NS - 1), true)] {
            for ticket in [&early, &late] {
                assert_eq!(open(now, ticket).is_some(), opens);
            }
        }
        assert_eq!(open(after(8, 0), &early).unwrap(), b"a session");
        assert_eq!(open(after(9, 0), &late), None);
        // The key is gone, whatever the clock says later.
        assert_eq!(open(after(7, 0), &late), None);
        assert!(tickets.keys.read().unwrap().len() <= 2);
    }

    #[test]
    fn a_filter_that_panics_refuses_and_what_does_not_fit_gets_no_ticket() {
        let random = default_provider().secure_random;
        let filter: TicketFilter = Box::new(|data: &[u8]| data.is_empty() || panic!("a bug"));
        let tickets = Ticketer::new(random, Some(filter));
        time::at(after(1, 0), || {
            let plain = tickets.encrypt(b"a session").unwrap();
            let mut aside = Aside { ticket_data: Some((&b"data"[..]).into()), ..Aside::NONE };
            let (kept, longest, longer) = beside(&mut aside, || {
                let of = |len| tickets.encrypt(&vec![7; len]);
                let most = TICKET_MAX_BYTES - OVERHEAD - "data".len();
                (of(9).unwrap(), of(most), of(most + 1))
            });
            assert_eq!(longest.map(|ticket| ticket.len()), Some(TICKET_MAX_BYTES));
            assert_eq!(longer, None);
            assert_eq!(tickets.decrypt(&kept), None);
            assert_eq!(tickets.decrypt(&plain).unwrap(), b"a session", "it works on");
        });
    }

    #[test]
    fn who_resumes_again_and_again_shows_certificates_once_a_day() {
        let tickets = Ticketer::new(default_provider().secure_random, None);
        let periods = |ticket: &mut Vec<u8>, began: u64| {
            let mut passed = 0;
            loop {
                let mut aside = Aside::NONE;
                let next = time::at(after(began + passed + 1, 0), || {
                    beside(&mut aside, || {
                        tickets.decrypt(ticket).and_then(|session| tickets.encrypt(&session))
                    })
                });
                let Some(next) = next else { return passed };
                (*ticket, passed) = (next, passed + 1);
                assert!(passed < 100, "it is resumed for ever");
            }
        };
        let mut ticket = time::at(after(7, 0), || tickets.encrypt(b"a session")).unwrap();
        assert_eq!(periods(&mut ticket, 7) * PERIOD_NS, SESSION_MAX_NS);
        let mut ticket = time::at(after(50, 1), || tickets.encrypt(b"a session")).unwrap();
        assert_eq!(periods(&mut ticket, 50) * PERIOD_NS, SESSION_MAX_NS);
    }

    #[test]
    fn a_pause_of_periods_leaves_no_old_key() {
        let tickets = Ticketer::new(default_provider().secure_random, None);
        let ticket = time::at(after(1, 0), || tickets.encrypt(b"a session")).unwrap();
        assert_eq!(time::at(after(3, 0), || tickets.decrypt(&ticket)), None);
        assert_eq!(tickets.keys.read().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_ticket_does_not_open() {
        let tickets = Ticketer::new(default_provider().secure_random, None);
        time::at(after(1, 0), || {
            let ticket = tickets.encrypt(b"a session").unwrap();
            assert_ne!(ticket, tickets.encrypt(b"a session").unwrap());
            for len in 0..ticket.len() {
                assert_eq!(tickets.decrypt(&ticket[..len]), None, "{len} bytes");
            }
            for at in 0..ticket.len() {
                let mut bad = ticket.clone();
                bad[at] ^= 1;
                assert_eq!(tickets.decrypt(&bad), None, "byte {at}");
            }
            let other = Ticketer::new(default_provider().secure_random, None);
            assert_eq!(other.decrypt(&ticket), None);
        });
    }
}
