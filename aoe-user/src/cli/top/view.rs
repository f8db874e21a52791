//! Draws the model: a line about the target, the tabs, the rows, one line about the chosen row, one of keys.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline};

use super::grid::{Grid, GridRow, Head, Side};
use super::model::{Model, Tab};
use super::theme::{Theme, Tone};
use crate::control::api::types::Condition;

/// Screens of at least this height show the chosen export's trends.
const HEIGHT_WITH_TRENDS: u16 = 24;
/// What these take.
const TRENDS: u16 = 8;

const KEYS: [(&str, &str); 10] = [
    ("1…5, Tab, ← →", "exports, initiators, interfaces, denied, log"),
    ("↑ ↓ PgUp PgDn g G", "another row"),
    ("s S", "sort by the next, the previous column"),
    ("r", "sort the other way round"),
    ("/", "show only rows with a text in them"),
    ("Esc", "show all rows"),
    ("p", "pause the chosen export, or serve it again"),
    ("? h", "this help"),
    ("Ctrl-Z", "back to the shell; fg comes back here"),
    ("q, Ctrl-C", "end"),
];

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame, model: &Model, theme: Theme) {
    let grid = model.grid();
    let chosen = model.chosen(&grid);
    let area = frame.area();
    let has_trends = model.tab == Tab::Exports && area.height >= HEIGHT_WITH_TRENDS;
    let trends = if has_trends { TRENDS } else { 0 };
    let [title, tabs, heads, rows, trend, detail, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(trends),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title_line(model, theme), title);
    frame.render_widget(tab_line(model, theme), tabs);
    draw_rows(frame, model, &grid, [heads, rows], theme);
    if has_trends && let Some(row) = grid.rows.get(chosen) {
        draw_trends(frame, model, row, trend, theme);
    }
    frame.render_widget(detail_line(model, grid.rows.get(chosen), theme), detail);
    frame.render_widget(key_line(model, theme), keys);
    if model.shows_help {
        draw_help(frame, area);
    }
}

fn title_line(model: &Model, theme: Theme) -> Line<'_> {
    let state = &model.state;
    if let Some(reason) = &model.gone {
        let text = format!(" NO ANSWER, trying again: {reason}");
        return Line::styled(text, theme.style(Tone::Bad).add_modifier(Modifier::REVERSED));
    }
    let ready = state
        .exports
        .iter()
        .filter(|export| export.state == Condition::Ready);
    let up = humantime::format_duration(Duration::from_secs(state.uptime_seconds as u64));
    let (health, tone) = match state.healthy {
        true => ("healthy", Tone::Plain),
        false => ("DEGRADED", Tone::Bad),
    };
    let about = format!(
        " xblade {}  {}/{} ready  up {up}  ",
        state.version,
        ready.count(),
        state.exports.len()
    );
    Line::from(vec![
        Span::styled(about, Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(health, theme.style(tone)),
    ])
}

fn tab_line(model: &Model, theme: Theme) -> Line<'_> {
    let mut spans = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == model.tab {
            theme.chosen()
        } else {
            Style::new()
        };
        spans.push(Span::styled(format!(" {} {} ", index + 1, tab.name()), style));
    }
    Line::from(spans)
}

/// The columns that fit, each with its place in the row and its width.
fn fitting(heads: &[Head], width: u16) -> Vec<(usize, Head, usize)> {
    let shown = heads.iter().enumerate().filter(|(_, head)| head.from <= width);
    let mut shown: Vec<_> = shown
        .map(|(index, head)| (index, *head, usize::from(head.width)))
        .collect();
    let before_last = shown.len().saturating_sub(1);
    let used: usize = shown.iter().take(before_last).map(|(.., width)| width + 1).sum();
    // One column of space on either side.
    let left = usize::from(width).saturating_sub(used + 2);
    if let Some((_, _, width)) = shown.last_mut() {
        *width = left;
    }
    shown
}

fn fit(text: &str, width: usize, side: Side) -> String {
    let length = text.chars().count();
    let cut = |skip: usize| text.chars().skip(skip).take(width).collect::<String>();
    match side {
        Side::Left if length > width => format!(
            "{}…",
            text.chars().take(width.saturating_sub(1)).collect::<String>()
        ),
        Side::Left => format!("{text:<width$}"),
        Side::Right => format!("{:>width$}", cut(0)),
        Side::End => format!("{:>width$}", cut(length.saturating_sub(width))),
    }
}

fn draw_rows(frame: &mut Frame, model: &Model, grid: &Grid, [heads, area]: [Rect; 2], theme: Theme) {
    let columns = fitting(&grid.heads, area.width);
    let choice = model.choice();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::raw(" ")];
    for (index, head, width) in &columns {
        let side = if head.side == Side::Right {
            Side::Right
        } else {
            Side::Left
        };
        let is_sorted = *index == choice.column;
        let style = if is_sorted {
            bold.add_modifier(Modifier::UNDERLINED)
        } else {
            bold
        };
        spans.push(Span::styled(fit(head.name, *width, side), style));
        spans.push(Span::raw(" "));
    }
    frame.render_widget(Line::from(spans), heads);
    if grid.rows.is_empty() {
        let text = if model.filter.is_empty() {
            " none"
        } else {
            " none with this text"
        };
        frame.render_widget(Line::styled(text, theme.style(Tone::Faint)), area);
        return;
    }
    let chosen = model.chosen(grid);
    let height = usize::from(area.height);
    // The chosen row is in the middle where there are rows on both sides.
    let most = grid.rows.len().saturating_sub(height);
    let first = chosen.saturating_sub(height / 2).min(most);
    let rows = grid.rows.iter().enumerate().skip(first).take(height);
    let lines = rows.map(|(index, row)| {
        let cells = columns
            .iter()
            .map(|(index, head, width)| fit(&row.cells[*index].text, *width, head.side));
        let text = format!(" {} ", cells.collect::<Vec<_>>().join(" "));
        let mut style = theme.style(row.tone);
        if model.gone.is_some() {
            style = theme.style(Tone::Faint);
        }
        if index == chosen {
            style = style.patch(theme.chosen());
        }
        Line::styled(text, style)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn draw_trends(frame: &mut Frame, model: &Model, row: &GridRow, area: Rect, theme: Theme) {
    let mut exports = model.sample.exports.iter();
    let Some(now) = exports.find(|now| now.id() == row.id) else {
        return;
    };
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas::<2>(area);
    for (half, what, values) in [
        (halves[0], "reads", &now.reads),
        (halves[1], "writes", &now.writes),
    ] {
        let highest = values.iter().copied().max().unwrap_or(0);
        let title = format!(
            " {} {what}, highest {:.1} MiB/s ",
            now.export.export,
            highest as f64 / f64::from(1 << 20)
        );
        let block = Block::bordered().title(title);
        let width = usize::from(half.width.saturating_sub(2));
        let latest = &values[values.len().saturating_sub(width)..];
        let bars = Sparkline::default().block(block).style(theme.bars());
        frame.render_widget(bars.data(latest.iter().copied()), half);
    }
}

fn detail_line(model: &Model, row: Option<&GridRow>, theme: Theme) -> Line<'static> {
    if let Some(notice) = &model.notice {
        return Line::raw(format!(" {notice}"));
    }
    let problem = || model.state.problems.first().cloned();
    let text = row.map(|row| row.detail.clone()).or_else(problem);
    let tone = row.map_or(Tone::Plain, |row| row.tone);
    Line::styled(format!(" {}", text.unwrap_or_default()), theme.style(tone))
}

fn key_line(model: &Model, theme: Theme) -> Line<'static> {
    if let Some(change) = &model.question {
        let text = format!(" {} y: yes, any other: no", change.question());
        return Line::styled(text, theme.style(Tone::Odd).add_modifier(Modifier::BOLD));
    }
    if model.is_typing {
        return Line::raw(format!(" /{}▏  Enter: done, Esc: all rows", model.filter));
    }
    let mut text = " q end  s sort  r reverse  / filter  p pause  ? keys".to_owned();
    if !model.filter.is_empty() {
        text = format!(" only \"{}\": Esc shows all rows", model.filter);
    }
    Line::styled(text, theme.style(Tone::Faint))
}

fn draw_help(frame: &mut Frame, area: Rect) {
    let lines: Vec<Line> = KEYS
        .iter()
        .map(|(keys, what)| Line::raw(format!(" {keys:<18} {what}")))
        .collect();
    let height = (lines.len() as u16 + 2).min(area.height);
    let width = 68.min(area.width);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
