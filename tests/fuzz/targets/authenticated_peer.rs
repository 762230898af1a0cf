//! See the body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::run("authenticated_peer", data));
