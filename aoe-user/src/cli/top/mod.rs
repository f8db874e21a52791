//! `xblade top`: a running target on the whole screen of a terminal.
//!
//! [`source`] asks the target, [`model`] is what is shown and what keys do to it, [`view`] draws it.

mod change;
mod grid;
mod model;
mod panes;
mod rates;
mod source;
#[cfg(test)]
mod tests;
mod theme;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::interrupt::Interrupt;
use super::live::args::TopArgs;
use model::{KeyAction, Model};
use source::TopSource;
use theme::Theme;

/// How often to look for signals and news while no key is pressed.
const TURN: Duration = Duration::from_millis(100);

pub(super) fn top(args: &TopArgs) -> Result<ExitCode> {
    ensure!(
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal(),
        "top needs a terminal; `xblade stat 1s` prints figures anywhere"
    );
    let interrupt = Interrupt::catch().context("cannot catch signals")?;
    // Before the screen is taken: without a target there is nothing to show.
    let source = TopSource::start(args)?;
    let mut model = Model::default();
    let theme = Theme::of_environment();
    end_with_the_terminal()?;
    // Restores the terminal before a panic is told, too.
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let result = show(&mut terminal, &mut model, &source, &interrupt, theme);
    // A terminal that has gone needs no restoring.
    let _ = ratatui::try_restore();
    result.map(|()| ExitCode::SUCCESS)
}

/// Ends the process when its terminal has gone, as when a connection breaks. There is nothing to restore then, and who reads
/// keys may never notice: crossterm reads an end of file again and again.
fn end_with_the_terminal() -> Result<()> {
    let wait = || {
        let stdin = std::io::stdin();
        // Nothing is asked for: a hang-up is told anyway.
        let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
        while poll(&mut terminal, None) == Err(Errno::INTR) {}
        std::process::exit(128 + Signal::SIGHUP as i32);
    };
    let thread = std::thread::Builder::new().name("terminal".into());
    thread.spawn(wait).context("cannot start a thread")?;
    Ok(())
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    source: &TopSource,
    interrupt: &Interrupt,
    theme: Theme,
) -> Result<()> {
    let mut is_stale = true;
    while !interrupt.came() {
        loop {
            match source.updates.try_recv() {
                Ok(update) => model.update(update),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    bail!("what asks the target has ended: a defect of xblade")
                }
            }
            is_stale = true;
        }
        for told in source.told.try_iter() {
            model.notice = Some(told);
            is_stale = true;
        }
        if std::mem::take(&mut is_stale) {
            terminal.draw(|frame| view::draw(frame, model, theme))?;
        }
        if !event::poll(TURN)? {
            continue;
        }
        is_stale = true;
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match model.key(key) {
            KeyAction::None => {}
            KeyAction::Quit => return Ok(()),
            KeyAction::Change(change) => {
                model.notice = Some(format!("{}: asked", change.export));
                source.change(&change);
            }
            KeyAction::Suspend => {
                ratatui::try_restore()?;
                raise(Signal::SIGTSTP)?;
                *terminal = ratatui::try_init()?;
            }
        }
    }
    Ok(())
}
