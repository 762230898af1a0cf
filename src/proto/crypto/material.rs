//! How keys come out of the TLS library: as bytes, not as its own objects.
//!
//! The library derives the keys of each level and has an [`Algorithm`](quic::Algorithm) make
//! objects of them, which it then hands to us. Ours notes the bytes instead and makes objects that
//! do nothing: how a key is laid out, and when it is worked out, is the packet path's to decide.
//! A call into TLS never leaves its thread, so that what was noted is there when it returns.

use core::cell::RefCell;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{ConnectionTrafficSecrets, Error, quic};

use super::aead::{Aead, HeaderSecret, PacketSecret, SAMPLE_LEN, TAG_LEN};

thread_local! {
    static TAKEN: RefCell<Taken> = const { RefCell::new(Taken::NOTHING) };
}

/// The secrets that one call into TLS has made: local first, as the library makes them.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) packets: [Option<PacketSecret>; 2],
    pub(super) headers: [Option<HeaderSecret>; 2],
}

impl Taken {
    const NOTHING: Self = Self { packets: [None, None], headers: [None, None] };
}

fn put<T>(places: &mut [Option<T>; 2], value: Option<T>) {
    if let Some(free) = places.iter_mut().find(|place| place.is_none()) {
        *free = value;
    }
}

/// Calls into TLS, and returns the secrets that the call made besides.
pub(super) fn taken<T>(call: impl FnOnce() -> T) -> (T, Taken) {
    TAKEN.take();
    let value = call();
    (value, TAKEN.take())
}

/// Notes keys of an AEAD, and makes none for records.
pub(super) struct Notes(pub(super) Aead);

impl quic::Algorithm for Notes {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn quic::PacketKey> {
        let secret = PacketSecret::new(self.0, key.as_ref(), iv.as_ref());
        TAKEN.with_borrow_mut(|taken| put(&mut taken.packets, secret));
        Box::new(Elsewhere)
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn quic::HeaderProtectionKey> {
        let secret = HeaderSecret::new(self.0, key.as_ref());
        TAKEN.with_borrow_mut(|taken| put(&mut taken.headers, secret));
        Box::new(Elsewhere)
    }

    fn aead_key_len(&self) -> usize {
        self.0.key_len()
    }
}

impl Tls13AeadAlgorithm for Notes {
    fn encrypter(&self, _: AeadKey, _: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Elsewhere)
    }

    fn decrypter(&self, _: AeadKey, _: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Elsewhere)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

/// Stands in for a key and has no bytes. It is used only if our suites serve TLS outside QUIC.
struct Elsewhere;

fn elsewhere<T>() -> Result<T, Error> {
    Err(Error::General("packets of this suite are protected by quiclane alone".to_owned()))
}

impl quic::PacketKey for Elsewhere {
    fn encrypt_in_place(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<quic::Tag, Error> {
        elsewhere()
    }

    fn decrypt_in_place<'a>(&self, _: u64, _: &[u8], _: &'a mut [u8]) -> Result<&'a [u8], Error> {
        elsewhere()
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn confidentiality_limit(&self) -> u64 {
        0
    }

    fn integrity_limit(&self) -> u64 {
        0
    }
}

impl quic::HeaderProtectionKey for Elsewhere {
    fn encrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        elsewhere()
    }

    fn decrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        elsewhere()
    }

    fn sample_len(&self) -> usize {
        SAMPLE_LEN
    }
}

impl MessageEncrypter for Elsewhere {
    fn encrypt(
        &mut self,
        _: OutboundPlainMessage<'_>,
        _: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        elsewhere()
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len
    }
}

impl MessageDecrypter for Elsewhere {
    fn decrypt<'a>(
        &mut self,
        _: InboundOpaqueMessage<'a>,
        _: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        elsewhere()
    }
}
