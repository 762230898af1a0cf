use super::*;
use crate::topology::{Cpu, Reading};

fn machine(cpus: &[(u32, u32)]) -> Machine {
    let mut machine = crate::topology::Source::live().machine();
    let example = machine.cpus[0].clone();
    let cpu = |&(id, node): &(u32, u32)| Cpu { id, node: Reading::Known(node), ..example.clone() };
    machine.cpus = cpus.iter().map(cpu).collect();
    machine
}

fn row(queue: u32, cpu: u32, node: Option<u32>) -> Assignment {
    Assignment { queue, cpu, node }
}

fn cpus(places: &[WorkerPlacement]) -> Vec<(u32, Option<u32>)> {
    places.iter().map(|place| (place.queue, place.cpu)).collect()
}

#[test]
fn quic_threads_sit_on_their_queues_node_and_on_no_queues_cpu() {
    let machine = machine(&[(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1), (6, 0), (7, 1)]);
    let rows = [row(4, 2, Some(0)), row(5, 1, Some(1))];
    let allowed: Vec<u32> = (0..8).collect();
    let places = beside(&machine, &rows, &allowed, 3);
    assert_eq!(
        cpus(&places),
        [(4, Some(0)), (4, Some(4)), (4, Some(6)), (5, Some(3)), (5, Some(5)), (5, Some(7))]
    );
    // None is left: the scheduler places the fourth, on the node.
    let places = beside(&machine, &rows[..1], &allowed, 4);
    assert_eq!((places[3].cpu, places[3].node), (None, Some(0)));
    // Only what the process may use.
    assert_eq!(cpus(&beside(&machine, &rows[..1], &[2, 4], 2)), [(4, Some(4)), (4, None)]);
    // Of a queue whose node is not known, any will do.
    assert_eq!(cpus(&beside(&machine, &[row(0, 0, None)], &allowed, 1)), [(0, Some(1))]);
}

/// The thread of a queue, and the lines to it.
fn queue(count: usize) -> (Vec<Line>, JoinHandle<()>) {
    let tuning = crate::exec::config::UdpTuning::default();
    let source = Source::Udp { tuning, ladder: Vec::new() };
    let key = Some([1; 16]);
    let config = crate::lb::Config { config_id: 0, server_id: 0, key, secret: [2; 16] };
    let codec = Codec::new(&config).unwrap();
    let fleet = WorkerFleet::new(count, 16).unwrap();
    let plan = Plan {
        source: &source,
        fleet: &fleet,
        codec: &codec,
        clock: Clock::monotonic(),
        polling: Polling::Sleep,
        workers_of_a_queue: count,
    };
    let queues = vec![("queue".to_owned(), WorkerPlacement::default())];
    let (lines, mut threads) = plan.start(queues).unwrap();
    (lines, threads.remove(0))
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn an_address_to_listen_on_is_opened_once_and_each_client_gets_its_own() {
    let (lines, thread) = queue(2);
    let (bound, made) = lines[0].open(any_port(), Purpose::Listen, false).unwrap();
    assert!(matches!(made, Some(AnyDatapath::Relay(_))));
    let (again, made) = lines[1].open(bound, Purpose::Listen, true).unwrap();
    assert!(again == bound && made.is_none());
    let own = |at: usize| lines[at].open(any_port(), Purpose::Connect, true).unwrap().0;
    assert_ne!(own(0), own(1));
    // An address that is not this machine's: the thread goes on.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error =
        lines[0].open(elsewhere, Purpose::Connect, true).map(|(bound, _)| bound).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    own(0);
    drop(lines);
    thread.join().unwrap();
}

#[test]
fn a_thread_of_a_queue_that_has_ended_is_an_error_and_nobody_waits_for_it() {
    let (lines, thread) = queue(2);
    let (_, made) = lines[0].open(any_port(), Purpose::Listen, false).unwrap();
    // As if it had ended by itself: it counts its lines.
    lines[0].hub.hang_up();
    lines[0].hub.hang_up();
    thread.join().unwrap();
    let error = lines[1].open(any_port(), Purpose::Listen, false).map(|(bound, _)| bound);
    assert!(matches!(error, Err(OpenDatapathError::QueueThread(0))), "{error:?}");
    let mut datapath = made.unwrap();
    let error = datapath.flush().unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
    // It does not count below nothing.
    lines.into_iter().for_each(std::mem::forget);
}

#[test]
fn what_a_worker_sent_before_it_ended_still_leaves() {
    use crate::datapath::{Link as LinkLayer, Path};
    use crate::ecn::Ecn;
    let (lines, thread) = queue(1);
    let peer = std::net::UdpSocket::bind(any_port()).unwrap();
    peer.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let (local, made) = lines[0].open(any_port(), Purpose::Connect, false).unwrap();
    let mut datapath = made.unwrap();
    let remote = peer.local_addr().unwrap();
    let path = Path { local, remote, link: LinkLayer::UNKNOWN };
    for number in 0..100 {
        datapath.tx_buffer(&path).unwrap()[0] = number;
        datapath.tx_commit(1, &path, Ecn::NotEct);
    }
    // Without a flush.
    drop(datapath);
    drop(lines);
    thread.join().unwrap();
    for number in 0..100 {
        let mut byte = [0];
        assert_eq!((peer.recv(&mut byte).unwrap(), byte), (1, [number]));
    }
}
