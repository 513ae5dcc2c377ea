//! Patterns of FelixConfiguration for names of interfaces.

use regex_automata::Input;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::syntax;

/// Most octets of memory for a pattern: names of interfaces need few.
const LARGEST: usize = 4 << 20;

/// A pattern, ready to be used.
#[derive(Debug, Default)]
pub(crate) struct Pattern {
    text: Option<String>,
    matcher: Option<dense::DFA<Vec<u32>>>,
    reason: Option<String>,
}

impl Pattern {
    /// Follows the setting.
    pub(crate) fn follow(&mut self, text: Option<&String>) {
        if self.text.as_ref() == text {
            return;
        }
        let config = dense::Config::new().dfa_size_limit(Some(LARGEST)).determinize_size_limit(Some(LARGEST));
        let octets = syntax::Config::new().unicode(false).utf8(false);
        let built = text.map(|text| {
            let built = dense::Builder::new().configure(config).syntax(octets).build(text);
            built.map_err(|error| error.to_string())
        });
        self.text = text.cloned();
        self.reason = built.as_ref().and_then(|built| built.as_ref().err()).cloned();
        self.matcher = built.and_then(Result::ok);
    }

    /// Whether some part of the name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let found = self.matcher.as_ref().map(|matcher| matcher.try_search_fwd(&Input::new(name)));
        found.is_some_and(|found| found.is_ok_and(|found| found.is_some()))
    }

    /// Why it is not used.
    pub(crate) fn problem(&self) -> Option<String> {
        let (text, reason) = (self.text.as_ref()?, self.reason.as_ref()?);
        Some(format!("{text:?} is no regular expression that can be used: {reason}"))
    }
}
