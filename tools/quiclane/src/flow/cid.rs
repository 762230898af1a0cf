//! What a QUIC connection id says: server, worker and slot, given the key.

use crate::error::Failure;
use clap::Args;
use quiclane::lb::{CID_LEN, Codec, Config, RESERVED_CONFIG_ID, first_octet};
use serde::Serialize;

/// The most bytes of a connection id in QUIC version 1 (RFC 9000 §17.2).
pub(super) const MAX_BYTES: usize = 20;

#[derive(Clone, Debug, Args)]
pub(super) struct CidArgs {
    /// Decode this connection id of the flow: server, worker and slot.
    #[arg(long, value_name = "HEX", value_parser = id, conflicts_with = "pcap")]
    cid: Option<Id>,
    /// Decrypt connection ids with this key, 16 bytes.
    #[arg(long, value_name = "HEX", value_parser = key)]
    cid_key: Option<[u8; 16]>,
    /// Expect this server number in the connection id.
    #[arg(long, value_name = "N", requires = "cid_key")]
    server_id: Option<u32>,
}

/// A connection id as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Id(Vec<u8>);

impl CidArgs {
    pub(super) fn reader(&self) -> Result<Reader, Failure> {
        let codecs = match self.cid_key {
            None => Vec::new(),
            Some(key) => (0..RESERVED_CONFIG_ID)
                .map(|config_id| {
                    let server_id = self.server_id.unwrap_or(0);
                    Codec::new(&Config { config_id, server_id, key: Some(key), secret: key })
                })
                .collect::<Result<_, _>>()
                .map_err(|error| Failure::Usage(error.to_string()))?,
        };
        Ok(Reader { codecs, server_id: self.server_id })
    }

    pub(super) fn explain(&self, reader: &Reader) -> Option<ConnectionIdRow> {
        self.cid.as_ref().map(|id| reader.explain(&id.0))
    }
}

/// Reads ids, with the key if one was given.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// One for each configuration; `None` without a key.
    codecs: Vec<Codec>,
    server_id: Option<u32>,
}

/// What is known of an id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ConnectionIdRow {
    pub(super) id: String,
    pub(super) length: usize,
    /// Which configuration its first byte names, if it was made by one.
    pub(super) config_id: Option<u8>,
    pub(super) server_id: Option<u32>,
    pub(super) process: Option<u8>,
    pub(super) worker: Option<u16>,
    pub(super) slot: Option<u32>,
    pub(super) generation: Option<u32>,
    /// Why the rest is not known.
    pub(super) unknown: Option<String>,
}

impl Reader {
    pub(super) fn explain(&self, id: &[u8]) -> ConnectionIdRow {
        let row = ConnectionIdRow {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            length: id.len(),
            ..ConnectionIdRow::default()
        };
        let unknown = |reason: String, config_id| ConnectionIdRow {
            config_id,
            unknown: Some(reason),
            ..row.clone()
        };
        let first = first_octet(id);
        let Some(first) =
            first.filter(|first| id.len() == CID_LEN && usize::from(first.length) + 1 == CID_LEN)
        else {
            let reason = format!(
                "not made by a server of ours, whose ids have {CID_LEN} bytes and say so: chosen \
                 by a client, or of another server"
            );
            return unknown(reason, None);
        };
        let config = Some(first.config_id);
        if first.config_id == RESERVED_CONFIG_ID {
            return unknown(
                "its configuration is the reserved one, which no load balancer knows".into(),
                config,
            );
        }
        let codec = self.codecs.get(usize::from(first.config_id));
        let Some((server_id, route)) = codec.and_then(|codec| codec.open(id)) else {
            let reason = "server, worker and slot are encrypted: --cid-key HEX is the key that \
                          the server was given (without one it makes a random key when it starts)";
            return unknown(reason.to_owned(), config);
        };
        if self.server_id.is_some_and(|expected| expected != server_id) {
            let reason = "of another server, of another key, or no QUIC-LB id: it does not decrypt \
                          to --server-id";
            return unknown(reason.to_owned(), config);
        }
        ConnectionIdRow {
            config_id: config,
            server_id: Some(server_id),
            process: Some(route.process),
            worker: Some(route.worker),
            slot: Some(route.slot),
            generation: Some(route.generation),
            ..row
        }
    }
}

impl ConnectionIdRow {
    /// In a line.
    pub(super) fn text(&self) -> String {
        let config = match self.config_id {
            Some(config) => format!("configuration {config}, {} bytes", self.length),
            None => format!("{} bytes", self.length),
        };
        let host = self.server_id.zip(self.process);
        match (host, self.worker, self.slot, self.generation) {
            (Some((server, process)), Some(worker), Some(slot), Some(generation)) => format!(
                "{config}: server {server}, process {process}, worker {worker}, slot {slot}, \
                 generation {generation}"
            ),
            _ => config,
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn id(text: &str) -> Result<Id, String> {
    hex(text)
        .filter(|id| !id.is_empty() && id.len() <= MAX_BYTES)
        .map(Id)
        .ok_or_else(|| format!("a connection id is 1 to {MAX_BYTES} bytes of hex"))
}

fn key(text: &str) -> Result<[u8; 16], String> {
    hex(text)
        .and_then(|key| key.try_into().ok())
        .ok_or_else(|| "a key is 16 bytes of hex".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::lb::Route;

    const KEY: [u8; 16] = [7; 16];

    fn reader(key: Option<[u8; 16]>, server_id: Option<u32>) -> Reader {
        CidArgs { cid: None, cid_key: key, server_id }.reader().unwrap()
    }

    fn made() -> Vec<u8> {
        let config = Config { config_id: 3, server_id: 9, key: Some(KEY), secret: [0; 16] };
        let route = Route { process: 2, worker: 5, slot: 41, generation: 2 };
        Codec::new(&config).unwrap().encode(route, 0x5eed).as_slice().to_vec()
    }

    #[test]
    fn with_the_key_an_id_names_server_worker_and_slot() {
        for server_id in [None, Some(9)] {
            let row = reader(Some(KEY), server_id).explain(&made());
            let found = (row.config_id, row.server_id, row.worker, row.slot, row.generation);
            assert_eq!(found, (Some(3), Some(9), Some(5), Some(41), Some(2)));
            assert_eq!(row.unknown, None);
        }
        let other = reader(Some(KEY), Some(8)).explain(&made());
        assert_eq!((other.worker, other.config_id), (None, Some(3)));
        assert!(other.unknown.unwrap().contains("--server-id"));
    }

    #[test]
    fn without_it_configuration_and_length_are_all_that_is_said() {
        let row = reader(None, None).explain(&made());
        assert_eq!((row.config_id, row.length, row.server_id), (Some(3), CID_LEN, None));
        assert!(row.unknown.unwrap().contains("--cid-key"));
        let short = reader(Some(KEY), None).explain(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((short.config_id, short.worker), (None, None));
        let mut reserved = made();
        reserved[0] |= 0xe0;
        let row = reader(Some(KEY), None).explain(&reserved);
        assert!(row.unknown.unwrap().contains("reserved"));
    }

    #[test]
    fn hex_is_read_with_and_without_colons() {
        assert_eq!(id("0a:ff"), Ok(Id(vec![10, 255])));
        assert_eq!(id("0aff"), Ok(Id(vec![10, 255])));
        for wrong in ["", "a", "zz", "0a0", "\u{e9}\u{e9}", &"00".repeat(21)] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
        assert!(key("00").is_err());
    }
}
