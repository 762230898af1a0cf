//! The random numbers and the key exchange of TLS, from the seed.
//!
//! A run has one thread, which draws its random numbers in a fixed order. So each thread has one
//! generator, which [`begin`] starts from a seed.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use quiclane::datapath::sim::Rng;
use quiclane::proto::crypto::default_provider;
use quiclane::proto::crypto::rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use quiclane::proto::crypto::rustls::{Error, NamedGroup};
use std::cell::RefCell;

/// Bytes of a private key of X25519.
const KEY_BYTES: usize = 32;
/// The part of a seed that secrets are drawn from.
const LABEL: u64 = 6;

thread_local! {
    static STREAM: RefCell<Rng> = RefCell::new(Rng::new(0));
}

/// Starts the generator of this thread from `seed`.
pub(crate) fn begin(seed: u64) {
    STREAM.set(Rng::new(seed).fork(LABEL));
}

fn fill(bytes: &mut [u8]) {
    STREAM.with_borrow_mut(|stream| stream.fill(bytes));
}

/// The library's provider, with all randomness from the seed. Signatures are Ed25519, which uses no
/// random numbers.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider { secure_random: &Seeded, kx_groups: vec![&Seeded], ..default_provider() }
}

/// Random numbers, and X25519 with private keys made of them.
#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill(bytes);
        Ok(())
    }
}

impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut key = [0; KEY_BYTES];
        fill(&mut key);
        let private = PrivateKey::from_private_key(&X25519, &key)
            .map_err(|error| Error::General(error.to_string()))?;
        let public = private.compute_public_key().map_err(|_| Error::FailedToGetRandomBytes)?;
        Ok(Box::new(Exchange { public: public.as_ref().to_vec(), private }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// A key exchange that has begun.
struct Exchange {
    private: PrivateKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        let refused = Error::General("a key share that is not valid".to_owned());
        agree(&self.private, peer, refused, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
