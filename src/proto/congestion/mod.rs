//! congestion.
