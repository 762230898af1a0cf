//! The terminal: keys in, screens out. It is given back however this ends: by a key, a signal,
//! an error or a panic.

use super::Watch;
use super::rates::Rates;
use super::view::{self, Sort, View};
use crate::error::Failure;
use crate::signals::End;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::time::Duration;

/// How long a key or a signal may wait.
const ATTENTION: Duration = Duration::from_millis(50);

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Another device.
    Device,
    /// Only another view of the same.
    Draw,
    Nothing,
}

/// Shows the device until the reader has seen enough.
pub(super) fn run(watch: &mut Watch, interval: Duration) -> Result<(), Failure> {
    let mut end = End::listen()?;
    // Its panic hook gives the terminal back before the message is written.
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::Failed(format!("the terminal cannot be taken: {error}")))?;
    let result = show(watch, interval, &mut end, &mut terminal);
    ratatui::restore();
    result
}

fn show(
    watch: &mut Watch,
    interval: Duration,
    end: &mut End,
    terminal: &mut DefaultTerminal,
) -> Result<(), Failure> {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut view = View {
        sort: Sort::Queue,
        folds_idle: true,
        is_paused: false,
        shows_help: false,
        has_color: !refused,
        has_keys: true,
        scroll: 0,
    };
    let mut rates = watch.look()?;
    let mut looked = super::clock();
    draw(terminal, &rates, &view)?;
    loop {
        // The first rates come soon.
        let patience = if rates.seconds.is_some() { interval } else { interval.min(ATTENTION * 6) };
        if !view.is_paused && looked.elapsed() >= patience {
            rates = watch.look()?;
            looked = super::clock();
            draw(terminal, &rates, &view)?;
        }
        if end.wait(Duration::ZERO) {
            return Ok(());
        }
        if !event::poll(ATTENTION)? {
            continue;
        }
        let wish = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => press(&mut view, key),
            Event::Resize(..) => Wish::Draw,
            _ => Wish::Nothing,
        };
        match wish {
            Wish::Quit => return Ok(()),
            Wish::Device => {
                watch.next_device();
                rates = watch.look()?;
                looked = super::clock();
                view.scroll = 0;
            }
            Wish::Draw => {}
            Wish::Nothing => continue,
        }
        view.scroll = view.scroll.min(rates.queues.len().saturating_sub(1));
        draw(terminal, &rates, &view)?;
    }
}

/// Only cells that changed are written: nothing flickers.
fn draw(terminal: &mut DefaultTerminal, rates: &Rates, view: &View) -> Result<(), Failure> {
    terminal.draw(|frame| view::draw(rates, view, frame.area(), frame.buffer_mut()))?;
    Ok(())
}

/// Changes the view as a key asks.
pub(super) fn press(view: &mut View, key: KeyEvent) -> Wish {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if is_control => return Wish::Quit,
        // Any key closes the help.
        _ if view.shows_help => view.shows_help = false,
        KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
        KeyCode::Char('d') => return Wish::Device,
        KeyCode::Char('p' | ' ') => view.is_paused = !view.is_paused,
        KeyCode::Char('s') => view.sort = view.sort.next(),
        KeyCode::Char('f') => view.folds_idle = !view.folds_idle,
        KeyCode::Char('?' | 'h') => view.shows_help = true,
        KeyCode::Down | KeyCode::Char('j') => view.scroll += 1,
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::PageDown => view.scroll += 10,
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(10),
        KeyCode::Home => view.scroll = 0,
        _ => return Wish::Nothing,
    }
    Wish::Draw
}
