//! Reads a plan that a person may have edited: every mistake is named with line and key.

use super::text::VERSION;
use super::{Line, Plan, Policy, Setting, Target, Value};
use crate::topology::Reading;
use std::collections::BTreeSet;
use std::fmt;
use toml_edit::{Document, Item, Key, TableLike};

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The key, as `section.key`; empty if the text is not TOML.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "line {}: {}", self.line, self.what)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.key, self.what)
        }
    }
}

impl std::error::Error for ParseError {}

/// A plan is read by a person; one that is larger than this was not written for one.
const MAX_BYTES: usize = 4 << 20;

pub(super) fn plan(text: &str) -> Result<Plan, ParseError> {
    if text.len() > MAX_BYTES {
        let what = format!("{} bytes are too many for a plan", text.len());
        return Err(ParseError { line: 1, key: String::new(), what });
    }
    let document = Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let what = error.message().trim().replace('\n', ", ");
        ParseError { line: line_at(text, at), key: String::new(), what }
    })?;
    let reader = Reader { text };
    reader.plan(document.as_table())
}

fn line_at(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn error(&self, key: &Key, path: &str, what: impl Into<String>) -> ParseError {
        let at = key.span().map_or(0, |span| span.start);
        ParseError { line: line_at(self.text, at), key: path.to_owned(), what: what.into() }
    }

    fn plan(&self, root: &dyn TableLike) -> Result<Plan, ParseError> {
        let mut plan = Plan::default();
        let mut has_version = false;
        for (key, item) in entries(root) {
            match key.get() {
                "version" => {
                    has_version = item.as_integer() == Some(VERSION);
                    if !has_version {
                        let what = format!("this program reads version {VERSION}");
                        return Err(self.error(key, "version", what));
                    }
                }
                "policy" => {
                    let name = self.string(key, "policy", item)?;
                    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name);
                    let unknown = || self.error(key, "policy", "is node, ccx or spread");
                    plan.policy = Some(policy.ok_or_else(unknown)?);
                }
                "device" => plan.device = self.device(key, item)?,
                section => self.section(key, section, item, &mut plan.lines)?,
            }
        }
        let missing = |key: &str, what: &str| {
            Err(ParseError { line: 1, key: key.to_owned(), what: what.to_owned() })
        };
        if !has_version {
            return missing("version", &format!("is missing: write `version = {VERSION}`"));
        }
        if plan.device.name.is_empty() {
            return missing("device.name", "is missing: name the device that the plan is for");
        }
        plan.lines.sort_by(|a, b| a.setting.cmp(&b.setting));
        Ok(plan)
    }

    fn device(&self, key: &Key, item: &Item) -> Result<Target, ParseError> {
        let table = item
            .as_table_like()
            .ok_or_else(|| self.error(key, "device", "is a section: [device]"))?;
        let mut device = Target::default();
        for (key, item) in entries(table) {
            let path = format!("device.{}", key.get());
            let place = match key.get() {
                "name" => &mut device.name,
                "address" => device.address.insert(String::new()),
                "bus" => device.bus.insert(String::new()),
                "driver" => device.driver.insert(String::new()),
                _ => {
                    let what = "is not known; [device] has name, address, bus, driver";
                    return Err(self.error(key, &path, what));
                }
            };
            *place = self.string(key, &path, item)?;
        }
        Ok(device)
    }

    fn section(
        &self,
        key: &Key,
        section: &str,
        item: &Item,
        lines: &mut Vec<Line>,
    ) -> Result<(), ParseError> {
        let Some(table) = item.as_table_like() else {
            let what = "is not known here; settings are in sections such as [queues]";
            return Err(self.error(key, section, what));
        };
        // An empty section sets nothing, but its name may still be a mistake.
        if let Err(what) = Setting::named(section, "rx-0")
            && what.starts_with("there is no section")
        {
            let what = "is not a section of a plan; the sections are: features, queues, rss, irq, rps, rfs, \
                        xps, napi";
            return Err(self.error(key, section, what));
        }
        let mut seen = BTreeSet::new();
        for (key, item) in entries(table) {
            let path = format!("{section}.{}", key.get());
            let setting =
                Setting::named(section, key.get()).map_err(|what| self.error(key, &path, what))?;
            if !seen.insert(setting.clone()) {
                return Err(self.error(key, &path, "is given twice"));
            }
            lines.push(self.line(key, &path, setting, item)?);
        }
        Ok(())
    }

    /// `{ today = ..., new = ... }`, `{ unknown = "reason", new = ... }`, `{ new = ... }`.
    fn line(
        &self,
        key: &Key,
        path: &str,
        setting: Setting,
        item: &Item,
    ) -> Result<Line, ParseError> {
        let Some(table) = item.as_table_like() else {
            let what = "is not { today = ..., new = ... }; `new` is what counts";
            return Err(self.error(key, path, what));
        };
        let mut today = Reading::unknown("the plan does not say");
        let mut new = None;
        for (key, item) in entries(table) {
            let path = format!("{path}.{}", key.get());
            match key.get() {
                "today" => today = Reading::Known(self.value(key, &path, &setting, item)?),
                "unknown" => today = Reading::Unknown(self.string(key, &path, item)?),
                "new" => new = Some(self.value(key, &path, &setting, item)?),
                _ => {
                    return Err(self.error(key, &path, "is not known; a line has today and new"));
                }
            }
        }
        let new = new
            .ok_or_else(|| self.error(key, path, "has no `new`: add one, or take the line out"))?;
        Ok(Line { setting, today, new })
    }

    fn value(
        &self,
        key: &Key,
        path: &str,
        setting: &Setting,
        item: &Item,
    ) -> Result<Value, ParseError> {
        let text = match item.as_value() {
            Some(toml_edit::Value::String(text)) => text.value().clone(),
            Some(toml_edit::Value::Integer(number)) => number.value().to_string(),
            Some(toml_edit::Value::Boolean(on)) => on.value().to_string(),
            _ => return Err(self.error(key, path, "is a text, a number, true or false")),
        };
        setting.parse(&text).map_err(|what| self.error(key, path, what))
    }

    fn string(&self, key: &Key, path: &str, item: &Item) -> Result<String, ParseError> {
        let text = item.as_str().map(str::to_owned);
        text.ok_or_else(|| self.error(key, path, "is a text in quotes"))
    }
}

/// Keys with their places, and what they hold.
fn entries(table: &dyn TableLike) -> impl Iterator<Item = (&Key, &Item)> {
    table.iter().filter_map(|(name, _)| table.get_key_value(name))
}
