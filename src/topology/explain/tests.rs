use super::*;
use crate::topology::Source;
use crate::topology::joined::{Evidence, QueueRow, queues};
use crate::topology::survey::Survey;
use crate::topology::survey::device::{
    AttachMode, Attached, Napi, Process, Program, ProgramMap, QueueLink, WorkerThread, XskSocket,
};
use crate::topology::survey::rss::{FlowHash, NtupleRule, RssContext};
use crate::topology::tests::{Tree, two_nodes};
use crate::topology::toeplitz::MICROSOFT_KEY;
use crate::topology::toeplitz::tests::KNOWN;

/// A two-node machine whose `eth2` (4 queues, node 1) gives these answers too.
struct Made {
    tree: Tree,
}

impl Made {
    /// Microsoft's key, 128 slots in turn, all fields hashed, no rules.
    fn new() -> Self {
        let made = Self { tree: two_nodes() };
        made.rss(vec![context(0)]).fields("sdfn").rules(&[])
    }

    fn answer<T: Serialize>(self, name: &str, value: &T) -> Self {
        let text = serde_json::to_string(&serde_json::json!({ "known": value })).unwrap();
        self.tree.file(&format!("quiclane/answers/{name}.json"), &text);
        self
    }

    fn rss(self, contexts: Vec<RssContext>) -> Self {
        self.answer("device/eth2/rss", &contexts)
    }

    fn fields(self, letters: &str) -> Self {
        let field = |flow| FlowHash { flow, letters: letters.to_owned(), context: 0 };
        self.answer("device/eth2/hash_fields", &FlowType::ALL.map(field))
    }

    fn rules(self, rules: &[NtupleRule]) -> Self {
        self.answer("device/eth2/rules", &rules)
    }

    fn survey(&self) -> Survey {
        Survey::read(&Source::captured(&self.tree.0))
    }

    fn predict(&self, question: &Question) -> Prediction {
        let survey = self.survey();
        let (nic, device) = survey.device("eth2").unwrap();
        predict(nic, device, question)
    }

    /// The outcome for a flow of UDP over IPv4.
    fn outcome(&self) -> Outcome {
        self.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766")).outcome
    }
}

fn context(id: u32) -> RssContext {
    RssContext {
        id,
        hash_function: Some("toeplitz".to_owned()),
        input_transform: None,
        key: MICROSOFT_KEY.to_vec(),
        table: (0..128).map(|slot| slot % 4).collect(),
    }
}

fn udp(source: &str, destination: &str) -> Question {
    let flow = Flow { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
    Question { flow, protocol: Protocol::Udp }
}

fn rule(location: u32, action: RuleAction) -> NtupleRule {
    NtupleRule { location, flow: "udp4".to_owned(), action, ..NtupleRule::default() }
}

fn unknown_reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Unknown(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn microsofts_known_answers_come_out_of_a_whole_machine() {
    for (letters, with_ports) in [("sd", false), ("sdfn", true)] {
        let made = Made::new().fields(letters);
        for (destination, source, alone, ports) in KNOWN {
            let expected = if with_ports { ports } else { alone };
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let found = made.predict(&Question { protocol, ..udp(source, destination) });
                let placement = found.hashing.clone().unwrap().placement.unwrap();
                assert_eq!(placement.hash, expected, "{source} -> {destination} {letters}");
                assert_eq!(placement.slot, expected as usize % 128);
                assert_eq!(found.outcome, Outcome::Queue(expected % 128 % 4));
                assert_eq!(found.doubts, Vec::<String>::new());
            }
        }
    }
}

#[test]
fn a_symmetric_input_is_hashed_as_the_kernel_defines_it() {
    let symmetric =
        |transform: &str| RssContext { input_transform: Some(transform.to_owned()), ..context(0) };
    for transform in ["symmetric-xor", "symmetric-or-xor"] {
        let made = Made::new().rss(vec![symmetric(transform)]);
        for (a, b, ..) in KNOWN {
            let hash = |q: &Question| made.predict(q).hashing.unwrap().placement.unwrap().hash;
            assert_eq!(hash(&udp(a, b)), hash(&udp(b, a)), "{transform} {a} {b}");
        }
    }
    let reason = unknown_reason(Made::new().rss(vec![symmetric("sideways")]).outcome());
    assert!(reason.contains("sideways"), "{reason}");
}

#[test]
fn what_only_the_device_knows_is_unknown_with_the_reason() {
    let other = |name: &str| RssContext { hash_function: Some(name.to_owned()), ..context(0) };
    for function in ["xor", "crc32"] {
        let reason = unknown_reason(Made::new().rss(vec![other(function)]).outcome());
        assert!(reason.contains(function) && reason.contains("hfunc toeplitz"), "{reason}");
    }
    let reason = unknown_reason(Made::new().fields("sdf").outcome());
    assert!(reason.contains("sdf"), "{reason}");
    let short = RssContext { key: MICROSOFT_KEY[..12].to_vec(), ..context(0) };
    let reason = unknown_reason(Made::new().rss(vec![short]).outcome());
    assert!(reason.contains("12 bytes"), "{reason}");
    let unnamed = RssContext { hash_function: None, ..context(0) };
    let found = Made::new().rss(vec![unnamed]).predict(&udp("192.0.2.1:1", "192.0.2.2:2"));
    assert!(matches!(found.outcome, Outcome::Queue(_)));
    assert!(found.doubts[0].contains("hash function"), "{:?}", found.doubts);
}

#[test]
fn unknown_fields_give_both_answers_and_no_queue() {
    let made = Made { tree: two_nodes() }.rss(vec![context(0)]).rules(&[]);
    let reason = unknown_reason(made.outcome());
    // 0x323e8fc2 and 0x51ccc178, by the low two bits.
    assert!(reason.contains("queue 2") && reason.contains("queue 0"), "{reason}");
}

#[test]
fn fields_may_say_that_packets_are_dropped_or_not_hashed() {
    assert_eq!(Made::new().fields("r").outcome(), Outcome::Dropped);
    let reason = unknown_reason(Made::new().fields("").outcome());
    assert!(reason.contains("nothing is hashed"), "{reason}");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let to = |location, queue| rule(location, RuleAction::Queue(queue));
    assert_eq!(Made::new().rules(&[to(9, 1), to(3, 3)]).outcome(), Outcome::Queue(3));
    let other_port = NtupleRule { destination_port: Some((443, u16::MAX)), ..to(1, 1) };
    let made = Made::new().rules(&[other_port, to(2, 2)]);
    let found = made.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    let verdicts: Vec<_> = found.rules.iter().map(|rule| &rule.verdict).collect();
    assert_eq!(verdicts, [&Match::No, &Match::Yes]);
    assert_eq!((found.outcome, found.hashing), (Outcome::Queue(2), None));
    assert_eq!(Made::new().rules(&[rule(0, RuleAction::Drop)]).outcome(), Outcome::Dropped);
    let away = RuleAction::VirtualFunction { function: 2, queue: 1 };
    let outcome = Made::new().rules(&[rule(0, away)]).outcome();
    assert_eq!(outcome, Outcome::VirtualFunction { function: 2, queue: 1 });
}

#[test]
fn masks_say_which_bits_count() {
    let net = |address: &str, mask: &str| Some((address.to_owned(), mask.to_owned()));
    let to = rule(0, RuleAction::Queue(3));
    for (name, matches, rule) in [
        ("its /8", true, NtupleRule { source: net("66.0.0.0", "255.0.0.0"), ..to.clone() }),
        ("other /8", false, NtupleRule { source: net("67.0.0.0", "255.0.0.0"), ..to.clone() }),
        ("IPv6", false, NtupleRule { destination: net("::", "::"), ..to.clone() }),
        ("low byte", true, NtupleRule { source_port: Some((0xffea, 0x00ff)), ..to.clone() }),
        ("high byte", false, NtupleRule { source_port: Some((0xffea, 0xff00)), ..to.clone() }),
        ("any IPv4", true, NtupleRule { flow: "ip4".to_owned(), ..to.clone() }),
        ("TCP", false, NtupleRule { flow: "tcp4".to_owned(), ..to.clone() }),
        ("no VLAN bits", true, NtupleRule { vlan: Some((5, 0)), ..to }),
    ] {
        // By the hash it would be queue 0.
        let expected = if matches { Outcome::Queue(3) } else { Outcome::Queue(0) };
        assert_eq!(Made::new().rules(&[rule]).outcome(), expected, "{name}");
    }
}

#[test]
fn a_rule_that_looks_elsewhere_makes_it_unsure_but_not_if_a_field_differs() {
    let others = vec!["destination MAC".to_owned()];
    let unsure = NtupleRule { others, ..rule(7, RuleAction::Queue(3)) };
    let vlan = NtupleRule { vlan: Some((100, 0xfff)), ..rule(8, RuleAction::Queue(3)) };
    let ether = NtupleRule { flow: "ether".to_owned(), ..rule(9, RuleAction::Queue(3)) };
    let differs = NtupleRule { source_port: Some((1, u16::MAX)), ..unsure.clone() };
    let found = Made::new()
        .rules(&[unsure, vlan, ether])
        .predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    assert_eq!(found.outcome, Outcome::Queue(0));
    assert_eq!(found.doubts.len(), 3, "{:?}", found.doubts);
    assert!(found.doubts[0].contains("rule 7") && found.doubts[0].contains("MAC"));
    let sure = Made::new().rules(&[differs]);
    let found = sure.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    assert_eq!(found.doubts, Vec::<String>::new());
}

#[test]
fn a_rule_may_send_it_to_another_context() {
    let second = RssContext { table: vec![1; 64], ..context(5) };
    let action = RuleAction::Context { queue_offset: 2, context: 5 };
    let made = Made::new().rss(vec![context(0), second]).rules(&[rule(0, action)]);
    let found = made.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    let hashing = found.hashing.unwrap();
    assert_eq!((hashing.context, hashing.slots, hashing.queue_offset), (5, 64, 2));
    assert_eq!(found.outcome, Outcome::Queue(3));
    // What a captured machine says is not always true.
    let far = RuleAction::Context { queue_offset: u32::MAX, context: 5 };
    let reason = unknown_reason(made.rules(&[rule(0, far)]).outcome());
    assert!(reason.contains("4294967295"), "{reason}");
    let lost = RuleAction::Context { queue_offset: 0, context: 6 };
    let reason = unknown_reason(Made::new().rules(&[rule(0, lost)]).outcome());
    assert!(reason.contains('6'), "{reason}");
}

#[test]
fn rules_that_could_not_be_read_are_a_doubt_and_mixed_families_no_flow() {
    let made = Made { tree: two_nodes() }.rss(vec![context(0)]).fields("sdfn");
    let found = made.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    assert_eq!(found.queue(), Some(0));
    assert!(found.doubts[0].contains("may be classification rules"), "{:?}", found.doubts);
    // A driver that has no rules at all need not be asked for them.
    let made = made.answer("device/eth2/features", &serde_json::json!({}));
    let found = made.predict(&udp("66.9.149.187:2794", "161.142.100.80:1766"));
    assert_eq!(found.doubts, Vec::<String>::new());
    let reason = unknown_reason(made.predict(&udp("192.0.2.1:1", "[2001:db8::1]:2")).outcome);
    assert!(reason.contains("families"), "{reason}");
}

fn links() -> Vec<QueueLink> {
    let link = |index| QueueLink {
        index,
        direction: crate::topology::survey::device::Direction::Rx,
        napi: Some(500 + index),
        has_xsk: None,
    };
    (0..4).map(link).collect()
}

fn socket(pid: u32) -> XskSocket {
    let worker = |queue: u32| WorkerThread {
        tid: pid + 1 + queue,
        name: format!("quiclane-q{queue}"),
        cpus: vec![2 + queue],
        queue: Some(queue),
    };
    XskSocket {
        inode: 77,
        process: Some(Process { pid, name: "quiclane".to_owned() }),
        workers: vec![worker(0), worker(1)],
        device: None,
        queue: None,
        zerocopy: None,
        rx_ring: None,
        tx_ring: None,
        counters: None,
    }
}

fn program(id: u32, owner: u32) -> Program {
    Program {
        id,
        name: "steer".to_owned(),
        kind: "xdp".to_owned(),
        tag: String::new(),
        loaded_ns: 0,
        uid: 0,
        maps: vec![ProgramMap {
            id: 1,
            name: "sockets".to_owned(),
            kind: "xskmap".to_owned(),
            max_entries: 64,
            queues: None,
        }],
        links: Vec::new(),
        processes: vec![Process { pid: owner, name: "quiclane".to_owned() }],
        pins: Vec::new(),
    }
}

fn row(made: &Made, queue: usize) -> QueueRow {
    queues(&made.survey(), "eth2").unwrap().swap_remove(queue)
}

#[test]
fn a_row_goes_from_the_queue_to_the_node_by_napis_interrupt() {
    // NAPI says 67 (CPU 6) where the name would say 65.
    let napi = Napi { id: 500, irq: Some(67), ..Napi::default() };
    let made = Made::new().answer("device/eth2/queue_links", &links());
    let made = made.answer("device/eth2/napis", &[napi]);
    let first = row(&made, 0);
    assert_eq!(first.irq.known().map(|irq| irq.number), Some(67));
    assert_eq!((first.cpus.known(), first.node.known()), (Some(&vec![6]), Some(&1)));
    assert_eq!(first.crosses_node, Some(false));
    // Queue 3 by its name: CPU 0, which is on the other node.
    let last = row(&made, 3);
    assert_eq!(last.irq.known().map(|irq| irq.number), Some(68));
    assert_eq!((last.node.known(), last.crosses_node), (Some(&0), Some(true)));
    assert!(last.packets.reason().unwrap().contains("qstats-get"), "{}", last.packets);
}

#[test]
fn a_socket_is_found_by_the_kernels_list() {
    let listed = XskSocket { device: Some(4), queue: Some(1), ..socket(812) };
    let made = Made::new().answer("sockets", &[listed]);
    let holder = row(&made, 1).holder.known().cloned().unwrap().unwrap();
    assert_eq!(holder.evidence, Evidence::SocketList);
    assert_eq!(holder.worker.unwrap().name, "quiclane-q1");
    assert_eq!(row(&made, 0).holder, Reading::Known(None));
}

#[test]
fn without_the_list_the_holder_of_the_program_has_the_queue_that_its_thread_names() {
    let attached = Attached { mode: AttachMode::Native, program: 198 };
    let made = Made::new()
        .answer("sockets", &[socket(812), socket(900)])
        .answer("device/eth2/attached", &[attached])
        .answer("programs", &[program(198, 812), program(7, 900)]);
    let holder = row(&made, 1).holder.known().cloned().unwrap().unwrap();
    assert_eq!(holder.process.unwrap().pid, 812);
    assert_eq!(holder.evidence, Evidence::Program);
    assert_eq!(row(&made, 3).holder, Reading::Known(None), "no thread is named after queue 3");
}

#[test]
fn a_server_that_describes_itself_is_believed_where_the_kernel_lists_no_sockets() {
    let made = Made::new().answer("sockets", &[socket(812), socket(900)]);
    made.tree.link("proc/self/ns/net", "net:[1]");
    made.tree.file("proc/900/stat", &format!("900 (quiclane) S {} 77 0", "0 ".repeat(18)));
    let description = serde_json::json!({
        "schema": "quiclane.status/1", "pid": 900, "started_ticks": 77,
        "network_namespace": "net:[1]", "listen": "0.0.0.0:4433",
        "workers": [{
            "queue": 1, "device": "eth2", "cpu": 3, "mode": "native-copy", "error": null,
            "rx_packets": 0, "drops": 0, "wrong_queue": 0, "wrong_queue_recent": 0,
            "connections": 0,
        }],
    });
    made.tree.file("run/quiclane/900.json", &description.to_string());
    let holder = row(&made, 1).holder.known().cloned().unwrap().unwrap();
    assert_eq!((holder.evidence, holder.zerocopy), (Evidence::Server, Some(false)));
    assert_eq!((holder.process.unwrap().pid, holder.worker.unwrap().tid), (900, 902));
    // With the description gone the two cannot be told apart.
    std::fs::remove_file(made.tree.0.join("run/quiclane/900.json")).unwrap();
    assert!(row(&made, 1).holder.known().is_none());
}

#[test]
fn two_processes_that_may_have_the_queue_are_not_told_apart_by_guessing() {
    let made = Made::new().answer("sockets", &[socket(812), socket(900)]);
    let reason = row(&made, 1).holder;
    assert!(reason.reason().unwrap().contains("2 processes"), "{reason:?}");
    let one = Made::new().answer("sockets", &[socket(812)]);
    let holder = row(&one, 1).holder.known().cloned().unwrap().unwrap();
    assert_eq!(holder.evidence, Evidence::ThreadName);
}
