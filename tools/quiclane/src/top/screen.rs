//! The terminal: keys in, screens out. It is restored however `top` ends: by a key, a signal, an
//! error or a panic. A terminal that is gone ends `top` as well.

use super::Watch;
use super::keys::{Key, is_cut, keys};
use super::rates::Rates;
use super::view::{self, Chosen, Sort, View};
use crate::error::Failure;
use crate::inspect;
use crate::signals::End;
use crate::sys::{self, Heard};
use ratatui::DefaultTerminal;
use std::time::Duration;

/// How long a key or a signal may wait.
const ATTENTION: Duration = Duration::from_millis(50);

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Nothing,
    /// Only another view of the same.
    Draw,
    /// Another device.
    Device,
    Quit,
}

/// Shows the device until the reader has seen enough.
pub(super) fn run(watch: &mut Watch, interval: Duration) -> Result<(), Failure> {
    let mut end = End::listen()?;
    // Its panic hook restores the terminal before the message is written.
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::Failed(format!("the terminal cannot be set up: {error}")))?;
    let result = show(watch, interval, &mut end, &mut terminal);
    // A terminal that is gone need not be restored, and cannot be.
    let _ = ratatui::try_restore();
    result
}

fn show(
    watch: &mut Watch,
    interval: Duration,
    end: &mut End,
    terminal: &mut DefaultTerminal,
) -> Result<(), Failure> {
    let mut view = View {
        sort: Sort::Queue,
        folds_idle: true,
        is_paused: false,
        shows_help: false,
        has_color: inspect::has_color(),
        has_keys: true,
        scroll: 0,
        counters: None,
    };
    let mut rates = watch.look()?;
    let mut looked = super::clock();
    let mut size = terminal_size::terminal_size();
    let mut buffer = [0; 256];
    draw(terminal, &rates, &mut view)?;
    loop {
        // The first rates come soon.
        let patience = if rates.seconds.is_some() { interval } else { interval.min(ATTENTION * 6) };
        if !view.is_paused && looked.elapsed() >= patience {
            rates = watch.look()?;
            looked = super::clock();
            draw(terminal, &rates, &mut view)?;
        }
        if end.wait(Duration::ZERO) {
            return Ok(());
        }
        let heard = sys::hear(&std::io::stdin(), &mut buffer, ATTENTION)?;
        let mut wish = match heard {
            Heard::Gone => return Ok(()),
            Heard::Nothing => Wish::Nothing,
            Heard::Bytes(bytes) => {
                let bytes = whole(&mut buffer, bytes)?;
                all(&mut view, &rates, &buffer[..bytes])
            }
        };
        let now = terminal_size::terminal_size();
        if now != size {
            (size, wish) = (now, wish.max(Wish::Draw));
        }
        match wish {
            Wish::Quit => return Ok(()),
            Wish::Device => {
                watch.next_device();
                rates = watch.look()?;
                looked = super::clock();
                view.scroll = 0;
                view.counters = view.counters.and_then(|_| chosen(&view, &rates));
            }
            Wish::Draw => {}
            Wish::Nothing => continue,
        }
        draw(terminal, &rates, &mut view)?;
    }
}

/// Only cells that changed are written: nothing flickers.
fn draw(terminal: &mut DefaultTerminal, rates: &Rates, view: &mut View) -> Result<(), Failure> {
    terminal.draw(|frame| {
        view::limit(rates, view, frame.area());
        view::draw(rates, view, frame.area(), frame.buffer_mut());
    })?;
    Ok(())
}

/// Waits for the rest of a key of which a slow line has delivered a part; without it an arrow would
/// be taken for Esc, which quits. Returns how many bytes there are.
fn whole(buffer: &mut [u8], mut bytes: usize) -> std::io::Result<usize> {
    while bytes < buffer.len() && is_cut(&buffer[..bytes]) {
        match sys::hear(&std::io::stdin(), &mut buffer[bytes..], ATTENTION)? {
            Heard::Bytes(more) => bytes += more,
            Heard::Nothing | Heard::Gone => break,
        }
    }
    Ok(bytes)
}

/// What all the keys that were pressed meanwhile ask for together.
fn all(view: &mut View, rates: &Rates, bytes: &[u8]) -> Wish {
    let wishes = keys(bytes).into_iter().map(|key| press(view, rates, key));
    wishes.max().unwrap_or(Wish::Nothing)
}

fn chosen(view: &View, rates: &Rates) -> Option<Chosen> {
    view::first(rates, view).map(Chosen::new)
}

/// Changes the view as a key asks.
pub(super) fn press(view: &mut View, rates: &Rates, key: Key) -> Wish {
    match key {
        Key::CtrlC | Key::Char('q') | Key::Escape => return Wish::Quit,
        // Any other key closes the help.
        _ if view.shows_help => view.shows_help = false,
        Key::Char('d') => return Wish::Device,
        Key::Char('p' | ' ') => view.is_paused = !view.is_paused,
        Key::Char('?' | 'h') => view.shows_help = true,
        Key::Char('c') => {
            view.counters = if view.counters.is_some() { None } else { chosen(view, rates) };
        }
        Key::Left | Key::Right | Key::Char('N' | 'n') => {
            let Some(chosen) = &mut view.counters else { return Wish::Nothing };
            let is_next = matches!(key, Key::Right | Key::Char('n'));
            *chosen = chosen.neighbour(rates, is_next);
        }
        // A list of counters is neither sorted nor folded.
        Key::Char('s' | 'f') if view.counters.is_some() => return Wish::Nothing,
        Key::Char('s') => view.sort = view.sort.next(),
        Key::Char('f') => view.folds_idle = !view.folds_idle,
        Key::Down | Key::Char('j') => scroll(view, |at| at + 1),
        Key::Up | Key::Char('k') => scroll(view, |at| at.saturating_sub(1)),
        Key::PageDown => scroll(view, |at| at + 10),
        Key::PageUp => scroll(view, |at| at.saturating_sub(10)),
        Key::Home => scroll(view, |_| 0),
        Key::Char(_) | Key::Other => return Wish::Nothing,
    }
    Wish::Draw
}

/// Scrolls what is shown: the counters of a queue, or the queues.
fn scroll(view: &mut View, to: impl Fn(usize) -> usize) {
    let at = view.counters.as_mut().map_or(&mut view.scroll, |chosen| &mut chosen.scroll);
    *at = to(*at);
}
