//! Every interleaving of a move with calls of handles, up to so many preemptions.

use quiclane_models::moving::calls_keep_their_order;

#[test]
fn three_calls_of_one_thread() {
    calls_keep_their_order(&[3], 1, 2);
}

#[test]
fn calls_of_two_threads() {
    calls_keep_their_order(&[1, 1], 0, 2);
}

/// Minutes: run it after a change of `src/exec/address.rs` or `src/exec/lane/moving.rs`.
#[test]
#[ignore = "takes minutes: run by hand"]
fn more_calls_and_more_preemptions() {
    for before in 0..3 {
        calls_keep_their_order(&[3], before, 3);
    }
    calls_keep_their_order(&[2, 1], 1, 2);
}
