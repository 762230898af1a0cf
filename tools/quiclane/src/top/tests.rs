//! Two looks at a machine, of which the second is the first with other counters; and what the
//! screen makes of them.

use super::keys::Key;
use super::rates::{Rates, advance, between};
use super::screen::{Wish, press};
use super::view::{self, Chosen, Sort, View, short};
use super::{page, parse_interval};
use crate::pictures::{self, DARK, LIGHT};
use quiclane::counters::{Kind, Unit};
use quiclane::exec::Snapshot;
use quiclane::topology::Source;
use quiclane::topology::survey::Survey;
use quiclane_fixtures::Tree;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use std::time::Duration;

fn look(tree: &Tree) -> Survey {
    Survey::read(&Source::captured(tree.written().path()))
}

/// Adds to a counter of a queue.
fn count(tree: &mut Tree, device: &str, queue: u64, direction: &str, field: &str, more: i64) {
    tree.edit_answer(&format!("device/{device}/queue_counters"), |answer| {
        let rows = answer.as_array_mut().unwrap().iter_mut();
        let mut mine = rows.filter(|row| row["index"] == queue && row["direction"] == direction);
        let value = &mut mine.next().unwrap()[field];
        *value = (value.as_i64().unwrap_or(0) + more).into();
    });
}

/// A server that describes itself, with these numbers of wrong arrivals.
fn serve(tree: &mut Tree, started: u64, wrong: &[u64]) {
    tree.link("proc/self/ns/net", "net:[4026531840]");
    let stat = format!("812 (quiclane) S 1 812 812 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0");
    tree.set("proc/812/stat", stat);
    let worker = |(queue, wrong): (usize, &u64)| {
        serde_json::json!({
            "queue": queue, "device": "eth0", "cpu": queue, "mode": "native-zerocopy",
            "error": null, "rx_packets": 5, "drops": 0, "wrong_queue": wrong,
            "wrong_queue_recent": 0, "connections": 10 + queue,
        })
    };
    let workers: Vec<_> = wrong.iter().enumerate().map(worker).collect();
    let server = serde_json::json!({
        "schema": "quiclane.status/1", "pid": 812, "started_ticks": started,
        "network_namespace": "net:[4026531840]", "listen": "0.0.0.0:4433", "workers": workers,
    });
    tree.set("run/quiclane/812.json", server.to_string());
}

/// Most of the queues are at work, each a little more than the one before. The interrupt of
/// queue 0 is on CPU `irq_shift`.
fn busy(mut tree: Tree, device: &str, queues: u64, irq_shift: u64) -> Rates {
    let before = look(&tree);
    for queue in (0..queues).filter(|queue| queue % 8 < 5) {
        let packets = 30_000 + 9_000 * queue as i64;
        count(&mut tree, device, queue, "rx", "packets", packets);
        count(&mut tree, device, queue, "rx", "bytes", packets * 1_250);
        count(&mut tree, device, queue, "tx", "packets", packets / 2);
        count(&mut tree, device, queue, "tx", "bytes", packets * 40);
    }
    let is_busy = |cpu: u64| cpu < queues && cpu % 8 < 5;
    tree.edit("proc/stat", |stat| {
        let line = |line: &str| {
            let name = line.strip_prefix("cpu").and_then(|line| line.split_once(' '));
            let Some(cpu) = name.and_then(|(cpu, _)| cpu.parse::<u64>().ok()) else {
                return line.to_owned();
            };
            let program = if is_busy(cpu) { 61 } else { 1 };
            let softirq = if cpu.checked_sub(irq_shift).is_some_and(is_busy) { 25 } else { 0 };
            let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
            for (field, more) in [(1, program), (4, 100 - program - softirq), (7, softirq)] {
                fields[field] = (fields[field].parse::<u64>().unwrap() + more).to_string();
            }
            fields.join(" ")
        };
        stat.lines().map(line).collect::<Vec<_>>().join("\n")
    });
    let after = look(&tree);
    between(Some((&before, 1.0)), &after, device).unwrap()
}

fn view() -> View {
    View {
        sort: Sort::Queue,
        folds_idle: true,
        is_paused: false,
        shows_help: false,
        has_color: true,
        has_keys: true,
        scroll: 0,
        counters: None,
    }
}

fn screen(rates: &Rates, view: &View, columns: u16, lines: u16) -> (Vec<String>, Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| view::draw(rates, view, frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    ((0..lines).map(line).collect(), buffer)
}

/// Lines that are of a queue.
fn queues(lines: &[String]) -> usize {
    let is_one = |line: &&String| line.starts_with('q') && !line.starts_with("queue");
    lines.iter().filter(is_one).count()
}

#[test]
fn counters_go_on_run_over_or_start_anew() {
    assert_eq!(advance(5, 5), Some(0));
    assert_eq!(advance(5, 12), Some(7));
    assert_eq!(advance(4_294_967_290, 4), Some(10), "32 bits ran over");
    assert_eq!(advance(u64::MAX - 1, 3), Some(5), "64 bits ran over");
    assert_eq!(advance(1_000, 4), None, "started anew");
    assert_eq!(advance(9_000_000_000, 4), None, "started anew");
}

#[test]
fn rates_are_by_the_time_between_the_looks() {
    let mut tree = quiclane_fixtures::two_node_ice();
    let before = look(&tree);
    count(&mut tree, "eth0", 3, "rx", "packets", 5_000);
    count(&mut tree, "eth0", 3, "rx", "bytes", 1_000_000);
    count(&mut tree, "eth0", 3, "rx", "alloc_fail", 10);
    count(&mut tree, "eth0", 4, "tx", "packets", 500);
    count(&mut tree, "eth0", 5, "rx", "packets", -1);
    tree.edit_answer("sockets", |sockets| {
        sockets[3]["counters"]["rx_ring_full"] = 40.into();
        // Another socket on the queue counts from nothing.
        sockets[6]["inode"] = 99.into();
        sockets[6]["counters"]["rx_ring_full"] = 70.into();
    });
    let after = look(&tree);
    let rates = between(Some((&before, 2.0)), &after, "eth0").unwrap();
    let queue = &rates.queues[3];
    assert_eq!((queue.flow.rx_pps, queue.flow.rx_bps), (Some(2_500.0), Some(4_000_000.0)));
    assert_eq!((queue.drops["no_memory"], queue.drops["socket_ring_full"]), (5.0, 20.0));
    assert_eq!((queue.flow.drops_ps, queue.is_idle()), (Some(25.0), false));
    assert_eq!(rates.queues[4].flow.tx_pps, Some(250.0));
    assert_eq!(rates.queues[5].flow.rx_pps, None, "the counter went back");
    assert_eq!(rates.queues[6].drops.get("socket_ring_full"), None);
    assert!(rates.queues[7].is_idle());
    assert_eq!((rates.total.rx_pps, rates.total.drops_ps), (Some(2_500.0), Some(25.0)));
    assert_eq!((queue.worker_cpu, queue.crosses), (Some(3), Some(false)));
}

#[test]
fn one_look_has_no_rates() {
    let survey = look(&quiclane_fixtures::two_node_ice());
    for before in [None, Some((&survey, 0.0))] {
        let rates = between(before, &survey, "eth0").unwrap();
        assert_eq!((rates.seconds, rates.total.rx_pps), (None, None));
        assert_eq!(rates.queues.len(), 16);
        assert!(rates.cpus.iter().all(|cpu| cpu.softirq.is_none()));
        let (lines, _) = screen(&rates, &view(), 80, 24);
        assert!(lines[0].ends_with("one look: no rates"), "{}", lines[0]);
        assert!(lines[5].starts_with("q0 "), "nothing is known to be idle: {lines:#?}");
    }
    assert_eq!(between(None, &survey, "eth9"), None);
}

#[test]
fn packets_of_other_workers_are_counted_while_the_server_lives() {
    let mut tree = quiclane_fixtures::two_node_ice();
    serve(&mut tree, 900, &[0, 7]);
    let before = look(&tree);
    serve(&mut tree, 900, &[0, 27]);
    let rates = between(Some((&before, 2.0)), &look(&tree), "eth0").unwrap();
    let wrong: Vec<_> = rates.queues.iter().map(|queue| queue.flow.wrong_queue_ps).collect();
    assert_eq!(wrong[..3], [Some(0.0), Some(10.0), None]);
    assert_eq!(rates.queues[1].connections, Some(11));
    assert_eq!(rates.total.wrong_queue_ps, Some(10.0));
    serve(&mut tree, 901, &[0, 30]);
    let rates = between(Some((&before, 2.0)), &look(&tree), "eth0").unwrap();
    assert_eq!(rates.total.wrong_queue_ps, None, "another process counts from nothing");
}

#[test]
fn what_a_server_throws_away_is_among_the_drops() {
    let drop = |tree: &mut Tree, dropped: serde_json::Value| {
        tree.edit("run/quiclane/812.json", |text| {
            let mut server: serde_json::Value = serde_json::from_str(text).unwrap();
            server["workers"][1]["dropped"] = dropped;
            server.to_string()
        });
    };
    let mut tree = quiclane_fixtures::two_node_ice();
    let before = look(&tree);
    drop(&mut tree, serde_json::json!({"drop_udp_checksum": 8}));
    let rates = between(Some((&before, 2.0)), &look(&tree), "eth0").unwrap();
    assert_eq!(rates.queues[1].drops["server_udp_checksum"], 4.0);
    assert_eq!((rates.total.drops_ps, rates.drops["server_udp_checksum"]), (Some(4.0), 4.0));
    let (lines, _) = screen(&rates, &view(), 80, 24);
    assert!(lines[2].contains("server udp checksum 4"), "{}", lines[2]);
    // One cause is counted once: without a frame the kernel counts a drop as well.
    tree.edit_answer("sockets", |sockets| {
        sockets[1]["counters"]["fill_ring_empty"] = 40.into();
        sockets[1]["counters"]["rx_dropped"] = 40.into();
    });
    let rates = between(Some((&before, 2.0)), &look(&tree), "eth0").unwrap();
    let drops = &rates.queues[1].drops;
    assert_eq!((drops["fill_ring_empty"], drops["socket"]), (20.0, 0.0));
}

#[test]
fn clients_that_a_server_refuses_are_told() {
    let mut tree = quiclane_fixtures::two_node_ice();
    let before = look(&tree);
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: serde_json::Value = serde_json::from_str(text).unwrap();
        for queue in [1, 2] {
            server["workers"][queue]["refused"] = serde_json::json!({"refused_memory": 6});
        }
        server.to_string()
    });
    let rates = between(Some((&before, 2.0)), &look(&tree), "eth0").unwrap();
    assert_eq!((rates.refused["memory"], rates.total.drops_ps), (6.0, Some(0.0)));
    let (lines, _) = screen(&rates, &view(), 80, 24);
    assert!(lines[2].starts_with("clients refused/s 6.0  drops/s "), "{}", lines[2]);
}

#[test]
fn all_that_a_server_declares_is_told() {
    let rates = counted();
    for (at, (set, counter, _)) in Snapshot::default().iter().enumerate() {
        let grown = if counter.kind == Kind::Gauge { 3.0 } else { 1.0 };
        let shown = rates.queues[1].counters[set.name][counter.name];
        assert_eq!(shown, grown * (at as f64 + 1.0), "{} {}", set.name, counter.name);
    }
    assert!(rates.queues[2].counters.is_empty());
}

/// A server whose worker of queue 1 counts in every set, at two looks.
fn counted() -> Rates {
    let mut tree = quiclane_fixtures::two_node_ice();
    let mut count = |factor: u64| {
        tree.edit("run/quiclane/812.json", |text| {
            let mut server: serde_json::Value = serde_json::from_str(text).unwrap();
            for (at, (set, counter, _)) in Snapshot::default().iter().enumerate() {
                let told = &mut server["workers"][1]["counters"];
                told[set.name][counter.name] = (factor * (at as u64 + 1)).into();
            }
            server.to_string()
        });
        look(&tree)
    };
    let (before, after) = (count(1), count(3));
    between(Some((&before, 2.0)), &after, "eth0").unwrap()
}

#[test]
fn a_key_lists_every_counter_of_a_queue() {
    let rates = counted();
    let mut view = view();
    press(&mut view, &rates, Key::Char('c'));
    assert_eq!(view.counters, Some(Chosen::new(0)), "the first queue shown");
    let (lines, _) = screen(&rates, &view, 80, 24);
    assert!(lines[4].starts_with("nothing counted since the last look"), "{lines:#?}");
    press(&mut view, &rates, Key::Right);
    let (lines, _) = screen(&rates, &view, 120, 200);
    assert!(lines[3].starts_with("q1  quiclane 812, worker on CPU 1, "), "{}", lines[3]);
    let (mut listed, mut latest) = (lines.iter().skip(4), "");
    for (at, (set, counter, _)) in Snapshot::default().iter().enumerate() {
        if set.name != latest {
            latest = set.name;
            let head = listed.next().unwrap();
            assert!(head.starts_with(&format!("{}  {}", set.name, &set.about[..10])), "{head}");
        }
        let line = listed.next().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (value, unit) = match counter.kind {
            Kind::Gauge => ((3 * (at + 1)).to_string(), unit_of(counter)),
            Kind::Counter => (short(Some(at as f64 + 1.0)), format!("{}/s", unit_of(counter))),
        };
        assert_eq!(words[..2], [counter.name, &value], "{line}");
        assert!(unit.is_empty() || words[2] == unit, "{unit}: {line}");
        assert!(line.contains(counter.help.split(' ').next().unwrap()), "{line}");
    }
    assert_eq!(listed.next().unwrap().trim(), "", "nothing else is listed");
    // A short screen scrolls, and tells how much is left.
    let (short, _) = screen(&rates, &view, 80, 24);
    assert!(short[22].starts_with("↓ ") && short[22].contains(" more"), "{short:#?}");
    press(&mut view, &rates, Key::Down);
    assert_eq!(screen(&rates, &view, 80, 24).0[4], short[5]);
    // The last counter is not left out.
    press(&mut view, &rates, Key::Home);
    for _ in 0..20 {
        press(&mut view, &rates, Key::PageDown);
    }
    let last = Snapshot::default().iter().last().unwrap().1.name;
    let (short, _) = screen(&rates, &view, 80, 24);
    assert!(short[21].starts_with(&format!("  {last} ")), "{short:#?}");
    assert!(short[23].contains(" c  queues"), "{}", short[23]);
    press(&mut view, &rates, Key::Char('c'));
    let (lines, _) = screen(&rates, &view, 80, 24);
    assert!(view.counters.is_none() && lines[4].starts_with("queue "), "{lines:#?}");
}

#[test]
fn what_is_scrolled_to_its_end_scrolls_back_at_once() {
    let rates = counted();
    let down = |view: &mut View, area| {
        for _ in 0..20 {
            press(view, &rates, Key::PageDown);
        }
        view::limit(&rates, view, area);
    };
    // All queues fit: nothing is scrolled, and the key lists the queue that stands first.
    let mut view = View { folds_idle: false, ..view() };
    down(&mut view, Rect::new(0, 0, 80, 60));
    press(&mut view, &rates, Key::Char('c'));
    assert_eq!(view.counters, Some(Chosen::new(0)));
    press(&mut view, &rates, Key::Right);
    let area = Rect::new(0, 0, 80, 24);
    down(&mut view, area);
    let last = screen(&rates, &view, 80, 24).0;
    press(&mut view, &rates, Key::Up);
    assert_eq!(screen(&rates, &view, 80, 24).0[5], last[4], "one line back");
    // And so where the queues do not fit.
    press(&mut view, &rates, Key::Char('c'));
    down(&mut view, Rect::new(0, 0, 80, 16));
    let last = screen(&rates, &view, 80, 16).0;
    press(&mut view, &rates, Key::Up);
    assert_ne!(screen(&rates, &view, 80, 16).0, last);
}

fn unit_of(counter: &quiclane::counters::Description) -> String {
    match counter.unit {
        Unit::Count => String::new(),
        Unit::Bytes => "B".to_owned(),
        Unit::Nanoseconds => "ns".to_owned(),
    }
}

#[test]
fn counters_that_are_not_there_have_a_reason() {
    let listed = |rates: &Rates, queue| {
        let view = View { counters: Some(Chosen::new(queue)), ..view() };
        screen(rates, &view, 80, 24).0
    };
    let survey = look(&quiclane_fixtures::two_node_ice());
    let one = between(None, &survey, "eth0").unwrap();
    assert!(listed(&one, 1)[4].starts_with("one look has no rates"), "{:?}", listed(&one, 1));
    let gone = listed(&one, 99);
    assert!(gone[3].starts_with("eth0 has no queue 99 any more"), "{gone:?}");
    let survey = look(&quiclane_fixtures::ena());
    let other = between(Some((&survey, 1.0)), &survey, "eth0").unwrap();
    assert!(listed(&other, 0)[4].starts_with("no server describes"), "{:?}", listed(&other, 0));
}

#[test]
fn the_queues_around_the_chosen_one_are_its_neighbours() {
    let rates = counted();
    let last = rates.queues.last().unwrap().queue;
    let first = Chosen { queue: 0, scroll: 7 };
    assert_eq!(first.neighbour(&rates, true), Chosen::new(1));
    assert_eq!(first.neighbour(&rates, false), Chosen::new(last));
    assert_eq!(Chosen::new(last).neighbour(&rates, true), Chosen::new(0));
    let gone = Chosen { queue: 99, scroll: 7 };
    assert_eq!(gone.neighbour(&rates, true), gone);
    // With the queues sorted, the one with the most stands first, and is chosen.
    let rates = busy(quiclane_fixtures::two_node_ice_64(), "eth0", 64, 0);
    let mut view = View { sort: Sort::Packets, ..view() };
    press(&mut view, &rates, Key::Char('c'));
    assert_eq!(view.counters, Some(Chosen::new(60)));
}

/// A veth without a program counts nothing by queue, and the device as a whole.
#[test]
fn totals_are_the_devices_where_queues_do_not_count() {
    let totals = |tree: &mut Tree, count: u64| {
        tree.refuse("device/veth0/queue_counters", "no");
        let rows = serde_json::json!([["rx_queue_0_xdp_packets", 0]]);
        tree.answer("device/veth0/statistics", rows);
        tree.answer("device/veth0/attached", serde_json::json!([]));
        for name in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
            let file = format!("sys/devices/virtual/net/veth0/statistics/{name}");
            tree.set(&file, count.to_string());
        }
    };
    let mut tree = quiclane_fixtures::veth();
    totals(&mut tree, 1_000);
    let before = look(&tree);
    totals(&mut tree, 69_000);
    let rates = between(Some((&before, 2.0)), &look(&tree), "veth0").unwrap();
    let total = &rates.total;
    assert_eq!((total.rx_pps, total.tx_pps), (Some(34_000.0), Some(34_000.0)));
    assert_eq!((total.rx_bps, total.tx_bps), (Some(272_000.0), Some(272_000.0)));
    let (lines, _) = screen(&rates, &view(), 80, 24);
    assert!(lines[1].contains("34.0k pps"), "{}", lines[1]);
    assert!(!lines.iter().any(|line| line.contains("idle queue")), "{lines:#?}");
}

#[test]
fn no_line_ends_in_the_middle_of_a_word() {
    let rates = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    for columns in [40, 60, 80, 100, 140] {
        let (lines, _) = screen(&rates, &view(), columns, 24);
        let line = lines[2].trim_end();
        let names: Vec<String> = rates.drops.keys().map(|name| name.replace('_', " ")).collect();
        let is_whole = |part: &str| {
            let name = part.trim_start_matches("drops/s none by: ").trim();
            names.iter().any(|whole| whole == name)
                || (name.starts_with('+') && name.ends_with(" more"))
        };
        assert!(line.split(", ").all(is_whole), "{columns}: {line}");
    }
    let (lines, _) = screen(&rates, &view(), 20, 8);
    let all = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    assert!(all.contains("is too small: 40x12 at least") && all.contains("q quits"), "{all}");
}

#[test]
fn load_is_a_share_of_the_time() {
    let rates = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    let cpu = &rates.cpus[2];
    assert_eq!((cpu.cpu, cpu.softirq, cpu.program), (2, Some(0.25), Some(0.61)));
    assert!(cpu.has_worker && !rates.cpus[20].has_worker);
    assert_eq!((rates.cpus[7].softirq, rates.cpus[7].program), (Some(0.0), Some(0.01)));
    // Where no time has passed, there are no shares of it.
    let survey = look(&quiclane_fixtures::two_node_ice());
    let still = between(Some((&survey, 1.0)), &survey, "eth0").unwrap();
    assert_eq!((still.cpus[2].softirq, still.cpus[2].program), (None, None));
}

#[test]
fn a_screen_of_80_by_24_shows_all_that_matters() {
    let rates = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    let (lines, buffer) = screen(&rates, &view(), 80, 24);
    assert!(lines[0].starts_with("lb-a1  eth0 ice 100 Gb/s node 0"), "{}", lines[0]);
    assert!(lines[1].contains("wrong queue"), "{}", lines[1]);
    assert_eq!(queues(&lines), 10);
    assert!(lines.iter().any(|line| line.starts_with("6 idle queues: q5–7, 13–15")), "{lines:#?}");
    assert!(lines[23].contains(" q  quit") && lines[23].contains(" ?  help"), "{}", lines[23]);
    assert!(lines[21].starts_with("interrupts, % of CPU: most 25"), "{lines:#?}");
    assert!(lines[22].starts_with("programs,   % of CPU: most 61"), "{lines:#?}");
    // The busiest queue is the brightest, and its digit is 9.
    let y = lines.iter().position(|line| line.starts_with("q12")).unwrap() as u16;
    let cells = (40..80).map(|x| &buffer[(x, y)]);
    let nine = cells.clone().find(|cell| cell.symbol() == "9").unwrap();
    assert_eq!(nine.bg, ratatui::style::Color::Indexed(51));
    assert!(cells.filter(|cell| cell.symbol() == "·").count() >= 9, "{}", lines[y as usize]);
}

#[test]
fn a_queue_that_crosses_nodes_is_red_and_has_a_sign() {
    let rates = busy(quiclane_fixtures::two_node_ice_crossed(), "eth0", 16, 16);
    let (lines, buffer) = screen(&rates, &view(), 140, 40);
    let heads = &lines[3];
    assert!(heads.contains("node 0") && heads.contains("node 1"), "{heads}");
    let line = lines.iter().position(|line| line.starts_with("q0✕")).unwrap();
    assert_eq!(buffer[(0, line as u16)].fg, ratatui::style::Color::Red);
    // Packets arrive on node 1, the worker is on node 0.
    let (worker, packets) = (lines[line].find('w').unwrap(), lines[line].rfind('2').unwrap());
    assert!(worker < packets, "{}", lines[line]);
}

#[test]
fn without_colour_the_digits_say_it() {
    let rates = busy(quiclane_fixtures::two_node_ice_crossed(), "eth0", 16, 16);
    let plain = View { has_color: false, ..view() };
    let (lines, buffer) = screen(&rates, &plain, 140, 40);
    for y in 0..40 {
        for x in 0..140 {
            let cell = &buffer[(x, y)];
            let none = ratatui::style::Color::Reset;
            assert_eq!((cell.fg, cell.bg), (none, none), "{x} {y}");
        }
    }
    assert_eq!(lines, screen(&rates, &view(), 140, 40).0, "colour adds no meaning");
}

#[test]
fn many_queues_fold_scroll_and_sort() {
    let rates = busy(quiclane_fixtures::two_node_ice_64(), "eth0", 64, 0);
    let mut view = view();
    let (lines, _) = screen(&rates, &view, 80, 24);
    assert!(lines[5].starts_with("q0 ") && lines[6].starts_with("q1 "), "{lines:#?}");
    assert!(lines[21].contains("↓ more"), "{lines:#?}");
    view.sort = Sort::Packets;
    let (lines, _) = screen(&rates, &view, 80, 24);
    assert!(lines[5].starts_with("q60 "), "{}", lines[5]);
    view.sort = Sort::Queue;
    view.scroll = 1_000;
    let (lines, _) = screen(&rates, &view, 80, 24);
    assert!(lines[20].starts_with("24 idle queues"), "{lines:#?}");
    let text = page(&rates, &View { has_keys: false, ..view.clone() }, 80);
    assert_eq!(queues(&text.lines().map(str::to_owned).collect::<Vec<_>>()), 40);
    view.folds_idle = false;
    view.scroll = 0;
    let (lines, _) = screen(&rates, &view, 140, 80);
    assert_eq!(queues(&lines), 64);
}

#[test]
fn every_size_of_every_machine_is_drawn() {
    let machines = [
        (quiclane_fixtures::two_node_ice(), "eth1"),
        (quiclane_fixtures::two_node_ice_64(), "eth0"),
        (quiclane_fixtures::ena(), "eth0"),
        (quiclane_fixtures::virtio(), "enp1s0"),
        (quiclane_fixtures::veth(), "veth0"),
        (quiclane_fixtures::veth(), "lo"),
        (quiclane_fixtures::lost_node(), "eth0"),
    ];
    for (tree, device) in machines {
        let survey = look(&tree);
        let rates = between(Some((&survey, 1.0)), &survey, device).unwrap();
        for columns in [1, 20, 40, 47, 79, 80, 119, 120, 250] {
            for lines in [1, 11, 12, 24, 60] {
                for shows_help in [false, true] {
                    let view = View { shows_help, folds_idle: !shows_help, ..view() };
                    screen(&rates, &view, columns, lines);
                    let counters = view::first(&rates, &view).map(Chosen::new);
                    screen(&rates, &View { counters, ..view }, columns, lines);
                }
            }
        }
        assert!(page(&rates, &view(), 80).contains(device));
    }
}

#[test]
fn keys_do_what_the_footer_says() {
    let rates = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    let press = |view: &mut View, key| press(view, &rates, key);
    let mut view = view();
    assert_eq!(press(&mut view, Key::Char('p')), Wish::Draw);
    assert_eq!(press(&mut view, Key::Char('s')), Wish::Draw);
    assert_eq!(press(&mut view, Key::Char('f')), Wish::Draw);
    assert!(view.is_paused && view.sort == Sort::Packets && !view.folds_idle);
    assert_eq!(press(&mut view, Key::Char('d')), Wish::Device);
    assert_eq!(press(&mut view, Key::Char('x')), Wish::Nothing);
    assert_eq!(press(&mut view, Key::Char('?')), Wish::Draw);
    assert!(view.shows_help);
    assert_eq!(press(&mut view, Key::Char('x')), Wish::Draw, "closes the help");
    assert!(!view.shows_help);
    // The help says that these end it: also while it is shown.
    for key in [Key::Char('q'), Key::Escape, Key::CtrlC] {
        view.shows_help = false;
        assert_eq!(press(&mut view, key), Wish::Quit);
        view.shows_help = true;
        assert_eq!(press(&mut view, key), Wish::Quit);
    }
}

#[test]
fn numbers_are_short() {
    let words = [
        (0.0, "0"),
        (0.4, "0.4"),
        (12.0, "12"),
        (999.0, "999"),
        (1_234.0, "1.23k"),
        (12_340.0, "12.3k"),
        (101_000.0, "101k"),
        (999_600.0, "1.00M"),
        (9.87e9, "9.87G"),
    ];
    for (rate, text) in words {
        assert_eq!(short(Some(rate)), text);
    }
    assert_eq!(short(None), "–");
}

#[test]
fn intervals_are_times() {
    assert_eq!(parse_interval("1s"), Ok(Duration::from_secs(1)));
    assert_eq!(parse_interval("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
    for wrong in ["", "s", "0s", "10ms", "-1", "nan", "1h", "1e9s"] {
        assert!(parse_interval(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn modifiers_are_kept_without_colour() {
    let rates = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    let (_, buffer) = screen(&rates, &View { has_color: false, ..view() }, 80, 24);
    assert!(buffer[(0, 0)].modifier.contains(Modifier::BOLD));
}

#[test]
fn pictures_show_what_the_command_shows() {
    let good = busy(quiclane_fixtures::two_node_ice(), "eth0", 16, 0);
    let (_, buffer) = screen(&good, &view(), 80, 24);
    let title = "quiclane top on a server with two memory nodes";
    pictures::keep("top-dark.svg", &pictures::terminal(&buffer, title, &DARK));
    pictures::keep("top-light.svg", &pictures::terminal(&buffer, title, &LIGHT));
    let crossed = busy(quiclane_fixtures::two_node_ice_crossed(), "eth0", 16, 16);
    let (_, buffer) = screen(&crossed, &view(), 140, 24);
    let title = "quiclane top: the interrupts of every queue are on the other node";
    pictures::keep("top-crossed-dark.svg", &pictures::terminal(&buffer, title, &DARK));
    pictures::keep("top-crossed-light.svg", &pictures::terminal(&buffer, title, &LIGHT));
}
