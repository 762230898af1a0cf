//! Connections against each other, in virtual time.

mod basics;
mod pair;

use super::*;
