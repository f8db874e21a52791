//! Colours, or their absence.

use ratatui::style::{Color, Modifier, Style};

/// What a piece of text wants to say by its looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// As all others.
    #[default]
    Plain,
    /// Something is wrong.
    Bad,
    /// Something is not as usual.
    Odd,
    /// Less important.
    Faint,
}

/// How tones look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    has_colour: bool,
}

impl Theme {
    /// With or without colours.
    pub(super) const fn new(has_colour: bool) -> Theme {
        Theme { has_colour }
    }

    /// As `NO_COLOR` says (<https://no-color.org>).
    pub(super) fn of_environment() -> Theme {
        Theme::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    /// The style of a tone.
    pub(super) fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.has_colour) {
            (Tone::Plain, _) => style,
            (Tone::Bad, true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Tone::Odd, true) => style.fg(Color::Yellow),
            (Tone::Bad | Tone::Odd, false) => style.add_modifier(Modifier::BOLD),
            (Tone::Faint, _) => style.add_modifier(Modifier::DIM),
        }
    }

    /// Of what is chosen.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Of bars.
    pub(super) fn bars(self) -> Style {
        match self.has_colour {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        }
    }
}
