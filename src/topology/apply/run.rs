//! Writes the lines of a plan in their order, and reports the result of each.

use super::Hardware;
use super::write::write_for;
use crate::topology::Reading;
use crate::topology::plan::{Plan, Setting, Value, today};
use crate::topology::survey::Survey;

/// The result of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written, and reads back so.
    Done,
    /// It was so before.
    Already,
    /// The kernel or the driver refused.
    Refused(String),
    /// It was not tried.
    NotTried(String),
    /// It was written, and reads back as something else.
    Differs,
}

impl Outcome {
    /// True if the device is as the line says.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Done | Self::Already)
    }
}

/// A line, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineReport {
    /// What was to be set.
    pub setting: Setting,
    /// What it was before the first write.
    pub before: Reading<Value>,
    /// What it was to be.
    pub wanted: Value,
    /// What it is in the end.
    pub after: Reading<Value>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Writes a plan. A line that is refused does not keep others from being written; only those that
/// stand on it (queues that did not come to be) are not tried.
pub fn run(hardware: &mut dyn Hardware, plan: &Plan) -> Vec<LineReport> {
    let name = plan.device.name.clone();
    let first = hardware.look();
    let mut writer = Writer { hardware, name: &name, survey: first.clone() };
    writer.make_room(plan);
    let mut results: Vec<Option<Outcome>> = vec![None; plan.lines.len()];
    // A driver that resets may take back what was written before: such lines get a second turn.
    for _ in 0..2 {
        for (line, result) in plan.lines.iter().zip(&mut results) {
            let refused = matches!(result, Some(Outcome::Refused(_) | Outcome::NotTried(_)));
            if refused || writer.fulfils(&line.setting, &line.new) {
                continue;
            }
            *result = Some(writer.write(&line.setting, &line.new));
        }
        writer.look();
    }
    let report = |(line, result): (&crate::topology::plan::Line, Option<Outcome>)| {
        let after = today(&writer.survey, &name, &line.setting);
        let good = after.known().is_some_and(|value| value.fulfils(&line.new));
        let outcome = match (result, good) {
            (None, true) => Outcome::Already,
            (Some(_), true) => Outcome::Done,
            (Some(Outcome::Done) | None, false) => Outcome::Differs,
            (Some(other), false) => other,
        };
        LineReport {
            setting: line.setting.clone(),
            before: today(&first, &name, &line.setting),
            wanted: line.new.clone(),
            after,
            outcome,
        }
    };
    plan.lines.iter().zip(results).map(report).collect()
}

struct Writer<'a> {
    hardware: &'a mut dyn Hardware,
    name: &'a str,
    /// The device as it was after the last reset.
    survey: Survey,
}

impl Writer<'_> {
    fn look(&mut self) {
        self.survey = self.hardware.look();
    }

    fn fulfils(&self, setting: &Setting, wanted: &Value) -> bool {
        today(&self.survey, self.name, setting).known().is_some_and(|value| value.fulfils(wanted))
    }

    /// Fewer queues are refused as long as the table leads to one that goes: the new table goes
    /// first then, and is looked at again in its turn.
    fn make_room(&mut self, plan: &Plan) {
        let (Some(channels), Some(table)) =
            (plan.line(&Setting::Channels), plan.line(&Setting::Table))
        else {
            return;
        };
        let today = today(&self.survey, self.name, &Setting::Table);
        let (Reading::Known(Value::Table(today)), Value::Table(new)) = (today, &table.new) else {
            return;
        };
        let queues = receive_queues(&channels.new);
        let in_the_way = queues.is_some_and(|queues| u64::from(today.queues()) > queues);
        if in_the_way && queues.is_some_and(|queues| u64::from(new.queues()) <= queues) {
            // If it is refused, so will be the channels, with the kernel's reason.
            let _ = self.write(&Setting::Table, &table.new);
            self.look();
        }
    }

    fn write(&mut self, setting: &Setting, value: &Value) -> Outcome {
        // What cannot be read could not be put back. A queue that comes goes again.
        if let Reading::Unknown(reason) = today(&self.survey, self.name, setting)
            && !is_absent(&self.survey, self.name, setting)
        {
            return Outcome::NotTried(format!(
                "today's value is unknown, so it could not be restored: {reason}"
            ));
        }
        let write = match write_for(&self.survey, self.name, setting, value) {
            Ok(write) => write,
            Err(reason) => return Outcome::NotTried(reason),
        };
        let outcome = match self.hardware.write(&write) {
            Ok(()) => Outcome::Done,
            Err(reason) => Outcome::Refused(reason),
        };
        if renumbers(setting) {
            self.look();
        }
        outcome
    }
}

/// Receive queues of a device with these channels, if they say.
pub(super) fn receive_queues(channels: &Value) -> Option<u64> {
    let Value::Numbers(numbers) = channels else { return None };
    let both = [numbers.get("combined"), numbers.get("rx")];
    both.iter().any(Option::is_some).then(|| both.into_iter().flatten().sum())
}

/// True if the device may have other queues, interrupts or values after it was written.
const fn renumbers(setting: &Setting) -> bool {
    matches!(
        setting,
        Setting::Feature(_)
            | Setting::Channels
            | Setting::Rings
            | Setting::DeferHardIrqs
            | Setting::GroFlushTimeout
            | Setting::Threaded
    )
}

/// True if the setting is of a queue that is not there.
pub(super) fn is_absent(survey: &Survey, name: &str, setting: &Setting) -> bool {
    let Some((nic, device)) = survey.device(name) else { return false };
    match (setting, setting.queue()) {
        (_, None) => false,
        (Setting::Xps(_), Some(queue)) => !device.xps.iter().any(|xps| xps.queue == queue),
        (_, Some(queue)) => !nic.queues.iter().any(|other| other.index == queue),
    }
}
