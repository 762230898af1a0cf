//! A dozen seeds of the deterministic simulator, twice each, through the public API. `tools/sim`
//! runs thousands; what a seed stands for and what must hold is in `tools/src/sim`.

#[path = "../tools/src/sim/agent.rs"]
mod agent;
#[path = "../tools/src/sim/oracle.rs"]
mod oracle;
#[path = "../tools/src/sim/run.rs"]
mod run;
#[path = "../tools/src/sim/scenario.rs"]
mod scenario;

#[test]
fn a_dozen_seeds_hold_and_repeat() {
    let mut finished = 0;
    for seed in 0..12 {
        let first = run::run(seed).unwrap();
        assert!(first.complaints.is_empty(), "tools/sim --seeds 1 --from {seed}: {first:#?}");
        let second = run::run(seed).unwrap();
        assert_eq!(first, second, "seed {seed}: two runs differ");
        finished += first.finished;
    }
    assert!(finished > 24, "only {finished} ends of connections saw all their streams through");
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run::run(1).unwrap().hash, run::run(2).unwrap().hash);
}
