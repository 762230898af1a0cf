//! Changes that break a machine, so that a finding appears.

use quiclane_fixtures::{Tree, ena, lost_node, two_node_ice, veth, virtio};
use serde_json::{Value, json};

/// A machine, the change that breaks it, and the finding.
pub(super) struct Trigger {
    pub(super) id: &'static str,
    /// A part of the finding's line.
    pub(super) says: &'static str,
    pub(super) device: &'static str,
    pub(super) machine: fn() -> Tree,
    pub(super) breaks: fn(&mut Tree),
    /// A change without which even the sound machine has the finding; `None` if it needs none.
    pub(super) mends: Option<fn(&mut Tree)>,
}

/// A change of the sound machine.
const fn ice(id: &'static str, says: &'static str, breaks: fn(&mut Tree)) -> Trigger {
    Trigger { id, says, device: "eth0", machine: two_node_ice, breaks, mends: None }
}

fn nothing(_: &mut Tree) {}

/// Changes an answer of `eth0`.
fn edit(tree: &mut Tree, question: &str, change: impl FnOnce(&mut Value)) {
    tree.edit_answer(&format!("device/eth0/{question}"), change);
}

pub(super) fn switch(tree: &mut Tree, feature: &str) {
    edit(tree, "features", |features| features[feature]["active"] = true.into());
}

/// On, and the driver does not let it be switched off.
pub(super) fn switch_fixed(tree: &mut Tree, feature: &str) {
    switch(tree, feature);
    edit(tree, "features", |features| features[feature]["changeable"] = false.into());
}

/// Removes the sockets that `keep` does not want, wherever a file or an answer names them.
fn keep_sockets(tree: &mut Tree, keep: impl Fn(u64) -> bool) {
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: Value = serde_json::from_str(text).unwrap();
        let workers = server["workers"].as_array_mut().unwrap();
        workers.retain(|worker| keep(worker["queue"].as_u64().unwrap()));
        server.to_string()
    });
    tree.edit_answer("sockets", |all| {
        let all = all.as_array_mut().unwrap();
        all.retain(|socket| keep(socket["queue"].as_u64().unwrap()));
    });
    edit(tree, "queue_links", |links| {
        for link in links.as_array_mut().unwrap() {
            link["has_xsk"] = keep(link["index"].as_u64().unwrap()).into();
        }
    });
    tree.edit_answer("programs", |programs| {
        let queues = programs[0]["maps"][0]["queues"].as_array_mut().unwrap();
        queues.retain(|queue| keep(queue.as_u64().unwrap()));
    });
}

/// No server, no program.
fn stop(tree: &mut Tree) {
    keep_sockets(tree, |_| false);
    tree.answer("programs", json!([])).answer("device/eth0/attached", json!([]));
}

fn table(tree: &mut Tree, queue: impl Fn(usize) -> usize) {
    edit(tree, "rss", |rss| {
        let slots = rss[0]["table"].as_array().unwrap().len();
        rss[0]["table"] = (0..slots).map(queue).collect();
    });
}

/// The CPU of the interrupt of a queue.
fn interrupt(tree: &mut Tree, queue: u32, cpu: u32) {
    const FIRST: u32 = 121;
    let file = format!("proc/irq/{}/effective_affinity_list", FIRST + queue);
    tree.set(&file, cpu.to_string());
}

fn pin(tree: &mut Tree, queue: usize, cpus: &[u32]) {
    silent_server(tree);
    tree.edit_answer("sockets", |all| all[queue]["workers"][0]["cpus"] = cpus.into());
}

fn counter(tree: &mut Tree, name: &str) {
    tree.edit_answer("sockets", |all| all[3]["counters"][name] = 17.into());
}

/// Changes the first worker in the server's status file.
pub(super) fn server_with(tree: &mut Tree, change: impl FnOnce(&mut Value)) {
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: Value = serde_json::from_str(text).unwrap();
        change(&mut server["workers"][0]);
        server.to_string()
    });
}

/// The server is another program, without a status file.
fn silent_server(tree: &mut Tree) {
    tree.remove("run/quiclane");
}

pub(super) fn driven_by(tree: &mut Tree, driver: &str) {
    edit(tree, "identity", |identity| identity["driver"] = driver.into());
}

fn without_zerocopy(tree: &mut Tree, device: &str) {
    tree.edit_answer(&format!("device/{device}/xdp_support"), |support| {
        support["features"].as_array_mut().unwrap().retain(|it| it != "xsk-zerocopy");
    });
}

/// A virtual device of a kind, on top of `eth0` or beside it.
fn add_virtual(tree: &mut Tree, name: &str, index: u32, kind: &str, lower: Option<u32>) {
    let net = format!("sys/devices/virtual/net/{name}");
    tree.link(&format!("sys/class/net/{name}"), format!("../../devices/virtual/net/{name}"));
    tree.set(&format!("{net}/ifindex"), index.to_string()).set(&format!("{net}/mtu"), "1500");
    tree.set(&format!("{net}/queues/rx-0/rps_cpus"), "0");
    tree.directory(&format!("{net}/queues/tx-0"));
    let link = json!({"kind": kind, "address": "02:00:00:00:00:01", "state": "up", "is_up": true,
                      "has_carrier": true, "lower": lower});
    tree.answer(&format!("device/{name}/link"), link);
    tree.answer(&format!("device/{name}/attached"), json!([]));
}

/// The other end of the veth, with `queues` transmit queues.
fn add_peer(tree: &mut Tree, queues: u32, checksums: bool) {
    add_virtual(tree, "veth1", 4, "veth", Some(5));
    for queue in 1..queues {
        tree.directory(&format!("sys/class/net/veth1/queues/tx-{queue}"));
    }
    let on = json!({"active": checksums, "wanted": checksums, "changeable": true});
    let off = json!({"active": false, "wanted": false, "changeable": true});
    let features = json!({"tx-checksum-ip-generic": on, "tx-udp-segmentation": off});
    tree.answer("device/veth1/features", features);
}

fn option_off(tree: &mut Tree, name: &str) {
    tree.edit_answer("kernel_options", |options| {
        options.as_array_mut().unwrap().retain(|option| option[0] != name);
    });
}

fn kernel(tree: &mut Tree, release: &str) {
    tree.set("proc/sys/kernel/osrelease", release);
}

/// A line of the backlog of the first CPU.
fn backlog(tree: &mut Tree, processed: u32, dropped: u32, squeezed: u32) {
    tree.edit("proc/net/softnet_stat", |text| {
        let (first, others) = text.split_once('\n').unwrap();
        let rest: Vec<&str> = first.split(' ').skip(3).collect();
        format!("{processed:08x} {dropped:08x} {squeezed:08x} {}\n{others}", rest.join(" "))
    });
}

fn capabilities(tree: &mut Tree, bits: &str) {
    tree.set("proc/self/status", format!("Name:\tquiclane\nCapEff:\t{bits}"));
}

pub(super) const TRIGGERS: &[Trigger] = &[
    ice("QL001", "udp4 hashes sd", |tree| {
        edit(tree, "hash_fields", |fields| fields[1]["letters"] = "sd".into());
    }),
    ice("QL002", "udp6 hashes nothing", |tree| {
        edit(tree, "hash_fields", |fields| fields[3]["letters"] = "".into());
    }),
    ice("QL003", "queues 14-15 without a socket", |tree| keep_sockets(tree, |queue| queue < 14)),
    ice("QL004", "sockets on queues 8-15", |tree| table(tree, |slot| slot % 8)),
    ice("QL005", "RSS uses 4 of 16 queues", |tree| {
        stop(tree);
        table(tree, |slot| slot % 4);
    }),
    ice("QL006", "xor", |tree| {
        edit(tree, "rss", |rss| rss[0]["hash_function"] = "xor".into());
    }),
    ice("QL006", "symmetric-xor", |tree| {
        edit(tree, "rss", |rss| rss[0]["input_transform"] = "symmetric-xor".into());
    }),
    ice("QL007", "rule 7 takes udp4 and drops it", |tree| {
        let rule = json!({"location": 7, "flow": "udp4", "action": "drop", "others": []});
        tree.answer("device/eth0/rules", json!([rule]));
    }),
    ice("QL007", "sends it to queue 15, which has no socket", |tree| {
        keep_sockets(tree, |queue| queue < 15);
        let rule = json!({"location": 7, "flow": "udp6", "action": {"queue": 15}, "others": []});
        tree.answer("device/eth0/rules", json!([rule]));
    }),
    ice("QL008", "16 queues and 15 workers: none on queue 15", |tree| {
        keep_sockets(tree, |queue| queue < 15);
        tree.refuse("device/eth0/rss", "it has none");
    }),
    ice("QL009", "a socket on queue 15, of 15 queues", |tree| {
        tree.remove("sys/class/net/eth0/queues/rx-15");
    }),
    ice("QL010", "1 IRQ not on node 0", |tree| interrupt(tree, 3, 19)),
    ice("QL011", "2 queues interrupt cpu 4", |tree| interrupt(tree, 3, 4)),
    ice("QL012", "irqbalance may move 17 IRQs", |tree| {
        tree.answer("irqbalance", 733);
    }),
    ice("QL013", "1 IRQ on a sibling", |tree| interrupt(tree, 3, 35)),
    ice("QL014", "1 core is shared by two workers", |tree| pin(tree, 1, &[32])),
    ice("QL015", "the worker of queue 2 is not pinned", |tree| pin(tree, 2, &[0, 1, 2, 3])),
    ice("QL015", "the worker of queue 0 is not pinned", |tree| {
        server_with(tree, |worker| worker["cpu"] = Value::Null);
    }),
    ice("QL016", "1 worker not on node 0", |tree| pin(tree, 2, &[18])),
    ice("QL016", "1 worker not on node 0", |tree| {
        server_with(tree, |worker| worker["cpu"] = 18.into());
    }),
    ice("QL017", "cpu 1 has 2 workers", |tree| pin(tree, 2, &[1])),
    ice("QL017", "cpus 1,3 have 2 workers each", |tree| {
        pin(tree, 2, &[1]);
        tree.edit_answer("sockets", |all| all[4]["workers"][0]["cpus"] = json!([3]));
    }),
    ice("QL018", "IRQ and worker of queue 2 share no cache", |tree| pin(tree, 2, &[18])),
    ice("QL020", "RPS moves packets of queue 2 to cpus 0-3", |tree| {
        tree.set("sys/class/net/eth0/queues/rx-2/rps_cpus", "00000000,0000000f");
    }),
    ice("QL021", "RFS is on for queue 2", |tree| {
        tree.set("sys/class/net/eth0/queues/rx-2/rps_flow_cnt", "4096");
    }),
    ice("QL022", "XPS of queue 2", |tree| {
        tree.set("sys/class/net/eth0/queues/tx-2/xps_cpus", "00000000,00000002");
    }),
    ice("QL023", "1 NAPI thread", |tree| {
        tree.set("sys/class/net/eth0/threaded", "1");
        edit(tree, "napis", |napis| napis[0]["thread"] = 900.into());
        tree.set("proc/900/status", "Name:\tnapi/eth0-513\nCpus_allowed_list:\t0-63");
    }),
    ice("QL023", "1 NAPI thread", |tree| {
        edit(tree, "napis", |napis| napis[0]["thread"] = 900.into());
        tree.set("proc/900/status", "Name:\tnapi/eth0-513\nCpus_allowed_list:\t17");
    }),
    ice("QL024", "napi_defer_hard_irqs is 0", |tree| {
        tree.set("sys/class/net/eth0/napi_defer_hard_irqs", "0");
    }),
    ice("QL024", "gro_flush_timeout is 0", |tree| {
        tree.set("sys/class/net/eth0/gro_flush_timeout", "0");
    }),
    ice("QL025", "not deferred", |tree| {
        tree.set("sys/class/net/eth0/napi_defer_hard_irqs", "0");
        tree.set("sys/class/net/eth0/gro_flush_timeout", "0");
        edit(tree, "napis", |napis| {
            napis
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .for_each(|it| it["defer_hard_irqs"] = 0.into());
        });
    }),
    ice("QL026", "5000 us", |tree| {
        tree.set("sys/class/net/eth0/gro_flush_timeout", "5000000");
    }),
    ice("QL026", "9000 us", |tree| {
        edit(tree, "napis", |napis| napis[1]["gro_flush_timeout_ns"] = 9_000_000.into());
    }),
    ice("QL027", "250 us", |tree| {
        edit(tree, "coalesce", |coalesce| coalesce["rx_usecs"] = 250.into());
    }),
    ice("QL030", "256 entries of 8160", |tree| {
        edit(tree, "rings", |rings| rings["rx"] = json!([256, 8160]));
    }),
    ice("QL031", "512 entries", |tree| {
        edit(tree, "rings", |rings| rings["rx"] = json!([512, 512]));
    }),
    ice("QL032", "hardware GRO", |tree| switch(tree, "rx-gro-hw")),
    ice("QL032", "does not let it be switched off", |tree| switch_fixed(tree, "rx-gro-hw")),
    ice("QL033", "LRO", |tree| switch(tree, "rx-lro")),
    ice("QL034", "eth0.7 needs them", |tree| {
        add_virtual(tree, "eth0.7", 9, "vlan", Some(2));
        switch(tree, "rx-vlan-hw-parse");
    }),
    ice("QL035", "MTU 9000", |tree| {
        tree.set("sys/class/net/eth0/mtu", "9000");
    }),
    ice("QL036", "rx-gro-list", |tree| {
        edit(tree, "attached", |attached| attached[0]["mode"] = "generic".into());
        switch(tree, "rx-gro-list");
    }),
    ice("QL037", "no carrier", |tree| {
        edit(tree, "link", |link| link["has_carrier"] = false.into());
    }),
    ice("QL037", "switched off", |tree| {
        edit(tree, "link", |link| link["is_up"] = false.into());
    }),
    ice("QL038", "no AF_XDP zero-copy", |tree| without_zerocopy(tree, "eth0")),
    ice("QL039", "generic mode only", |tree| {
        edit(tree, "xdp_support", |support| support["features"] = json!([]));
    }),
    ice("QL040", "xdp_filter of xdp-filter (pid 4403)", |tree| {
        tree.edit_answer("programs", |programs| {
            programs[0]["name"] = "xdp_filter".into();
            programs[0]["processes"] = json!([{"pid": 4403, "name": "xdp-filter"}]);
        });
    }),
    ice("QL041", "generic mode, native is offered", |tree| {
        edit(tree, "attached", |attached| attached[0]["mode"] = "generic".into());
    }),
    ice("QL042", "1 pin of program 198", |tree| {
        tree.edit_answer("programs", |programs| {
            programs[0]["processes"] = json!([]);
            programs[0]["pins"] = json!(["/sys/fs/bpf/quiclane/link"]);
        });
    }),
    ice("QL043", "no queue has a socket", |tree| keep_sockets(tree, |_| false)),
    ice("QL044", "the sockets of queue 5 copy", |tree| {
        silent_server(tree);
        tree.edit_answer("sockets", |all| all[5]["zerocopy"] = false.into());
    }),
    ice("QL044", "the sockets of queue 0 copy", |tree| {
        server_with(tree, |worker| worker["mode"] = "native-copy".into());
    }),
    ice("QL045", "the datapath of queue 0 is lost", |tree| {
        server_with(tree, |worker| worker["error"] = "ENETDOWN".into());
    }),
    ice("QL050", "7 packets on queue 0", |tree| {
        server_with(tree, |worker| worker["wrong_queue_recent"] = 7.into());
    }),
    ice("QL051", "rx_ring_full is 17", |tree| counter(tree, "rx_ring_full")),
    ice("QL052", "fill_ring_empty is 17", |tree| counter(tree, "fill_ring_empty")),
    ice("QL053", "is 17 on 1 socket", |tree| counter(tree, "rx_dropped")),
    ice("QL053", "is 17 on 1 socket", |tree| counter(tree, "tx_invalid")),
    ice("QL053", "is 4 on 1 socket", |tree| {
        // In copy mode a packet without a frame is counted as dropped, too.
        counter(tree, "fill_ring_empty");
        tree.edit_answer("sockets", |all| all[3]["counters"]["rx_dropped"] = 21.into());
    }),
    ice("QL057", "9 packets thrown away so far: drop_malformed 2, drop_udp_checksum 7", |tree| {
        server_with(tree, |worker| {
            worker["dropped"] = json!({"drop_udp_checksum": 7, "drop_malformed": 2});
        });
    }),
    ice(
        "QL058",
        "9 clients refused so far: refused_memory 7, refused_source_connections 2",
        |tree| {
            server_with(tree, |worker| {
                // No option of serve raises the limit of handshakes of one address.
                worker["refused"] = json!({"refused_memory": 7, "refused_source_connections": 2,
                                       "refused_source_handshakes": 5});
            });
        },
    ),
    ice("QL059", "other threads wanted cpu 0: 3 times so far", |tree| {
        server_with(tree, |worker| worker["crowded"] = 3.into());
    }),
    ice("QL054", "dropped 4 packets", |tree| {
        edit(tree, "queue_counters", |counters| counters[0]["hw_drops"] = 4.into());
    }),
    ice("QL054", "dropped 4 packets", |tree| {
        let missed = json!(["rx_missed_errors", 4]);
        edit(tree, "statistics", |all| all.as_array_mut().unwrap().push(missed));
    }),
    ice("QL055", "the backlog of cpu 0 dropped 3 packets", |tree| backlog(tree, 1_000, 3, 0)),
    ice("QL056", "softirqs of cpu 0", |tree| backlog(tree, 1_000, 0, 2)),
    ice("QL060", "zero-copy needs 6.14", |tree| {
        driven_by(tree, "igb");
        without_zerocopy(tree, "eth0");
        kernel(tree, "6.12.9");
    }),
    Trigger {
        mends: Some(|tree| {
            driven_by(tree, "igb");
            without_zerocopy(tree, "eth0");
        }),
        ..ice("QL061", "2048", |tree| driven_by(tree, "igb"))
    },
    Trigger {
        id: "QL062",
        says: "4 of its 8 queues",
        device: "eth0",
        machine: ena,
        breaks: nothing,
        mends: Some(|tree| edit(tree, "channels", |it| it["combined"] = json!([4, 8]))),
    },
    ice("QL063", "rocep23s0", |tree| {
        tree.directory("sys/class/net/eth0/device/infiniband/rocep23s0");
    }),
    ice("QL019", "worker of queue 3 not as --place asks: IRQ 124 goes to cpu 40", |tree| {
        tree.edit("run/quiclane/812.json", |text| {
            let mut server: Value = serde_json::from_str(text).unwrap();
            let unmet = "IRQ 124 goes to cpu 40 of another node than the device's; move it";
            server["workers"][3]["unmet"] = unmet.into();
            server.to_string()
        });
    }),
    Trigger {
        mends: Some(|tree| driven_by(tree, "ixgbe")),
        ..ice("QL064", "not the default", |tree| {
            driven_by(tree, "ixgbe");
            table(tree, |slot| slot % 8);
        })
    },
    Trigger {
        id: "QL065",
        says: "is off once a program",
        device: "enp1s0",
        machine: virtio,
        breaks: nothing,
        mends: Some(|tree| {
            let attached = json!([{"mode": "native", "program": 198}]);
            tree.answer("device/enp1s0/attached", attached);
        }),
    },
    Trigger {
        id: "QL066",
        says: "zero-copy needs 6.11",
        device: "enp1s0",
        machine: virtio,
        breaks: |tree| {
            without_zerocopy(tree, "enp1s0");
            kernel(tree, "6.8.0-31-generic");
        },
        mends: Some(|tree| kernel(tree, "6.11.0")),
    },
    Trigger {
        device: "bond0",
        mends: Some(|tree| add_virtual(tree, "bond0", 9, "dummy", None)),
        ..ice("QL067", "a bond has no queues", |tree| {
            add_virtual(tree, "bond0", 9, "bond", None);
            edit(tree, "link", |link| link["master"] = 9.into());
        })
    },
    Trigger {
        id: "QL068",
        says: "veth1 sends on 3 queues, veth0 receives on 2",
        device: "veth0",
        machine: veth,
        breaks: |tree| add_peer(tree, 3, false),
        mends: Some(|tree| add_peer(tree, 2, false)),
    },
    // The other end is in another namespace: what the kernel offers tells.
    Trigger {
        id: "QL068",
        says: "the other end sends on more queues than veth0 receives on (2)",
        device: "veth0",
        machine: veth,
        breaks: |tree| {
            tree.edit_answer("device/veth0/xdp_support", |it| it["features"] = json!([]));
            let generic = json!([{"mode": "generic", "program": 198}]);
            tree.answer("device/veth0/attached", generic);
        },
        mends: Some(nothing),
    },
    Trigger {
        id: "QL069",
        says: "veth1 sends packets without checksums",
        device: "veth0",
        machine: veth,
        breaks: |tree| add_peer(tree, 2, true),
        mends: Some(|tree| add_peer(tree, 2, false)),
    },
    ice("QL070", "node 0 has no huge pages", |tree| {
        let directory = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
        tree.set(&format!("{directory}/nr_hugepages"), "0");
        tree.set(&format!("{directory}/free_hugepages"), "0");
    }),
    ice("QL071", "8 MiB may be locked, 16 workers need 256 MiB", |tree| {
        capabilities(tree, "000001ffffffbfff");
        tree.set("proc/self/limits", "Max locked memory  8388608  8388608  bytes");
    }),
    Trigger {
        machine: lost_node,
        mends: Some(|tree| {
            tree.set("sys/class/net/eth0/device/numa_node", "0");
        }),
        ..ice("QL072", "any of 2 nodes", nothing)
    },
    ice("QL080", "the governor of cpu 3 is powersave", |tree| {
        tree.set("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave");
    }),
    ice("QL081", "cpu 3 may sleep 170 us", |tree| {
        tree.set("sys/devices/system/cpu/cpu3/cpuidle/state3/disable", "0");
    }),
    ice("QL082", "isolated cpus 32-47 free", |tree| {
        tree.set("sys/devices/system/cpu/isolated", "32-47");
    }),
    ice("QL090", "without AF_XDP", |tree| option_off(tree, "CONFIG_XDP_SOCKETS")),
    ice("QL091", "interpreted", |tree| {
        tree.set("proc/sys/net/core/bpf_jit_enable", "0");
    }),
    ice("QL092", "no BTF", |tree| option_off(tree, "CONFIG_DEBUG_INFO_BTF")),
    ice("QL093", "XDP_SOCKETS_DIAG", |tree| option_off(tree, "CONFIG_XDP_SOCKETS_DIAG")),
    ice("QL094", "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_IPC_LOCK", |tree| {
        capabilities(tree, "0000000000000000");
    }),
];
