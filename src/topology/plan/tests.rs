use super::*;
use crate::topology::rig::Rig;
use crate::topology::survey::device::{Channels, Feature, Napi};

fn wish(policy: Policy) -> PlanRequest {
    PlanRequest { device: "eth0".to_owned(), policy, ..PlanRequest::default() }
}

fn cpus(plan: &Plan) -> Vec<u32> {
    plan.workers.iter().map(|row| row.cpu).collect()
}

fn new(plan: &Plan, setting: &str) -> String {
    let line = plan.line(&setting.parse().unwrap());
    line.map_or_else(|| format!("no line {setting}"), |line| line.new.to_string())
}

fn omitted<'a>(plan: &'a Plan, what: &str) -> &'a str {
    let found = plan.omissions.iter().find(|omission| omission.what == what);
    found.map_or("not omitted", |omission| omission.reason.as_str())
}

fn noted(plan: &Plan, words: &str) -> bool {
    plan.notes.iter().any(|note| note.contains(words))
}

/// A machine with two threads a core, and caches of two cores.
fn smt() -> Rig {
    Rig { threads: 2, cores_per_cache: 2, ..Rig::default() }
}

#[test]
fn node_takes_the_first_threads_of_the_devices_node() {
    let plan = make(&smt().survey(), &wish(Policy::Node)).unwrap();
    assert_eq!(cpus(&plan), [4, 5, 6, 7], "a worker for each core of node 1");
    let more = PlanRequest { workers: Some(6), ..wish(Policy::Node) };
    let plan = make(&smt().survey(), &more).unwrap();
    assert_eq!(cpus(&plan), [4, 5, 6, 7, 12, 13], "then second threads");
    assert!(noted(&plan, "share a core"), "{:?}", plan.notes);
    assert_eq!(plan.policy, Some(Policy::Node));
}

#[test]
fn ccx_fills_one_cache_before_the_next() {
    // Caches that do not follow the numbers of their CPUs: even and odd cores.
    let mut survey = smt().survey();
    for cpu in &mut survey.machine.cpus {
        let odd = cpu.id % 2;
        cpu.cache = Reading::Known((0..16).filter(|cpu| cpu % 2 == odd).collect());
    }
    let plan = make(&survey, &wish(Policy::Ccx)).unwrap();
    assert_eq!(cpus(&plan), [4, 6, 5, 7]);
    let more = PlanRequest { workers: Some(8), ..wish(Policy::Ccx) };
    assert_eq!(cpus(&make(&survey, &more).unwrap()), [4, 6, 5, 7, 12, 14, 13, 15]);
    survey.machine.cpus[5].cache = Reading::Unknown("no cache".to_owned());
    let plan = make(&survey, &wish(Policy::Ccx)).unwrap();
    assert!(noted(&plan, "cpus 5 are unknown"), "{:?}", plan.notes);
}

#[test]
fn spread_takes_a_core_of_each_node_in_turn() {
    let plan = make(&smt().survey(), &wish(Policy::Spread)).unwrap();
    assert_eq!(cpus(&plan), [0, 4, 1, 5, 2, 6, 3, 7]);
    assert!(noted(&plan, "the device is on node 1"), "what crosses is said: {:?}", plan.notes);
}

#[test]
fn an_unknown_node_is_no_node() {
    for policy in [Policy::Node, Policy::Ccx] {
        let rig = Rig { nic_node: None, ..Rig::default() };
        let plan = make(&rig.survey(), &wish(policy)).unwrap();
        assert_eq!(cpus(&plan), [0, 1, 2, 3, 4, 5, 6, 7], "all of them, and not node 0 alone");
        assert!(noted(&plan, "unknown") && noted(&plan, "-1"), "{:?}", plan.notes);
    }
}

#[test]
fn named_cpus_win_in_their_order() {
    let request = PlanRequest { cpus: vec![7, 2], ..wish(Policy::Node) };
    let plan = make(&Rig::default().survey(), &request).unwrap();
    assert_eq!(cpus(&plan), [7, 2]);
    assert_eq!(plan.policy, None);
    assert_eq!(new(&plan, "queues.channels"), "combined 2");
    assert!(noted(&plan, "cpu 2 of node 0"), "{:?}", plan.notes);
    let request = PlanRequest { cpus: vec![99], ..wish(Policy::Node) };
    let error = make(&Rig::default().survey(), &request).unwrap_err();
    assert!(error.to_string().contains("no cpu 99"), "{error}");
}

#[test]
fn a_device_gets_what_its_workers_need() {
    let plan = make(&Rig::default().survey(), &wish(Policy::Node)).unwrap();
    let expected = [
        ("features.rx-lro", "off"),
        ("features.rx-vlan-hw-parse", "off"),
        ("queues.channels", "combined 4"),
        ("queues.rings", "rx 1024 tx 1024"),
        ("queues.coalesce", "adaptive-rx 0 rx-usecs 20"),
        ("rss.table", "equal 4"),
        ("rss.udp4", "sdfn"),
        ("irq.rx-0", "4"),
        ("irq.rx-3", "7"),
        ("rps.rx-3", "none"),
        ("rfs.rx-3", "0"),
        ("xps.tx-3", "7"),
        ("napi.rx-3", "defer-hard-irqs 2 gro-flush-timeout-ns 20000"),
        ("napi.threaded", "0"),
        ("irq.rx-4", "no line irq.rx-4"),
    ];
    for (setting, value) in expected {
        assert_eq!(new(&plan, setting), value, "{setting}");
    }
    let settings: Vec<&Setting> = plan.lines.iter().map(|line| &line.setting).collect();
    assert!(settings.is_sorted(), "in the order of writing: {settings:?}");
    assert!(omitted(&plan, "features.rx-gro-hw").contains("cannot be switched on"));
    assert!(omitted(&plan, "rss.key").contains("move all flows"));
    let line = |name: &str| plan.line(&name.parse().unwrap()).unwrap().clone();
    assert_eq!(line("queues.channels").risk(), Risk::LinkReset);
    assert_eq!(line("rss.udp4").risk(), Risk::TrafficMoves);
    assert_eq!(line("rss.udp6").risk(), Risk::None, "it is so already");
    assert!(!line("rss.udp6").changes());
    assert_eq!(plan.risk(), Risk::LinkReset);
}

#[test]
fn more_queues_than_today_are_not_there_yet() {
    let rig = Rig { queues: 2, ..Rig::default() };
    let plan = make(&rig.survey(), &wish(Policy::Node)).unwrap();
    let line = plan.line(&Setting::Irq(3)).unwrap();
    assert_eq!(line.today.reason(), Some("there is no receive queue 3"));
    assert_eq!(new(&plan, "xps.tx-3"), "7");
}

#[test]
fn workers_need_queues_and_cpus() {
    let small = Rig { max_queues: 8, ..Rig::default() };
    let ask = |rig: &Rig, workers, policy| {
        make(&rig.survey(), &PlanRequest { workers: Some(workers), ..wish(policy) })
    };
    let error = ask(&small, 9, Policy::Spread).unwrap_err();
    assert!(error.to_string().contains("only 8 are possible"), "{error}");
    let error = ask(&Rig::default(), 5, Policy::Node).unwrap_err();
    assert_eq!(error, PlanError::TooFewCpus { workers: 5, cpus: 4 });
    assert_eq!(ask(&small, 0, Policy::Node), Err(PlanError::NoWorkers));
    let missing = PlanRequest { device: "eth9".to_owned(), ..PlanRequest::default() };
    assert_eq!(make(&small.survey(), &missing), Err(PlanError::NoDevice("eth9".to_owned())));
    // ena keeps half of its queues to itself.
    let mut survey = small.survey();
    survey.machine.nics[0].driver = Reading::Known("ena".to_owned());
    let plan = make(&survey, &wish(Policy::Spread)).unwrap();
    assert_eq!(new(&plan, "queues.channels"), "combined 4");
    assert!(noted(&plan, "ena needs half"), "{:?}", plan.notes);
}

#[test]
fn separate_channels_are_named_apart() {
    let mut survey = Rig::default().survey();
    survey.devices[0].channels =
        Reading::Known(Channels { rx: (8, 8), tx: (8, 8), ..Channels::default() });
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert_eq!(new(&plan, "queues.channels"), "rx 4 tx 4");
}

/// As a device whose driver offers nothing: what cannot be set is left out, and says why.
#[test]
fn what_is_not_offered_is_left_out() {
    let mut survey = Rig::default().survey();
    let device = &mut survey.devices[0];
    let no = "Operation not supported";
    device.channels = Reading::unknown(no);
    device.rings = Reading::unknown(no);
    device.coalesce = Reading::unknown(no);
    device.rss = Reading::unknown(no);
    device.hash_fields = Reading::unknown(no);
    device.features = Reading::unknown(no);
    device.napis = Reading::Known(Vec::new());
    survey.machine.nics[0].irqs.clear();
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    for what in ["queues.channels", "queues.rings", "queues.coalesce", "rss.table", "rss.udp4"] {
        assert_eq!(omitted(&plan, what), no, "{what}");
    }
    assert!(omitted(&plan, "irq").contains("no interrupts"));
    assert!(omitted(&plan, "napi.threaded").contains("taskset"));
    // All eight queues receive, so all are served, by the four CPUs of the node.
    assert_eq!(cpus(&plan), [4, 5, 6, 7, 4, 5, 6, 7]);
    assert!(noted(&plan, "serves queues [0, 4]"), "{:?}", plan.notes);
    assert_eq!(new(&plan, "napi.defer-hard-irqs"), "2", "without NAPIs of one's own: the device");
    let fewer = PlanRequest { workers: Some(2), ..wish(Policy::Node) };
    let plan = make(&survey, &fewer).unwrap();
    assert!(noted(&plan, "queues 2-7 receive as well"), "{:?}", plan.notes);
}

#[test]
fn what_a_driver_switches_by_itself_is_left_to_it() {
    let mut survey = Rig::default().survey();
    let on = Feature { active: true, wanted: true, changeable: true };
    survey.devices[0].features = Reading::Known([("rx-gro-hw".to_owned(), on)].into());
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert_eq!(new(&plan, "features.rx-gro-hw"), "off");
    survey.machine.nics[0].driver = Reading::Known("virtio_net".to_owned());
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert!(omitted(&plan, "features.rx-gro-hw").contains("virtio_net switches it off"));
}

#[test]
fn one_queue_without_a_table_has_nothing_to_spread() {
    let of = |queues: u32, has_table: bool| {
        let mut survey = Rig { queues, max_queues: queues, ..Rig::default() }.survey();
        if !has_table {
            survey.devices[0].rss = Reading::Unknown("EOPNOTSUPP".to_owned());
        }
        let plan = make(&survey, &wish(Policy::Node)).unwrap();
        let settings = plan.lines.iter().map(|line| line.setting.to_string());
        let left_out = plan.omissions.iter().map(|omission| omission.what.clone());
        let all = settings.chain(left_out).filter(|what| what.starts_with("rss"));
        (all.collect::<Vec<_>>(), plan)
    };
    let (spoken_of, plan) = of(1, false);
    assert_eq!(spoken_of, ["rss"]);
    assert_eq!(omitted(&plan, "rss"), "every packet arrives on the only queue");
    let each = ["rss.key", "rss.table", "rss.udp4", "rss.udp6"];
    for (queues, has_table) in [(1, true), (2, false), (2, true)] {
        let (mut spoken_of, _) = of(queues, has_table);
        spoken_of.sort();
        assert_eq!(spoken_of, each, "{queues} queues, a table: {has_table}");
    }
}

#[test]
fn fixed_queues_with_a_table_need_not_all_be_served() {
    let mut survey = Rig::default().survey();
    survey.devices[0].channels = Reading::unknown("Operation not supported");
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert_eq!(cpus(&plan), [4, 5, 6, 7]);
    assert_eq!(new(&plan, "rss.table"), "equal 4");
    assert_eq!(new(&plan, "rps.rx-7"), "none", "of a queue without a worker, too");
}

#[test]
fn per_napi_settings_need_a_kernel_that_has_them() {
    let mut survey = Rig::default().survey();
    let bare = |id| Napi { id, ..Napi::default() };
    survey.devices[0].napis = Reading::Known((8192..8200).map(bare).collect());
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert_eq!(new(&plan, "napi.defer-hard-irqs"), "2");
    assert_eq!(new(&plan, "napi.rx-0"), "no line napi.rx-0");
}

/// A kernel thread for each queue that has a worker, where the kernel has that.
#[test]
fn queues_are_polled_by_the_kernel_where_it_can() {
    let mut survey = Rig::default().survey();
    let request = PlanRequest { busy_napi: true, ..wish(Policy::Node) };
    let told = |id| Napi {
        id,
        defer_hard_irqs: Some(0),
        threaded: Some(false),
        busy_polls: Some(false),
        ..Napi::default()
    };
    survey.devices[0].napis = Reading::Known((8192..8200).map(told).collect());
    survey.host.kernel = Reading::Known("6.18.5".to_owned());
    let plan = make(&survey, &request).unwrap();
    assert_eq!(new(&plan, "napi.rx-0"), "defer-hard-irqs 2 gro-flush-timeout-ns 20000");
    let reason = plan.omissions.iter().find(|it| it.what.contains("poll all the time"));
    assert!(reason.unwrap().reason.contains("6.19"), "{reason:?}");
    survey.host.kernel = Reading::Known("6.19.0-amd64".to_owned());
    let plan = make(&survey, &request).unwrap();
    let setting = "defer-hard-irqs 2 gro-flush-timeout-ns 20000 threaded 2";
    assert_eq!(new(&plan, "napi.rx-3"), setting);
    let line = plan.line(&Setting::Napi(3)).unwrap();
    assert!(line.changes() && line.why().contains("CPU of its own"), "{}", line.why());
    assert_eq!(new(&plan, "napi.threaded"), "no line napi.threaded", "it would undo them");
    assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(kept(&plan)));
    assert_eq!(today_of(&survey), "defer-hard-irqs 0 threaded 0");
    if let Reading::Known(napis) = &mut survey.devices[0].napis {
        napis.iter_mut().for_each(|napi| napi.threaded = None);
    }
    let plan = make(&survey, &request).unwrap();
    let reason = plan.omissions.iter().find(|it| it.what.contains("poll all the time"));
    assert!(reason.unwrap().reason.contains("does not say"), "{reason:?}");
    let Reading::Known(napis) = &mut survey.devices[0].napis else { unreachable!() };
    (napis[0].threaded, napis[0].busy_polls) = (Some(true), Some(true));
    assert_eq!(today_of(&survey), "defer-hard-irqs 0 threaded 2");
}

fn today_of(survey: &Survey) -> String {
    today(survey, "eth0", &Setting::Napi(0)).known().unwrap().to_string()
}

#[test]
fn a_key_of_zeros_is_replaced() {
    let mut survey = Rig::default().survey();
    if let Reading::Known(rss) = &mut survey.devices[0].rss {
        rss[0].key = vec![0; 52];
    }
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    let Value::Key(key) = &plan.line(&Setting::Key).unwrap().new else { panic!("no key") };
    assert!(key.len() == 52 && key.starts_with(&[0x6d, 0x5a]));
}

#[test]
fn irqbalance_is_told_of() {
    let mut survey = Rig::default().survey();
    survey.host.irqbalance = Reading::Known(Some(812));
    let plan = make(&survey, &wish(Policy::Node)).unwrap();
    assert!(noted(&plan, "812"), "{:?}", plan.notes);
}

/// What a file keeps: not the notes and omissions, which are comments.
fn kept(plan: &Plan) -> Plan {
    Plan { workers: Vec::new(), omissions: Vec::new(), notes: Vec::new(), ..plan.clone() }
}

#[test]
fn a_plan_is_read_back_from_its_file() {
    let rigs = [Rig::default(), smt(), Rig { nic_node: None, queues: 2, ..Rig::default() }];
    for (rig, policy) in rigs.iter().zip(Policy::ALL) {
        let plan = make(&rig.survey(), &wish(policy)).unwrap();
        let text = plan.to_toml();
        assert_eq!(Plan::from_toml(&text), Ok(kept(&plan)), "{text}");
        for omission in &plan.omissions {
            assert!(text.contains(&format!("left out: {}", omission.what)), "{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 140), "for a screen:\n{text}");
    }
}

#[test]
fn texts_from_outside_stay_inside_their_quotes() {
    let mut plan = make(&Rig::default().survey(), &wish(Policy::Node)).unwrap();
    plan.device.bus = Some("a\"b\\c\nd\u{7}".to_owned());
    plan.notes.push("first\n[features]\nsecond".to_owned());
    plan.lines[0].today = Reading::Unknown("no\n\"value\"".to_owned());
    assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(kept(&plan)));
}

#[test]
fn a_person_may_edit_it() {
    let plan = make(&Rig::default().survey(), &wish(Policy::Node)).unwrap();
    let text = plan.to_toml();
    let edited: String = text
        .lines()
        .filter(|line| !line.starts_with("rings"))
        .map(|line| line.replace("\"combined 4\"", "\"combined 2\"") + "\n")
        .collect();
    let edited = Plan::from_toml(&edited).unwrap();
    assert_eq!(new(&edited, "queues.channels"), "combined 2");
    assert_eq!(edited.line(&Setting::Rings), None);
    let by_hand = "version = 1\ndevice = { name = \"eth0\" }\n[irq]\nrx-0.new = \"3\"\n";
    let by_hand = Plan::from_toml(by_hand).unwrap();
    assert_eq!(new(&by_hand, "irq.rx-0"), "3");
    assert!(by_hand.lines[0].changes(), "what today is, it does not say");
}

#[test]
fn mistakes_are_named_with_line_and_key() {
    let head = "version = 1\n[device]\nname = \"eth0\"\n";
    let cases = [
        ("[queues]\nchanels = { new = \"combined 4\" }", 5, "queues.chanels", "channels, rings"),
        ("[queues]\nchannels = { new = 4 }", 5, "queues.channels.new", "no number"),
        ("[queues]\nchannels = 4", 5, "queues.channels", "{ today"),
        ("[queues]\nchannels = { today = \"rx 1\" }", 5, "queues.channels", "no `new`"),
        ("[queues]\nrings = { new = \"rx 1\", old = 1 }", 5, "queues.rings.old", "today and new"),
        ("[irq]\n\nrx-0 = { new = \"0-x\" }", 6, "irq.rx-0.new", "list of CPUs"),
        ("[irq]\nrx-0 = { new = \"1\" }\nrx-00 = { new = \"2\" }", 6, "irq.rx-00", "twice"),
        ("[napi]\nthreaded = { new = [1] }", 5, "napi.threaded.new", "a number"),
        ("[quques]\n", 4, "quques", "not a section"),
        ("[queues]\nrings = { new = ", 5, "", ""),
        ("workers = 4", 4, "device.workers", "[device] has"),
        ("[rss]\nudp4 = { new = \"sd\" }\n[rss]\n", 6, "", "duplicate"),
    ];
    for (text, line, key, why) in cases {
        let error = Plan::from_toml(&format!("{head}{text}")).unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (line, key), "{text}: {error}");
        assert!(error.what.contains(why), "{text}: {error}");
    }
    for (text, key) in [
        ("", "version"),
        ("version = 2", "version"),
        ("version = 1", "device.name"),
        ("version = 1\npolicy = \"best\"", "policy"),
        ("version = 1\nworkers = 2", "workers"),
    ] {
        assert_eq!(Plan::from_toml(text).unwrap_err().key, key, "{text}");
    }
}

#[test]
fn another_device_under_the_same_name_is_told() {
    let survey = Rig::default().survey();
    let target = Target::of(&survey, "eth0").unwrap();
    assert_eq!(target.address.as_deref(), Some("02:00:00:00:00:01"), "the permanent one");
    assert_eq!(target.difference(&target), None);
    let upper =
        Target { address: target.address.as_ref().map(|a| a.to_uppercase()), ..target.clone() };
    assert_eq!(target.difference(&upper), None);
    let unknown = Target { bus: None, ..target.clone() };
    assert_eq!(target.difference(&unknown), None, "what is not known is not compared");
    let other = Target { bus: Some("0000:18:00.0".to_owned()), ..target.clone() };
    assert_eq!(target.difference(&other).unwrap().0, "bus address");
}
