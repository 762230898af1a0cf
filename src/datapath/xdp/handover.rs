//! A device that one process takes over from another.
//!
//! The link which holds the program on the device goes from hand to hand, and the device is never without a
//! program. The new process loads its own program, of its own version, with maps of its own. It enters the
//! sockets of the old process into them, and makes the link point to its program: from one packet to the next
//! the new program runs, and leads where the old one led. Then the queues change hands one by one: a slot
//! is emptied, so that packets fall to the kernel sockets beside; the old process closes its socket; the new
//! one binds its own.
//!
//! If the new process dies meanwhile, the old one makes the link, of which it has a descriptor too,
//! point to its own program again.

use super::attach::best;
use super::config::XdpConfig;
use super::device::{HandedDevice, XdpDevice};
use super::error::XdpError;
use super::inspect::inspect;
use super::ladder::{Ladder, rungs};
use super::loader::Program;
use super::steering::Steering;
use crate::datapath::headers::LinkRules;
use std::os::fd::AsRawFd;
use std::sync::Arc;

impl XdpDevice {
    /// Takes a device over: from now on this process's program runs, and leads to the queues' sockets of
    /// the other process.
    ///
    /// # Errors
    /// As [`XdpDevice::attach`]; also if the kernel does not take the program in place of the other.
    pub(crate) fn adopt(
        config: &XdpConfig,
        handed: HandedDevice,
    ) -> Result<(Arc<Self>, Ladder), XdpError> {
        config.validate()?;
        let info = inspect(config)?;
        let mut program =
            Program::load(info.queues, &LinkRules { mac: info.mac, vlans: config.vlans })?;
        for (queue, socket) in handed.sockets.iter().filter(|(queue, _)| *queue < info.queues) {
            program.set_socket(*queue, socket.as_raw_fd())?;
        }
        let rungs = rungs(config.require, config.force_mode);
        let zerocopy_refused = handed.zerocopy_refused;
        let reached = best(&rungs, handed.generic, zerocopy_refused);
        let ladder = Ladder { reached, ..Ladder::default() };
        if reached.is_none() {
            let device = info.name.clone();
            return Err(XdpError::Refused { device, require: config.require, ladder });
        }
        let program = Steering::Ours(Box::new(program));
        let device =
            Self::new(info, config, (program, ladder.clone()), handed.generic, zerocopy_refused);
        for (address, usage) in handed.ports {
            device.listen_as(address, usage)?;
        }
        device.take_link(handed.link)?;
        tracing::info!(device = device.name(), %ladder, "XDP program put in place of another process's");
        Ok((Arc::new(device), ladder))
    }
}
