//! Files for systemd that bring a plan about at every boot: a `.link` file for what udev sets when
//! the device appears, and a oneshot unit that applies the whole plan after that.
//!
//! The unit would be enough; the link file does what resets the device (channels, rings,
//! offloads) before any program uses it.

use super::{Plan, Setting, Value};
use std::fmt::Write;

/// Where the plan is looked for at boot.
const PLANS: &str = "etc/quiclane";

/// The files, by their paths below `/`: the plan itself among them. `program` is the path of the
/// command line.
#[must_use]
pub fn persist(plan: &Plan, program: &str) -> Vec<(String, String)> {
    let name = &plan.device.name;
    let escaped = escape(name);
    let toml = format!("{PLANS}/{escaped}.toml");
    vec![
        (format!("etc/systemd/network/70-quiclane-{escaped}.link"), link(plan)),
        (
            format!("etc/systemd/system/quiclane-{escaped}.service"),
            unit(name, program, &format!("/{toml}")),
        ),
        (toml, plan.to_toml()),
    ]
}

fn link(plan: &Plan) -> String {
    let device = &plan.device;
    let mut out = format!(
        "# {}: settings that udev applies when the device appears.\n[Match]\n",
        device.name
    );
    // Writing to a string does not fail.
    // A virtual device has no permanent address: its name and its address of today have to do.
    let _ = match (&device.address, &device.bus) {
        (Some(address), Some(_)) => writeln!(out, "PermanentMACAddress={address}"),
        (Some(address), None) => {
            writeln!(out, "OriginalName={}\nMACAddress={address}", device.name)
        }
        (None, _) => writeln!(out, "OriginalName={}", device.name),
    };
    out.push_str(
        "\n[Link]\n# The first link file that matches is the only one: names are given as by \
         systemd's own.\nNamePolicy=keep kernel database onboard slot path\n\
         AlternativeNamesPolicy=database onboard slot path\nMACAddressPolicy=persistent\n",
    );
    for (key, value) in plan.lines.iter().flat_map(|line| link_keys(&line.setting, &line.new)) {
        let _ = writeln!(out, "{key}={value}");
    }
    out
}

/// What systemd.link(5) has for a setting.
fn link_keys(setting: &Setting, value: &Value) -> Vec<(&'static str, String)> {
    let yes_no = |on: bool| if on { "yes" } else { "no" }.to_owned();
    let pick = |keys: &[(&str, &'static str)], text: &dyn Fn(&str, u64) -> String| {
        let Value::Numbers(numbers) = value else { return Vec::new() };
        let found = keys.iter().filter_map(|(name, key)| {
            let number = numbers.get(*name)?;
            Some((*key, text(name, *number)))
        });
        found.collect()
    };
    match (setting, value) {
        (Setting::Feature(name), Value::Switch(on)) => match name.as_str() {
            "rx-lro" => vec![("LargeReceiveOffload", yes_no(*on))],
            "rx-gro-hw" => vec![("GenericReceiveOffloadHardware", yes_no(*on))],
            "rx-vlan-hw-parse" => vec![("ReceiveVLANCTAGHardwareAcceleration", yes_no(*on))],
            _ => Vec::new(),
        },
        (Setting::Channels, _) => pick(
            &[("combined", "CombinedChannels"), ("rx", "RxChannels"), ("tx", "TxChannels")],
            &|_, number| number.to_string(),
        ),
        (Setting::Rings, _) => {
            pick(&[("rx", "RxBufferSize"), ("tx", "TxBufferSize")], &|_, n| n.to_string())
        }
        (Setting::Coalesce, _) => pick(
            &[
                ("adaptive-rx", "UseAdaptiveRxCoalesce"),
                ("adaptive-tx", "UseAdaptiveTxCoalesce"),
                ("rx-usecs", "RxCoalesceSec"),
                ("tx-usecs", "TxCoalesceSec"),
                ("rx-frames", "RxMaxCoalescedFrames"),
                ("tx-frames", "TxMaxCoalescedFrames"),
            ],
            &|name, number| match name {
                "adaptive-rx" | "adaptive-tx" => yes_no(number != 0),
                "rx-usecs" | "tx-usecs" => format!("{number}us"),
                _ => number.to_string(),
            },
        ),
        _ => Vec::new(),
    }
}

fn unit(name: &str, program: &str, plan: &str) -> String {
    let device = format!("sys-subsystem-net-devices-{}.device", escape(name));
    let quoted = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
        format!("\"{}\"", text.replace('$', "$$"))
    };
    format!(
        "[Unit]\n\
         Description=Queues, interrupts and steering of {name}\n\
         BindsTo={device}\n\
         After={device}\n\
         Before=network-online.target\n\
         RequiresMountsFor=/var/lib\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         # Exit code 5: some of it was refused, and the journal says what.\n\
         ExecStart={} apply {}\n\
         \n\
         [Install]\n\
         WantedBy={device}\n",
        quoted(program),
        quoted(plan)
    )
}

/// As systemd-escape(1): what is no letter, digit, `:`, `_` or `.` becomes `\xNN`.
fn escape(name: &str) -> String {
    let mut out = String::new();
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b":_".contains(&byte);
        if plain || (byte == b'.' && at > 0) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan::{PlanRequest, make};
    use crate::topology::rig::Rig;

    #[test]
    fn a_plan_becomes_a_link_file_and_a_unit() {
        let request = PlanRequest { device: "eth0".to_owned(), ..PlanRequest::default() };
        let plan = make(&Rig::default().survey(), &request).unwrap();
        let files = persist(&plan, "/usr/local/bin/quiclane");
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "etc/systemd/network/70-quiclane-eth0.link",
                "etc/systemd/system/quiclane-eth0.service",
                "etc/quiclane/eth0.toml"
            ]
        );
        let link = &files[0].1;
        for line in [
            "PermanentMACAddress=02:00:00:00:00:01",
            "CombinedChannels=4",
            "RxBufferSize=1024",
            "UseAdaptiveRxCoalesce=no",
            "RxCoalesceSec=20us",
            "LargeReceiveOffload=no",
            "ReceiveVLANCTAGHardwareAcceleration=no",
            "NamePolicy=keep kernel database onboard slot path",
        ] {
            assert!(link.lines().any(|other| other == line), "{line} in:\n{link}");
        }
        let unit = &files[1].1;
        let start = "ExecStart=\"/usr/local/bin/quiclane\" apply \"/etc/quiclane/eth0.toml\"";
        assert!(unit.lines().any(|line| line == start), "{unit}");
        assert!(unit.contains("BindsTo=sys-subsystem-net-devices-eth0.device"), "{unit}");
        assert_eq!(Plan::from_toml(&files[2].1).unwrap().lines, plan.lines);
    }

    #[test]
    fn names_are_escaped_as_systemd_does() {
        assert_eq!(escape("eth0.100"), "eth0.100");
        assert_eq!(escape("br-lan@x"), "br\\x2dlan\\x40x");
        assert_eq!(escape(".x"), "\\x2ex");
    }
}
