//! What is written to the terminal: tables, colours, and text of hosts without what a terminal would obey.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::failure::Failure;
use crate::{
    api::patch_run::{Outcome, RunResult, State},
    yaml,
};

/// How the answer shall look.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table.
    #[default]
    #[value(hide = true)]
    Table,
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kind and name, one a line.
    Name,
}

/// A shade of meaning, shown as a colour where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// Ended well.
    Good,
    /// Ended badly.
    Bad,
    /// Under way, or waits.
    Busy,
    /// Of less importance.
    Dim,
}

impl Tone {
    /// That of a result; of a run that is not over, of its state.
    pub fn of(result: Option<RunResult>, state: State) -> Self {
        match (result, state) {
            (Some(RunResult::Ok), _) => Self::Good,
            (Some(RunResult::Error), _) => Self::Bad,
            (None, _) => Self::Busy,
        }
    }

    /// That of a host.
    pub fn of_outcome(outcome: Outcome) -> Self {
        if outcome.is_good() { Self::Good } else { Self::Bad }
    }
}

/// Standard output and error of this process.
pub struct Screen {
    /// Standard output is a terminal.
    pub terminal: bool,
    colour: bool,
}

impl Screen {
    /// Colours only on a terminal, and not with `NO_COLOR` (<https://no-color.org>).
    pub fn of_this_process() -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { terminal, colour: terminal && wanted && able }
    }

    /// Writes text, which must be our own or have gone through [`plain`].
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Says to a person what does not belong to the answer.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{}", plain_lines(text));
    }

    /// Says why it did not work.
    pub fn complain(&self, text: &str) {
        let _ = writeln!(io::stderr(), "error: {}", plain_lines(text));
    }

    /// The text in the colour of its tone.
    pub fn tint(&self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Busy => AnsiColor::Yellow.on_default(),
            Tone::Dim => Style::new().dimmed(),
        };
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Rows under heads, as kubectl shows them. Cells may hold anything: they are made harmless here.
    pub fn table(&self, head: &[&str], rows: Vec<Vec<(Tone, String)>>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head.to_vec());
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for row in rows {
            table.add_row(row.into_iter().map(|(tone, text)| {
                let cell = Cell::new(plain(&text));
                match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::DarkGreen),
                    Tone::Bad => cell.fg(Color::DarkRed),
                    Tone::Busy => cell.fg(Color::DarkYellow),
                    Tone::Dim => cell.fg(Color::DarkGrey),
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        format!("{}\n", table.trim_fmt())
    }

    /// An object as JSON or YAML.
    pub fn object(&mut self, format: Format, object: &impl Serialize) -> Result<(), Failure> {
        let text = match format {
            Format::Yaml => yaml::to_string(object).map_err(|e| Failure::Error(e.to_string()))?,
            Format::Json | Format::Table | Format::Wide | Format::Name => {
                let text = serde_json::to_string_pretty(object).map_err(|e| Failure::Error(e.to_string()))?;
                format!("{text}\n")
            }
        };
        self.print(&text)
    }
}

/// Labels and values, one a line; what is empty is left out. Values may hold anything.
pub fn labels(rows: Vec<(&str, String)>, screen: &Screen) -> String {
    let rows: Vec<(&str, String)> = rows.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 3;
    let tint = |label: &str, value: &str| match (label, value) {
        ("Result", "OK") => screen.tint(Tone::Good, value),
        ("Result" | "Error code", _) => screen.tint(Tone::Bad, value),
        _ => value.to_owned(),
    };
    on_lines("", rows.into_iter().map(|(label, value)| format!("{:<width$}{}", format!("{label}:"), tint(label, &plain(&value)))))
}

/// Texts, each on a line of its own after `indent`.
pub fn on_lines(indent: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut out = String::new();
    for text in texts {
        out.push_str(indent);
        out.push_str(text.as_ref());
        out.push('\n');
    }
    out
}

/// A cell without a tone.
pub fn cell(text: impl Into<String>) -> (Tone, String) {
    (Tone::Plain, text.into())
}

/// Foreign text on one line, without what a terminal would obey (control characters, and marks that turn the direction of text).
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// As [`plain`], but lines stay lines.
pub fn plain_lines(text: &str) -> String {
    text.chars().map(|c| if harmful(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A line of a log for a terminal: colours are dropped, everything else that a terminal would obey is shown as `�`.
pub fn log_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&plain_lines(&rest[..at]));
        rest = &rest[at..];
        let after = rest.strip_prefix("\u{1b}[").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        rest = if let Some(after) = after.and_then(|text| text.strip_prefix('m')) {
            after
        } else {
            out.push('\u{fffd}');
            &rest[1..]
        };
    }
    out.push_str(&plain_lines(rest));
    out
}

/// How long something is, in at most two units: `45s`, `2m05s`, `3h10m`, `4d2h`.
pub fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment, to the second, in UTC.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The word of an outcome.
pub const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Changed => "changed",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::Unknown => "unknown",
        Outcome::Missing => "missing",
    }
}

/// The word of a result.
pub const fn result_word(result: RunResult) -> &'static str {
    match result {
        RunResult::Ok => "OK",
        RunResult::Error => "ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d\u{9b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(plain_lines("a\n\tb\r"), "a\n\tb\u{fffd}");
        assert_eq!(log_line("\u{1b}[0;31mfatal\u{1b}[0m: \u{1b}]0;title\u{7}"), "fatal: \u{fffd}]0;title\u{fffd}");
    }

    #[test]
    fn lengths_of_time_are_short() {
        for (seconds, text) in [(-3, "0s"), (45, "45s"), (125, "2m05s"), (11_400, "3h10m"), (352_800, "4d2h")] {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn tables_have_no_colours_unless_wanted() {
        let rows = || vec![vec![cell("web"), (Tone::Bad, "ERROR".to_owned())], vec![cell("a\nb"), (Tone::Good, "OK".to_owned())]];
        let plain = Screen { terminal: false, colour: false };
        assert_eq!(plain.table(&["NAME", "RESULT"], rows()), "NAME   RESULT\nweb    ERROR\na\u{fffd}b    OK\n");
        let coloured = Screen { terminal: true, colour: true };
        assert!(coloured.table(&["NAME", "RESULT"], rows()).contains("\u{1b}["));
        assert_eq!(plain.tint(Tone::Bad, "x"), "x");
        assert!(coloured.tint(Tone::Bad, "x").starts_with("\u{1b}["));
    }
}
