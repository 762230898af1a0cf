//! Settings of a server and of a client that echo.

use quiclane::exec::{ClientConfig, ServerConfig};
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane_testkit::Identity;

/// A server's and a client's configuration that trust each other.
pub(crate) fn configs() -> (ServerConfig, ClientConfig) {
    let Identity { certificate, key, .. } = Identity::new();
    let server = ServerTls::builder()
        .certificate_der(&[&certificate], &key)
        .unwrap()
        .alpn(["echo"])
        .build()
        .unwrap();
    let client =
        ClientTls::builder().pinned_certificate_der(&certificate).alpn(["echo"]).build().unwrap();
    (ServerConfig::new(server), ClientConfig::new(client))
}
