//! Two [`Streams`](super::Streams) wired together, and what must hold between them.

mod attacks;
mod harness;
mod lifecycle;
mod model;
mod receiving;
mod sending;
