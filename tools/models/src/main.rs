//! The models with more calls and more preemptions than `cargo test` has time for: minutes. Run it after
//! a change of `src/exec/address.rs`, `src/exec/lane/moving.rs` or `src/exec/takeover`:
//!
//! ```sh
//! cargo run --release --package quiclane-models
//! ```

use quiclane_models::moving::calls_keep_their_order;

fn main() {
    for before in 0..3 {
        calls_keep_their_order(&[3], before, 3);
    }
    calls_keep_their_order(&[2, 1], 1, 2);
    match quiclane_models::takeover::every_state(4, quiclane_models::takeover::Mistake::None) {
        Ok(states) => println!("no datagram is lost in {states} states of a takeover"),
        Err(fault) => panic!("{fault}"),
    }
    println!("calls keep their order in every interleaving");
}
