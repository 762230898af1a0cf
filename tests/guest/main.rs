//! Tests that need a NIC: what `tools/lab vm test` runs in its QEMU guest.
//!
//! The guest has two memory nodes and igb NICs with 4 queues, `lane0` on node 0 and `lane1` on
//! node 1; behind each is a peer, `peer0` and `peer1`, in the namespace `peer`. Where the rig may
//! make them there are virtio NICs as well, `lane2` and `peer2`. Outside of the
//! guest this program says so and does nothing.
//!
//! The tests share the NICs and run one after another, in the order of [`TESTS`]. `guest WORD`
//! runs those with WORD in their names. The first word may also be one of [`ROLES`], for which the
//! tests start this program again, in the namespace or on certain CPUs.

mod download;
mod explain;
mod flows;
mod lane;
mod nic;
mod numa;
mod place;
mod rss;
mod server;
mod survey;
mod virtio;
mod zerocopy;

use std::process::ExitCode;

/// The result of a test: nothing, or what was wrong.
type Outcome = Result<(), String>;

/// A name, and its test.
type Test = (&'static str, fn() -> Outcome);

const TESTS: &[Test] = &[
    ("nic::two_nodes_and_a_nic_on_each", nic::two_nodes_and_a_nic_on_each),
    ("nic::the_library_reads_the_same_machine", nic::the_library_reads_the_same_machine),
    ("rss::udp_without_ports_meets_on_one_queue", rss::udp_without_ports_meets_on_one_queue),
    ("rss::flows_go_where_toeplitz_says", rss::flows_go_where_toeplitz_says),
    (
        "explain::every_flow_goes_where_it_was_explained",
        explain::every_flow_goes_where_it_was_explained,
    ),
    ("zerocopy::echoes_every_flow_on_its_queue", zerocopy::echoes_every_flow_on_its_queue),
    ("lane::workers_and_frames_are_on_the_node", lane::workers_and_frames_are_on_the_node),
    ("lane::downloads_are_byte_exact", lane::downloads_are_byte_exact),
    ("lane::connections_land_where_toeplitz_says", lane::connections_land_where_toeplitz_says),
    ("lane::connections_follow_the_table", lane::connections_follow_the_table),
    ("lane::downloads_survive_changes_of_the_table", lane::downloads_survive_changes_of_the_table),
    ("survey::ethtool_and_the_survey_agree", survey::ethtool_and_the_survey_agree),
    (
        "survey::keys_tables_and_fields_are_those_of_ethtool",
        survey::keys_tables_and_fields_are_those_of_ethtool,
    ),
    ("survey::queues_lead_to_interrupts_and_cpus", survey::queues_lead_to_interrupts_and_cpus),
    (
        "survey::a_zerocopy_server_is_seen_on_its_queues",
        survey::a_zerocopy_server_is_seen_on_its_queues,
    ),
    (
        "place::what_a_nic_has_is_written_and_put_back",
        place::what_a_nic_has_is_written_and_put_back,
    ),
    (
        "place::a_plan_of_the_tool_brings_queue_and_cpu_together",
        place::a_plan_of_the_tool_brings_queue_and_cpu_together,
    ),
    (
        "place::workers_sit_where_interrupts_are_served",
        place::workers_sit_where_interrupts_are_served,
    ),
    ("place::the_kernel_polls_a_queue_and_stops", place::the_kernel_polls_a_queue_and_stops),
    ("place::a_change_of_the_table_is_heard", place::a_change_of_the_table_is_heard),
    (
        "virtio::every_flow_has_the_hash_that_was_predicted",
        virtio::every_flow_has_the_hash_that_was_predicted,
    ),
    (
        "virtio::another_key_than_the_explained_one_is_a_mismatch",
        virtio::another_key_than_the_explained_one_is_a_mismatch,
    ),
    ("virtio::a_table_that_was_set_is_left_alone", virtio::a_table_that_was_set_is_left_alone),
    ("lane::a_killed_server_leaves_nothing", lane::a_killed_server_leaves_nothing),
];

/// The other roles of this program, in which tests start it: a name, and its function.
type Role = (&'static str, fn(&[String]) -> Outcome);

const ROLES: &[Role] = &[
    ("download", download::role),
    ("send", flows::send_role),
    ("want-echo", flows::want_echo_role),
    ("echo", zerocopy::echo_role),
];

/// Fails the test with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
use ensure;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os("QUICLANE_LAB_GUEST").is_none() {
        println!("guest tests skipped: not in the guest; `tools/lab vm test` runs them");
        return ExitCode::SUCCESS;
    }
    if let Some((_, role)) =
        ROLES.iter().find(|(name, _)| arguments.first().is_some_and(|first| first == name))
    {
        return match role(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("guest {}: {error}", arguments.join(" "));
                ExitCode::FAILURE
            }
        };
    }
    run(&arguments)
}

fn run(filters: &[String]) -> ExitCode {
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|word| name.contains(word));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        if name.starts_with("virtio::") && !virtio::is_there() {
            println!("test {name} ... SKIPPED: the rig has no virtio NICs (it makes them as root)");
            skipped += 1;
            continue;
        }
        match test() {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED: {error}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 || passed + skipped == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
