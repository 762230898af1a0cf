//! Every state of a takeover with two workers and three datagrams; and the model finds mistakes.

use quiclane_models::takeover::{Mistake, every_state};

#[test]
fn no_datagram_is_lost_and_no_socket_read_by_two() {
    let states = every_state(3, Mistake::None).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(states > 10_000, "{states}");
    println!("  {states} states");
}

#[test]
fn mistakes_are_found() {
    for (mistake, said) in [
        (Mistake::ReadsTooEarly, "both processes read"),
        (Mistake::LeavesTooEarly, "is lost"),
        (Mistake::PassesNothingOn, "is lost"),
        (Mistake::DoesNotResume, "reaches nobody"),
    ] {
        let fault = every_state(2, mistake).expect_err("a mistake that is not found");
        assert!(fault.contains(said), "{mistake:?}: {fault}");
    }
}
