//! Attaching the program to a device: in the driver, else above it, and never over another.

use super::carrier::wait_after_attach;
use super::config::{XdpConfig, XdpProgram};
use super::error::XdpError;
use super::inspect::DeviceInfo;
use super::ladder::{Ladder, rungs};
use super::loader::{AttachError, Program};
use super::share::{INSTANCE_SLOTS, Place};
use super::steering::Steering;
use super::{sys, who};
use crate::datapath::Mode;
use crate::datapath::headers::LinkRules;
use aya::programs::XdpMode;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A program that a dead process left stays attached for some milliseconds: so often, and so long
/// in between, attaching is tried again. A program that a living process holds is not waited for.
const ATTACH_ATTEMPTS: u32 = 25;
const ATTACH_PAUSE: Duration = Duration::from_millis(10);
/// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const FEATURE_ZEROCOPY: u64 = 1 << 3;
/// `NETDEV_XDP_ACT_BASIC`.
const FEATURE_BASIC: u64 = 1;

/// A program that is attached, and how far down the ladder that led.
pub(super) struct Attachment {
    pub(super) program: Steering,
    /// With the rung that was reached: there is one.
    pub(super) ladder: Ladder,
    /// Attached above the driver.
    pub(super) generic: bool,
    /// The driver does not offer zero-copy, or the configuration forbids it.
    pub(super) zerocopy_refused: bool,
}

/// Loads the program and attaches it in the best mode that the configuration allows.
pub(super) fn attach(config: &XdpConfig, info: &DeviceInfo) -> Result<Attachment, XdpError> {
    let rules = LinkRules { mac: info.mac, vlans: config.vlans };
    match &config.program {
        XdpProgram::Own => {
            refuse_foreign(&info.name, info.ifindex)?;
            attach_program(config, info, Program::load(info.queues, &rules)?)
        }
        XdpProgram::Shared(directory) => share_program(config, info, directory, &rules),
        XdpProgram::Theirs(path) => found(config, info, Steering::of_map(path)?),
    }
}

/// Attaches the program, or finds it there: whoever shares it came before.
fn share_program(
    config: &XdpConfig,
    info: &DeviceInfo,
    directory: &Path,
    rules: &LinkRules,
) -> Result<Attachment, XdpError> {
    if info.queues > INSTANCE_SLOTS {
        return Err(XdpError::config(
            "the program of a device with more than 128 queues is not shared",
        ));
    }
    let place = Place::open(directory)?;
    let lock = place.lock()?;
    let is_there = place.pin("link").exists();
    if !is_there {
        refuse_foreign(&info.name, info.ifindex)?;
    }
    let mut program = Program::load_shared(&place, lock, rules)?;
    if is_there {
        let attached = sys::attached(info.ifindex)
            .map_err(|failed| XdpError::from_call(&info.name, failed))?;
        let id = program.pin_link()?;
        if ![attached.driver_program, attached.generic_program].contains(&id) {
            return Err(XdpError::config(
                "the program that is shared there is on another device: name another directory for this one",
            ));
        }
        let mut attachment = found(config, info, Steering::Ours(Box::new(program)))?;
        attachment.program.has_begun();
        return Ok(attachment);
    }
    let mut attachment = attach_program(config, info, program)?;
    if let Steering::Ours(program) = &mut attachment.program {
        program.pin_link()?;
        program.has_begun();
    }
    Ok(attachment)
}

/// The mode of a device whose program is there already.
fn found(config: &XdpConfig, info: &DeviceInfo, program: Steering) -> Result<Attachment, XdpError> {
    let rungs = rungs(config.require, config.force_mode);
    let attached =
        sys::attached(info.ifindex).map_err(|failed| XdpError::from_call(&info.name, failed))?;
    let generic = attached.driver_program == 0 && attached.generic_program != 0;
    let mut ladder = Ladder::default();
    let mut zerocopy_refused = generic || !rungs.contains(&Mode::NativeZerocopy);
    zerocopy_refused |= refuse_zerocopy(info, &rungs, &mut ladder);
    ladder.reached = best(&rungs, generic, zerocopy_refused);
    if ladder.reached.is_none() {
        let device = info.name.clone();
        return Err(XdpError::Refused { device, require: config.require, ladder });
    }
    Ok(Attachment { program, ladder, generic, zerocopy_refused })
}

/// Attaches a program that is loaded.
fn attach_program(
    config: &XdpConfig,
    info: &DeviceInfo,
    mut program: Program,
) -> Result<Attachment, XdpError> {
    let rungs = rungs(config.require, config.force_mode);
    let mut ladder = Ladder::default();
    let mut attached = false;
    let mut zerocopy_refused = !rungs.contains(&Mode::NativeZerocopy);
    if rungs.iter().any(|&mode| mode != Mode::Generic) {
        attached = attach_native(info, &mut program, &rungs, &mut ladder)?;
        zerocopy_refused |= attached && refuse_zerocopy(info, &rungs, &mut ladder);
    }
    let generic = !attached;
    if generic && rungs.contains(&Mode::Generic) {
        attached = attach_generic(info, &mut program, &mut ladder)?;
    }
    ladder.reached = attached.then(|| best(&rungs, generic, zerocopy_refused)).flatten();
    if ladder.reached.is_none() {
        let device = info.name.clone();
        return Err(XdpError::Refused { device, require: config.require, ladder });
    }
    if !generic {
        wait_after_attach(&info.name, &info.driver);
    }
    let program = Steering::Ours(Box::new(program));
    Ok(Attachment { program, ladder, generic, zerocopy_refused })
}

/// Fails if a program is attached that a living process holds, or that stays.
pub(super) fn refuse_foreign(device: &str, ifindex: u32) -> Result<(), XdpError> {
    for attempt in 0..ATTACH_ATTEMPTS {
        let found =
            who::foreign_program(ifindex).map_err(|failed| XdpError::from_call(device, failed))?;
        let Some(program) = found else { return Ok(()) };
        if program.holder.is_some() || attempt + 1 == ATTACH_ATTEMPTS {
            return Err(XdpError::Occupied { device: device.to_owned(), queue: 0, program });
        }
        thread::sleep(ATTACH_PAUSE);
    }
    Ok(())
}

/// Attaches in the driver. False, with the reason noted, if the driver cannot.
fn attach_native(
    info: &DeviceInfo,
    program: &mut Program,
    rungs: &[Mode],
    ladder: &mut Ladder,
) -> Result<bool, XdpError> {
    let Err(error) = attach_in(info, program, XdpMode::Driver)? else { return Ok(true) };
    let reason = native_refused(info, &error);
    for &mode in rungs.iter().filter(|&&mode| mode != Mode::Generic) {
        ladder.step_down(&info.name, mode, reason.clone());
    }
    Ok(false)
}

/// Why the driver does not take a program, with the remedy where the error is a known one.
fn native_refused(info: &DeviceInfo, error: &io::Error) -> String {
    let DeviceInfo { name, queues, driver, .. } = info;
    match (driver.as_str(), error.raw_os_error()) {
        ("veth", Some(libc::ENOSPC)) => format!(
            "the other end of {name} has more transmit queues than {name} has receive queues \
             ({queues}): ethtool -L {name} rx N, or ethtool -L tx {queues} on the other end"
        ),
        _ => format!("attaching in the driver: {error}"),
    }
}

fn attach_generic(
    info: &DeviceInfo,
    program: &mut Program,
    ladder: &mut Ladder,
) -> Result<bool, XdpError> {
    let Err(error) = attach_in(info, program, XdpMode::Skb)? else { return Ok(true) };
    ladder.step_down(&info.name, Mode::Generic, format!("attaching above the driver: {error}"));
    Ok(false)
}

/// Attaches in one mode. The inner error is one that another mode may not have.
fn attach_in(
    info: &DeviceInfo,
    program: &mut Program,
    mode: XdpMode,
) -> Result<Result<(), io::Error>, XdpError> {
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for attempt in 0..ATTACH_ATTEMPTS {
        if attempt > 0 {
            // Another program was attached between our look and now, or is about to go.
            thread::sleep(ATTACH_PAUSE);
            refuse_foreign(&info.name, info.ifindex)?;
        }
        match program.attach(info.ifindex, mode) {
            Ok(()) => return Ok(Ok(())),
            Err(AttachError::Program(error)) => return Err(error),
            Err(AttachError::NoLink) => {
                let error = io::Error::from_raw_os_error(libc::EINVAL);
                return Err(XdpError::Kernel { what: "bpf_link for XDP (Linux 5.9)", error });
            }
            Err(AttachError::Kernel(error)) => last = error,
        }
        match last.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {}
            Some(libc::EPERM | libc::EACCES) => {
                return Err(XdpError::privilege("attaching an XDP program"));
            }
            Some(libc::ENODEV) => {
                return Err(XdpError::NoSuchDevice { device: info.name.clone() });
            }
            _ => break,
        }
    }
    Ok(Err(last))
}

/// Notes that the driver does not offer zero-copy, where the kernel tells. True if it does not.
fn refuse_zerocopy(info: &DeviceInfo, rungs: &[Mode], ladder: &mut Ladder) -> bool {
    let features = sys::attached(info.ifindex).map_or(0, |attached| attached.features);
    // Without even the basic flag the kernel does not report (before 6.3): binding will.
    let refused = features & FEATURE_BASIC != 0 && features & FEATURE_ZEROCOPY == 0;
    if refused && rungs.contains(&Mode::NativeZerocopy) {
        let reason = format!("the driver {} does not offer it", info.driver);
        ladder.step_down(&info.name, Mode::NativeZerocopy, reason);
    }
    refused
}

/// The rung that is reached, if the configuration allows it.
pub(super) fn best(rungs: &[Mode], generic: bool, zerocopy_refused: bool) -> Option<Mode> {
    let mode = match (generic, zerocopy_refused) {
        (true, _) => Mode::Generic,
        (false, true) => Mode::NativeCopy,
        (false, false) => Mode::NativeZerocopy,
    };
    rungs.contains(&mode).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_with_too_few_queues_is_told_so() {
        let info = |driver: &str| DeviceInfo {
            name: "v0".to_owned(),
            ifindex: 1,
            mtu: 1_500,
            mac: [0; 6],
            queues: 2,
            driver: driver.to_owned(),
            offers_checksums: false,
        };
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        let reason = native_refused(&info("veth"), &error);
        assert!(
            reason.contains("more transmit queues") && reason.contains("ethtool -L"),
            "{reason}"
        );
        assert!(!native_refused(&info("ice"), &error).contains("transmit queues"));
    }
}
