//! Compiles the C of the ngtcp2 peer, where it is asked for.

fn main() {
    println!("cargo::rerun-if-changed=src/ngtcp2");
    #[cfg(feature = "ngtcp2")]
    ngtcp2();
}

/// Against the libraries of the system: what has to be installed is in `tools/setup`.
#[cfg(feature = "ngtcp2")]
fn ngtcp2() {
    let files = ["common", "get", "serve"].map(|name| format!("src/ngtcp2/{name}.c"));
    cc::Build::new().files(files).std("gnu11").warnings_into_errors(true).compile("ngtcp2_peer");
    for library in ["ngtcp2_crypto_gnutls", "ngtcp2", "gnutls"] {
        println!("cargo::rustc-link-lib={library}");
    }
}
