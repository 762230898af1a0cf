//! Connections against each other, in virtual time.

mod attacks;
mod basics;
mod forge;
mod late_crypto;
mod pair;
mod recovery;

use super::*;
