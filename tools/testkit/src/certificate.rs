//! Certificates: self-signed ones, and those of an authority.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, date_time_ymd,
};

/// The bytes of PKCS #8 before an Ed25519 key (RFC 8410 §7).
const ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A certificate and its key.
pub struct Identity {
    /// The certificate in DER.
    pub certificate: Vec<u8>,
    /// The key in DER (PKCS #8).
    pub key: Vec<u8>,
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The key in PEM.
    pub key_pem: String,
}

impl Identity {
    /// Self-signed for "localhost", P-256, valid from 1970 on: tests of connections begin at the
    /// epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::of("quiclane test")
    }

    /// With a subject of its own: two of the same subject look like one issuer with two keys.
    #[must_use]
    pub fn of(subject: &str) -> Self {
        Self::localhost(subject, 1970)
    }

    /// Valid from the beginning of this year on.
    #[must_use]
    pub fn valid_from(year: i32) -> Self {
        Self::localhost("quiclane test", year)
    }

    /// Ed25519, the same bytes for the same seed. All its signatures have the same length.
    #[must_use]
    pub fn from_seed(name: &str, seed: [u8; 32]) -> Self {
        let key = [&ED25519_PREFIX[..], &seed[..]].concat();
        let pair = KeyPair::try_from(&key[..]).unwrap();
        let made = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&pair).unwrap();
        Self { key, ..Self::from_parts(&made, &pair) }
    }

    /// Signed by itself; the key is new, P-256.
    #[must_use]
    pub fn self_signed(parameters: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::from_parts(&parameters.self_signed(&key).unwrap(), &key)
    }

    fn localhost(subject: &str, year: i32) -> Self {
        let mut parameters = named(subject, &["localhost"]);
        parameters.not_before = date_time_ymd(year, 1, 1);
        Self::self_signed(&parameters)
    }

    fn from_parts(made: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: made.der().to_vec(),
            key: key.serialize_der(),
            certificate_pem: made.pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

/// The content of a certificate: its common name, and the DNS names and addresses that it is for.
#[must_use]
pub fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

/// What signs certificates.
pub struct Authority {
    /// Its certificate in DER.
    pub der: Vec<u8>,
    /// Its certificate in PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Signed by itself.
    #[must_use]
    pub fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = Self::parameters(name);
        let made = parameters.self_signed(&key).unwrap();
        Self::from_parts(&made, parameters, key)
    }

    /// Signed by this one, changed as `change` says.
    #[must_use]
    pub fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = Self::parameters(name);
        change(&mut parameters);
        let made = parameters.signed_by(&key, &self.issuer).unwrap();
        Self::from_parts(&made, parameters, key)
    }

    /// Signs a server's certificate; the key is new, P-256.
    #[must_use]
    pub fn signs(&self, leaf: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity::from_parts(&leaf.signed_by(&key, &self.issuer).unwrap(), &key)
    }

    fn parameters(name: &str) -> CertificateParams {
        let mut parameters = named(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
    }

    fn from_parts(made: &Certificate, parameters: CertificateParams, key: KeyPair) -> Self {
        let (der, pem) = (made.der().to_vec(), made.pem());
        Self { der, pem, issuer: Issuer::new(parameters, key) }
    }
}
