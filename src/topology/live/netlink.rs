//! Netlink: a question is a header and attributes, the answer is the same, possibly many times.
//!
//! ```text
//!   message     length u32 | kind u16 | flags u16 | sequence u32 | port u32 | body
//!   body        a fixed part (4 bytes in generic netlink), then attributes
//!   attribute   length u16 | kind u16 | value, padded to 4 bytes; a nest's value is attributes
//! ```
//!
//! [`Attributes`] reads whatever it is given without trusting a length in it, so that answers can
//! be tried in tests as recorded bytes. [`Netlink`] is a socket to ask with; the kernel answers
//! within the call that asks, and what it sends more is read until it says that it is done.
//!
//! The AF_XDP datapath asks four small questions of its own and does not use this module: the two
//! share the format, not code.

use super::refused::Refused;
use neli::consts::genl::{CtrlAttr, CtrlCmd};
use neli::consts::nl::{GenlId, NlmF, Nlmsg};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::collections::BTreeMap;
use std::io;

/// Bytes of one answer: the kernel never sends more at once to a reader that offers this.
const ANSWER_BYTES: usize = 64 * 1024;
/// Answers to one question that are read before giving up.
const ANSWERS_MAX: usize = 16_384;
const HEADER_BYTES: usize = 16;
/// Command, version, two reserved bytes.
const GENERIC_HEADER_BYTES: usize = 4;
/// In the kind of an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Nested, or in network byte order: not part of the kind.
const KIND_FLAGS: u16 = 0xc000;

/// The attributes of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Each with its kind. What is cut off in the middle is left out.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
            let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & !KIND_FLAGS;
            let value = bytes.get(4..length)?;
            bytes = bytes.get(align(length)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first of this kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|&(other, _)| other == kind).map(|(_, value)| value)
    }

    /// There is one of this kind.
    pub(super) fn has(self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    /// The attributes inside of the first of this kind; empty if there is none.
    pub(super) fn nest(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// A number of 1, 2, 4 or 8 bytes, whichever the kernel chose.
    pub(super) fn number(self, kind: u16) -> Option<u64> {
        number(self.get(kind)?)
    }

    /// A number of at most 4 bytes.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        u32::try_from(self.number(kind)?).ok()
    }

    /// Text, without the zero that ends it.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        Some(text(self.get(kind)?))
    }
}

/// A number of 1, 2, 4 or 8 bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        _ => u64::from_ne_bytes(bytes.try_into().ok()?),
    })
}

/// The text before the first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Four bytes at an offset, as a number.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(number(bytes.get(at..at + 4)?)? as u32)
}

/// The attributes of a question.
#[derive(Clone, Debug, Default)]
pub(super) struct Question(Vec<u8>);

impl Question {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A socket to ask with.
pub(super) struct Netlink {
    socket: NlSocket,
    sequence: u32,
    answer: Vec<u8>,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread.
    pub(super) fn new(family: NlFamily) -> Result<Self, Refused> {
        let opened = NlSocket::connect(family, None, Groups::empty());
        let socket = opened.map_err(|error| Refused::failed("socket(AF_NETLINK)", error))?;
        // A kernel that does not say why (before 4.12) says no as well.
        drop(socket.enable_ext_ack(true));
        Ok(Self { socket, sequence: 0, answer: vec![0; ANSWER_BYTES] })
    }

    /// Sends a question and hands the body of every answer to `sink`.
    pub(super) fn ask(
        &mut self,
        call: &'static str,
        kind: u16,
        dump: bool,
        body: &[u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(kind, dump, body).map_err(|error| Refused::failed(call, error))?;
        for _ in 0..ANSWERS_MAX {
            let length = self.receive().map_err(|error| Refused::failed(call, error))?;
            let mut rest = &self.answer[..length];
            while let Some((message, next)) = Message::split(rest) {
                rest = next;
                // Another sequence: what is left of a question that failed half way.
                if message.sequence == self.sequence && message.take(call, dump, sink)? {
                    return Ok(());
                }
            }
        }
        Err(Refused::Garbled(call))
    }

    fn send(&self, kind: u16, dump: bool, body: &[u8]) -> io::Result<()> {
        // What is told to the kernel is acknowledged, or there would be no answer to wait for.
        let flags = NlmF::REQUEST | if dump { NlmF::DUMP } else { NlmF::ACK };
        let length = HEADER_BYTES + body.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.bits().to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        self.socket.send(&message, Msg::empty()).map(drop)
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.socket.recv(&mut self.answer[..], Msg::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One message of an answer.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32_at(bytes, 0)? as usize;
        let message = Self {
            kind: number(bytes.get(4..6)?)? as u16,
            flags: number(bytes.get(6..8)?)? as u16,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER_BYTES..length)?,
        };
        Some((message, bytes.get(align(length)..).unwrap_or_default()))
    }

    /// True if nothing follows.
    fn take(
        &self,
        call: &'static str,
        dump: bool,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Refused> {
        if self.kind == u16::from(Nlmsg::Error) || self.kind == u16::from(Nlmsg::Done) {
            return self.end(call).map(|()| true);
        }
        sink(self.body);
        Ok(!dump)
    }

    /// The end of an answer holds an error number, which is 0 if all is well.
    fn end(&self, call: &'static str) -> Result<(), Refused> {
        match u32_at(self.body, 0).map(|number| number as i32) {
            None | Some(0..) => Ok(()),
            Some(error) => {
                let error = io::Error::from_raw_os_error(error.wrapping_neg());
                Err(Refused::Failed { call, error, said: self.words() })
            }
        }
    }

    /// What the kernel says beside the number: attributes behind the number, and in an error
    /// behind the header of the question too, or behind all of the question.
    fn words(&self) -> Option<String> {
        const TEXT: u16 = 1;
        const CAPPED: u16 = 0x100;
        const HAS_ATTRIBUTES: u16 = 0x200;
        if self.flags & HAS_ATTRIBUTES == 0 {
            return None;
        }
        let question = match (self.kind == u16::from(Nlmsg::Error), self.flags & CAPPED) {
            (false, _) => 0,
            (true, 0) => align(u32_at(self.body, 4)? as usize),
            (true, _) => HEADER_BYTES,
        };
        Attributes(self.body.get(4 + question..)?).text(TEXT)
    }
}

/// The messages of what was received, each with its kind.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (message, next) = Message::split(self.0)?;
        self.0 = next;
        Some((message.kind, message.body))
    }
}

/// A question of a generic netlink family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    /// The family's name.
    pub(super) family: &'static str,
    /// Family and command, for messages.
    pub(super) call: &'static str,
    /// Its number.
    pub(super) id: u8,
    /// Since when kernels know it.
    pub(super) since: &'static str,
}

/// A family, as the kernel knows it.
struct Family {
    id: u16,
    /// Its commands, each with its flags.
    commands: BTreeMap<u8, u32>,
    /// Its multicast groups, by name.
    groups: BTreeMap<String, u32>,
}

/// A socket for generic netlink, and the families that it was asked for.
pub(super) struct Generic {
    netlink: Netlink,
    families: BTreeMap<&'static str, Family>,
}

impl Generic {
    pub(super) fn new() -> Result<Self, Refused> {
        Ok(Self { netlink: Netlink::new(NlFamily::Generic)?, families: BTreeMap::new() })
    }

    /// Asks once; the attributes of the answer.
    pub(super) fn get(
        &mut self,
        command: &Command,
        question: &Question,
    ) -> Result<Vec<u8>, Refused> {
        let mut found = None;
        self.ask(command, false, question, &mut |answer| {
            found = found.take().or_else(|| Some(answer.0.to_vec()));
        })?;
        found.ok_or(Refused::Garbled(command.call))
    }

    /// Tells the kernel something.
    pub(super) fn tell(&mut self, command: &Command, told: &Question) -> Result<(), Refused> {
        self.ask(command, false, told, &mut |_| {})
    }

    /// Asks for everything; each answer's attributes go to `sink`.
    pub(super) fn dump(
        &mut self,
        command: &Command,
        question: &Question,
        sink: &mut dyn FnMut(Attributes<'_>),
    ) -> Result<(), Refused> {
        self.ask(command, true, question, sink)
    }

    /// True if the kernel tells everything at once when it is asked for `command`.
    pub(super) fn can_dump(&mut self, command: &Command) -> Result<bool, Refused> {
        const CAN_DUMP: u32 = 0x04;
        let family = self.family(command)?;
        Ok(family.commands.get(&command.id).is_some_and(|flags| flags & CAN_DUMP != 0))
    }

    /// The number of the command's family, and of a multicast group of it.
    pub(super) fn group(&mut self, command: &Command, name: &str) -> Result<(u16, u32), Refused> {
        let family = self.family(command)?;
        let group = family.groups.get(name).copied();
        Ok((family.id, group.ok_or(Refused::Garbled(command.call))?))
    }

    fn ask(
        &mut self,
        command: &Command,
        dump: bool,
        question: &Question,
        sink: &mut dyn FnMut(Attributes<'_>),
    ) -> Result<(), Refused> {
        let family = self.family(command)?;
        if !family.commands.contains_key(&command.id) {
            return Err(Refused::Unasked { call: command.call, since: command.since });
        }
        let id = family.id;
        let body = generic_body(command.id, question);
        self.netlink.ask(command.call, id, dump, &body, &mut |answer| {
            sink(Attributes(answer.get(GENERIC_HEADER_BYTES..).unwrap_or_default()));
        })
    }

    fn family(&mut self, command: &Command) -> Result<&Family, Refused> {
        if !self.families.contains_key(command.family) {
            let family = self.resolve(command)?;
            self.families.insert(command.family, family);
        }
        self.families.get(command.family).ok_or(Refused::Garbled(command.call))
    }

    fn resolve(&mut self, command: &Command) -> Result<Family, Refused> {
        const CALL: &str = "netlink CTRL_CMD_GETFAMILY";
        let name = Question::default().text(u16::from(CtrlAttr::FamilyName), command.family);
        let body = generic_body(u8::from(CtrlCmd::Getfamily), &name);
        let mut found = None;
        let asked = self.netlink.ask(CALL, u16::from(GenlId::Ctrl), false, &body, &mut |answer| {
            let answer = answer.get(GENERIC_HEADER_BYTES..).unwrap_or_default();
            found = read_family(Attributes(answer));
        });
        match asked {
            Err(refused) if refused.errno() == libc::ENOENT => {
                Err(Refused::Unasked { call: command.call, since: command.since })
            }
            asked => asked.and(found.ok_or(Refused::Garbled(CALL))),
        }
    }
}

fn generic_body(command: u8, question: &Question) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    body.extend(&question.0);
    body
}

fn read_family(answer: Attributes<'_>) -> Option<Family> {
    const COMMAND_ID: u16 = 1;
    const COMMAND_FLAGS: u16 = 2;
    let commands = answer.nest(u16::from(CtrlAttr::Ops)).iter().filter_map(|(_, command)| {
        let command = Attributes(command);
        Some((command.u32(COMMAND_ID)? as u8, command.u32(COMMAND_FLAGS).unwrap_or(0)))
    });
    let id = answer.u32(u16::from(CtrlAttr::FamilyId))? as u16;
    const GROUP_NAME: u16 = 1;
    const GROUP_ID: u16 = 2;
    let groups = answer.nest(u16::from(CtrlAttr::McastGroups)).iter().filter_map(|(_, group)| {
        let group = Attributes(group);
        Some((group.text(GROUP_NAME)?, group.u32(GROUP_ID)?))
    });
    Some(Family { id, commands: commands.collect(), groups: groups.collect() })
}

/// Bytes that were recorded, written as hex.
#[cfg(test)]
pub(super) fn recorded(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Question::default().text(2, "eth0");
        let question = Question::default().u32(1, 7).nest(3, &inner).bytes(4, &[9]);
        let read = Attributes(&question.0);
        assert_eq!(read.u32(1), Some(7));
        assert_eq!(read.nest(3).text(2).as_deref(), Some("eth0"));
        assert_eq!(read.number(4), Some(9));
        assert!(!read.has(5) && read.nest(5).iter().count() == 0);
    }

    #[test]
    fn no_length_is_trusted() {
        let question = Question::default().u32(1, 7).u32(2, 8);
        for cut in 0..question.0.len() {
            assert!(Attributes(&question.0[..cut]).iter().count() < 2);
        }
        let mut bytes = question.0;
        for length in 0..=u8::MAX {
            bytes[0] = length;
            assert!(Attributes(&bytes).iter().count() <= 4);
        }
        assert!(Message::split(&[255; 15]).is_none() && Message::split(&[255; 40]).is_none());
    }

    #[test]
    fn the_kernel_says_why_in_words() {
        // -EINVAL, the header of a question of 20 bytes, its body, then the text.
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend(20u32.to_ne_bytes());
        body.extend([0; 16]);
        let capped = body[..20].to_vec();
        let words = Question::default().text(1, "no such device").0;
        body.extend(&words);
        let kind = u16::from(Nlmsg::Error);
        let message = Message { kind, flags: 0x200, sequence: 1, body: &body };
        let refused = message.end("ethtool RINGS_GET").unwrap_err();
        assert!(refused.to_string().ends_with("no such device"), "{refused}");
        let body = [&capped[..], &words].concat();
        let message = Message { kind, flags: 0x300, sequence: 1, body: &body };
        assert_eq!(message.words().as_deref(), Some("no such device"));
        let message = Message { kind, flags: 0, sequence: 1, body: &[0; 4] };
        assert!(message.end("x").is_ok());
    }
}
