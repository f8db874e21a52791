//! What the screen shows and what keys do to it. Knows neither the terminal nor the socket.

use std::collections::{HashMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::change::TopChange;
use super::grid::Grid;
use super::panes;
use super::rates::{Sample, sample};
use super::source::Update;
use crate::control::api::types::{Condition, DaemonState, LogLine, LogLines};

/// Intervals that the trends show.
const TREND: usize = 120;
/// Lines of the log that are kept.
const LOG_LINES: usize = 1000;
/// Rows that Page Up and Page Down go.
const PAGE: usize = 10;

/// A page of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Exports,
    Initiators,
    Interfaces,
    Denied,
    Log,
}

impl Tab {
    /// By their keys, 1 to 5.
    pub(super) const ALL: [Tab; 5] = [
        Tab::Exports,
        Tab::Initiators,
        Tab::Interfaces,
        Tab::Denied,
        Tab::Log,
    ];

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Tab::Exports => "Exports",
            Tab::Initiators => "Initiators",
            Tab::Interfaces => "Interfaces",
            Tab::Denied => "Denied",
            Tab::Log => "Log",
        }
    }
}

/// What somebody at the keyboard has chosen in a tab.
#[derive(Debug, Clone, Default)]
pub(super) struct TabChoice {
    /// The column to sort by.
    pub(crate) column: usize,
    /// The largest first.
    pub(crate) falling: bool,
    /// The row; `None`: the first.
    id: Option<String>,
}

/// What a key asks of the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyAction {
    None,
    Quit,
    /// As Ctrl-Z everywhere.
    Suspend,
    /// It was confirmed.
    Change(TopChange),
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    /// The page.
    pub(crate) tab: Tab,
    /// What is typed behind `/`; empty: everything is shown.
    pub(crate) filter: String,
    /// Keys go into the filter.
    pub(crate) is_typing: bool,
    /// The keys are explained.
    pub(crate) shows_help: bool,
    /// What waits to be confirmed.
    pub(crate) question: Option<TopChange>,
    /// What came of the last change, until the next key.
    pub(crate) notice: Option<String>,
    /// What the target said last.
    pub(crate) state: DaemonState,
    /// What happened between that and what it said before.
    pub(crate) sample: Sample,
    /// Why the target does not answer.
    pub(crate) gone: Option<String>,
    choices: [TabChoice; Tab::ALL.len()],
    trends: HashMap<(String, String), Trend>,
    log: VecDeque<LogLine>,
}

/// Bytes a second of reads and writes, the latest last.
type Trend = (VecDeque<u64>, VecDeque<u64>);

impl Default for Model {
    fn default() -> Model {
        let mut choices: [TabChoice; Tab::ALL.len()] = Default::default();
        // The newest line and the busiest stranger are what one looks for.
        choices[Tab::Log as usize].falling = true;
        choices[Tab::Denied as usize] = TabChoice {
            column: 3,
            falling: true,
            id: None,
        };
        Model {
            tab: Tab::Exports,
            filter: String::new(),
            is_typing: false,
            shows_help: false,
            question: None,
            notice: None,
            state: DaemonState::default(),
            sample: Sample::default(),
            gone: None,
            choices,
            trends: HashMap::new(),
            log: VecDeque::new(),
        }
    }
}

impl Model {
    /// Takes up what is new.
    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Gone(reason) => self.gone = Some(reason),
            Update::State(state, log) => {
                self.gone = None;
                self.take(*state);
                self.take_log(log);
            }
        }
    }

    fn take(&mut self, state: DaemonState) {
        // All that was counted since the target's start is no rate of this moment.
        let before = if self.state.pid == 0 { &state } else { &self.state };
        let is_first = self.state.pid == 0;
        self.sample = sample(before, &state);
        let mut trends = HashMap::new();
        for now in &mut self.sample.exports {
            let name = (now.export.export.clone(), now.export.vlan.clone());
            let mut trend = self.trends.remove(&name).unwrap_or_default();
            if !is_first {
                push(&mut trend.0, now.rates.read_bytes_per_second);
                push(&mut trend.1, now.rates.written_bytes_per_second);
            }
            now.reads = trend.0.iter().copied().collect();
            now.writes = trend.1.iter().copied().collect();
            trends.insert(name, trend);
        }
        self.trends = trends;
        self.state = state;
    }

    fn take_log(&mut self, log: LogLines) {
        // A target that was started anew counts from 1.
        if log.last < self.log.back().map_or(0, |line| line.number) {
            self.log.clear();
        }
        self.log.extend(log.lines);
        let over = self.log.len().saturating_sub(LOG_LINES);
        self.log.drain(..over);
    }

    /// What the tab lists, filtered and sorted.
    pub(super) fn grid(&self) -> Grid {
        let mut grid = match self.tab {
            Tab::Exports => panes::exports(&self.sample.exports),
            Tab::Initiators => panes::initiators(&self.sample.initiators),
            Tab::Interfaces => panes::interfaces(&self.sample.interfaces),
            Tab::Denied => panes::denied(&self.state.denied),
            Tab::Log => panes::log(&self.log.iter().cloned().collect::<Vec<_>>()),
        };
        grid.filter(&self.filter);
        let choice = self.choice();
        grid.sort(choice.column, choice.falling);
        grid
    }

    /// What was chosen in this tab.
    pub(super) fn choice(&self) -> &TabChoice {
        &self.choices[self.tab as usize]
    }

    /// The place of the chosen row.
    pub(super) fn chosen(&self, grid: &Grid) -> usize {
        let id = self.choice().id.as_deref();
        let found = id.and_then(|id| grid.rows.iter().position(|row| row.id == id));
        found.unwrap_or(0)
    }

    /// Does what a key says.
    pub(super) fn key(&mut self, key: KeyEvent) -> KeyAction {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => KeyAction::Quit,
                KeyCode::Char('z') => KeyAction::Suspend,
                _ => KeyAction::None,
            };
        }
        self.notice = None;
        if let Some(change) = self.question.take() {
            return match key.code {
                KeyCode::Char('y') => KeyAction::Change(change),
                _ => KeyAction::None,
            };
        }
        if self.is_typing {
            self.type_filter(key.code);
            return KeyAction::None;
        }
        if std::mem::take(&mut self.shows_help) {
            return KeyAction::None;
        }
        match key.code {
            KeyCode::Char('q') => return KeyAction::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('p') => self.question = self.change(),
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(digit @ '1'..='5') => self.tab = Tab::ALL[digit as usize - '1' as usize],
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Tab::ALL.len() - 1),
            KeyCode::Char('s') => self.sort_by(1),
            KeyCode::Char('S') => self.sort_by(-1),
            KeyCode::Char('r') => {
                let choice = &mut self.choices[self.tab as usize];
                choice.falling = !choice.falling;
            }
            KeyCode::Down | KeyCode::Char('j') => self.go(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            KeyCode::PageDown => self.go(|at, _| at + PAGE),
            KeyCode::PageUp => self.go(|at, _| at.saturating_sub(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_, last| last),
            _ => {}
        }
        KeyAction::None
    }

    /// Pauses the chosen export, or serves it again.
    fn change(&self) -> Option<TopChange> {
        let grid = self.grid();
        let row = grid.rows.get(self.chosen(&grid))?;
        let now = match self.tab {
            Tab::Exports if self.gone.is_none() => {
                self.sample.exports.iter().find(|now| now.id() == row.id)?
            }
            _ => return None,
        };
        let export = now.export.export.clone();
        let same = self
            .sample
            .exports
            .iter()
            .filter(|now| now.export.export == export);
        Some(TopChange {
            has_namesakes: same.count() > 1,
            pauses: now.export.state != Condition::Paused,
            export,
        })
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn turn(&mut self, by: usize) {
        self.tab = Tab::ALL[(self.tab as usize + by) % Tab::ALL.len()];
    }

    fn sort_by(&mut self, step: isize) {
        let columns = self.grid().heads.len();
        let choice = &mut self.choices[self.tab as usize];
        let column = choice.column.checked_add_signed(step).unwrap_or(columns - 1);
        choice.column = column % columns;
    }

    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        let grid = self.grid();
        let last = grid.rows.len().saturating_sub(1);
        let at = to(self.chosen(&grid), last).min(last);
        // The first row stays the first, whatever comes to be there: the newest line of the log, the busiest export.
        let id = grid.rows.get(at).filter(|_| at > 0).map(|row| row.id.clone());
        self.choices[self.tab as usize].id = id;
    }
}

fn push(trend: &mut VecDeque<u64>, value: f64) {
    if trend.len() == TREND {
        trend.pop_front();
    }
    trend.push_back(value as u64);
}
