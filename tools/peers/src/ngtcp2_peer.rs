//! ngtcp2 as a client and as a server: the C beside this module, on a thread of its own.
//!
//! Here is what it needs of this program: the socket, the certificate, the files.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::ptr;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::{Failure, GetArgs, ServeArgs, announce, hq, identity};

/// The longest reason of a failure.
const SAID_BYTES: usize = 256;

// As in `ngtcp2/peer.h`.

#[repr(C)]
struct PeerGet {
    socket: c_int,
    out: c_int,
    server_name: *const c_char,
    alpn: *const c_char,
    ca: *const c_char,
    request: *const c_char,
}

#[repr(C)]
struct PeerServe {
    socket: c_int,
    alpn: *const c_char,
    chain: *const c_char,
    key: *const c_char,
    secret: *const u64,
    max_request: usize,
    refused: u64,
    open: extern "C" fn(root: *mut c_void, request: *const u8, len: usize) -> c_int,
    root: *mut c_void,
}

unsafe extern "C" {
    fn ngtcp2_peer_get(args: *const PeerGet, said: *mut c_char, said_len: usize) -> i64;
    fn ngtcp2_peer_serve(args: *const PeerServe, said: *mut c_char, said_len: usize);
}

/// Downloads the file of the arguments; returns its length.
pub(crate) async fn get(args: &GetArgs) -> Result<u64, Failure> {
    let any: IpAddr = match args.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(args.server)?;
    socket.set_nonblocking(true)?;
    let out = args.output.as_ref().map(File::create).transpose()?;
    let server_name = CString::new(args.server_name.as_str())?;
    let alpn = CString::new(args.alpn.as_str())?;
    let request = CString::new(hq::request(&args.path))?;
    let ca = args.ca.as_ref().filter(|_| !args.insecure);
    let ca = ca.map(|path| CString::new(path.as_os_str().as_encoded_bytes())).transpose()?;
    on_a_thread(move || {
        let args = PeerGet {
            socket: socket.as_raw_fd(),
            out: out.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            server_name: server_name.as_ptr(),
            alpn: alpn.as_ptr(),
            ca: ca.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            request: request.as_ptr(),
        };
        let mut said = [0; SAID_BYTES];
        // SAFETY: what the arguments point to, and `said`, outlive the call, which keeps none of it.
        let total = unsafe { ngtcp2_peer_get(&args, said.as_mut_ptr(), said.len()) };
        u64::try_from(total).map_err(|_| text(&said))
    })
    .await
}

/// Serves files until it fails.
pub(crate) async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (chain, key) = identity::pem(args)?;
    let (chain, key) = (CString::new(chain)?, CString::new(key)?);
    let alpn = CString::new(args.alpn.as_str())?;
    let socket = UdpSocket::bind(args.listen)?;
    socket.set_nonblocking(true)?;
    announce("ngtcp2-serve", socket.local_addr()?)?;
    let (secret, mut root) =
        (args.secret, Root { path: args.files.clone(), runtime: Handle::current() });
    on_a_thread(move || {
        let args = PeerServe {
            socket: socket.as_raw_fd(),
            alpn: alpn.as_ptr(),
            chain: chain.as_ptr(),
            key: key.as_ptr(),
            secret: secret.as_ref().map_or(ptr::null(), ptr::from_ref),
            max_request: hq::MAX_REQUEST_BYTES,
            refused: hq::RESET_CODE.into(),
            open,
            root: ptr::from_mut(&mut root).cast(),
        };
        let mut said = [0; SAID_BYTES];
        // SAFETY: what the arguments point to, and `said`, outlive the call, which keeps none of it.
        unsafe { ngtcp2_peer_serve(&args, said.as_mut_ptr(), said.len()) };
        Err(text(&said))
    })
    .await
}

/// Waits for what waits for sockets itself. A thread that goes on when the future is dropped, at the time
/// limit or on a signal, ends with the program.
async fn on_a_thread<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let (done, end) = oneshot::channel();
    std::thread::spawn(move || drop(done.send(run())));
    Ok(end.await??)
}

/// What requests ask for.
struct Root {
    path: PathBuf,
    runtime: Handle,
}

/// Opens the file of a request: a descriptor that the caller closes, or -1.
extern "C" fn open(root: *mut c_void, request: *const u8, len: usize) -> c_int {
    // SAFETY: the C passes on what serve() gave it, from the thread that owns it.
    let root = unsafe { &*root.cast::<Root>() };
    // SAFETY: `len` bytes are there, at an address that is not null even if there are none.
    let request = unsafe { std::slice::from_raw_parts(request, len) };
    root.runtime.block_on(async {
        match hq::open(&root.path, request).await {
            Some(file) => file.into_std().await.into_raw_fd(),
            None => -1,
        }
    })
}

fn text(said: &[c_char]) -> String {
    // SAFETY: the C side ends it with a NUL within its length, and nothing changes it now.
    unsafe { CStr::from_ptr(said.as_ptr()) }.to_string_lossy().into_owned()
}
