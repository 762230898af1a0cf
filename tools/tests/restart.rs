//! A server that was restarted with the secret of its earlier life is believed when it says that it
//! knows nothing of a connection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const QUICLANE: &str = env!("CARGO_BIN_EXE_quiclane");

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("quiclane-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, mode: u32, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(listen: &str, files: &Path, secret: &Path) -> (Running, String) {
    let mut child = Command::new(QUICLANE)
        .args(["serve", "--listen", listen, "--json", "--files"])
        .arg(files)
        .arg("--secret-file")
        .arg(secret)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = ready["listen"].as_str().unwrap().to_owned();
    (Running(child), address)
}

#[test]
fn a_client_is_told_that_its_server_was_restarted() {
    let scratch = Scratch::new("restart");
    let secret = scratch.file("secret", 0o600, &[7; 32]);
    let files = scratch.0.join("files");
    std::fs::create_dir_all(&files).unwrap();
    // Without end, as far as this test goes: a hole in a file.
    std::fs::File::create(files.join("endless")).unwrap().set_len(1 << 40).unwrap();
    let (mut server, address) = serve("127.0.0.1:0", &files, &secret);
    let mut get = Command::new(QUICLANE)
        .args(["get", &address, "/endless", "--insecure", "--timeout", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = get.stdout.take().unwrap();
    let mut get = Running(get);
    out.read_exact(&mut [0; 100_000]).unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    server.kill();
    let (_server, again) = serve(&address, &files, &secret);
    assert_eq!(again, address);
    let status = get.0.wait().unwrap();
    reading.join().unwrap().unwrap();
    let mut said = String::new();
    get.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
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
        let path = scratch.file(name, mode, bytes);
        let out = Command::new(QUICLANE)
            .args(["serve", "--listen", "127.0.0.1:0", "--secret-file"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(why) && said.contains("head -c 32 /dev/urandom"), "{name}: {said}");
    }
    let missing = scratch.0.join("missing");
    let out = Command::new(QUICLANE)
        .args(["serve", "--listen", "127.0.0.1:0", "--secret-file"])
        .arg(&missing)
        .output()
        .unwrap();
    assert!(String::from_utf8(out.stderr).unwrap().contains("cannot read"));
}
