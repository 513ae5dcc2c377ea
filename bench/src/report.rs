//! Medians, the table, the file, and whether ours reaches what it must.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::scenario::{Figures, percentile};
use crate::subject::Subject;

/// One run of one scenario against one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    pub(crate) subject: Subject,
    pub(crate) figures: Figures,
    /// Why it went wrong, if it did.
    pub(crate) wrong: Option<String>,
}

/// All runs of one scenario against one subject as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) subject: Subject,
    pub(crate) runs: usize,
    /// Median of each figure over the runs that have it.
    pub(crate) median: Figures,
    /// The medians to those of the mirror, and to the best of the others for each figure.
    pub(crate) to_mirror: Figures,
    pub(crate) to_best_peer: Figures,
    /// What went wrong in any run.
    pub(crate) wrong: Vec<String>,
}

/// Each figure to the smallest of the same among `others`.
fn ratios(own: &Figures, others: &[Figures]) -> Figures {
    let mut ratios = own.clone();
    for (index, ratio) in ratios.each().into_iter().enumerate() {
        let figure = |other: &Figures| other.clone().each().get(index).and_then(|value| **value);
        let best = others.iter().filter_map(figure).min_by(f64::total_cmp).filter(|best| *best > 0.0);
        *ratio = ratio.zip(best).map(|(own, best)| own / best);
    }
    ratios
}

/// Rows in the order in which scenarios and subjects first appear.
pub(crate) fn rows(records: &[Record]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for record in records {
        let same = |row: &&mut Row| row.scenario == record.scenario && row.subject == record.subject;
        if rows.iter_mut().find(same).is_some() {
            continue;
        }
        let runs = || {
            records
                .iter()
                .filter(|other| other.scenario == record.scenario && other.subject == record.subject)
        };
        let mut median = Figures::default();
        for (index, place) in median.each().into_iter().enumerate() {
            let mut values: Vec<f64> = runs()
                .filter_map(|run| run.figures.clone().each().get(index).and_then(|value| **value))
                .collect();
            *place = percentile(&mut values, 0.5);
        }
        rows.push(Row {
            scenario: record.scenario.clone(),
            subject: record.subject,
            runs: runs().count(),
            median,
            to_mirror: Figures::default(),
            to_best_peer: Figures::default(),
            wrong: runs().filter_map(|run| run.wrong.clone()).collect(),
        });
    }
    let medians = |scenario: &str, wanted: &dyn Fn(Subject) -> bool| -> Vec<Figures> {
        let others = rows.iter().filter(|row| row.scenario == scenario && wanted(row.subject));
        others.map(|row| row.median.clone()).collect()
    };
    let bases: Vec<_> = rows
        .iter()
        .map(|row| {
            let mirror = medians(&row.scenario, &|subject| subject == Subject::Mirror);
            let peers = medians(&row.scenario, &Subject::is_foreign);
            (ratios(&row.median, &mirror), ratios(&row.median, &peers))
        })
        .collect();
    for (row, base) in rows.iter_mut().zip(bases) {
        (row.to_mirror, row.to_best_peer) = base;
    }
    rows
}

/// What is printed.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "scenario",
        "subject",
        "sessions s",
        "converged s",
        "/mirror",
        "/best peer",
        "one change ms",
        "churn ms",
        "crash ms",
        "round s",
        "slow: behind, s",
        "peak MiB",
        "CPU s",
        "one thread",
        "generator",
    ]);
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    let pair = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => format!("{a:.1} / {b:.1}"),
        _ => String::new(),
    };
    for row in rows {
        let m = &row.median;
        let refused = m.refused.filter(|refused| *refused > 0.0);
        let refused = refused.map_or_else(String::new, |refused| format!(" ({refused} refused)"));
        table.add_row([
            row.scenario.clone(),
            format!("{:?}", row.subject).to_lowercase(),
            number(m.sessions, 3) + &refused,
            number(m.convergence, 3),
            number(row.to_mirror.convergence, 2),
            number(row.to_best_peer.convergence, 2),
            pair(m.single_p50, m.single_p99),
            pair(m.churn_p50, m.churn_p99),
            number(m.failure, 1),
            m.round.zip(m.round_slow).map_or_else(String::new, |(a, b)| format!("{a:.3} -> {b:.3}")),
            m.slow_behind.zip(m.slow_done).map_or_else(String::new, |(a, b)| format!("{a:.0}, {b:.3}")),
            number(m.peak_mib, 1),
            number(m.cpu, 2),
            number(m.cpu_busiest, 2),
            number(m.cpu_generator, 2),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.to_string();
    for row in rows {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        row.wrong.iter().for_each(|wrong| *seen.entry(wrong.as_str()).or_default() += 1);
        for (wrong, times) in seen {
            text += &format!("\n{}, {:?}: {wrong} ({times} of {} runs)", row.scenario, row.subject, row.runs);
        }
    }
    text
}

/// One thing that ours must reach.
struct Goal {
    scenario: &'static str,
    what: &'static str,
    figure: fn(&Figures) -> Option<f64>,
    limit: Limit,
}

enum Limit {
    Absolute(f64),
    /// So many times the same figure of another subject in the same run.
    Times(f64, Subject),
    /// The same figure of the best of the others that were measured.
    BestPeer,
    /// The same figure of ours on one processor: more must help where the clients leave some, and elsewhere hurt no more than
    /// two runs differ.
    Pinned,
    /// At least that.
    AtLeast(f64),
    /// So many times another figure of ours.
    TimesOwn(f64, fn(&Figures) -> Option<f64>),
}

const GOALS: &[Goal] = &[
    Goal {
        scenario: "1,000 clients x 1",
        what: "convergence, s",
        figure: |f| f.convergence,
        limit: Limit::Times(2.0, Subject::Mirror),
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "peak memory, MiB",
        figure: |f| f.peak_mib,
        limit: Limit::Times(1.0, Subject::Bird),
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "sessions, s",
        figure: |f| f.sessions,
        limit: Limit::Absolute(0.5),
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "refused connections",
        figure: |f| f.refused,
        limit: Limit::Absolute(0.0),
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "one change p50, ms",
        figure: |f| f.single_p50,
        limit: Limit::Times(1.3, Subject::Mirror),
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "churn p99, ms",
        figure: |f| f.churn_p99,
        limit: Limit::BestPeer,
    },
    Goal {
        scenario: "1,000 clients x 1",
        what: "failure of a client, ms",
        figure: |f| f.failure,
        limit: Limit::BestPeer,
    },
    Goal {
        scenario: "5,000 clients x 1",
        what: "convergence, s",
        figure: |f| f.convergence,
        limit: Limit::Times(2.0, Subject::Mirror),
    },
    Goal {
        scenario: "5,000 clients x 1",
        what: "convergence with every processor, s",
        figure: |f| f.convergence,
        limit: Limit::Pinned,
    },
    Goal {
        // What is shared out needs no fourth processor to be seen.
        scenario: "5,000 clients x 1",
        what: "time of the busiest thread, s",
        figure: |f| f.cpu_busiest,
        limit: Limit::TimesOwn(0.8, |f| f.cpu),
    },
    Goal {
        scenario: "5,000 clients x 1",
        what: "peak memory, MiB",
        figure: |f| f.peak_mib,
        limit: Limit::Absolute(64.0),
    },
    Goal {
        scenario: "500 clients x 20",
        what: "convergence, s",
        figure: |f| f.convergence,
        limit: Limit::Times(2.0, Subject::Mirror),
    },
    Goal {
        scenario: "10 clients x 50,000",
        what: "convergence, s",
        figure: |f| f.convergence,
        limit: Limit::Absolute(1.0),
    },
    Goal {
        scenario: "10 clients x 50,000",
        what: "peak memory, MiB",
        figure: |f| f.peak_mib,
        limit: Limit::Absolute(100.0),
    },
    Goal {
        scenario: "slow reader of 1,000",
        what: "round with a slow reader, s",
        figure: |f| f.round_slow,
        limit: Limit::TimesOwn(1.3, |f| f.round),
    },
    Goal {
        scenario: "slow reader of 1,000",
        what: "peak memory, MiB",
        figure: |f| f.peak_mib,
        limit: Limit::Absolute(64.0),
    },
    Goal {
        // Most of what 999 others change in every round.
        scenario: "slow reader of 1,000",
        what: "changes that the slow reader was behind",
        figure: |f| f.slow_behind,
        limit: Limit::AtLeast(10_000.0),
    },
    Goal {
        scenario: "slow reader of 1,000",
        what: "slow reader caught up, s",
        figure: |f| f.slow_done,
        limit: Limit::Absolute(5.0),
    },
];

/// What ours missed, as sentences. Goals that compare with a subject that was not measured count as missed.
pub(crate) fn missed(rows: &[Row]) -> Vec<String> {
    let row =
        |scenario: &str, subject| rows.iter().find(|row| row.scenario == scenario && row.subject == subject);
    let mut missed = wrong(rows);
    for goal in GOALS {
        let Some(ours) = row(goal.scenario, Subject::Margay) else {
            missed.push(format!("{}: not measured", goal.scenario));
            continue;
        };
        let of = |subject| row(goal.scenario, subject).and_then(|other| (goal.figure)(&other.median));
        let limit = match goal.limit {
            Limit::Absolute(limit) | Limit::AtLeast(limit) => Some(limit),
            Limit::Times(times, subject) => of(subject).map(|base| times * base),
            Limit::BestPeer => {
                let peers = Subject::ALL.into_iter().filter(|subject| subject.is_foreign());
                peers.filter_map(of).min_by(f64::total_cmp)
            }
            Limit::Pinned => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                of(Subject::Pinned).map(|base| if cores >= 4 { 0.8 * base } else { 1.05 * base })
            }
            Limit::TimesOwn(times, base) => base(&ours.median).map(|base| times * base),
        };
        let least = matches!(goal.limit, Limit::AtLeast(_));
        match ((goal.figure)(&ours.median), limit) {
            (Some(is), Some(limit)) if if least { is >= limit } else { is <= limit } => {}
            (Some(is), Some(limit)) => {
                let bound = if least { "at least" } else { "at most" };
                missed
                    .push(format!("{}: {} is {is:.3}, must be {bound} {limit:.3}", goal.scenario, goal.what));
            }
            _ => missed.push(format!("{}: {} was not measured", goal.scenario, goal.what)),
        }
    }
    missed
}

/// What went wrong with ours or with the mirror.
pub(crate) fn wrong(rows: &[Row]) -> Vec<String> {
    let own = rows.iter().filter(|row| !row.subject.is_foreign());
    own.flat_map(|row| {
        row.wrong.iter().map(move |wrong| format!("{}: {:?}: {wrong}", row.scenario, row.subject))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(subject: Subject, convergence: f64, wrong: Option<&str>) -> Record {
        let figures = Figures { convergence: Some(convergence), ..Figures::default() };
        Record { scenario: "500 clients x 20".to_owned(), subject, figures, wrong: wrong.map(str::to_owned) }
    }

    #[test]
    fn medians_are_compared_with_goals() {
        let mut records = vec![record(Subject::Mirror, 0.1, None)];
        records.extend([0.5, 0.19, 0.1].map(|time| record(Subject::Margay, time, None)));
        let about = |records: &[Record]| {
            let missed = missed(&rows(records));
            missed.into_iter().filter(|line| line.starts_with("500")).collect::<Vec<_>>()
        };
        assert_eq!(about(&records), Vec::<String>::new(), "{}", table(&rows(&records)));
        records.extend([0.5, 0.6].map(|time| record(Subject::Margay, time, None)));
        assert_eq!(about(&records), ["500 clients x 20: convergence, s is 0.500, must be at most 0.200"]);
        records.extend([0.25, 1.0].map(|time| record(Subject::Bird, time, None)));
        records.push(record(Subject::Frr, 2.0, None));
        let rows = rows(&records);
        let ours = rows.iter().find(|row| row.subject == Subject::Margay).unwrap();
        assert_eq!(ours.to_mirror.convergence, Some(5.0));
        // The median of BIRD's is the smaller one of two.
        assert_eq!(ours.to_best_peer.convergence, Some(2.0));
        assert_eq!(ours.to_best_peer.failure, None, "was not measured");
        records.push(record(Subject::Margay, 0.1, Some("a route was lost")));
        assert!(about(&records).join("\n").contains("a route was lost"));
    }
}
