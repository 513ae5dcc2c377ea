//! Hashes of rules, in their comments: what is right in the kernel is recognised without comparing text.
//!
//! A rule carries the comment `mgy:<16 characters>`: a hash over the chain's name and the rule. Not over the rules before
//! it, as Calico's (`felix/generictables/rules.go`): one rule more leaves the others what they are, so that it can be
//! written alone. A rule that a backend tells by its text needs no comment: its hash is that of its text alone.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::model::Direction;
use crate::rules::{Origin, Owner, Rule, names};

/// What a comment of ours begins with.
pub const COMMENT_PREFIX: &str = "mgy:";

/// Hash of a rule in its chain: 16 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleHash([u8; 16]);

impl RuleHash {
    /// Reads a hash from the beginning of a text.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = text.as_bytes().get(..16)?.try_into().ok()?;
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        bytes.iter().all(known).then_some(Self(bytes))
    }

    /// Of a rule that is told by its text alone.
    pub fn of_text(text: &str) -> Self {
        hash(&Sha256::digest(text).into())
    }
}

impl fmt::Display for RuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A rule as a backend writes it, without its comment.
pub(super) struct Body {
    /// All conditions.
    pub(super) matches: String,
    /// What is done, behind them.
    pub(super) action: String,
}

/// Hash and body of each rule of a chain.
pub(super) fn chain(name: &str, rules: &[Rule], body: impl Fn(&Rule) -> Body) -> Vec<(RuleHash, Body)> {
    let mut seen = BTreeSet::new();
    let hashed = rules.iter().map(|rule| {
        let body = body(rule);
        let text = format!("-A {name} {}{}{}", note(rule), body.matches, body.action);
        let mut state: [u8; 32] = Sha256::digest(text).into();
        // The same rule once more is another one: each has its own counter.
        while !seen.insert(state) {
            state = Sha256::digest(state).into();
        }
        (hash(&state), body)
    });
    hashed.collect()
}

/// The comment of a rule, of at most `longest` bytes.
pub(super) fn comment(hash: RuleHash, rule: &Rule, longest: usize) -> String {
    let mut comment = format!("{COMMENT_PREFIX}{hash}");
    let note = note(rule);
    if !note.is_empty() {
        comment.push(' ');
        comment.push_str(&note);
    }
    comment.truncate(longest);
    comment
}

fn hash(state: &[u8; 32]) -> RuleHash {
    let mut bytes = [b'A'; 16];
    // 12 bytes are exactly 16 characters.
    let written = state.get(..12).and_then(|head| URL_SAFE_NO_PAD.encode_slice(head, &mut bytes).ok());
    debug_assert_eq!(written, Some(16));
    RuleHash(bytes)
}

fn note(rule: &Rule) -> String {
    let text = match (&rule.note, &rule.origin) {
        (Some(note), _) => note.to_string(),
        (None, Some(origin)) => origin_text(origin),
        (None, None) => return String::new(),
    };
    text.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\') { c } else { ' ' }).collect()
}

fn origin_text(origin: &Origin) -> String {
    let owner = match &origin.owner {
        Owner::Policy(id) => names::policy_text(id),
        Owner::Profile(id) => format!("Profile({})", id.0),
    };
    let direction = match origin.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{owner} {direction} {}", origin.index)
}
