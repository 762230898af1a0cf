//! `quiclane top`: what happens on a device's queues, now.

mod keys;
mod rates;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use crate::error::Failure;
use crate::inspect::{self, ReadArgs};
use crate::signals::End;
use quiclane::topology::Source;
use quiclane::topology::survey::Survey;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rates::Rates;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use view::{Sort, View};

/// The schema of a line of `--json-stream`.
const SCHEMA: &str = "quiclane.top/1";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Watch this device [default: one with AF_XDP sockets, else one on a bus].
    #[arg(value_name = "DEV")]
    device: Option<String>,
    /// Refresh at this interval, such as 1s or 250ms; 100ms to 86400s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Print one screen and exit.
    #[arg(long)]
    once: bool,
    /// Print a JSON object for each interval, one per line.
    #[arg(long, conflicts_with_all = ["once", "json"])]
    json_stream: bool,
    #[command(flatten)]
    read: ReadArgs,
}

/// `1s`, `250ms`, `2`: between 100 ms, so that looking is not most of the load, and a day.
fn parse_interval(text: &str) -> Result<Duration, String> {
    const BOUNDS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;
    let seconds = match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse::<f64>().map(|value| value / 1_000.0),
        None => text.strip_suffix('s').unwrap_or(text).parse(),
    };
    match seconds {
        Ok(seconds) if BOUNDS.contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err(format!("\"{text}\" is out of range; give 100ms to 86400s")),
        Err(_) => Err(format!("\"{text}\" is not a time; give one such as 1s or 250ms")),
    }
}

/// Runs `quiclane top`.
pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let source = args.read.source()?;
    let then = clock();
    let mut machine = source.machine();
    let is_wanted = |name: &String| machine.nics.len() == 1 || name != "lo";
    let names = machine.nics.iter().map(|nic| nic.name.clone()).filter(is_wanted).collect();
    if let Some(name) = &args.device {
        if machine.nic(name).is_none() {
            return Err(inspect::no_device(name, &machine));
        }
        machine.nics.retain(|nic| nic.name == *name);
    }
    let survey = Survey::of(&source, machine);
    let device = match &args.device {
        Some(device) => device.clone(),
        None => busiest(&survey)?,
    };
    let mut watch = Watch { source, device, names, latest: (survey, then), is_told: false };
    if args.json_stream {
        return stream(&mut watch, args.interval);
    }
    let is_screen = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || args.read.json || !is_screen {
        return once(&mut watch, args);
    }
    screen::run(&mut watch, args.interval)
}

/// The device that is most likely meant.
fn busiest(survey: &Survey) -> Result<String, Failure> {
    let socket = survey.sockets.known().into_iter().flatten().find_map(|socket| socket.device);
    let nics = &survey.machine.nics;
    let told = survey.servers.iter().flat_map(|server| &server.workers);
    let told = told.filter_map(|worker| worker.device.as_ref()).next();
    let found = nics
        .iter()
        .find(|nic| socket.is_some() && nic.index.known() == socket.as_ref())
        .or_else(|| nics.iter().find(|nic| Some(&nic.name) == told))
        .or_else(|| nics.iter().find(|nic| nic.bus.known().is_some()))
        .or_else(|| nics.iter().find(|nic| nic.name != "lo"))
        .or_else(|| nics.first());
    found
        .map(|nic| nic.name.clone())
        .ok_or_else(|| Failure::Unsupported("this machine has no network device".to_owned()))
}

/// Looks at a device again and again.
struct Watch {
    source: Source,
    device: String,
    /// All devices, for the key `d`, which goes to the next one.
    names: Vec<String>,
    /// The latest look, and when it was.
    latest: (Survey, Instant),
    /// The latest look was shown or printed.
    is_told: bool,
}

impl Watch {
    /// What happened since the last look; after the first look at a device, its state.
    fn look(&mut self) -> Result<Rates, Failure> {
        let (latest, then) = &self.latest;
        if !self.is_told {
            let shown = self.shown(rates::between(None, latest, &self.device))?;
            self.is_told = true;
            return Ok(shown);
        }
        let now = clock();
        let survey = latest.again(&self.source, &self.device);
        let before = Some((latest, (now - *then).as_secs_f64()));
        let rates = self.shown(rates::between(before, &survey, &self.device))?;
        self.latest = (survey, now);
        Ok(rates)
    }

    fn shown(&self, rates: Option<Rates>) -> Result<Rates, Failure> {
        rates.ok_or_else(|| {
            Failure::Failed(format!("the device {} is no longer there", self.device))
        })
    }

    /// Goes on with the next device.
    fn next_device(&mut self) {
        let at = self.names.iter().position(|name| *name == self.device);
        let next = at.map_or(0, |at| at + 1);
        if let Some(name) = self.names.get(next).or_else(|| self.names.first()) {
            self.device.clone_from(name);
            let now = clock();
            self.latest = (self.latest.0.again(&self.source, name), now);
            self.is_told = false;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a rate needs the time between two looks")]
fn clock() -> Instant {
    Instant::now()
}

/// A line for each interval, until a signal, or until standard output has no reader any more.
fn stream(watch: &mut Watch, interval: Duration) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        schema: &'static str,
        #[serde(flatten)]
        rates: &'a Rates,
    }
    let mut end = End::listen()?;
    watch.look()?;
    while !end.wait(interval) {
        let rates = watch.look()?;
        let line = serde_json::to_string(&Line { schema: SCHEMA, rates: &rates })
            .map_err(|error| Failure::Failed(format!("JSON: {error}")))?;
        inspect::print(&(line + "\n"))?;
    }
    Ok(())
}

/// One screen as text. A captured machine is one look: there is nothing to wait for.
fn once(watch: &mut Watch, args: &TopArgs) -> Result<(), Failure> {
    let mut rates = watch.look()?;
    if watch.source.is_live() {
        std::thread::sleep(args.interval);
        rates = watch.look()?;
    }
    if args.read.json {
        return inspect::print_json(SCHEMA, &rates);
    }
    let view = View {
        sort: Sort::Queue,
        folds_idle: true,
        is_paused: false,
        shows_help: false,
        has_color: false,
        has_keys: false,
        scroll: 0,
        counters: None,
    };
    let size = terminal_size::terminal_size().filter(|_| std::io::stdout().is_terminal());
    let columns = size.map_or(80, |(width, _)| width.0.max(80));
    inspect::print(&page(&rates, &view, columns))
}

/// A screen as text, as long as it has to be.
fn page(rates: &Rates, view: &View, columns: u16) -> String {
    let area = Rect::new(0, 0, columns, view::height(rates, view).max(12));
    let mut buffer = Buffer::empty(area);
    view::draw(rates, view, area, &mut buffer);
    let line = |y: u16| {
        let cells = (0..columns).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<String> = (0..area.height).map(line).collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}
