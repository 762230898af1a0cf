//! A server that was restarted with its earlier secret can reset the connections of the one before.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::server::{Scratch, Server};
use std::fs::{Permissions, set_permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

const QUICLANE: &str = env!("CARGO_BIN_EXE_quiclane");

fn secret(scratch: &Scratch, name: &str, mode: u32, bytes: &[u8]) -> String {
    let path = scratch.write(name, bytes);
    set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn serve(listen: &str, scratch: &Scratch) -> Server {
    let (files, secret) = (scratch.text("files"), scratch.text("secret"));
    let mut command = Command::new(QUICLANE);
    command.args(["serve", "--listen", listen, "--json", "--files", &files]);
    Server::start(command.args(["--secret-file", &secret]))
}

#[test]
fn a_client_is_told_that_its_server_was_restarted() {
    let scratch = Scratch::new("restart");
    secret(&scratch, "secret", 0o600, &[7; 32]);
    // Without end, as far as this test goes: a hole in a file.
    scratch.zeros("files/endless", 1 << 40);
    let mut server = serve("127.0.0.1:0", &scratch);
    let address = server.address().to_owned();
    let mut get = Command::new(QUICLANE)
        .args(["get", &address, "/endless", "--insecure", "--timeout", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = get.stdout.take().unwrap();
    out.read_exact(&mut [0; 100_000]).unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    server.kill();
    let server = serve(&address, &scratch);
    assert_eq!(server.address(), address);
    let out = get.wait_with_output().unwrap();
    reading.join().unwrap().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    // An idle timeout would say so, after 30 s.
    assert!(said.contains("the peer has forgotten the connection"), "{said}");
}

#[test]
fn a_secret_that_is_none_is_refused_with_the_remedy() {
    let scratch = Scratch::new("secret");
    for (name, mode, bytes, why) in [
        ("open", 0o644, &[1; 32][..], "has mode 0644: others may use it"),
        ("group", 0o620, &[1; 32], "has mode 0620: others may use it"),
        ("short", 0o600, &[1; 31], "has 31 bytes where 32 random ones are needed"),
        ("long", 0o600, &[1; 33], "has more than 32 bytes where 32 random ones are needed"),
    ] {
        let path = secret(&scratch, name, mode, bytes);
        let out = Command::new(QUICLANE)
            .args(["serve", "--listen", "127.0.0.1:0", "--secret-file"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{name}: {said}");
        // It may be a key that was named by mistake: no message says to write over it.
        let remedy = format!("head -c 32 /dev/urandom >{path}.new)");
        assert!(said.contains(why) && said.contains(&remedy), "{name}: {said}");
    }
    // No process writes to it: a reader that opens it would wait.
    let fifo = scratch.text("fifo");
    assert!(Command::new("mkfifo").args(["-m", "600", &fifo]).status().unwrap().success());
    let out = Command::new(QUICLANE)
        .args(["serve", "--listen", "127.0.0.1:0", "--secret-file", &fifo])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("is not a regular file"), "{said}");
    let missing = scratch.at("missing");
    let out = Command::new(QUICLANE)
        .args(["serve", "--listen", "127.0.0.1:0", "--secret-file"])
        .arg(&missing)
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("is not there") && said.contains("/dev/urandom"), "{said}");
}
