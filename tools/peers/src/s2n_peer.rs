//! s2n-quic as a client and as a server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use s2n_quic::client::Connect;
use s2n_quic::provider::stateless_reset_token;
use s2n_quic::provider::tls::rustls as s2n_tls;
use s2n_quic::stream::BidirectionalStream;
use s2n_quic::{Client, Connection, Server};
use s2n_quic_core::stateless_reset::token::{LEN, Token};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Failure, GetArgs, ServeArgs, announce, hq, identity, secret, trust};

/// Downloads the file of the arguments; returns its length.
pub(crate) async fn get(args: &GetArgs) -> Result<u64, Failure> {
    let any: SocketAddr =
        if args.server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let mut client = Client::builder()
        .with_tls(s2n_tls::Client::from(trust::client_tls(args)?))?
        .with_io(any)?
        .start()
        .map_err(|e| e.to_string())?;
    let connect = Connect::new(args.server).with_server_name(args.server_name.as_str());
    let mut connection = client.connect(connect).await?;
    let mut stream = connection.open_bidirectional_stream().await?;
    stream.send(hq::request(&args.path).into()).await?;
    stream.finish()?;
    let mut file = match &args.output {
        Some(path) => Some(File::create(path).await?),
        None => None,
    };
    let mut total = 0;
    while let Some(chunk) = stream.receive().await? {
        total += chunk.len() as u64;
        if let Some(file) = &mut file {
            file.write_all(&chunk).await?;
        }
    }
    if let Some(mut file) = file {
        file.flush().await?;
    }
    connection.close(0u32.into());
    client.wait_idle().await?;
    Ok(total)
}

/// Serves files until the future is dropped.
pub(crate) async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let builder = Server::builder()
        .with_tls(s2n_tls::Server::from(identity::server_tls(args)?))?
        .with_io(args.listen)?;
    let started = match args.secret {
        None => builder.start(),
        Some(secret) => builder.with_stateless_reset_token(Remembering(secret))?.start(),
    };
    let mut server = started.map_err(|e| e.to_string())?;
    announce("s2n-serve", server.local_addr()?)?;
    let root: Arc<Path> = args.files.as_path().into();
    while let Some(connection) = server.accept().await {
        tokio::spawn(serve_connection(connection, root.clone()));
    }
    Ok(())
}

/// The same reset tokens as any other server with the same secret: by default they are random, and no
/// resets are sent.
struct Remembering(u64);

impl stateless_reset_token::Provider for Remembering {
    type Generator = Self;
    type Error = Infallible;

    fn start(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

impl stateless_reset_token::Generator for Remembering {
    fn generate(&mut self, id: &[u8]) -> Token {
        let mut token = [0; LEN];
        secret::sign(self.0, id, &mut token);
        token.into()
    }
}

async fn serve_connection(mut connection: Connection, root: Arc<Path>) {
    while let Ok(Some(stream)) = connection.accept_bidirectional_stream().await {
        let root = root.clone();
        tokio::spawn(async move {
            if let Err(cause) = serve_stream(stream, &root).await {
                eprintln!("s2n-serve: {cause}");
            }
        });
    }
}

async fn serve_stream(mut stream: BidirectionalStream, root: &Path) -> Result<(), Failure> {
    let mut request = BytesMut::new();
    while let Some(chunk) = stream.receive().await? {
        request.extend_from_slice(&chunk);
        if request.len() > hq::MAX_REQUEST_BYTES {
            return Ok(stream.reset(hq::RESET_CODE.into())?);
        }
    }
    let Some(mut file) = hq::open(root, &request).await else {
        return Ok(stream.reset(hq::RESET_CODE.into())?);
    };
    loop {
        let mut chunk = BytesMut::with_capacity(hq::CHUNK_BYTES);
        if file.read_buf(&mut chunk).await? == 0 {
            break;
        }
        stream.send(chunk.freeze()).await?;
    }
    Ok(stream.finish()?)
}
