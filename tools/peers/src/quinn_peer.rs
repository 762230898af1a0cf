//! quinn as a client and as a server.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    RecvStream, SendStream, ServerConfig, VarInt,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Failure, GetArgs, ServeArgs, announce, hq, identity, secret, trust};

/// Downloads the file of the arguments; returns its length.
pub(crate) async fn get(args: &GetArgs) -> Result<u64, Failure> {
    let tls = QuicClientConfig::try_from(trust::client_tls(args)?)?;
    let mut endpoint = Endpoint::client(any_port(args.server))?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
    let connection = endpoint.connect(args.server, &args.server_name)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(hq::request(&args.path).as_bytes()).await?;
    send.finish()?;
    let mut file = match &args.output {
        Some(path) => Some(File::create(path).await?),
        None => None,
    };
    let mut total = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        total += chunk.bytes.len() as u64;
        if let Some(file) = &mut file {
            file.write_all(&chunk.bytes).await?;
        }
    }
    if let Some(mut file) = file {
        file.flush().await?;
    }
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(total)
}

/// Serves files until the future is dropped.
pub(crate) async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let tls = QuicServerConfig::try_from(identity::server_tls(args)?)?;
    let config = ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = match args.secret {
        None => Endpoint::server(config, args.listen)?,
        Some(secret) => {
            let socket = std::net::UdpSocket::bind(args.listen)?;
            let runtime = quinn::default_runtime().ok_or("no runtime")?;
            Endpoint::new(remembering(secret), Some(config), socket, runtime)?
        }
    };
    announce("quinn-serve", endpoint.local_addr()?)?;
    let root: Arc<Path> = args.files.as_path().into();
    while let Some(incoming) = endpoint.accept().await {
        let root = root.clone();
        tokio::spawn(async move {
            match incoming.await {
                Ok(connection) => serve_connection(connection, root).await,
                Err(cause) => eprintln!("quinn-serve: handshake failed: {cause}"),
            }
        });
    }
    Ok(())
}

/// An endpoint with the same ids and reset tokens as any other with the same secret.
fn remembering(secret: u64) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(Secret(secret)));
    // By default each endpoint signs its ids with a new key, and ignores other ids.
    config.cid_generator(|| Box::new(AnyId));
    config
}

struct Secret(u64);

impl HmacKey for Secret {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        secret::sign(self.0, data, signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut ours = [0; 32];
        self.sign(data, &mut ours);
        if ours == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Random ids: every id of their length may be ours.
struct AnyId;

impl ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&RandomState::new().hash_one(0).to_be_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

async fn serve_connection(connection: Connection, root: Arc<Path>) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let root = root.clone();
        tokio::spawn(async move {
            if let Err(cause) = serve_stream(send, recv, &root).await {
                eprintln!("quinn-serve: {cause}");
            }
        });
    }
}

async fn serve_stream(
    mut send: SendStream,
    mut recv: RecvStream,
    root: &Path,
) -> Result<(), Failure> {
    let request = recv.read_to_end(hq::MAX_REQUEST_BYTES).await?;
    let Some(mut file) = hq::open(root, &request).await else {
        send.reset(VarInt::from_u32(hq::RESET_CODE))?;
        return Ok(());
    };
    loop {
        let mut chunk = BytesMut::with_capacity(hq::CHUNK_BYTES);
        if file.read_buf(&mut chunk).await? == 0 {
            break;
        }
        send.write_chunk(chunk.freeze()).await?;
    }
    send.finish()?;
    Ok(())
}

/// The wildcard address of the server's family, any port.
fn any_port(server: SocketAddr) -> SocketAddr {
    match server.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
