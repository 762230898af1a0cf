//! Who runs what where.
