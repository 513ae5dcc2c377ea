//! What must hold of everything the policy engine reads from outside. The fuzz targets run it on what they make up, and
//! felix-rs' test `corpus` on the inputs that were found worth keeping.

use std::collections::BTreeMap;

use felix_rs::apply::{first_packet, read_saved};
use felix_rs::calc::{Calculator, Scope};
use felix_rs::model::EnforcedState;
use felix_rs::render;
use felix_rs::rules::{Compiler, DispatchBy};
use felix_rs::verdict::Packet;
use margay_api::selector::Selector;
use margay_api::{Resource, yaml};
use margay_netlink::flows::{Event, event};

/// Types of the messages of NFLOG (`NFNL_SUBSYS_ULOG`) and of conntrack (`NFNL_SUBSYS_CTNETLINK`).
const MESSAGES: [u16; 2] = [4 << 8, 1 << 8];

/// A selector: what is written of it is read as the same, and both select the same.
pub fn selector(text: &str) {
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again = Selector::parse(&selector.to_string()).expect("what we write can be read");
    assert_eq!(again, selector);
    assert_eq!(again.id(), selector.id());
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let everything = selector.and(&Selector::all());
    for labels in [labels(&[]), labels(&[("a", "b")]), labels(&[("a", ""), ("role", "x"), ("b/c", "d")])] {
        assert_eq!(selector.matches(&labels), again.matches(&labels));
        assert_eq!(selector.matches(&labels), everything.matches(&labels));
    }
    let _any = (selector.restrictions(), selector.is_global(), selector.with_label_prefix("pcns."));
}

/// Objects of any kind as people write them: what is accepted is stored as it is, and the policy of it can be calculated,
/// written as rules, and taken back.
pub fn objects(text: &str) {
    let objects = match yaml::parse("objects.yaml", text) {
        Ok(objects) => objects,
        Err(errors) => return assert!(errors.iter().all(|error| !error.to_string().is_empty())),
    };
    let objects: Vec<Resource> = objects.into_iter().map(|located| located.value).collect();
    for object in &objects {
        let stored = Resource::from_json(&object.to_json()).expect("what was accepted can be stored");
        assert_eq!(stored.to_json(), object.to_json());
    }
    for scope in [Scope::All, Scope::Node("node".to_owned())] {
        let mut calculator = Calculator::with_scope(scope);
        let mut state = EnforcedState::default();
        state.apply(&calculator.flush());
        let nothing = state.clone();
        for object in &objects {
            calculator.update(&object.key(), Some(object));
        }
        state.apply(&calculator.flush());
        assert!(calculator.problems().iter().all(|problem| !problem.reason.is_empty()));
        rules(&state);
        for object in &objects {
            calculator.update(&object.key(), None);
        }
        state.apply(&calculator.flush());
        assert_eq!(state, nothing);
    }
}

/// Nothing an object says can end a line of the rules, or begin one.
fn rules(state: &EnforcedState) {
    let tables = |by| Compiler::new(by, state).0.tables().clone();
    for ((family, table), rules) in tables(DispatchBy::Sets) {
        for line in render::iptables::table(family, table, &rules).lines() {
            let known = ["*", ":", "-A ", "-I ", "COMMIT"].iter().any(|word| line.starts_with(word));
            assert!(known && line.matches('"').count() % 2 == 0, "{line}");
        }
    }
    for ((family, table), rules) in tables(DispatchBy::Map) {
        for (name, rules) in &rules.chains {
            let name = render::nftables::chain_name(table, name);
            for (_, rule) in render::nftables::chain(family, table, &name, rules) {
                assert!(!rule.contains(['\n', ';']) && rule.matches('"').count() % 2 == 0, "{rule}");
            }
        }
    }
}

/// What `iptables-save -c` says: our chains, their hashes and counters, and what Calico's Felix left.
pub fn iptables_save(text: &str) {
    read_saved(text);
}

/// What the kernel tells of connections (conntrack) and logged packets (NFLOG), and the packets inside.
pub fn netfilter_events(data: &[u8]) {
    let [kind, payload @ ..] = data else { return };
    match event(MESSAGES[usize::from(kind & 1)], payload) {
        Some(Event::Begun(flow)) => assert!(!first_packet(&flow).to_string().is_empty()),
        Some(Event::Logged(head)) => {
            assert!(head.len() <= payload.len());
            let _text = Packet::parse(head).map(|packet| packet.to_string());
        }
        None => {}
    }
    let _any = Packet::parse(payload);
}
