use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::plan::{self, Wanted};
use super::saved::{self, SavedTable};
use crate::apply::Count;
use crate::rules::{Action, BaseRules, ChainName, Family, Hook, Rule, Table, TableRules, Touched, names};

fn wanted() -> TableRules {
    let own = names::fixed("own");
    let base = BaseRules {
        first: vec![Rule::new([], Action::Jump(own.clone()))],
        last: vec![Rule::new([], Action::Accept)],
    };
    TableRules {
        base: [(Hook::Forward, base)].into(),
        chains: [(own, Arc::new(vec![Rule::new([], Action::Drop)]))].into(),
    }
}

fn rendered(table: &TableRules) -> (Wanted, BTreeSet<ChainName>) {
    let mut wanted = Wanted::new();
    let names = plan::render(Family::V4, table, &mut wanted, &Touched::All);
    (wanted, names)
}

fn input(saved: &SavedTable, table: &TableRules) -> String {
    let (wanted, names) = rendered(table);
    plan::update(Family::V4, Table::Filter, saved, &table.base, &wanted, &names).input
}

/// Restore input for a kernel that shows this text.
fn update(text: &str) -> String {
    let table = wanted();
    let saved = saved::parse(text).remove(&Table::Filter).unwrap_or_default();
    input(&saved, &table)
}

/// The kernel after the input was restored into an empty table, as `iptables-save -c` shows it.
fn right() -> String {
    let input = update("");
    let mut rules: Vec<String> = input.lines().map(str::to_owned).collect();
    for rule in &mut rules {
        *rule = rule.replace("-I FORWARD 1 ", "-A FORWARD ");
        if rule.starts_with("-A") {
            rule.insert_str(0, "[7:420] ");
        }
    }
    rules.join("\n")
}

#[test]
fn what_is_right_is_left_alone() {
    assert_eq!(update(&right()), "");
    let foreign = right().replace("COMMIT", "[0:0] -A FORWARD -s 10.0.0.1/32 -j ACCEPT\nCOMMIT");
    assert_eq!(update(&foreign), "", "somebody appended behind us");
}

#[test]
fn base_rules_go_back_to_their_places() {
    let pushed = right().replacen("[7:420] -A FORWARD", "[0:0] -A FORWARD -j foreign\n[7:420] -A FORWARD", 1);
    let input = update(&pushed);
    let verbs: Vec<_> =
        input.lines().filter_map(|line| line.get(..10)).filter(|l| l.starts_with('-')).collect();
    assert_eq!(verbs, ["-D FORWARD", "-D FORWARD", "-I FORWARD", "-A FORWARD"], "{input}");
    assert!(!input.contains("foreign") && !input.contains(":mgy-own"), "{input}");
}

#[test]
fn base_rules_that_come_last_from_now_on_leave_the_top() {
    let mut table = wanted();
    let foreign =
        right().replacen("[7:420] -A FORWARD -m", "[0:0] -A FORWARD -j foreign\n[7:420] -A FORWARD -m", 1);
    let saved = saved::parse(&foreign).remove(&Table::Filter).unwrap();
    assert_eq!(input(&saved, &table), "");
    for base in table.base.values_mut() {
        base.last.splice(..0, std::mem::take(&mut base.first));
    }
    let input = input(&saved, &table);
    assert!(input.contains("-D FORWARD -j mgy-own\n") && !input.contains("-I "), "{input}");
}

#[test]
fn a_foreign_rule_in_our_chain_makes_it_be_written_again() {
    let tampered = right().replacen("COMMIT", "[0:0] -A mgy-own -j ACCEPT\nCOMMIT", 1);
    let input = update(&tampered);
    assert!(input.contains(":mgy-own - [0:0]\n-A mgy-own ") && !input.contains("FORWARD"), "{input}");
}

/// A jump has no comment: it is told by its text.
#[test]
fn a_changed_rule_without_a_comment_is_noticed() {
    let table = TableRules {
        chains: [(
            names::fixed("own"),
            Arc::new(vec![Rule::new([], Action::Jump(names::fixed("there"))), Rule::new([], Action::Drop)]),
        )]
        .into(),
        ..TableRules::default()
    };
    let update = |text: &str| {
        let saved = saved::parse(text).remove(&Table::Filter).unwrap_or_default();
        input(&saved, &table)
    };
    let written = update("");
    assert!(written.contains("\n-A mgy-own -j mgy-there\n"), "{written}");
    assert_eq!(update(&written), "");
    for (right, wrong) in [("-j mgy-there", "-j mgy-else"), ("-j mgy-there", "-i mgy+ -j mgy-there")] {
        assert_eq!(update(&written.replacen(right, wrong, 1)), written);
    }
    assert_eq!(update(&written.replacen("-A mgy-own -j mgy-there\n", "", 1)), written);
}

#[test]
fn sweep_names_only_what_is_ours() {
    let text = "*filter\n:FORWARD DROP [1:2]\n:mgy-old - [0:0]\n:DOCKER - [0:0]\n\
        [1:60] -A FORWARD -j DOCKER\n\
        [1:60] -A FORWARD -m comment --comment \"mgy:AAAAAAAAAAAAAAAA\" -j mgy-old\n\
        [1:60] -A FORWARD -m comment --comment \"mgy: not a hash\" -j ACCEPT\n\
        [1:60] -A FORWARD -j mgy-old\n\
        [1:60] -A FORWARD -j mgy-old -m comment --comment \"somebody else's\"\n\
        [1:60] -A mgy-old -j ACCEPT\n[0:0] -A DOCKER -j RETURN\nCOMMIT\n";
    let saved = saved::parse(text).remove(&Table::Filter).unwrap();
    let mut left = saved.clone();
    let step = plan::sweep(Table::Filter, &left, None, None);
    assert_eq!(
        step.input,
        "*filter\n:mgy-old - [0:0]\n-D FORWARD -m comment --comment \"mgy:AAAAAAAAAAAAAAAA\" -j mgy-old\n\
         -D FORWARD -j mgy-old\nCOMMIT\n"
    );
    plan::note_swept(&mut left, None, step);
    let step = plan::sweep(Table::Filter, &left, None, None);
    assert_eq!((step.input.as_str(), step.deleted.len()), ("*filter\n-X mgy-old\nCOMMIT\n", 1));
    plan::note_swept(&mut left, None, step);
    assert_eq!(plan::sweep(Table::Filter, &left, None, None).input, "");
    let (own, _) = rendered(&wanted());
    let step = plan::sweep(Table::Filter, &saved, Some(&wanted()), Some(&own));
    assert!(!step.input.contains("-D FORWARD"), "base rules of a hook in use are the update's business");
    let mut left = saved;
    plan::note_swept(&mut left, Some(&wanted()), step);
    assert_eq!(plan::sweep(Table::Filter, &left, Some(&wanted()), Some(&own)).deleted.len(), 1);
}

/// Chains that become unwanted one after the other do not keep each other from being deleted, and one that has no rules, as
/// a policy without any, is not deleted while another may lead to it.
#[test]
fn what_becomes_unwanted_meanwhile_is_emptied_while_the_rest_is_deleted() {
    let read =
        |chains: &str| saved::parse(&format!("*filter\n{chains}COMMIT\n")).remove(&Table::Filter).unwrap();
    let mut left = read(":mgy-none - [0:0]\n:mgy-one - [0:0]\n[0:0] -A mgy-one -j mgy-none\n");
    let step = plan::sweep(Table::Filter, &left, None, None);
    assert_eq!(step.input, "*filter\n:mgy-none - [0:0]\n:mgy-one - [0:0]\nCOMMIT\n");
    plan::note_swept(&mut left, None, step);
    left.chains.extend(read(":mgy-two - [0:0]\n[0:0] -A mgy-two -j ACCEPT\n").chains);
    let step = plan::sweep(Table::Filter, &left, None, None);
    assert_eq!(step.input, "*filter\n:mgy-two - [0:0]\n-X mgy-none\n-X mgy-one\nCOMMIT\n");
    plan::note_swept(&mut left, None, step);
    let step = plan::sweep(Table::Filter, &left, None, None);
    assert_eq!(step.input, "*filter\n-X mgy-two\nCOMMIT\n");
}

#[test]
fn counters_are_read_by_hash() {
    let counts = saved::counters(&right());
    assert_eq!(counts.len(), 2, "a jump is known by its text");
    assert!(counts.values().all(|count| *count == Count { packets: 7, bytes: 420 }));
}

#[test]
fn pauses_grow_to_a_limit() {
    let pauses: Vec<_> =
        [1, 2, 3, 30, u32::MAX].map(|attempt| crate::apply::error::backoff(attempt).as_millis()).into();
    assert_eq!(pauses, [100, 200, 400, 10_000, 10_000]);
}

proptest! {
    /// Foreign tools write what they like into their comments and chains.
    #[test]
    fn any_text_is_read(lines in proptest::collection::vec("[*:\\[]?(filter|mgy-a|-A|-A mgy-a|0:0\\] -A)? ?.{0,40}", 0..20)) {
        let text = lines.join("\n");
        drop(saved::parse(&text));
        drop(saved::counters(&text));
    }
}

/// The agent gives the applier a thread of its own.
#[test]
fn an_applier_can_move_to_its_thread() {
    const fn is_send<T: Send>() {}
    is_send::<crate::apply::Applier>();
}
