//! From a flow to a slot of the indirection table.

use super::Question;
use crate::topology::survey::device::Device;
use crate::topology::survey::rss::{FlowHash, FlowType, RssContext};
use crate::topology::toeplitz::{HashFields, Input, Placement, Rss, Transform};
use crate::topology::{Nic, Reading};

/// How the hash was made, and where it led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// The RSS context.
    pub context: u32,
    /// The hashed fields, in ethtool's letters.
    pub letters: String,
    /// How the fields were changed first.
    pub transform: Transform,
    /// What was hashed.
    pub input: Vec<u8>,
    /// Hash, slot and the queue in the slot; `None` if the fields say that the packet is dropped.
    pub placement: Option<Placement>,
    /// How many slots there are.
    pub slots: usize,
    /// What a rule adds to the queue in the slot.
    pub queue_offset: u32,
    /// Why the hash may be another.
    pub(super) doubts: Vec<String>,
}

/// What ethtool's letters say that is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// These.
    Hashed(HashFields),
    /// The packet is thrown away.
    Discard,
}

/// What ethtool's letters say, if it is something that all devices mean the same by.
///
/// # Errors
/// Says why no hash can be computed from them.
pub fn fields_of(letters: &str) -> Result<Fields, String> {
    let has = |letter: char| letters.contains(letter);
    if has('r') {
        return Ok(Fields::Discard);
    }
    let mut known: Vec<char> = letters.chars().collect();
    known.sort_unstable();
    match known.iter().collect::<String>().as_str() {
        "ds" => Ok(Fields::Hashed(HashFields::Addresses)),
        "dfns" => Ok(Fields::Hashed(HashFields::AddressesAndPorts)),
        "" => Err("nothing is hashed: the driver has a queue for it that it does not name \
                   (usually 0)"
            .to_owned()),
        _ => Err(format!(
            "the fields {letters:?} are hashed, and devices differ in the order of \
             fields other than sd and sdfn"
        )),
    }
}

/// Hashes the flow as `context` of `device` would.
pub(super) fn hash(
    nic: &Nic,
    device: &Device,
    question: &Question,
    context: u32,
) -> Result<Hashing, String> {
    let contexts = known(&device.rss).map_err(|reason| no_rss(nic, device, reason))?;
    let found = contexts
        .iter()
        .find(|found| found.id == context)
        .ok_or_else(|| format!("RSS context {context} is not known"))?;
    let mut doubts = Vec::new();
    check_function(found, nic, &mut doubts)?;
    let transform = transform_of(found)?;
    let rss = Rss::new(found.key.clone(), found.table.clone()).map_err(|e| e.to_string())?;
    let place = |fields: HashFields| -> Result<(Input, Placement), String> {
        let input = Input::new(&question.flow, fields).map_err(|e| e.to_string())?;
        let input = input.transformed(transform);
        Ok((input, rss.place_input(&input).map_err(|e| e.to_string())?))
    };
    let letters = match known(&device.hash_fields) {
        Ok(fields) => letters_of(fields, question.flow_type(), context)
            .ok_or_else(|| no_fields(&format!("{} has none", question.flow_type()), &place))?,
        Err(reason) => return Err(no_fields(reason, &place)),
    };
    let (input, placement) = match fields_of(letters)? {
        Fields::Hashed(fields) => {
            let (input, placement) = place(fields)?;
            (input.as_slice().to_vec(), Some(placement))
        }
        Fields::Discard => (Vec::new(), None),
    };
    Ok(Hashing {
        context,
        letters: letters.to_owned(),
        transform,
        input,
        placement,
        slots: found.table.len(),
        queue_offset: 0,
        doubts,
    })
}

fn known<T>(reading: &Reading<T>) -> Result<&T, &str> {
    match reading {
        Reading::Known(value) => Ok(value),
        Reading::Unknown(reason) => Err(reason),
    }
}

fn no_rss(nic: &Nic, device: &Device, reason: &str) -> String {
    let kind = device.link.known().and_then(|link| link.kind.as_deref());
    if kind == Some("veth") {
        return format!(
            "{} is a veth and has no RSS: what the other end sends on its transmit queue N arrives \
             on receive queue N here; kernel senders choose by XPS or by their own hash, AF_XDP \
             senders by the queue of their socket",
            nic.name
        );
    }
    format!("key and table are not known: {reason}")
}

/// The fields of a context; those of context 0 where a context has none of its own.
fn letters_of(fields: &[FlowHash], flow: FlowType, context: u32) -> Option<&str> {
    let of = |context| {
        let found = fields.iter().find(|field| field.flow == flow && field.context == context);
        found.map(|field| field.letters.as_str())
    };
    of(context).or_else(|| of(0))
}

/// Both answers that the fields could give, for a reader who knows the fields otherwise.
fn no_fields(
    reason: &str,
    place: &impl Fn(HashFields) -> Result<(Input, Placement), String>,
) -> String {
    let both = (place(HashFields::Addresses), place(HashFields::AddressesAndPorts));
    let (Ok((_, alone)), Ok((_, ports))) = both else {
        return format!("the hashed fields are not known: {reason}");
    };
    format!(
        "the hashed fields are not known ({reason}): by addresses alone it is queue {}, with \
         ports queue {}",
        alone.queue, ports.queue
    )
}

fn check_function(context: &RssContext, nic: &Nic, doubts: &mut Vec<String>) -> Result<(), String> {
    match context.hash_function.as_deref() {
        Some("toeplitz") => {}
        None => doubts
            .push("the device does not name its hash function; usually it is Toeplitz".to_owned()),
        Some(other) => {
            return Err(format!(
                "the hash function is {other}, whose definition is the device's own; \
                 `ethtool -X {} hfunc toeplitz` makes it predictable",
                nic.name
            ));
        }
    }
    if nic.driver.known().is_some_and(|driver| driver == "ena") {
        doubts.push(
            "ena begins the hash with its own seed, and reverses the key: use --verify".to_owned(),
        );
    }
    Ok(())
}

fn transform_of(context: &RssContext) -> Result<Transform, String> {
    match context.input_transform.as_deref() {
        None => Ok(Transform::None),
        Some("symmetric-xor") => Ok(Transform::SymmetricXor),
        Some("symmetric-or-xor") => Ok(Transform::SymmetricOrXor),
        Some(other) => {
            Err(format!("the input is transformed by {other:?}, which is not supported here"))
        }
    }
}
