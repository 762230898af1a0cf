//! A row for each queue, for people and for programs.

use crate::inspect::sheet::{self, NONE, Sheet, Side};
use quiclane::datapath::xdp::VerdictCounters;
use quiclane::exec::{Snapshot, WorkerStatus};
use quiclane::topology::survey::server::CountersBySet;
use serde::Serialize;
use std::collections::BTreeMap;

/// The width of a line, and the indent of the further lines of a set.
const COLUMNS: usize = 80;
const INDENT: usize = 2;
/// The no-break space.
const GLUE: char = '\u{a0}';

/// One queue and the worker that serves it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct QueueRow {
    pub(crate) queue: u32,
    pub(crate) cpu: Option<u32>,
    pub(crate) node: Option<u32>,
    /// With soft affinity, the CPUs that it may run on.
    pub(crate) soft_cpus: Vec<u32>,
    /// Why it is not where --place wants it.
    pub(crate) unmet: Option<String>,
    pub(crate) mode: Option<&'static str>,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) drops: u64,
    pub(crate) wrong_queue: u64,
    /// Connections now, as in the status file.
    pub(crate) connections: u64,
    /// Connections accepted or opened since the start.
    pub(crate) connections_total: u64,
}

impl QueueRow {
    fn new(w: &WorkerStatus) -> Self {
        Self {
            queue: w.queue,
            cpu: w.cpu,
            node: w.node,
            soft_cpus: w.soft_cpus.clone(),
            unmet: w.unmet.clone(),
            mode: w.mode.map(quiclane::datapath::Mode::name),
            rx_packets: w.counters.queue.rx_packets,
            tx_packets: w.counters.queue.tx_packets,
            drops: w.counters.queue.drops(),
            wrong_queue: w.wrong_queue,
            connections: w.connections,
            connections_total: w.counters.lane.connected + w.counters.lane.accepted,
        }
    }
}

/// A row for each worker.
pub(crate) fn rows(status: &[WorkerStatus]) -> Vec<QueueRow> {
    status.iter().map(QueueRow::new).collect()
}

/// Every counter that is not zero, by set and name. Every set is there.
pub(crate) fn by_set(counters: &Snapshot) -> CountersBySet {
    let mut told: CountersBySet =
        Snapshot::SETS.iter().map(|set| (set.name.to_owned(), BTreeMap::new())).collect();
    for (set, counter, value) in counters.iter().filter(|(_, _, value)| *value != 0) {
        let of_set = told.entry(set.name.to_owned()).or_default();
        of_set.insert(counter.name.to_owned(), value);
    }
    told
}

/// The same of every worker.
pub(crate) fn counters(status: &[WorkerStatus]) -> Vec<serde_json::Value> {
    let one = |worker: &WorkerStatus| {
        let mut row = serde_json::json!(by_set(&worker.counters));
        row["queue"] = worker.queue.into();
        row
    };
    status.iter().map(one).collect()
}

/// The verdicts of the XDP program on the frames of the device, by name; those that are not zero.
pub(crate) fn verdicts(counters: &VerdictCounters) -> BTreeMap<String, u64> {
    let given = counters.iter().filter(|(_, count)| *count != 0);
    given.map(|(verdict, count)| (verdict.name.to_owned(), count)).collect()
}

/// The counters of all workers and of the XDP program, as text: a line or more for each set, with
/// those that are not zero.
pub(crate) fn text(status: &[WorkerStatus], verdicts: Option<&VerdictCounters>) -> String {
    let mut all = Snapshot::default();
    for worker in status {
        all.add(&worker.counters);
    }
    let sets = Snapshot::SETS.iter().map(|set| {
        let mine = all.iter().filter(move |(of, ..)| of.name == set.name);
        let mine = mine.map(|(_, counter, value)| (counter.name, value));
        (set.name, mine.collect::<Vec<_>>())
    });
    let program = verdicts.map(|verdicts| {
        let given = verdicts.iter().map(|(verdict, count)| (verdict.name, count));
        ("xdp_verdicts", given.collect::<Vec<_>>())
    });
    let line = |(set, counters): (&str, Vec<(&str, u64)>)| {
        let met = counters.iter().filter(|(_, value)| *value != 0);
        // No line breaks between a name and its value.
        let met: Vec<String> = met.map(|(name, value)| format!("{name}{GLUE}{value}")).collect();
        match met.is_empty() {
            true => String::new(),
            false => {
                let text = format!("{set}: {}\n", met.join(", "));
                sheet::wrap(&text, COLUMNS - INDENT, INDENT)
            }
        }
    };
    sets.chain(program).map(line).collect::<String>().replace(GLUE, " ")
}

/// A table of the rows, for 80 columns: the node of a CPU, which `topo` and JSON tell, is left out.
pub(crate) fn table(rows: &[QueueRow]) -> String {
    use Side::{Left, Right};
    let mut sheet = Sheet::new(&[
        ("queue", Right),
        ("cpu", Right),
        ("mode", Left),
        ("rx packets", Right),
        ("tx packets", Right),
        ("drops", Right),
        ("wrong", Right),
        ("live", Right),
        ("total", Right),
    ]);
    for row in rows {
        sheet.row([
            row.queue.to_string().into(),
            row.cpu.map_or_else(|| NONE.to_owned(), |cpu| cpu.to_string()).into(),
            row.mode.unwrap_or(NONE).into(),
            row.rx_packets.to_string().into(),
            row.tx_packets.to_string().into(),
            row.drops.to_string().into(),
            row.wrong_queue.to_string().into(),
            row.connections.to_string().into(),
            row.connections_total.to_string().into(),
        ]);
    }
    sheet.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    use quiclane::counters::Description;
    use serde_json::{Value, json};
    use std::path::Path;

    /// A worker of which every counter has a value of its own.
    fn counting() -> WorkerStatus {
        let counters = Snapshot::from_words(std::array::from_fn(|at| at as u64 + 1_000));
        WorkerStatus { queue: 3, counters, ..WorkerStatus::default() }
    }

    /// Verdicts that were all given.
    fn given() -> VerdictCounters {
        VerdictCounters::from_values(std::array::from_fn(|at| at as u64 + 7_000))
    }

    #[test]
    fn what_is_declared_is_told_in_json_and_in_text() {
        let (worker, given) = (counting(), given());
        let row = &counters(std::slice::from_ref(&worker))[0];
        assert_eq!(row["queue"], 3);
        let text = text(std::slice::from_ref(&worker), Some(&given));
        let is_told = |name: &str, value| {
            let part = format!("{name} {value}");
            text.split([',', '\n', ':']).any(|told| told.trim() == part)
        };
        for (set, counter, value) in worker.counters.iter() {
            assert_eq!(row[set.name][counter.name], value, "{} {}", set.name, counter.name);
            assert!(is_told(counter.name, value), "{} {}: {text}", set.name, counter.name);
        }
        let verdicts = verdicts(&given);
        for (verdict, count) in given.iter() {
            assert_eq!(verdicts[verdict.name], count);
            assert!(is_told(verdict.name, count), "{}: {text}", verdict.name);
        }
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        let silent = counters(&[WorkerStatus::default()]);
        assert!(Snapshot::SETS.iter().all(|set| silent[0][set.name] == json!({})), "{silent:?}");
        assert_eq!(super::text(&[WorkerStatus::default()], None), "");
    }

    fn described<'a>(
        about: &str,
        counters: impl Iterator<Item = &'a Description>,
        number: &str,
    ) -> Value {
        let one = |counter: &Description| {
            let Description { help, kind, unit, .. } = counter;
            let text = format!("{help} ({}, {})", kind.name(), unit.name());
            let form = json!({"type": number, "minimum": 0, "description": text});
            (counter.name.to_owned(), form)
        };
        let properties: serde_json::Map<_, _> = counters.map(one).collect();
        json!({
            "type": "object", "description": about, "properties": properties,
            "additionalProperties": false,
        })
    }

    /// The schema of all sets, with these fields beside them.
    fn sets(number: &str, beside: &[(&str, Value)], are_required: bool) -> Value {
        let of = |set: &quiclane::counters::Set| {
            let about = format!("{} Counted by {}; what is not zero.", set.about, set.counted_by);
            let counters = set.counters.iter().filter(|counter| set.tells(counter));
            (set.name.to_owned(), described(&about, counters, number))
        };
        let beside = beside.iter().map(|(name, form)| ((*name).to_owned(), form.clone()));
        let properties: serde_json::Map<_, _> =
            beside.chain(Snapshot::SETS.iter().map(of)).collect();
        let mut names: Vec<String> = properties.keys().cloned().collect();
        names.retain(|_| are_required);
        json!({
            "type": "object", "properties": properties, "required": names,
            "additionalProperties": false,
        })
    }

    /// The text of a schema with another definition of `name`, which it has.
    fn with_definition(text: &str, name: &str, definition: &Value) -> String {
        let head = format!("\n    \"{name}\": ");
        let start = text.find(&head).unwrap_or_else(|| panic!("no $defs of {name}")) + head.len();
        let length = text[start..].find("\n    }").unwrap() + "\n    }".len();
        let definition = serde_json::to_string_pretty(definition).unwrap();
        let definition = definition.replace('\n', "\n    ");
        format!("{}{definition}{}", &text[..start], &text[start + length..])
    }

    /// With `QUICLANE_WRITE_SCHEMAS=1` it writes them instead.
    #[test]
    fn what_is_declared_is_in_the_schemas() {
        let given = format!("{} What is not zero.", VerdictCounters::ABOUT);
        let verdicts = described(&given, VerdictCounters::DESCRIPTIONS.iter(), "integer");
        let queue = [("queue", json!({"type": "integer", "minimum": 0}))];
        let files = [
            (
                "serve",
                vec![("counters", sets("integer", &queue, true)), ("verdicts", verdicts.clone())],
            ),
            ("status", vec![("counters", sets("integer", &[], true)), ("verdicts", verdicts)]),
            ("top", vec![("counters", sets("number", &[], false))]),
        ];
        for (file, definitions) in files {
            let path = format!("{}/../schemas/{file}.json", env!("CARGO_MANIFEST_DIR"));
            let path = Path::new(&path);
            let found = std::fs::read_to_string(path).unwrap();
            let wanted = definitions.iter().fold(found.clone(), |text, (name, definition)| {
                with_definition(&text, name, definition)
            });
            if std::env::var_os("QUICLANE_WRITE_SCHEMAS").is_some() {
                std::fs::write(path, wanted).unwrap();
            } else {
                let remedy = "QUICLANE_WRITE_SCHEMAS=1 cargo test -p quiclane-tools in_the_schemas";
                assert!(found == wanted, "tools/schemas/{file}.json is old: {remedy}");
            }
        }
    }

    #[test]
    fn a_table_fits_80_columns() {
        let row = QueueRow {
            queue: 63,
            cpu: Some(127),
            node: Some(1),
            mode: Some("native-zerocopy"),
            rx_packets: 99_999_999_999,
            tx_packets: 99_999_999_999,
            drops: 12,
            wrong_queue: 12,
            connections: 1_000,
            connections_total: 10_000,
            ..QueueRow::default()
        };
        let text = table(&[row]);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
