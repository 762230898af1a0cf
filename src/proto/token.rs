//! What an endpoint hands out, keeps no copy of, and recognises when it comes back: address
//! tokens (RFC 9000 §8.1) and stateless reset tokens (§10.3).
//!
//! An address token proves that its bearer could once receive at an address. Those in a
//! Retry answer the client's very next Initial, so they are bound to address and port and
//! live for seconds; those in NEW_TOKEN are for a later connection, so they are bound to the
//! address alone, live for hours, and work once.
//!
//! ```text
//!  1 byte        12 bytes  4 bytes  sealed with AES-256-GCM                       16 bytes
//! | kind, key   | nonce   | mark   | issued, expires, address, (port, two ids)  | tag      |
//! ```
//!
//! The mark says that a token is one of ours even where it cannot be opened: a client may
//! bring a token of another server of the same name, which counts as no token, while a bad token
//! of a Retry ends the connection.
//!
//! A server calls [`Tokens::validate`] with the token of an Initial and acts on the
//! [`Validation`]. Everything it needs is in the token: a flood of Initials costs no memory.
//!
//! # Keys
//!
//! All keys come from one secret and the time: a new one for each kind and period, and the
//! one before still opens. So workers, and hosts that share the secret and the epoch of their
//! clocks, understand each other's tokens and change keys without telling each other. What
//! they must share to make a NEW_TOKEN token work only once is [`UsedTokens`].

mod replay;

use core::hint::black_box;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::replay::{ReplayFilter, Used};
use super::crypto::{TOKEN_KEY_LEN, TOKEN_NONCE_LEN, TokenKey, TokenSecret};
use super::source::{SUBSCRIBER_PREFIX_BITS, Source};
use crate::time::{Instant, SECOND_NS};
use crate::wire::{ConnectionId, Reader, Writer};

/// Bytes by which a token of ours is recognised: their difference from the nonce's first is
/// made from the secret. It says nothing to an observer that has not seen another token of ours,
/// and nothing about the client.
const MARK_LEN: usize = 4;

/// Set in the first byte of a Retry's token.
const RETRY_BIT: u8 = 0b100;
/// The key's period, modulo 4, in the first byte.
const PERIOD_MASK: u8 = 0b011;

const TAG_LEN: usize = 16;
const OVERHEAD: usize = 1 + TOKEN_NONCE_LEN + MARK_LEN + TAG_LEN;
const MAX_CID_LEN: usize = crate::wire::MAX_CID_LEN;
/// Issued, expires, address.
const NEW_TOKEN_PLAIN_LEN: usize = 8 + 8 + 16;
/// And port, and two connection ids, each with its length.
const MAX_PLAIN_LEN: usize = NEW_TOKEN_PLAIN_LEN + 2 + 2 * (1 + MAX_CID_LEN);

/// The longest token that is ever made: an Initial of 1,200 bytes has room for many of them.
pub(crate) const MAX_TOKEN_LEN: usize = OVERHEAD + MAX_PLAIN_LEN;

const _: () = assert!(MAX_TOKEN_LEN < 128, "a token's length fits the varint of two bytes");

/// A Retry key serves no shorter than this. With random nonces one key may seal 2^32 tokens
/// ([`TokenKey::seal`]): in a minute, 71 million a second.
const RETRY_PERIOD_MIN_NS: u64 = 60 * SECOND_NS;

/// By how much the clocks of hosts that share a secret may differ.
const CLOCK_SKEW_NS: u64 = SECOND_NS;

/// How long tokens live and how many are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenConfig {
    /// A Retry's token: as long as a client on a slow path may take for its next Initial.
    pub retry_lifetime: Duration,
    /// A NEW_TOKEN's token, and how long one key makes them.
    pub new_token_lifetime: Duration,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            retry_lifetime: Duration::from_secs(10),
            new_token_lifetime: Duration::from_secs(24 * 3_600),
        }
    }
}

/// Which frame or packet a token came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A Retry packet.
    Retry,
    /// A NEW_TOKEN frame.
    NewToken,
}

/// Why a token is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not ours: another server's, forged, damaged, or under a key that is gone.
    Unreadable,
    /// It came from another address, or for a Retry from another port.
    WrongAddress,
    /// Its time is over, or has not come.
    Expired,
    /// It was used before.
    Replayed,
    /// So many were used that this one could not be told from them later, or its source has used
    /// its share.
    FilterFull,
}

/// What [`Tokens::validate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    /// The client answers our Retry from the address that it went to. Its address is
    /// validated; the connection's transport parameters must name both ids (RFC 9000 §7.3).
    Retry {
        /// The destination connection id of the client's first Initial.
        original_dcid: ConnectionId,
        /// The id that our Retry chose.
        retry_scid: ConnectionId,
    },
    /// The client was at this address on an earlier connection: it is validated.
    NewToken,
    /// A token that claims to be of a Retry is bad. The client will take no second Retry, so
    /// that the server closes with INVALID_TOKEN or drops the Initial (RFC 9000 §8.1.2).
    BadRetry(Refusal),
    /// Any other bad token counts as no token (RFC 9000 §8.1.3).
    Absent(Refusal),
}

/// Remembers which NEW_TOKEN tokens were used; clones share one memory. It is locked only for
/// a token that was found good: once per connection that brings one.
#[derive(Clone, Debug)]
pub(crate) struct UsedTokens(Arc<Mutex<ReplayFilter>>);

impl UsedTokens {
    /// Room for this many used tokens: 8 MiB at most.
    pub(crate) const DEFAULT_CAPACITY: usize = 1 << 16;

    /// Remembers up to `capacity` tokens, at up to 128 bytes each. Once so many were used, the ones
    /// that were issued first are forgotten, and what was issued before them counts as no token. A
    /// source has a share of 64.
    #[must_use]
    pub(crate) fn new(config: &TokenConfig, capacity: usize) -> Self {
        let filter = ReplayFilter::new(nanos(config.new_token_lifetime), capacity);
        Self(Arc::new(Mutex::new(filter)))
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn use_up(&self, now: Instant, token: Used) -> Result<(), Refusal> {
        self.lock().insert(now, token)
    }

    fn lock(&self) -> MutexGuard<'_, ReplayFilter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of one kind of token: of the current period, and of its neighbours when needed.
#[derive(Debug)]
struct PeriodKeys {
    period_ns: u64,
    /// By the period modulo 4.
    keys: [Option<(u64, TokenKey)>; 4],
}

impl PeriodKeys {
    fn new(period_ns: u64) -> Self {
        Self { period_ns: period_ns.max(1), keys: [const { None }; 4] }
    }

    fn period(&self, now: Instant) -> u64 {
        now.as_nanos() / self.period_ns
    }

    /// The period whose number ends in these two bits: the current one, the one before, or
    /// the next, where another's clock is a little ahead.
    fn period_ending_in(&self, now: Instant, bits: u8) -> Option<u64> {
        let current = self.period(now);
        [Some(current), current.checked_sub(1), current.checked_add(1)]
            .into_iter()
            .flatten()
            .find(|period| *period as u8 & PERIOD_MASK == bits)
    }

    fn key(&mut self, secret: &TokenSecret, kind: TokenKind, period: u64) -> &TokenKey {
        let slot = &mut self.keys[usize::from(period as u8 & PERIOD_MASK)];
        if slot.as_ref().is_some_and(|(of, _)| *of != period) {
            *slot = None;
        }
        let label: &[u8] = match kind {
            TokenKind::Retry => b"quiclane retry token",
            TokenKind::NewToken => b"quiclane new token",
        };
        &slot.get_or_insert_with(|| (period, secret.key(label, period))).1
    }
}

/// Makes and validates address tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    config: TokenConfig,
    secret: TokenSecret,
    mark: [u8; MARK_LEN],
    retry_keys: PeriodKeys,
    new_token_keys: PeriodKeys,
    used: UsedTokens,
}

/// The parts of a token.
struct Token<'a> {
    first: u8,
    kind: TokenKind,
    nonce: &'a [u8; TOKEN_NONCE_LEN],
    sealed: &'a [u8],
}

/// What is inside a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    issued: Instant,
    expires: Instant,
    address: IpAddr,
    /// Port, original destination id, our source id.
    retry: Option<(u16, ConnectionId, ConnectionId)>,
}

impl Tokens {
    /// Tokens under keys made from `secret`, 32 random bytes. Workers and hosts that accept each
    /// other's tokens share `secret` and `used`.
    #[must_use]
    pub(crate) fn new(secret: &[u8; TOKEN_KEY_LEN], config: TokenConfig, used: UsedTokens) -> Self {
        let retry_period_ns = nanos(config.retry_lifetime).max(RETRY_PERIOD_MIN_NS);
        let secret = TokenSecret::new(secret);
        Self {
            config,
            mark: secret.mark(b"quiclane token mark"),
            secret,
            retry_keys: PeriodKeys::new(retry_period_ns),
            new_token_keys: PeriodKeys::new(nanos(config.new_token_lifetime)),
            used,
        }
    }

    /// Appends a token for a Retry to `out`: for the client at `remote`, whose Initial went to
    /// `original_dcid` and whose next one shall go to `retry_scid`. `nonce` must be random.
    pub(crate) fn retry(
        &mut self,
        now: Instant,
        nonce: &[u8; TOKEN_NONCE_LEN],
        remote: SocketAddr,
        original_dcid: &ConnectionId,
        retry_scid: &ConnectionId,
        out: &mut Vec<u8>,
    ) {
        let content = Content {
            issued: now,
            expires: now + self.config.retry_lifetime,
            address: remote.ip(),
            retry: Some((remote.port(), *original_dcid, *retry_scid)),
        };
        self.seal(now, &content, nonce, out);
    }

    /// Appends a token for a NEW_TOKEN frame to `out`: for a client whose address `remote` is
    /// validated. `nonce` must be random.
    pub(crate) fn new_token(
        &mut self,
        now: Instant,
        nonce: &[u8; TOKEN_NONCE_LEN],
        remote: IpAddr,
        out: &mut Vec<u8>,
    ) {
        let content = Content {
            issued: now,
            expires: now + self.config.new_token_lifetime,
            address: remote,
            retry: None,
        };
        self.seal(now, &content, nonce, out);
    }

    /// Judges the token of an Initial that came from `remote`. A NEW_TOKEN token that is
    /// found good is used up by this.
    pub(crate) fn validate(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        token: &[u8],
    ) -> Validation {
        let Some(token) = self.recognise(token) else {
            return Validation::Absent(Refusal::Unreadable);
        };
        match (self.judge(now, remote, &token), token.kind) {
            (Ok(good), _) => good,
            (Err(refusal), TokenKind::Retry) => Validation::BadRetry(refusal),
            (Err(refusal), TokenKind::NewToken) => Validation::Absent(refusal),
        }
    }

    /// True if a token claims to be one of ours that [`validate`](Self::validate) would use up.
    #[must_use]
    pub(crate) fn works_once(&self, token: &[u8]) -> bool {
        self.recognise(token).is_some_and(|token| token.kind == TokenKind::NewToken)
    }

    /// True if a token proves that its bearer is at `remote`, for all that shows without
    /// [using it up](Self::validate).
    #[must_use]
    pub(crate) fn proves(&mut self, now: Instant, remote: SocketAddr, token: &[u8]) -> bool {
        let token = self.recognise(token);
        token.is_some_and(|token| self.content(now, remote, &token).is_ok())
    }

    /// The parts of a token of ours.
    fn recognise<'a>(&self, token: &'a [u8]) -> Option<Token<'a>> {
        let (first, rest) = token.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<TOKEN_NONCE_LEN>()?;
        let (mark, sealed) = rest.split_first_chunk::<MARK_LEN>()?;
        let kind = if first & RETRY_BIT != 0 { TokenKind::Retry } else { TokenKind::NewToken };
        (*mark == self.mark_for(nonce)).then_some(Token { first: *first, kind, nonce, sealed })
    }

    fn mark_for(&self, nonce: &[u8; TOKEN_NONCE_LEN]) -> [u8; MARK_LEN] {
        core::array::from_fn(|at| self.mark[at] ^ nonce[at])
    }

    /// What is in a token that is for this address and this time.
    fn content(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        token: &Token<'_>,
    ) -> Result<Content, Refusal> {
        let content = self.open(now, token).ok_or(Refusal::Unreadable)?;
        if content.address != remote.ip().to_canonical() {
            return Err(Refusal::WrongAddress);
        }
        if now.plus_ns(CLOCK_SKEW_NS) < content.issued || now >= content.expires {
            return Err(Refusal::Expired);
        }
        match content.retry {
            Some((port, _, _)) if port != remote.port() => Err(Refusal::WrongAddress),
            _ => Ok(content),
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        token: &Token<'_>,
    ) -> Result<Validation, Refusal> {
        let content = self.content(now, remote, token)?;
        match content.retry {
            Some((_, original_dcid, retry_scid)) => {
                Ok(Validation::Retry { original_dcid, retry_scid })
            }
            None => {
                // Without the key the tag is as good as random, so an attacker cannot choose tokens
                // that collide in the filter.
                let mut id = [0; 8];
                id.iter_mut().zip(token.sealed.iter().rev()).for_each(|(to, from)| *to = *from);
                let source = Source::of(content.address, SUBSCRIBER_PREFIX_BITS);
                let (issued, id) = (content.issued, u64::from_le_bytes(id));
                self.used.use_up(now, Used { issued, id, source })?;
                Ok(Validation::NewToken)
            }
        }
    }

    fn seal(
        &mut self,
        now: Instant,
        content: &Content,
        nonce: &[u8; TOKEN_NONCE_LEN],
        out: &mut Vec<u8>,
    ) {
        let mut plain = [0; MAX_PLAIN_LEN];
        let mut writer = Writer::new(&mut plain);
        // MAX_PLAIN_LEN is the sum of the largest fields.
        let _ = content.write(&mut writer);
        let plain = writer.written();

        let mark = self.mark_for(nonce);
        let (keys, kind, kind_bit) = match content.retry {
            Some(_) => (&mut self.retry_keys, TokenKind::Retry, RETRY_BIT),
            None => (&mut self.new_token_keys, TokenKind::NewToken, 0),
        };
        let period = keys.period(now);
        let first = kind_bit | (period as u8 & PERIOD_MASK);
        let key = keys.key(&self.secret, kind, period);
        let Some(tag) = key.seal(nonce, &[first], plain) else { return };
        out.push(first);
        out.extend_from_slice(nonce);
        out.extend_from_slice(&mark);
        out.extend_from_slice(plain);
        out.extend_from_slice(&tag);
    }

    fn open(&mut self, now: Instant, token: &Token<'_>) -> Option<Content> {
        let mut buffer = [0; MAX_PLAIN_LEN + TAG_LEN];
        let buffer = buffer.get_mut(..token.sealed.len())?;
        buffer.copy_from_slice(token.sealed);

        let keys = match token.kind {
            TokenKind::Retry => &mut self.retry_keys,
            TokenKind::NewToken => &mut self.new_token_keys,
        };
        let period = keys.period_ending_in(now, token.first & PERIOD_MASK)?;
        let key = keys.key(&self.secret, token.kind, period);
        Content::read(token.kind, key.open(token.nonce, &[token.first], buffer)?)
    }
}

impl Content {
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), crate::wire::Full> {
        writer.bytes(&self.issued.as_nanos().to_be_bytes())?;
        writer.bytes(&self.expires.as_nanos().to_be_bytes())?;
        writer.bytes(&to_v6(self.address).octets())?;
        if let Some((port, original_dcid, retry_scid)) = &self.retry {
            writer.u16(*port)?;
            for cid in [original_dcid, retry_scid] {
                writer.u8(cid.len() as u8)?;
                writer.bytes(cid.as_slice())?;
            }
        }
        Ok(())
    }

    fn read(kind: TokenKind, plain: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(plain);
        let issued = Instant::from_nanos(u64::from_be_bytes(reader.array().ok()?));
        let expires = Instant::from_nanos(u64::from_be_bytes(reader.array().ok()?));
        let address = Ipv6Addr::from(reader.array::<16>().ok()?).to_canonical();
        let retry = match kind {
            TokenKind::NewToken => None,
            TokenKind::Retry => {
                let port = reader.u16().ok()?;
                Some((port, cid(&mut reader)?, cid(&mut reader)?))
            }
        };
        reader.is_empty().then_some(Self { issued, expires, address, retry })
    }
}

fn cid(reader: &mut Reader<'_>) -> Option<ConnectionId> {
    let len = usize::from(reader.u8().ok()?);
    ConnectionId::new(reader.bytes(len).ok()?)
}

/// IPv4 and IPv6 in one form, so that a token's length does not tell which it is.
fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// True if two stateless reset tokens are the same, in a time that does not tell where they
/// differ (RFC 9000 §10.3.1: an attacker must not learn a token byte by byte).
#[must_use]
pub(crate) fn same_reset_token(one: &[u8; 16], other: &[u8; 16]) -> bool {
    let difference = u128::from_ne_bytes(*one) ^ u128::from_ne_bytes(*other);
    black_box(difference) == 0
}

#[cfg(test)]
mod tests;
