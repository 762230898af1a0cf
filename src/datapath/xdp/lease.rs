//! A queue of a device while a datapath has it.

use super::device::XdpDevice;
use super::error::{Holder, XdpError};
use super::socket::{BindError, Binding, Socket};
use crate::datapath::Mode;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A queue of a device, taken by a datapath until it is dropped.
pub(super) struct QueueLease {
    device: Arc<XdpDevice>,
    queue: u32,
}

impl QueueLease {
    /// Takes a queue that is there and free.
    pub(super) fn take(device: &Arc<XdpDevice>, queue: u32) -> Result<Self, XdpError> {
        let (name, queues) = (device.name(), device.queues());
        if queue >= queues {
            return Err(XdpError::QueueOutOfRange { device: name.to_owned(), queue, queues });
        }
        if !device.take_queue(queue) {
            let us = Holder { pid: std::process::id(), name: "this process".to_owned() };
            return Err(XdpError::QueueBusy { device: name.to_owned(), queue, holders: vec![us] });
        }
        Ok(Self { device: Arc::clone(device), queue })
    }

    pub(super) fn device(&self) -> &XdpDevice {
        &self.device
    }

    pub(super) fn shared(&self) -> Arc<XdpDevice> {
        Arc::clone(&self.device)
    }

    pub(super) const fn queue(&self) -> u32 {
        self.queue
    }

    /// Binds a socket on the best rung that is left, and enters it into the XSKMAP.
    pub(super) fn bind(&self) -> Result<Socket, XdpError> {
        let device = &self.device;
        if device.may_be_zerocopy() {
            match self.bind_mode(Mode::NativeZerocopy) {
                Ok(socket) => return self.enter(socket),
                Err(BindError::Fatal(error)) => return Err(error),
                Err(BindError::Mode(error)) => device.refuse_zerocopy(self.queue, &error)?,
            }
        }
        match self.bind_mode(device.copy_mode()) {
            Ok(socket) => self.enter(socket),
            Err(BindError::Fatal(error)) => Err(error),
            Err(BindError::Mode(error)) => {
                let call = "bind(AF_XDP)";
                Err(XdpError::System { device: device.name().to_owned(), call, error })
            }
        }
    }

    fn bind_mode(&self, mode: Mode) -> Result<Socket, BindError> {
        let (info, config) = (self.device.info(), self.device.config());
        if mode == Mode::NativeZerocopy && config.chunk_bytes < 4096 && info.driver == "igb" {
            let (device, driver) = (info.name.clone(), info.driver.clone());
            return Err(XdpError::ChunkTooSmall { device, driver, needed: 4096 }.into());
        }
        Socket::open(&Binding {
            device: &info.name,
            ifindex: info.ifindex,
            queue: self.queue,
            mode,
            config,
            metadata: config.metadata(mode, info.offers_checksums),
        })
    }

    /// Enters a bound socket into the XSKMAP, and checks that it got there.
    fn enter(&self, socket: Socket) -> Result<Socket, XdpError> {
        self.enter_fd(socket.fd)?;
        self.verify_slot()?;
        Ok(socket)
    }

    /// Empties the slot of this queue, as a mistake would.
    #[cfg(test)]
    pub(super) fn empty_slot(&self) {
        self.device.empty_slot(self.queue);
    }

    pub(super) fn enter_fd(&self, fd: RawFd) -> Result<(), XdpError> {
        self.device.set_slot(self.queue, fd)
    }

    /// A slot with the socket of another queue loses every packet while all counters of the kernel
    /// stay at zero: so the program itself is asked where the slot leads.
    pub(super) fn verify_slot(&self) -> Result<(), XdpError> {
        let found = self.device.slot(self.queue)?;
        if found == Some(self.queue) {
            return Ok(());
        }
        let device = self.device.name().to_owned();
        Err(XdpError::WrongSlot { device, queue: self.queue, found })
    }
}

impl Drop for QueueLease {
    fn drop(&mut self) {
        self.device.give_back_queue(self.queue);
    }
}
