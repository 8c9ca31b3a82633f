//! Aligned tables, repeated lists, colours: how lists are shown to people.

use super::Failure;
use crate::cli::ListArgs;
use std::{
    future::Future,
    io::{IsTerminal, Write},
    time::Duration,
};

/// Greatest width of a column that is not the last.
const COLUMN_CHARS_MAX: usize = 40;
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Which side a column's entries stand at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table: columns and rows of text.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many entries as there are columns.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.columns.len(), "a row fills every column");
        self.rows.push(row);
    }

    /// Lays the table out; lines are cut to `width` characters if one is given.
    pub(crate) fn render(&self, width: Option<usize>, bold_header: bool) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut out = String::new();
        let head = self.line(&header, width);
        if bold_header {
            out.push_str(&format!("\x1b[1m{head}\x1b[0m\n"));
        } else {
            out.push_str(&head);
            out.push('\n');
        }
        for row in &self.rows {
            out.push_str(&self.line(row, width));
            out.push('\n');
        }
        out
    }

    fn line(&self, row: &[String], width: Option<usize>) -> String {
        let mut line = String::new();
        let last = row.len() - 1;
        for (index, text) in row.iter().enumerate() {
            let text = printable(text);
            if index == last {
                line.push_str(&text);
                break;
            }
            let column = self.column_chars(index);
            let text: String = text.chars().take(column).collect();
            let pad = " ".repeat(column - text.chars().count());
            match self.columns[index].1 {
                Align::Left => line.extend([text.as_str(), &pad, "  "]),
                Align::Right => line.extend([pad.as_str(), &text, "  "]),
            }
        }
        let line = line.trim_end();
        match width {
            Some(width) => line.chars().take(width).collect(),
            None => line.to_owned(),
        }
    }

    fn column_chars(&self, index: usize) -> usize {
        let entries = self.rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
        entries.max(self.columns[index].0.len()).min(COLUMN_CHARS_MAX)
    }
}

/// What comes from processes may hold control characters, which a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::io::stdout().is_terminal()
}

/// Prints a table for people, cut to the terminal if there is one.
pub(crate) fn print(table: &Table, out: &mut impl Write) -> std::io::Result<()> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok();
    let width = size.map(|size| usize::from(size.ws_col)).filter(|cols| *cols > 0);
    out.write_all(table.render(width, colours()).as_bytes())
}

/// Shows a list once, or with `--watch` again and again until interrupted.
pub(crate) async fn show<F: Future<Output = Result<Vec<u8>, Failure>>>(
    args: &ListArgs,
    mut list: impl FnMut() -> F,
) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    loop {
        let text = list().await?;
        if args.watch.is_some() && !args.json && stdout.is_terminal() {
            stdout.write_all(CLEAR_SCREEN.as_bytes())?;
        }
        stdout.write_all(&text)?;
        stdout.flush()?;
        let Some(seconds) = args.watch else { return Ok(()) };
        if !args.json && !stdout.is_terminal() {
            stdout.write_all(b"\n")?;
        }
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
}

/// Bytes with a binary unit: `512`, `3.4M`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if count < 1024 {
        return count.to_string();
    }
    // Lossy only where the figure is rounded anyway.
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1}{}", UNITS[unit])
    } else {
        format!("{value:.0}{}", UNITS[unit])
    }
}

/// A short time, in milliseconds: `0.35 ms`, `8.2 ms`, `61 ms`.
pub(crate) fn milliseconds(microseconds: u64) -> String {
    let decimals = match microseconds {
        0..=994 => 2,
        995..=9949 => 1,
        _ => 0,
    };
    // Lossy only where the figure is rounded anyway.
    format!("{:.decimals$} ms", microseconds as f64 / 1000.0)
}

/// CPU time as ps(1) shows it: `minutes:seconds`, or with hours.
pub(crate) fn cpu_time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02}")
    } else {
        format!("{minutes}:{rest:02}.{:02}", milliseconds % 1000 / 10)
    }
}

/// Time since an instant, in one unit: `7s`, `3m`, `5h`, `2d`.
pub(crate) fn age(started_unix_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    match now_ms.saturating_sub(started_unix_ms) / 1000 {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table =
            Table::new(&[("PID", Align::Right), ("NODE", Align::Left), ("CMD", Align::Left)]);
        table.push(vec!["7".into(), "n1".into(), "sort\x1b[2J".into()]);
        table.push(vec!["4711".into(), "node-two".into(), "a long command".into()]);
        assert_eq!(
            table.render(Some(26), false),
            " PID  NODE      CMD\n   7  n1        sort?[2J\n4711  node-two  a long com\n"
        );
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 1023, 1024, 10 << 20].map(bytes), ["0", "1023", "1.0K", "10M"]);
        assert_eq!(bytes(u64::MAX), "16E");
        assert_eq!([350, 8_240, 60_999].map(milliseconds), ["0.35 ms", "8.2 ms", "61 ms"]);
        assert_eq!([10, 61_230, 3_600_000].map(cpu_time), ["0:00.01", "1:01.23", "1:00:00"]);
    }
}
