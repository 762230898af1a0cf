//! The profile `MaxThroughput`: a thread for the sockets, and others for QUIC.

use super::*;
use quiclane::exec::Profile;
use quiclane::lb::MAX_WORKERS;

/// So many threads with sockets, and two QUIC threads for each.
fn apart(queues: usize) -> RegistrationConfig {
    RegistrationConfig { profile: Profile::MaxThroughput, ..workers(queues) }
}

fn message(of: usize) -> Vec<u8> {
    (0..200_000).map(|n| ((n * (of + 3)) % 251) as u8).collect()
}

/// Threads of this process whose name ends like this.
fn threads(suffix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(name).filter(|name| name.trim_end().ends_with(suffix)).count()
}

#[test]
fn both_quic_threads_of_a_queue_serve_connections_and_every_byte_comes_back() {
    let (server_config, client_config) = configs();
    let name = "apart".to_owned();
    let server = open(RegistrationConfig { name, ..apart(1) });
    assert_eq!((server.workers(), threads("apart-d0"), threads("apart-1")), (2, 1, 1));
    let listener = echo_server(&server, &server_config);
    // A client whose connections have a port each would spread with any hash; these share two.
    let client = open(workers(2));
    let began: Vec<_> = (0..24)
        .map(|of| {
            let (handler, told) = Client::new(message(of));
            client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
            told
        })
        .collect();
    for (of, told) in began.iter().enumerate() {
        assert!(echoed(told) == message(of), "connection {of}");
    }
    settled(&server);
    let rows = server.status();
    // All on one: once in 2^23 times.
    assert!(rows.iter().all(|row| row.connections > 0), "{rows:?}");
    assert_eq!(rows.iter().map(|row| row.connections).sum::<u64>(), 24);
    // Each datagram came to its owner without another worker's help.
    assert_eq!(rows.iter().map(|row| row.wrong_queue).sum::<u64>(), 0);
    assert!(rows.iter().all(|row| row.mode == Some(quiclane::datapath::Mode::Udp)));
    client.shutdown(0, PATIENCE);
    status_until(&server, |rows| rows.iter().all(|row| row.connections == 0));
    let sum = |of: fn(&WorkerStatus) -> u64| server.status().iter().map(of).sum::<u64>();
    assert_eq!(
        (sum(|row| row.counters.queue.rx_packets), sum(|row| row.counters.queue.drop_relay_full)),
        (sum(|row| row.counters.lane.rx_datagrams), 0)
    );
    assert!(sum(|row| row.counters.queue.rx_calls) > 0, "the socket's own counters");
    assert_eq!(server.shutdown(0, PATIENCE), quiclane::exec::ShutdownReport::default());
    assert_eq!(threads("apart-d0"), 0);
}

#[test]
fn clients_with_this_profile_connect_and_the_last_words_of_a_shutdown_leave() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let (tell, closed) = channel();
    let listener = server
        .listen(any_port(), &server_config, move |_| {
            Some(Box::new(Telling(tell.clone())) as Box<dyn Handler>)
        })
        .unwrap();
    let client = open(apart(2));
    assert_eq!(client.workers(), 4);
    let began: Vec<_> = (0..8)
        .map(|of| {
            let (handler, told) = Client::new(message(of));
            let to = listener.local_addr();
            client.connect_on(of % 4, to, "localhost", &client_config, handler).unwrap();
            told
        })
        .collect();
    for (of, told) in began.iter().enumerate() {
        assert_eq!(connected(told), of % 4);
        assert!(echoed(told) == message(of), "connection {of}");
    }
    // No patience: the workers end at once, and what they have said is still sent.
    client.shutdown(77, Duration::ZERO);
    for _ in 0..8 {
        match closed.recv_timeout(PATIENCE).unwrap() {
            CloseReason::PeerApplication { code: 77, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Echoes, and tells how its connection ended.
struct Telling(Sender<CloseReason>);

impl Handler for Telling {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        Echo.stream_data(connection, stream, data, fin)
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.0.send(reason).unwrap();
    }
}

/// The CPUs that the thread of that name may run on, as the kernel lists them.
fn cpus_of(name: &str) -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
    let read = |task: &std::fs::DirEntry, file| {
        std::fs::read_to_string(task.path().join(file)).unwrap_or_default()
    };
    let mut found = tasks.filter(|task| read(task, "comm").trim_end() == name);
    let status = read(&found.next().unwrap(), "status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

#[test]
fn pinned_quic_threads_leave_the_queues_cpu_alone() {
    let name = "pinned".to_owned();
    let config = RegistrationConfig { pin: Pin::All, name, ..apart(1) };
    let server = open(config);
    settled(&server);
    let rows = server.status();
    let queue_cpu = rows[0].queue_cpu.unwrap();
    assert_eq!(cpus_of("pinned-d0"), queue_cpu.to_string());
    for row in &rows {
        assert_eq!(row.queue_cpu, Some(queue_cpu));
        assert_ne!(row.cpu, Some(queue_cpu));
        if let Some(cpu) = row.cpu {
            assert_eq!(cpus_of(&format!("pinned-{}", row.worker)), cpu.to_string());
        }
    }
    // Where there is another CPU, the first worker has it.
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(rows[0].cpu.is_some(), cpus > 1);
}

#[test]
fn listeners_share_the_socket_of_their_queue_and_an_address_is_opened_again() {
    let (server_config, client_config) = configs();
    let server = open(apart(1));
    let listener = echo_server(&server, &server_config);
    let address = listener.local_addr();
    let again = server.listen(address, &server_config, |_| None);
    assert!(matches!(again, Err(ListenError::Taken(_))), "{again:?}");
    drop(listener);
    let _listener = server.listen(address, &server_config, |_| Some(Box::new(Echo))).unwrap();
    let client = open(workers(1));
    let (handler, told) = Client::new(message(0));
    client.connect(address, "localhost", &client_config, handler).unwrap();
    assert!(echoed(&told) == message(0));
}

#[test]
fn an_application_turns_the_quic_threads_itself() {
    let (server_config, client_config) = configs();
    let name = "turned".to_owned();
    let config = RegistrationConfig { name, ..apart(1) };
    let (server, seeds) = Registration::open_without_threads(config).unwrap();
    let turn = |seed: quiclane::exec::WorkerSeed| {
        std::thread::spawn(move || {
            let mut worker = seed.start().unwrap();
            while worker.turn_and_sleep(None) == Progress::Running {}
        })
    };
    let threads_of_ours: Vec<_> = seeds.into_iter().map(turn).collect();
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(message(1));
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert!(echoed(&told) == message(1));
    drop(listener);
    drop(server);
    threads_of_ours.into_iter().for_each(|thread| thread.join().unwrap());
    // The thread of the queue ends after them, by itself.
    while threads("turned-d0") > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn seeds_that_never_start_leave_no_thread() {
    let name = "unborn".to_owned();
    let config = RegistrationConfig { name, ..apart(2) };
    let (server, seeds) = Registration::open_without_threads(config).unwrap();
    assert_eq!((threads("unborn-d0"), threads("unborn-d1")), (1, 1));
    drop((server, seeds));
    while threads("unborn-d0") + threads("unborn-d1") > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_panic_on_a_quic_thread_keeps_no_shutdown_waiting() {
    let (server_config, client_config) = configs();
    let server = open(apart(1));
    let listener = echo_server(&server, &server_config);
    server.on_worker(0, |_| panic!("a test of panics")).unwrap();
    let client = open(workers(1));
    for of in 0..8 {
        let (handler, told) = Client::new(message(of));
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        assert!(echoed(&told) == message(of));
    }
    client.shutdown(0, PATIENCE);
    let report = server.shutdown(0, PATIENCE);
    assert_eq!(report.stuck, 0);
}

#[test]
fn no_quic_threads_and_too_many_are_refused() {
    for quic_threads in [0, MAX_WORKERS, usize::MAX] {
        let config = RegistrationConfig { quic_threads, ..apart(2) };
        let error = Registration::open(config).unwrap_err();
        assert!(matches!(error, OpenError::Workers(_)), "{error}");
    }
}

#[test]
fn a_takeover_is_refused_on_both_sides() {
    let directory = std::env::temp_dir().join(format!("quiclane-apart-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("offer");
    let error = Registration::open(RegistrationConfig { takeover: Some(path.clone()), ..apart(1) })
        .unwrap_err();
    assert!(error.to_string().contains("MaxThroughput"), "{error}");
    let running = open(apart(1));
    let _offer = running.offer_takeover(&path).unwrap();
    let successor = RegistrationConfig { takeover: Some(path), ..workers(1) };
    let error = Registration::open(successor).unwrap_err();
    assert!(error.to_string().contains("MaxThroughput"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}
