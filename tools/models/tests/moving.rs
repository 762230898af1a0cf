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
