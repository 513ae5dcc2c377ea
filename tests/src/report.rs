//! What was measured, as tables a person wants to look at.

use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};

/// One line: a rule, what was measured, and whether that is the rule.
#[derive(Debug, Clone)]
pub struct Check {
    /// What has to hold.
    pub rule: String,
    /// What was seen.
    pub measured: String,
    /// Whether it holds.
    pub ok: bool,
}

impl Check {
    /// A line.
    pub fn new(rule: impl Into<String>, measured: impl Into<String>, ok: bool) -> Self {
        Self { rule: rule.into(), measured: measured.into(), ok }
    }
}

/// Everything measured so far.
#[derive(Debug)]
pub struct Report {
    sections: Vec<(String, Vec<Check>)>,
    begun: Instant,
    quiet: bool,
}

impl Report {
    /// Nothing yet. A quiet one prints nothing (tests).
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self { sections: Vec::new(), begun: Instant::now(), quiet }
    }

    /// Says what is being done.
    pub fn step(&self, text: &str) {
        if !self.quiet {
            println!("{:>6.1} s  {text}", self.begun.elapsed().as_secs_f32());
        }
    }

    /// Prints text as it is.
    pub fn show(&self, text: &str) {
        if !self.quiet {
            println!("\n{text}");
        }
    }

    /// Takes lines in and prints them.
    pub fn add(&mut self, title: &str, checks: Vec<Check>) {
        if !self.quiet {
            println!("\n{}\n", table(title, &checks));
        }
        self.sections.push((title.to_owned(), checks));
    }

    /// Lines that do not hold.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let all =
            self.sections.iter().flat_map(|(title, checks)| checks.iter().map(move |check| (title, check)));
        all.filter(|(_, check)| !check.ok)
            .map(|(title, check)| format!("{title}: {}: {}", check.rule, check.measured))
            .collect()
    }

    /// Lines in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sections.iter().map(|(_, checks)| checks.len()).sum()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn table(title: &str, checks: &[Check]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([title, "measured", ""]);
    for check in checks {
        let verdict =
            if check.ok { Cell::new("ok").fg(Color::Green) } else { Cell::new("FAILED").fg(Color::Red) };
        table.add_row([Cell::new(&check.rule), Cell::new(&check.measured), verdict]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_does_not_hold_is_a_failure() {
        let mut report = Report::new(true);
        report.add("model", vec![Check::new("pods reach pods", "6/6", true)]);
        assert!(report.failures().is_empty());
        report.add("policy", vec![Check::new("guests are kept out", "1 of 3 got in", false)]);
        assert_eq!(report.failures(), ["policy: guests are kept out: 1 of 3 got in"]);
        assert_eq!(report.len(), 2);
    }
}
