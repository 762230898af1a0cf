//! A plan as a TOML file that a person reads and edits.

use super::{Line, Plan, Risk, Value};
use crate::topology::Reading;
use std::fmt::{self, Write};

/// The version of the file's form.
pub(super) const VERSION: i64 = 1;

/// Sections in the order of the file, and what each teaches.
const SECTIONS: &[(&str, &str)] = &[
    ("features", "Offloads, by the kernel's name for them (`ethtool -k`): true or false."),
    (
        "queues",
        "Channels are queues with an interrupt: \"combined 4\", or \"rx 2 tx 2\" where the driver \
         has them apart. Rings are counted in packets. Coalescing is interrupt moderation; what is \
         not named stays as it is.",
    ),
    (
        "rss",
        "Which queue a packet goes to: a hash over `udp4` and `udp6` fields (s, d: addresses; f, \
         n: ports), the key, and a table from hash to queue: \"equal 4\", or the queue of each \
         slot, \"0*64 1*32 2 3 ...\".",
    ),
    ("irq", "The CPUs that the interrupt of each receive queue may go to."),
    ("rps", "Receive packet steering, in software: CPUs that the kernel moves packets to."),
    ("rfs", "Receive flow steering: entries of each queue's flow table; 0 is off."),
    ("xps", "Transmit packet steering: the CPUs that send through each queue."),
    (
        "napi",
        "NAPI polls the queues. For the device: `defer-hard-irqs`, `gro-flush-timeout-ns`, \
         `threaded`. For the NAPI of one queue (Linux 6.13): `rx-0 = { new = \"defer-hard-irqs 2 \
         gro-flush-timeout-ns 20000\" }`. Written for the device, they are written for all queues.",
    ),
];

/// Columns of a comment.
const WIDTH: usize = 98;

pub(super) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, plan);
    text
}

fn write(out: &mut String, plan: &Plan) -> fmt::Result {
    head(out, plan)?;
    for (section, lesson) in SECTIONS {
        let lines: Vec<&Line> =
            plan.lines.iter().filter(|line| line.setting.section() == *section).collect();
        let omitted = |what: &str| what == *section || what.starts_with(&format!("{section}."));
        let omissions: Vec<_> = plan.omissions.iter().filter(|o| omitted(&o.what)).collect();
        if lines.is_empty() && omissions.is_empty() {
            continue;
        }
        out.push('\n');
        comment(out, lesson)?;
        if !lines.is_empty() {
            writeln!(out, "[{section}]")?;
        }
        body(out, &lines)?;
        for omission in omissions {
            comment(out, &format!("left out: {}: {}", omission.what, omission.reason))?;
        }
    }
    Ok(())
}

fn head(out: &mut String, plan: &Plan) -> fmt::Result {
    let device = &plan.device;
    let made = match plan.policy {
        Some(policy) => format!("The settings for {}, by the policy `{policy}`.", device.name),
        None => format!("The settings for {}.", device.name),
    };
    comment(out, &made)?;
    comment(
        out,
        "`quiclane apply THIS-FILE --confirm 60s` applies it, and restores the old settings unless \
         `quiclane confirm` is run in time. `quiclane undo` restores them later.",
    )?;
    comment(
        out,
        "Each line has today's value and the new one. You may change `new`, or remove a line. \
         `today` is for you to read; `apply` says where it has changed since.",
    )?;
    if plan.changes() > 0 {
        comment(out, &format!("Lines that change: {}. Risk: {}.", plan.changes(), plan.risk()))?;
    }
    if !plan.workers.is_empty() {
        out.push_str("#\n");
    }
    for row in &plan.workers {
        let node = row.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
        comment(out, &format!("worker of queue {}: cpu {} on node {node}", row.queue, row.cpu))?;
    }
    for note in &plan.notes {
        comment(out, &format!("note: {note}"))?;
    }
    writeln!(out, "\nversion = {VERSION}")?;
    if let Some(policy) = plan.policy {
        writeln!(out, "policy = {}", quoted(policy.name()))?;
    }
    out.push('\n');
    comment(out, "The device; another one under the same name is refused.")?;
    writeln!(out, "[device]\nname = {}", quoted(&device.name))?;
    let identity = [("address", &device.address), ("bus", &device.bus), ("driver", &device.driver)];
    for (key, value) in identity {
        match value {
            Some(value) => writeln!(out, "{key} = {}", quoted(value))?,
            None => writeln!(out, "# {key} is unknown")?,
        }
    }
    Ok(())
}

/// The lines, with reason and risk wherever they are other than of the line before.
fn body(out: &mut String, lines: &[&Line]) -> fmt::Result {
    let key_width = lines.iter().map(|line| line.setting.key().len()).max().unwrap_or(0);
    let today: Vec<String> = lines.iter().map(|line| today(line)).collect();
    let today_width = today.iter().map(String::len).max().unwrap_or(0);
    let mut said = None;
    for (line, today) in lines.iter().zip(&today) {
        let remark = (line.why(), line.risk());
        if said != Some(remark) {
            let (why, risk) = remark;
            let risk =
                if risk == Risk::None { "no risk".to_owned() } else { format!("risk: {risk}") };
            comment(out, &format!("- {why} ({risk})"))?;
        }
        said = Some(remark);
        let new = value(&line.new);
        writeln!(
            out,
            "{:key_width$} = {{ {:today_width$} new = {new} }}{}",
            line.setting.key(),
            today,
            if line.changes() { "" } else { "  # already" }
        )?;
    }
    Ok(())
}

fn today(line: &Line) -> String {
    match &line.today {
        Reading::Known(today) => format!("today = {},", value(today)),
        Reading::Unknown(reason) => format!("unknown = {},", quoted(reason)),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Switch(on) => on.to_string(),
        Value::Number(number) => number.to_string(),
        other => quoted(&other.to_string()),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Comment lines, broken between words.
fn comment(out: &mut String, text: &str) -> fmt::Result {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = String::from("#");
    for word in clean.split_whitespace() {
        if line.len() > 1 && line.len() + 1 + word.len() > WIDTH {
            writeln!(out, "{line}")?;
            line.truncate(1);
            line.push_str("  ");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}")
}
