//! What a command prints.

use std::io::Write as _;

use anyhow::Context;
use serde::Serialize;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// The `-o` flag.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Format,
}

/// Result of a command: text for stdout, complaints for stderr.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) complaints: Vec<String>,
    pub(crate) failed: bool,
}

impl Report {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(crate) fn failed(complaint: impl std::fmt::Display) -> Self {
        Self { text: String::new(), complaints: vec![format!("error: {complaint}")], failed: true }
    }

    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    pub(crate) fn warn(&mut self, complaint: impl std::fmt::Display) {
        self.complaints.push(format!("warning: {complaint}"));
    }

    pub(crate) fn error(&mut self, complaint: impl std::fmt::Display) {
        self.complaints.push(format!("error: {complaint}"));
        self.failed = true;
    }
}

/// Prints what cannot wait for the end of the command; false if nobody reads any more.
pub(crate) fn print_now(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// An error with its causes, leaving out those its text names already.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// Columns as wide as the rows that were shown first need. Later cells that are wider only push what is behind them.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<usize>);

impl Columns {
    pub(crate) fn of(rows: &[Vec<String>]) -> Self {
        let mut widths = Vec::new();
        for row in rows {
            widths.resize(row.len().max(widths.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        Self(widths)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(&self.0).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned() + "\n"
    }
}

/// A table as kubectl and calicoctl print them: upper-case heads, no lines. `no` stands for an empty table.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>, no: &str) -> String {
    if rows.is_empty() {
        return format!("No {no} found.\n");
    }
    dynamic_table(&heads, rows.into_iter().map(Vec::from).collect())
}

/// The same with columns that are known only now.
pub(crate) fn dynamic_table(heads: &[&str], mut rows: Vec<Vec<String>>) -> String {
    rows.insert(0, owned(heads));
    let columns = Columns::of(&rows);
    rows.iter().map(|row| columns.line(row)).collect()
}

/// Heads as a row.
pub(crate) fn owned(heads: &[&str]) -> Vec<String> {
    heads.iter().map(|head| (*head).to_owned()).collect()
}

/// `value` as YAML or JSON, or what `people` makes of it (told whether it is to be wide).
pub(crate) fn render<T: Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce(bool) -> String,
) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => people(false),
        Format::Wide => people(true),
        Format::Yaml => serde_saphyr::to_string(value).context("writing YAML")?,
        Format::Json => serde_json::to_string_pretty(value).context("writing JSON")? + "\n",
    })
}

/// A count of seconds as `4d07h`, `2h03m`, `5m09s`, `12s`.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// The value, or `-`.
pub(crate) fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The values joined by commas, or `-`.
pub(crate) fn comma<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (309, "5m09s"), (7380, "2h03m"), (370_000, "4d06h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn tables_have_no_edges() {
        let text =
            table(["NAME", "X"], vec![["a".into(), "1".into()], ["long".into(), "2".into()]], "things");
        assert_eq!(text, "NAME  X\na     1\nlong  2\n");
        assert_eq!(table(["NAME"], vec![], "things"), "No things found.\n");
    }
}
