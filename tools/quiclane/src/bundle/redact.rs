//! Removes from a tree what identifies machines and networks, and leaves what explains them.
//!
//! | what | becomes |
//! |---|---|
//! | MAC addresses | `02:00:00:00:00:01`, also where a device is named after one (`enx...`) |
//! | IPv4, IPv6 addresses in answers | `198.18.0.1` (RFC 2544), `2001:db8::1` (RFC 3849) |
//! | the host's name | `host` |
//! | names of processes and of BPF programs that are not ours | `process-1`, `program-1` |
//! | values of boot arguments, but for those about CPUs, memory and interrupts | `redacted` |
//! | words of init, behind `--` of the boot arguments | `redacted` |
//! | RSS keys, unless they are wanted | empty: what depends on them is unknown |
//! | names of devices, with `all` | `net1` |
//!
//! The same value becomes the same token everywhere in one bundle. Masks, loopback and
//! unspecified addresses stay: they name no machine.

use super::Records;
use quiclane::topology::Record;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Boot arguments whose values describe the machine and not its owner; a name that ends in `*`
/// stands for all names with that beginning.
const OPEN_ARGUMENTS: &[&str] = &[
    "amd_*",
    "clocksource",
    "cpufreq*",
    "cpuidle*",
    "default_hugepagesz",
    "hugepages*",
    "idle",
    "intel_*",
    "iommu*",
    "irqaffinity",
    "isolcpus",
    "kernel*",
    "maxcpus",
    "mitigations",
    "net.*",
    "nmi_watchdog",
    "nohz*",
    "nosmt",
    "nr_cpus",
    "numa*",
    "pci",
    "pcie_*",
    "processor*",
    "rcu*",
    "skew_tick",
    "threadirqs",
    "transparent_hugepage",
    "tsc",
    "workqueue*",
    "BOOT_IMAGE",
];
/// Processes that are no secret, by how their names begin: ours, the kernel's, and those that
/// move interrupts.
const OPEN_PROCESSES: &[&str] = &["quiclane", "irqbalance", "napi/", "ksoftirqd", "tuned"];
/// Names of programs and maps that are no secret: those of Quiclane.
const OPEN_PROGRAMS: &[&str] = &["quiclane_", "xsks", "ports_v4", "ports_v6", "verdicts"];
/// Fields with versions, which look like addresses.
const VERSIONS: &[&str] = &["firmware", "version"];

/// What is replaced besides the usual, and what is kept of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Level {
    pub(super) keeps_keys: bool,
    pub(super) with_devices: bool,
}

/// The tree with tokens in it.
pub(super) fn redacted(records: Records, level: Level) -> Records {
    let mut redactor = Redactor { level, ..Redactor::default() };
    for record in records.values() {
        if let Record::File(text) = record {
            redactor.learn_macs(text);
        }
    }
    if level.with_devices {
        redactor.learn_devices(records.keys());
    }
    records.into_iter().map(|(path, record)| redactor.record(&path, record)).collect()
}

#[derive(Debug, Default)]
struct Redactor {
    level: Level,
    devices: BTreeMap<String, String>,
    programs: BTreeMap<String, String>,
    macs: BTreeMap<String, String>,
    v4: BTreeMap<Ipv4Addr, String>,
    v6: BTreeMap<Ipv6Addr, String>,
    processes: BTreeMap<String, String>,
}

impl Redactor {
    fn record(&mut self, path: &Path, record: Record) -> (PathBuf, Record) {
        let named = |path: &Path| {
            let text = self.without_macs(&path.to_string_lossy());
            PathBuf::from(without_words(&text, &self.devices))
        };
        let at = named(path);
        let record = match record {
            Record::Directory => Record::Directory,
            Record::Link(target) => Record::Link(named(&target)),
            Record::File(text) => Record::File(self.file(path, &text)),
        };
        (at, record)
    }

    fn file(&mut self, path: &Path, text: &str) -> String {
        let text = without_words(&self.without_macs(text), &self.devices);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_process = path.starts_with("/proc") && path.iter().count() == 4;
        match (&*path.to_string_lossy(), &*name) {
            ("/proc/sys/kernel/hostname", _) => "host\n".to_owned(),
            ("/proc/cmdline", _) => boot_arguments(&text) + "\n",
            (_, "comm") if is_process => self.process(text.trim()) + "\n",
            (_, "cmdline") if is_process => "redacted\n".to_owned(),
            (_, "status") if is_process => self.status(&text),
            (_, "stat") if is_process => self.stat(&text),
            _ if path.extension().is_some_and(|extension| extension == "json") => self.json(&text),
            _ => text,
        }
    }

    /// `Name:   nginx` of proc_pid_status(5).
    fn status(&mut self, text: &str) -> String {
        let line = |line: &str| match line.strip_prefix("Name:") {
            Some(name) => format!("Name:\t{}\n", self.process(name.trim())),
            None => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    /// `812 (nginx) S ...` of proc_pid_stat(5); the name may hold parentheses itself.
    fn stat(&mut self, text: &str) -> String {
        match (text.find('('), text.rfind(')')) {
            (Some(open), Some(close)) if open < close => {
                let name = self.process(&text[open + 1..close]);
                format!("{}({name}{}", &text[..open], &text[close..])
            }
            _ => text.to_owned(),
        }
    }

    fn json(&mut self, text: &str) -> String {
        match serde_json::from_str(text) {
            Ok(mut value) => {
                self.value(&mut value, "");
                format!("{value:#}\n")
            }
            Err(_) => "{}\n".to_owned(),
        }
    }

    fn value(&mut self, value: &mut Value, field: &str) {
        match value {
            Value::String(text) if !VERSIONS.contains(&field) => *text = self.without_ips(text),
            Value::Array(_) if field == "key" && !self.level.keeps_keys => {
                *value = Value::Array(vec![])
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value, field)),
            Value::Object(fields) => {
                let is_process = fields.contains_key("pid") || fields.contains_key("tid");
                // A BPF program, and each of its maps.
                let is_program = fields.contains_key("tag") || fields.contains_key("max_entries");
                for (field, value) in fields {
                    match value {
                        Value::String(name) if is_process && field == "name" => {
                            *name = self.process(name);
                        }
                        Value::String(name) if is_program && field == "name" => {
                            *name = self.program(name);
                        }
                        Value::Array(pins) if is_program && field == "pins" => {
                            for pin in pins {
                                *pin = self.program(pin.as_str().unwrap_or_default()).into();
                            }
                        }
                        value => self.value(value, field),
                    }
                }
            }
            _ => {}
        }
    }

    fn process(&mut self, name: &str) -> String {
        if OPEN_PROCESSES.iter().any(|open| name.starts_with(open)) {
            return name.to_owned();
        }
        let token = format!("process-{}", self.processes.len() + 1);
        self.processes.entry(name.to_owned()).or_insert(token).clone()
    }

    fn program(&mut self, name: &str) -> String {
        let is_open = name.is_empty() || OPEN_PROGRAMS.iter().any(|open| name.starts_with(open));
        if is_open {
            return name.to_owned();
        }
        let token = format!("program-{}", self.programs.len() + 1);
        self.programs.entry(name.to_owned()).or_insert(token).clone()
    }

    /// Devices by what stands below `/sys/class/net`; every machine has the loopback device.
    fn learn_devices<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        for path in paths {
            let Ok(rest) = path.strip_prefix("/sys/class/net") else { continue };
            let Some(name) = rest.iter().next().and_then(|name| name.to_str()) else { continue };
            let name = self.without_macs(name);
            if name != "lo" {
                let token = format!("net{}", self.devices.len() + 1);
                self.devices.entry(name).or_insert(token);
            }
        }
    }

    /// Every word that is an address becomes its token.
    fn without_ips(&mut self, text: &str) -> String {
        let is_part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            out += before;
            out += &self.ip(word);
            rest = after;
        }
        out + rest
    }

    /// `10.0.0.1`, `10.0.0.1:4433` or `fe80::1`; another word stays.
    fn ip(&mut self, word: &str) -> String {
        if let Ok(address) = word.parse::<IpAddr>() {
            return self.address(address);
        }
        match word.rsplit_once(':').map(|(address, port)| (address.parse(), port)) {
            Some((Ok(address @ IpAddr::V4(_)), port)) => {
                format!("{}:{port}", self.address(address))
            }
            _ => word.to_owned(),
        }
    }

    fn address(&mut self, address: IpAddr) -> String {
        if address.is_loopback() || is_mask(address) {
            return address.to_string();
        }
        match address {
            IpAddr::V4(v4) => {
                let number = self.v4.len() as u32 + 1;
                let token = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
                self.v4.entry(v4).or_insert_with(|| token.to_string()).clone()
            }
            IpAddr::V6(v6) => {
                let token = format!("2001:db8::{:x}", self.v6.len() + 1);
                self.v6.entry(v6).or_insert(token).clone()
            }
        }
    }

    fn learn_macs(&mut self, text: &str) {
        for mac in macs(text) {
            let number = self.macs.len() as u32 + 1;
            let [_, a, b, c] = number.to_be_bytes();
            let token = format!("02:00:00:{a:02x}:{b:02x}:{c:02x}");
            self.macs.entry(mac.to_ascii_lowercase()).or_insert(token);
        }
    }

    /// Both as they are and without colons, as devices are named after them.
    fn without_macs(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (mac, token) in &self.macs {
            for (mac, token) in
                [(mac.clone(), token.clone()), (mac.replace(':', ""), token.replace(':', ""))]
            {
                // The kernel and drivers write lower case; some firmware does not.
                text = text.replace(&mac, &token).replace(&mac.to_ascii_uppercase(), &token);
            }
        }
        text
    }
}

/// The text with tokens for names that stand as words of their own: `eth0` in `eth0-Tx-Rx-3` and
/// in `net/eth0/mtu`, and not in `eth01`.
fn without_words(text: &str, tokens: &BTreeMap<String, String>) -> String {
    if tokens.is_empty() {
        return text.to_owned();
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    'next: while let Some(first) = rest.chars().next() {
        if !out.chars().next_back().is_some_and(is_part) {
            // The longest first: `eth0.7` before `eth0`.
            for (name, token) in tokens.iter().rev() {
                if let Some(after) = rest.strip_prefix(name.as_str())
                    && !after.chars().next().is_some_and(is_part)
                {
                    out += token;
                    rest = after;
                    continue 'next;
                }
            }
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// All ones before all zeros: a network mask, or the unspecified address.
fn is_mask(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => (!u32::from(v4)).wrapping_add(1).is_power_of_two() || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            (!u128::from(v6)).wrapping_add(1).is_power_of_two() || v6.is_unspecified()
        }
    }
}

/// `aa:bb:cc:dd:ee:ff`, but neither as a part of something longer, nor all zeros or ones.
fn macs(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == ':';
    let is_mac = |word: &&str| {
        let groups: Vec<&str> = word.split(':').collect();
        let is_byte = |group: &&str| group.len() == 2;
        let plain = groups.iter().all(|group| *group == "00")
            || groups.iter().all(|group| group.eq_ignore_ascii_case("ff"));
        groups.len() == 6 && groups.iter().all(is_byte) && !plain
    };
    text.split(move |c| !is_part(c)).filter(is_mac)
}

/// The command line of the kernel with only the values that describe the machine.
fn boot_arguments(text: &str) -> String {
    let is_open = |name: &str| {
        OPEN_ARGUMENTS.iter().any(|open| match open.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == *open,
        })
    };
    let argument = |argument: String| match argument.split_once('=') {
        Some((name, _)) if !is_open(name) => format!("{name}=redacted"),
        _ => argument,
    };
    let all = words(text);
    let (ours, others) =
        all.split_at(all.iter().position(|word| word == "--").unwrap_or(all.len()));
    // Everything behind `--` is for init.
    let of_init = others.iter().enumerate().map(|(at, word)| match at {
        0 => word.clone(),
        _ => "redacted".to_owned(),
    });
    ours.iter().cloned().map(argument).chain(of_init).collect::<Vec<_>>().join(" ")
}

/// Words between blanks; a quoted part may hold blanks.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.trim().chars() {
        is_quoted ^= c == '"';
        match words.last_mut() {
            Some(word) if !c.is_whitespace() || is_quoted => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(path: &str, text: &str) -> (PathBuf, Record) {
        (PathBuf::from(path), Record::File(text.to_owned()))
    }

    fn text<'a>(records: &'a Records, path: &str) -> &'a str {
        let Some(Record::File(text)) = records.get(Path::new(path)) else {
            panic!("no {path} in {:?}", records.keys())
        };
        text.trim()
    }

    fn tree() -> Records {
        let rules = json!({"known": [
            {"source": ["10.1.2.3", "255.255.255.255"], "destination": ["fe80::77", "ffff::"],
             "others": ["gateway 10.1.2.3 via b4:96:91:a0:00:10"]},
        ]});
        let sockets = json!({"known": [{"process": {"pid": 1, "name": "secretd"},
            "workers": [{"tid": 2, "name": "quiclane-0"}, {"tid": 3, "name": "secretd"}]}]});
        let identity = json!({"known": {"firmware": "20.5.13.1", "bus": "0000:17:00.0"}});
        let rss = json!({"known": [{"key": [1, 2, 3], "table": [0, 1]}]});
        let server = json!({"listen": "10.1.2.3:4433", "pid": 1, "local": "[fe80::77]:1",
                            "any": "0.0.0.0:4433"});
        Records::from([
            file("/sys/class/net/enxb49691a00010/address", "b4:96:91:a0:00:10\n"),
            file("/sys/class/net/lo/address", "00:00:00:00:00:00\n"),
            file("/proc/sys/kernel/hostname", "lb-a1\n"),
            file("/proc/cmdline", "root=UUID=1 quiet isolcpus=1-3 x=\"a secret\" nosmt=force\n"),
            file("/proc/1/status", "Name:\tsecretd\nCapEff:\t0\n"),
            file("/proc/1/stat", "1 (secretd) S 0\n"),
            file("/proc/2/stat", "2 (secretd2) S 0\n"),
            file("/quiclane/answers/device/eth0/rules.json", &rules.to_string()),
            file("/quiclane/answers/device/eth0/identity.json", &identity.to_string()),
            file("/quiclane/answers/device/eth0/rss.json", &rss.to_string()),
            file("/quiclane/answers/sockets.json", &sockets.to_string()),
            file("/run/quiclane/1.json", &server.to_string()),
        ])
    }

    #[test]
    fn names_become_the_same_token_everywhere() {
        let tree = redacted(tree(), Level::default());
        let all = format!("{tree:?}");
        for secret in ["b4:96:91", "b49691", "10.1.2.3", "fe80", "lb-a1", "secret", "UUID"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
        assert_eq!(text(&tree, "/sys/class/net/enx020000000001/address"), "02:00:00:00:00:01");
        let rules = text(&tree, "/quiclane/answers/device/eth0/rules.json");
        let rules: Value = serde_json::from_str(rules).unwrap();
        assert_eq!(
            rules["known"][0],
            json!({"source": ["198.18.0.1", "255.255.255.255"],
                   "destination": ["2001:db8::1", "ffff::"],
                   "others": ["gateway 198.18.0.1 via 02:00:00:00:00:01"]})
        );
        let server: Value = serde_json::from_str(text(&tree, "/run/quiclane/1.json")).unwrap();
        assert_eq!(
            server,
            json!({"listen": "198.18.0.1:4433", "pid": 1, "local": "[2001:db8::1]:1",
                   "any": "0.0.0.0:4433"})
        );
        assert_eq!(text(&tree, "/proc/1/stat"), "1 (process-1) S 0");
        assert_eq!(text(&tree, "/proc/2/stat"), "2 (process-2) S 0");
        assert_eq!(text(&tree, "/proc/1/status"), "Name:\tprocess-1\nCapEff:\t0");
        let sockets = text(&tree, "/quiclane/answers/sockets.json");
        assert!(sockets.contains("process-1") && sockets.contains("quiclane-0"), "{sockets}");
    }

    #[test]
    fn what_explains_the_machine_stays() {
        let tree = redacted(tree(), Level::default());
        assert_eq!(
            text(&tree, "/proc/cmdline"),
            "root=redacted quiet isolcpus=1-3 x=redacted nosmt=force"
        );
        assert_eq!(text(&tree, "/sys/class/net/lo/address"), "00:00:00:00:00:00");
        let identity = text(&tree, "/quiclane/answers/device/eth0/identity.json");
        assert!(identity.contains("20.5.13.1") && identity.contains("0000:17:00.0"), "{identity}");
    }

    #[test]
    fn keys_go_unless_they_are_wanted() {
        let key = |keeps_keys| {
            let tree = redacted(tree(), Level { keeps_keys, ..Level::default() });
            let rss = text(&tree, "/quiclane/answers/device/eth0/rss.json");
            let rss: Value = serde_json::from_str(rss).unwrap();
            rss["known"][0].clone()
        };
        assert_eq!(key(true), json!({"key": [1, 2, 3], "table": [0, 1]}));
        assert_eq!(key(false), json!({"key": [], "table": [0, 1]}));
    }

    #[test]
    fn words_for_init_and_names_of_programs_go() {
        let programs = json!({"known": [
            {"id": 1, "name": "acme_filter", "tag": "00", "pins": ["/sys/fs/bpf/acme"],
             "maps": [{"id": 2, "name": "acme_flows", "max_entries": 4}]},
            {"id": 3, "name": "quiclane_steer", "tag": "01", "pins": [],
             "maps": [{"id": 4, "name": "xsks", "max_entries": 4}]},
        ]});
        let tree = Records::from([
            file("/proc/cmdline", "quiet nosmt -- /sbin/acme token single\n"),
            file("/quiclane/answers/programs.json", &programs.to_string()),
        ]);
        let tree = redacted(tree, Level::default());
        let boot = "quiet nosmt -- redacted redacted redacted";
        assert_eq!(text(&tree, "/proc/cmdline"), boot);
        let programs = text(&tree, "/quiclane/answers/programs.json");
        assert!(!programs.contains("acme"), "{programs}");
        assert!(programs.contains("quiclane_steer") && programs.contains("xsks"), "{programs}");
    }

    #[test]
    fn devices_go_with_all_wherever_they_are_named() {
        let tree = Records::from([
            file("/sys/class/net/uplink/mtu", "1500\n"),
            file("/sys/class/net/uplink.7/mtu", "1500\n"),
            file("/sys/class/net/lo/mtu", "1500\n"),
            file("/proc/interrupts", "38: 1 2 uplink-Tx-Rx-0 uplinks\n"),
            file("/quiclane/answers/device/uplink.7/link.json", "{\"known\": \"uplink\"}"),
        ]);
        let level = Level { with_devices: true, ..Level::default() };
        let tree = redacted(tree, level);
        assert_eq!(text(&tree, "/proc/interrupts"), "38: 1 2 net1-Tx-Rx-0 uplinks");
        let link = text(&tree, "/quiclane/answers/device/net2/link.json");
        assert!(link.contains("net1"), "{link}");
        assert!(tree.contains_key(Path::new("/sys/class/net/lo/mtu")));
    }
}
