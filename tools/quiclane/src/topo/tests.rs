//! Every picture of every machine is sound: nothing overlaps, nothing overflows, every queue has
//! its lines, and exactly those that cross nodes are marked.

use super::layout;
use super::map::{Map, Row, ranges, speed};
use super::scene::{Area, Kind, Line, Rect, Scene, Tone, Wire, fit, width};
use super::svg::{self, Theme};
use super::text;
use crate::pictures;
use quiclane::topology::Source;
use quiclane::topology::survey::Survey;
use quiclane_fixtures::Tree;
use std::collections::BTreeSet;

fn map(tree: &Tree, names: &[&str]) -> Map {
    let written = tree.written();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    Map::of(&Survey::read(&Source::captured(written.path())), &names)
}

/// A device of node 0 with 64 queues and workers, of which the interrupts are where a random
/// reboot left them, and one with nodes of the other package's caches.
fn scattered() -> Tree {
    let mut tree = quiclane_fixtures::two_node_ice_64();
    for queue in 0..64u32 {
        let file = format!("proc/irq/{}/effective_affinity_list", 121 + queue);
        tree.set(&file, (queue * 37 % 256).to_string());
    }
    tree.set("proc/irq/121/effective_affinity_list", "0-255");
    tree
}

fn maps() -> Vec<(&'static str, Map)> {
    let half_lost = {
        let mut tree = quiclane_fixtures::two_node_ice();
        tree.set("sys/class/net/eth1/device/numa_node", "-1");
        tree
    };
    let no_nodes = {
        let mut tree = quiclane_fixtures::virtio();
        tree.edit_answer("processors", |processors| processors["nodes"] = serde_json::json!([]));
        tree
    };
    vec![
        ("two_node_ice", map(&quiclane_fixtures::two_node_ice(), &[])),
        ("one device", map(&quiclane_fixtures::two_node_ice(), &["eth1"])),
        ("two_node_ice_64", map(&quiclane_fixtures::two_node_ice_64(), &[])),
        ("64 unserved", map(&quiclane_fixtures::two_node_ice_64(), &["eth1"])),
        ("crossed", map(&quiclane_fixtures::two_node_ice_crossed(), &[])),
        ("scattered", map(&scattered(), &[])),
        ("ena", map(&quiclane_fixtures::ena(), &[])),
        ("virtio", map(&quiclane_fixtures::virtio(), &[])),
        ("no nodes", map(&no_nodes, &[])),
        ("veth", map(&quiclane_fixtures::veth(), &[])),
        ("lost_node", map(&quiclane_fixtures::lost_node(), &[])),
        ("half lost", map(&half_lost, &[])),
    ]
}

/// An affinity that was set takes effect with the next interrupt: both CPUs are shown until then.
#[test]
fn an_interrupt_that_will_move_is_shown_with_both_cpus() {
    let with = |set: &str| {
        let mut tree = quiclane_fixtures::two_node_ice();
        tree.set("proc/irq/121/effective_affinity_list", "16");
        tree.set("proc/irq/121/smp_affinity_list", set);
        map(&tree, &["eth0"])
    };
    let moves = with("2");
    let queue = &moves.devices[0].queues[0];
    assert_eq!((&queue.irq_cpus, &queue.irq_next_cpus), (&vec![16], &vec![2]));
    let text = text::render(&moves, 100, false);
    let line = text.lines().find(|line| line.contains("irq 121")).unwrap();
    assert!(line.contains("16 (node 1) then 2 "), "{line}");
    assert_eq!(text.matches("then").count(), 1, "{text}");
    let svg = svg::render(&layout::scene(&moves), Theme::Light);
    assert!(svg.contains("irq 121 on CPU 16 (then 2)"));
    let stays = with("0-31");
    assert_eq!(stays.devices[0].queues[0].irq_next_cpus, Vec::<u32>::new());
    assert!(!text::render(&stays, 100, false).contains("then"));
}

/// Where a soft worker started is not where it runs.
#[test]
fn a_soft_worker_has_no_cpu() {
    let node = [0, 1, 2, 3];
    let mut tree = quiclane_fixtures::two_node_ice();
    assert_eq!(map(&tree, &["eth0"]).devices[0].queues[0].worker_cpu, Some(0));
    tree.edit_answer("sockets", |sockets| {
        sockets[0]["workers"][0]["cpus"] = serde_json::json!(node);
    });
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: serde_json::Value = serde_json::from_str(text).unwrap();
        server["workers"][0]["soft_cpus"] = serde_json::json!(node);
        server.to_string()
    });
    let soft = &map(&tree, &["eth0"]).devices[0].queues[0];
    assert_eq!(soft.worker_cpu, None);
    assert!(soft.unknown.0["worker_cpu"].contains("pinned"), "{:?}", soft.unknown.0);
}

fn overlaps(a: &Rect, b: &Rect) -> bool {
    a.x < b.right() && b.x < a.right() && a.y < b.bottom() && b.y < a.bottom()
}

fn holds(outer: &Rect, inner: &Rect) -> bool {
    const ROUNDING: f64 = 0.01;
    inner.x >= outer.x - ROUNDING
        && inner.y >= outer.y - ROUNDING
        && inner.right() <= outer.right() + ROUNDING
        && inner.bottom() <= outer.bottom() + ROUNDING
}

/// What may stand around what.
fn may_hold(outer: Kind, inner: Kind) -> bool {
    let depth = |kind| match kind {
        Kind::Node => 0,
        Kind::Nic | Kind::Package => 1,
        Kind::Queue | Kind::Cache => 2,
        Kind::Core | Kind::IdleCore => 3,
        Kind::Cpu | Kind::BusyCpu => 4,
    };
    depth(outer) < depth(inner)
}

#[test]
fn boxes_are_inside_each_other_or_apart() {
    for (name, map) in maps() {
        let scene = layout::scene(&map);
        assert!(scene.areas.len() > 4, "{name}");
        for (at, area) in scene.areas.iter().enumerate() {
            for other in &scene.areas[..at] {
                let nested =
                    |a: &Area, b: &Area| may_hold(a.kind, b.kind) && holds(&a.rect, &b.rect);
                let fine = !overlaps(&area.rect, &other.rect)
                    || nested(other, area)
                    || nested(area, other);
                assert!(fine, "{name}: {other:?} and {area:?}");
            }
        }
    }
}

#[test]
fn everything_is_on_the_page() {
    for (name, map) in maps() {
        let scene = layout::scene(&map);
        let page = Rect::new(0.0, 0.0, scene.width, scene.height);
        for area in &scene.areas {
            assert!(holds(&page, &area.rect), "{name}: {area:?}");
            assert!(area.rect.width > 0.0 && area.rect.height > 0.0, "{name}: {area:?}");
        }
        for text in &scene.texts {
            assert!(holds(&page, &text.bounds()), "{name}: {text:?}");
        }
        for line in &scene.lines {
            for step in 0..=20 {
                let at = line.at(f64::from(step) / 20.0);
                let dot = Rect::new(at.x, at.y, 0.0, 0.0);
                assert!(holds(&page, &dot), "{name}: {line:?}");
            }
            let mark = line.mark.map(|mark| Rect::new(mark.x - 6.0, mark.y - 6.0, 12.0, 12.0));
            assert!(mark.is_none_or(|mark| holds(&page, &mark)), "{name}: {line:?}");
        }
    }
}

#[test]
fn texts_stay_in_their_boxes_and_off_each_other() {
    for (name, map) in maps() {
        let scene = layout::scene(&map);
        for (at, text) in scene.texts.iter().enumerate() {
            let bounds = text.bounds();
            // The smallest box around its first letter.
            let around = scene.areas.iter().filter(|area| {
                let start = Rect::new(text.at.x, bounds.y, 0.0, bounds.height);
                holds(&area.rect, &start)
            });
            let smallest = |a: &&Area, b: &&Area| {
                (a.rect.width * a.rect.height).total_cmp(&(b.rect.width * b.rect.height))
            };
            if let Some(area) = around.min_by(smallest) {
                assert!(holds(&area.rect, &bounds), "{name}: {text:?} out of {area:?}");
            }
            for other in &scene.texts[..at] {
                assert!(!overlaps(&bounds, &other.bounds()), "{name}: {text:?} on {other:?}");
            }
        }
    }
}

fn of<'a>(scene: &'a Scene, device: &str, queue: u32, wire: Wire) -> Vec<&'a Line> {
    let mine =
        |line: &&Line| line.device == device && line.wire == wire && line.queues.contains(&queue);
    scene.lines.iter().filter(mine).collect()
}

#[test]
fn every_queue_has_its_lines_and_crossings_are_marked() {
    let (mut crossing, mut calm, mut unknown) = (0, 0, 0);
    for (name, map) in maps() {
        let scene = layout::scene(&map);
        for card in &map.devices {
            for queue in &card.queues {
                let ends = [
                    (Wire::Irq, &queue.irq_cpus[..], queue.irq_crosses),
                    (Wire::Worker, queue.worker_cpu.as_slice(), queue.worker_crosses),
                ];
                for (wire, cpus, crosses) in ends {
                    let lines = of(&scene, &card.device, queue.queue, wire);
                    let what = format!("{name} {} {queue:?} {wire:?}", card.device);
                    assert_eq!(lines.is_empty(), cpus.is_empty(), "{what}");
                    let is_red = |line: &&Line| line.tone == Tone::Crossing;
                    assert_eq!(lines.iter().any(&is_red), crosses == Some(true), "{what}");
                    for line in &lines {
                        assert_eq!(line.mark.is_some(), is_red(line), "{what}");
                        assert_eq!(line.tone == Tone::Unknown, crosses.is_none(), "{what}");
                    }
                    crossing += usize::from(crosses == Some(true));
                    calm += usize::from(crosses == Some(false));
                    unknown += usize::from(crosses.is_none() && !lines.is_empty());
                }
            }
        }
    }
    assert!(crossing > 30 && calm > 100 && unknown > 30, "{crossing} {calm} {unknown}");
}

#[test]
fn a_line_ends_at_the_core_of_its_cpu() {
    let map = map(&quiclane_fixtures::two_node_ice_crossed(), &["eth0"]);
    let scene = layout::scene(&map);
    for queue in 0..16 {
        let [irq] = of(&scene, "eth0", queue, Wire::Irq)[..] else { panic!("queue {queue}") };
        let [worker] = of(&scene, "eth0", queue, Wire::Worker)[..] else { panic!("{queue}") };
        for (line, cpu) in [(irq, 16 + queue), (worker, queue)] {
            let is_it = |area: &&Area| {
                let rect = area.rect;
                let at_edge = (rect.x - line.to.x).abs() < 0.01;
                area.kind == Kind::BusyCpu
                    && at_edge
                    && rect.y < line.to.y
                    && line.to.y < rect.bottom()
            };
            let cell = scene.areas.iter().find(is_it).unwrap();
            assert_eq!(cell.hint, format!("CPU {cpu}"));
        }
        assert_eq!((irq.tone, worker.tone), (Tone::Crossing, Tone::Node(0)));
    }
    assert_eq!(map.crossings, 16);
    assert!(scene.texts.iter().any(|text| text.text == "✕ 16 lines cross nodes"));
}

#[test]
fn an_unknown_node_is_no_node() {
    let map = map(&quiclane_fixtures::lost_node(), &[]);
    let scene = layout::scene(&map);
    let bands: Vec<&Area> = scene.areas.iter().filter(|area| area.kind == Kind::Node).collect();
    let cards: Vec<&Area> = scene.areas.iter().filter(|area| area.kind == Kind::Nic).collect();
    assert_eq!((bands.len(), cards.len()), (2, 2));
    for card in cards {
        assert_eq!(card.tone, Tone::Unknown);
        assert!(bands.iter().all(|band| !overlaps(&band.rect, &card.rect)), "{card:?}");
    }
    assert!(scene.lines.iter().all(|line| line.device.is_empty() || line.tone == Tone::Unknown));
    let json = serde_json::to_value(&map).unwrap();
    let eth0 = &json["devices"][0];
    assert!(eth0["node"].is_null() && eth0["queues"][0]["irq_crosses"].is_null());
    assert!(eth0["unknown"]["node"].as_str().unwrap().contains("numa_node reads -1"));
    assert_eq!(json["crossings"], 0);
}

#[test]
fn a_known_node_holds_its_devices() {
    for (tree, count) in [(quiclane_fixtures::two_node_ice(), 2), (scattered(), 2)] {
        let scene = layout::scene(&map(&tree, &[]));
        let bands = scene.areas.iter().filter(|area| area.kind == Kind::Node);
        let pairs = bands.map(|band| {
            let mut cards = scene.areas.iter().filter(|area| area.kind == Kind::Nic);
            cards.any(|card| card.tone == band.tone && holds(&band.rect, &card.rect))
        });
        assert_eq!(pairs.filter(|&found| found).count(), count);
    }
}

#[test]
fn queues_that_nobody_serves_are_folded_where_others_are_served() {
    let machine = quiclane_fixtures::two_node_ice_64();
    let both = map(&machine, &[]);
    assert_eq!(both.rows(&both.devices[0]).len(), 64);
    let [Row::Fold(queues)] = both.rows(&both.devices[1])[..] else { panic!("not folded") };
    assert_eq!(queues.len(), 64);
    let alone = map(&machine, &["eth1"]);
    assert_eq!(alone.rows(&alone.devices[0]).len(), 64, "there is nothing else to see");
    let small = map(&quiclane_fixtures::two_node_ice(), &[]);
    assert_eq!(small.rows(&small.devices[1]).len(), 16, "there is room for all");
}

#[test]
fn svg_is_sound_and_small() {
    for (name, map) in maps() {
        let scene = layout::scene(&map);
        for theme in [Theme::Light, Theme::Dark, Theme::Auto] {
            let svg = svg::render(&scene, theme);
            let has_both = svg.contains("prefers-color-scheme");
            assert_eq!(has_both, theme == Theme::Auto, "{name}");
            assert!(svg.len() < 250_000, "{name}: {} bytes", svg.len());
            assert!(svg.contains("viewBox") && svg.trim_end().ends_with("</svg>"), "{name}");
            let open = svg.matches("<title").count();
            assert_eq!(open, svg.matches("</title>").count(), "{name}");
            assert_eq!(svg.matches('<').count(), svg.matches('>').count(), "{name}");
        }
    }
}

#[test]
fn text_fits_every_width() {
    for (name, map) in maps() {
        for columns in [30, 50, 64, 80, 100, 200] {
            let text = text::render(&map, columns, false);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= columns, "{name}: {longest} columns of {columns}:\n{text}");
            let edges: BTreeSet<char> = "┌┐└┘│┆".chars().collect();
            let has_boxes = text.chars().any(|letter| edges.contains(&letter));
            assert_eq!(has_boxes, columns >= 64, "{name} {columns}");
            if columns >= 64 {
                let outer = text.lines().filter(|line| line.starts_with(['┌', '│', '└', '┆']));
                let widths: BTreeSet<usize> = outer.map(|line| line.chars().count()).collect();
                assert_eq!(widths.len(), 1, "{name}: edges are not straight:\n{text}");
            }
        }
    }
}

#[test]
fn text_is_red_only_where_lines_cross_and_colour_is_wanted() {
    let crossed = map(&quiclane_fixtures::two_node_ice_crossed(), &[]);
    let text = text::render(&crossed, 80, true);
    assert!(text.lines().any(|line| line.contains("\x1b[1;31m╌✕▲ 16 (node 1)")), "{text}");
    let plain = text::render(&crossed, 80, false);
    assert!(!plain.contains('\x1b') && plain.contains("✕ 16 lines cross nodes"));
    let calm = text::render(&map(&quiclane_fixtures::two_node_ice(), &[]), 80, true);
    assert!(!calm.contains("\x1b[1;31m") && !calm.contains('✕'), "{calm}");
}

#[test]
fn small_words() {
    assert_eq!(ranges([0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
    assert_eq!(ranges([]), "");
    assert_eq!((speed(100_000), speed(2_500)), ("100 Gb/s".to_owned(), "2.5 Gb/s".to_owned()));
    assert_eq!(speed(10), "10 Mb/s");
    let short = fit("a name that is too long", 12.0, false, 60.0);
    assert!(short.ends_with('…') && width(&short, 12.0, false) <= 60.0, "{short}");
    assert_eq!(fit("short", 12.0, false, 60.0), "short");
    assert_eq!(fit("nothing fits", 12.0, false, 3.0), "");
}

#[test]
fn pictures_show_what_the_command_shows() {
    let good = layout::scene(&map(&quiclane_fixtures::two_node_ice(), &[]));
    pictures::keep("topo-light.svg", &svg::render(&good, Theme::Light));
    pictures::keep("topo-dark.svg", &svg::render(&good, Theme::Dark));
    let crossed = layout::scene(&map(&quiclane_fixtures::two_node_ice_crossed(), &["eth0"]));
    pictures::keep("topo-crossed-light.svg", &svg::render(&crossed, Theme::Light));
    pictures::keep("topo-crossed-dark.svg", &svg::render(&crossed, Theme::Dark));
}
