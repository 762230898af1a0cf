//! The models with more calls and more preemptions than `cargo test` has time for: minutes. Run it after
//! a change of `src/exec/address.rs` or `src/exec/lane/moving.rs`:
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
    println!("calls keep their order in every interleaving");
}
