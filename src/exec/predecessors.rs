//! The processes that this one has taken over from, as far as they live: where to pass their datagrams.

use crate::datapath::RxMeta;
use crate::datapath::fed::{self, Fed};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// See the [module](self). The last one is the one that was taken over from.
#[derive(Debug, Default)]
pub(super) struct Predecessors(Box<[Predecessor]>);

#[derive(Debug)]
struct Predecessor {
    process: u8,
    /// To its workers, by number.
    feeds: Vec<OwnedFd>,
    /// It gets what nobody here is for.
    takes_unknown: AtomicBool,
    gone: AtomicBool,
}

impl Predecessors {
    /// From feeds, each with its process and worker, in their order. The last process is the one that is being
    /// taken over from.
    pub(super) fn new(feeds: Vec<(u8, OwnedFd)>) -> Self {
        let mut all: Vec<Predecessor> = Vec::new();
        for (process, feed) in feeds {
            match all.last_mut() {
                Some(last) if last.process == process => last.feeds.push(feed),
                _ => all.push(Predecessor {
                    process,
                    feeds: vec![feed],
                    takes_unknown: AtomicBool::new(false),
                    gone: AtomicBool::new(false),
                }),
            }
        }
        if let Some(last) = all.last() {
            last.takes_unknown.store(true, Ordering::Relaxed);
        }
        Self(all.into())
    }

    fn living(&self) -> impl Iterator<Item = &Predecessor> {
        self.0.iter().filter(|one| !one.gone.load(Ordering::Relaxed))
    }

    /// True if this process lives, as far as is known.
    pub(super) fn has(&self, process: u8) -> bool {
        self.living().any(|one| one.process == process)
    }

    /// The process that gets what nobody here is for.
    pub(super) fn for_unknown(&self) -> Option<u8> {
        self.living().find(|one| one.takes_unknown.load(Ordering::Relaxed)).map(|one| one.process)
    }

    /// From now on what nobody here is for is nobody's.
    pub(super) fn complete(&self) {
        self.0.iter().for_each(|one| one.takes_unknown.store(false, Ordering::Relaxed));
    }

    /// Passes a datagram on to a worker of a process. False if it is dropped.
    pub(super) fn pass_on(
        &self,
        (process, worker): (u8, u16),
        meta: &RxMeta,
        datagram: &[u8],
    ) -> bool {
        let Some(one) = self.living().find(|one| one.process == process) else { return false };
        // It may have fewer workers than this process: any of them finds the one.
        let feed = one.feeds.get(usize::from(worker) % one.feeds.len().max(1));
        match feed.map(|feed| fed::pass_on(feed.as_fd(), meta, datagram)) {
            Some(Fed::Yes) => true,
            Some(Fed::Full) | None => false,
            Some(Fed::Gone) => {
                one.gone.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Looks which processes live, and gives their feeds: for a successor.
    pub(super) fn share(&self) -> io::Result<Vec<(u8, OwnedFd)>> {
        let mut shared = Vec::new();
        for one in &self.0 {
            // Nothing ever comes back: an end does.
            let peek = one.feeds.first().map(|feed| {
                let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
                rustix::net::recv(feed, &mut [0; 1][..], flags)
            });
            if !matches!(peek, Some(Err(Errno::AGAIN))) {
                one.gone.store(true, Ordering::Relaxed);
            }
            if !one.gone.load(Ordering::Relaxed) {
                for feed in &one.feeds {
                    shared.push((one.process, feed.try_clone()?));
                }
            }
        }
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Checksum, Link, Path};
    use crate::ecn::Ecn;

    fn meta() -> RxMeta {
        let address = "127.0.0.1:443".parse().unwrap();
        let path = Path { local: address, remote: address, link: Link::UNKNOWN };
        RxMeta { path, ecn: Ecn::Ect0, checksum: Checksum::Verified }
    }

    #[test]
    fn a_process_that_ended_gets_nothing_and_gives_no_feed() {
        let pairs: Vec<_> = (0..4).map(|_| fed::feed().unwrap()).collect();
        let (far, mut near): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let all = Predecessors::new([0, 0, 1, 1].into_iter().zip(far).collect());
        assert!(all.has(0) && all.has(1) && !all.has(2));
        assert_eq!(all.for_unknown(), Some(1), "the last one");
        assert!(all.pass_on((1, 5), &meta(), b"x"), "any worker of it");
        assert!(!all.pass_on((2, 0), &meta(), b"x"));
        assert_eq!(all.share().unwrap().len(), 4);
        near.truncate(2);
        assert!(!all.pass_on((1, 0), &meta(), b"x"));
        assert!(!all.has(1) && all.for_unknown().is_none());
        assert_eq!(all.share().unwrap().len(), 2);
        near.clear();
        assert!(all.has(0), "nothing was sent yet");
        assert!(all.share().unwrap().is_empty() && !all.has(0));
    }
}
