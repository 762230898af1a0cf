//! What the tests of all packages share.
//!
//! [`netns`] makes two network namespaces with a veth pair between them, [`raw`] sends frames there
//! that no kernel would send, [`tap`] plays a NIC with an indirection table, [`server`] starts servers and makes directories that are removed with
//! the test, and `certificate` makes certificates. If the machine refuses a call, the test ends with a
//! panic that names it.
//!
//! It does not depend on the library, whose own unit tests use it.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

#[cfg(feature = "certificates")]
pub mod certificate;
pub mod cpus;
pub mod netns;
pub mod raw;
pub mod server;
pub mod tap;

#[cfg(feature = "certificates")]
pub use certificate::{Authority, Identity};
#[cfg(feature = "certificates")]
pub use rcgen;
