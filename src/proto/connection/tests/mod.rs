//! Connections against each other, in virtual time.

mod attacks;
mod attacks_seen;
mod basics;
mod delivery;
mod early;
mod ecn;
mod ends;
mod forge;
mod judging;
mod keys;
mod late_crypto;
mod migration;
mod network;
mod observe;
mod pair;
mod paths;
mod preferred;
mod rebinding;
mod recovery;
mod rotation;
mod slow;

use super::*;
use crate::proto::streams::StreamEvent;
use crate::wire::Dir;
