//! Connection ids that name server, worker and slot.
