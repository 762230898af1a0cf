//! Kernel UDP sockets.
