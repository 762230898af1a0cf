//! Flows of a pcap or pcapng file.

use super::cid::{ConnectionIdRow, Reader};
use crate::error::Failure;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice, ether_type};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use quiclane::lb::CID_LEN;
use quiclane::topology::explain::{Protocol, Question};
use quiclane::topology::toeplitz::Flow;
use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The most flows; packets of further ones are counted as others.
const MAX_FLOWS: usize = 1 << 16;
/// Connection ids that are kept of a flow.
const MAX_IDS: usize = 4;
/// The largest block that is read at once: far above the size of a captured packet.
const BUFFER_BYTES: usize = 1 << 20;

/// The content of a file.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) path: PathBuf,
    pub(super) packets: u64,
    pub(super) others: u64,
    /// In the order of their first packets.
    pub(super) flows: Vec<Seen>,
}

/// A flow.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) question: Question,
    pub(super) packets: u64,
    /// Connection ids that it is addressed to, if it may be QUIC.
    pub(super) ids: Vec<ConnectionIdRow>,
}

impl Capture {
    pub(super) fn read(path: &Path, reader: &Reader) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        let bad = |what: String| Failure::Failed(format!("{}: {what}", path.display()));
        let mut blocks = create_reader(BUFFER_BYTES, file)
            .map_err(|_| bad("is neither a pcap nor a pcapng file".to_owned()))?;
        let mut gather = Gather::new(reader);
        loop {
            match blocks.next() {
                Ok((consumed, block)) => {
                    gather.block(&block);
                    blocks.consume(consumed);
                }
                // A capture that was cut off within a packet is good up to there.
                Err(PcapError::Eof | PcapError::UnexpectedEof) => break,
                Err(PcapError::Incomplete(_)) => {
                    blocks.refill().map_err(|error| bad(format!("{error:?}")))?;
                    if blocks.reader_exhausted() && blocks.data().len() < MIN_BLOCK_BYTES {
                        break;
                    }
                }
                Err(error) => return Err(bad(format!("{error:?}"))),
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            packets: gather.packets,
            others: gather.others,
            flows: gather.flows,
        })
    }
}

/// The header of a record or block: fewer bytes at the end are no packet.
const MIN_BLOCK_BYTES: usize = 12;

struct Gather<'a> {
    reader: &'a Reader,
    packets: u64,
    others: u64,
    flows: Vec<Seen>,
    places: HashMap<Question, usize>,
    /// The link type of each interface of the section; a pcap file has one.
    interfaces: Vec<Linktype>,
}

impl<'a> Gather<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self {
            reader,
            packets: 0,
            others: 0,
            flows: Vec::new(),
            places: HashMap::new(),
            interfaces: Vec::new(),
        }
    }

    fn block(&mut self, block: &PcapBlockOwned<'_>) {
        match block {
            PcapBlockOwned::LegacyHeader(header) => self.interfaces = vec![header.network],
            PcapBlockOwned::Legacy(packet) => self.packet(0, packet.data),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.interfaces.push(interface.linktype);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                self.packet(packet.if_id as usize, packet.packet_data());
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => self.packet(0, packet.packet_data()),
            PcapBlockOwned::NG(_) => {}
        }
    }

    fn packet(&mut self, interface: usize, data: &[u8]) {
        self.packets += 1;
        let link = self.interfaces.get(interface).copied();
        let Some((question, payload)) = link.and_then(|link| flow_of(link, data)) else {
            self.others += 1;
            return;
        };
        let place = match self.places.get(&question) {
            Some(&place) => place,
            None if self.flows.len() == MAX_FLOWS => {
                self.others += 1;
                return;
            }
            None => {
                self.places.insert(question, self.flows.len());
                self.flows.push(Seen { question, packets: 0, ids: Vec::new() });
                self.flows.len() - 1
            }
        };
        let seen = &mut self.flows[place];
        seen.packets += 1;
        if question.protocol == Protocol::Udp && seen.ids.len() < MAX_IDS {
            let id = connection_id(payload).map(|id| self.reader.explain(id));
            // A first byte without a configuration is not an id of ours, or not QUIC.
            if let Some(id) = id.filter(|id| id.config_id.is_some() && !seen.ids.contains(id)) {
                seen.ids.push(id);
            }
        }
    }
}

/// The flow that a packet belongs to, and what it carries.
fn flow_of(link: Linktype, data: &[u8]) -> Option<(Question, &[u8])> {
    let packet = match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).ok()?,
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => LaxSlicedPacket::from_ip(data).ok()?,
        // Linux cooked captures (`tcpdump -i any`): the type is the last field, or the first.
        Linktype::LINUX_SLL => cooked(data, 14, 16)?,
        Linktype::LINUX_SLL2 => cooked(data, 0, 20)?,
        _ => return None,
    };
    let (source, destination): (IpAddr, IpAddr) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        LaxNetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return None,
    };
    let (protocol, from, to, payload) = match packet.transport? {
        TransportSlice::Udp(udp) => {
            (Protocol::Udp, udp.source_port(), udp.destination_port(), udp.payload())
        }
        TransportSlice::Tcp(tcp) => {
            (Protocol::Tcp, tcp.source_port(), tcp.destination_port(), tcp.payload())
        }
        _ => return None,
    };
    let flow = Flow {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    };
    Some((Question { flow, protocol }, payload))
}

fn cooked(data: &[u8], kind_at: usize, header_bytes: usize) -> Option<LaxSlicedPacket<'_>> {
    let kind = u16::from_be_bytes(*data.get(kind_at..)?.first_chunk::<2>()?);
    let is_ip = [ether_type::IPV4.0, ether_type::IPV6.0].contains(&kind);
    if !is_ip {
        return None;
    }
    LaxSlicedPacket::from_ip(data.get(header_bytes..)?).ok()
}

/// The destination connection id of a QUIC packet, as in all versions (RFC 8999). A short header
/// does not have the length of its id: the length of ours is assumed.
fn connection_id(payload: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 0x80;
    let (&first, rest) = payload.split_first()?;
    if first & LONG == 0 {
        return rest.get(..CID_LEN);
    }
    let (&length, rest) = rest.get(4..)?.split_first()?;
    rest.get(..usize::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn ethernet(source_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(source_port, 443)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    fn vlan_v6_tcp() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(100.try_into().unwrap())
            .ipv6([1; 16], [2; 16], 64)
            .tcp(7, 8, 0, 0)
            .write(&mut packet, b"x")
            .unwrap();
        packet
    }

    /// A pcap file, whose format has not changed since 1998.
    fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4_u32.to_le_bytes());
        file.extend([2, 0, 4, 0]);
        file.extend([0; 8]);
        file.extend(65_535_u32.to_le_bytes());
        file.extend(link.to_le_bytes());
        for packet in packets {
            file.extend([0; 8]);
            file.extend((packet.len() as u32).to_le_bytes());
            file.extend((packet.len() as u32).to_le_bytes());
            file.extend(packet);
        }
        file
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Capture, Failure> {
        let path =
            std::env::temp_dir().join(format!("quiclane-pcap-{name}-{}.pcap", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let capture = Capture::read(&path, &Reader::default());
        std::fs::remove_file(&path).unwrap();
        capture
    }

    #[test]
    fn packets_are_gathered_into_flows() {
        let arp = [vec![0xff; 12], vec![8, 6], vec![0; 28]].concat();
        let packets = [ethernet(1, b"a"), ethernet(2, b"b"), vlan_v6_tcp(), ethernet(1, b"c"), arp];
        let capture = read("flows", &pcap(1, &packets)).unwrap();
        assert_eq!((capture.packets, capture.others), (5, 1));
        let flows: Vec<_> = capture
            .flows
            .iter()
            .map(|seen| {
                let flow = &seen.question.flow;
                (seen.question.protocol, flow.source.port(), flow.destination.port(), seen.packets)
            })
            .collect();
        let expected =
            [(Protocol::Udp, 1, 443, 2), (Protocol::Udp, 2, 443, 1), (Protocol::Tcp, 7, 8, 1)];
        assert_eq!(flows, expected);
        assert!(capture.flows[2].question.flow.source.is_ipv6());
    }

    #[test]
    fn cooked_and_raw_captures_are_read() {
        let ip = ethernet(9, b"x")[14..].to_vec();
        let sll = [vec![0; 14], vec![8, 0], ip.clone()].concat();
        let sll2 = [vec![8, 0], vec![0; 18], ip.clone()].concat();
        for (name, link, packet) in [("raw", 101, ip), ("sll", 113, sll), ("sll2", 276, sll2)] {
            let capture = read(name, &pcap(link, &[packet])).unwrap();
            assert_eq!(capture.flows[0].question.flow.source.port(), 9, "{name}");
        }
    }

    #[test]
    fn ids_are_those_of_long_and_short_headers() {
        let mut id = [0x33; CID_LEN];
        id[0] = 2 << 5 | (CID_LEN as u8 - 1);
        let long = [&[0xc0, 0, 0, 0, 1, CID_LEN as u8][..], &id, &[0, 0]].concat();
        let short = [&[0x40][..], &id, &[1, 2, 3]].concat();
        let chosen = [&[0xc0, 0, 0, 0, 1, 8][..], &[7; 8], &[0]].concat();
        let packets = [ethernet(1, &long), ethernet(1, &short), ethernet(1, &chosen)];
        let capture = read("ids", &pcap(1, &packets)).unwrap();
        let ids = &capture.flows[0].ids;
        assert_eq!((ids.len(), ids[0].config_id), (1, Some(2)), "{ids:?}");
        assert_eq!(connection_id(&[]), None);
        assert_eq!(connection_id(&[0xc0, 0, 0, 0, 1, 9, 1]), None);
    }

    #[test]
    fn what_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = pcap(1, &[ethernet(1, b"a"), ethernet(2, b"b")]);
        // The file ends in the second packet: the first is complete.
        let second = 24 + (whole.len() - 24) / 2;
        for end in 24..whole.len() {
            let capture = read(&format!("cut{end}"), &whole[..end]).unwrap();
            assert_eq!(capture.flows.len(), usize::from(end >= second));
        }
        assert!(
            matches!(read("junk", &[7; 100]), Err(Failure::Failed(text)) if text.contains("pcap"))
        );
    }
}
