//! Variables: `${NAME}`, `${NAME:=default}`, `${NAME:-default}`, `$NAME` and `$$` in the text (as containerlab's envsubst), and
//! containerlab's magic variables in values.

use std::collections::BTreeMap;

/// Replaces variables in the text of a file. A variable without value and default becomes empty and is warned of.
pub(super) fn variables(text: &str, values: &BTreeMap<String, String>, warnings: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = &from[1..];
        rest = if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            escaped
        } else if let Some((inside, beyond)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}'))
        {
            let (name, default) = match inside.split_once(":=").or_else(|| inside.split_once(":-")) {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            push(&mut out, name, default, values, warnings);
            beyond
        } else {
            let length =
                after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            let (name, beyond) = after.split_at(length);
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                out.push('$');
                after
            } else {
                push(&mut out, name, None, values, warnings);
                beyond
            }
        };
    }
    out.push_str(rest);
    out
}

fn push(
    out: &mut String,
    name: &str,
    default: Option<&str>,
    values: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) {
    match values.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(default) {
        Some(value) => out.push_str(value),
        None => warnings.push(format!("variable {name} has no value: set it or write ${{{name}:=default}}")),
    }
}

/// Replaces the magic variables that have a meaning without directories.
pub(super) fn magic(value: &str, lab: &str, node: &str) -> String {
    value.replace("__clabNodeName__", node).replace("__clabLabName__", lab)
}

/// Splits a command into words as a shell does with quotes and backslashes, and nothing else; `None` when a quote isn't
/// closed or there is no word.
pub(crate) fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (Some(_), '\\') => {
                let next = chars.next()?;
                if !matches!(next, '"' | '\\' | '$' | '`') {
                    word.get_or_insert_default().push('\\');
                }
                word.get_or_insert_default().push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (quote.is_none() && !words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_like_envsubst_does() {
        let values = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("EMPTY".to_owned(), String::new())]);
        let mut warnings = Vec::new();
        let text = "${A} $A-x ${B:=two} ${B:-three} ${EMPTY:=four} $$A 5$ ${NONE}| $9 ${open";
        assert_eq!(variables(text, &values, &mut warnings), "1 1-x two three four $A 5$ | $9 ${open");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("NONE"));
    }

    #[test]
    fn commands_are_split_without_a_shell() {
        let split = |text| words(text).map(|all| all.join("|"));
        assert_eq!(
            split("ip addr add 10.0.0.1/30  dev eth1").as_deref(),
            Some("ip|addr|add|10.0.0.1/30|dev|eth1")
        );
        assert_eq!(split(r#"sh -c "echo \"a b\" > 'x'" ''"#).as_deref(), Some(r#"sh|-c|echo "a b" > 'x'|"#));
        assert_eq!(split(r"a\ b c").as_deref(), Some("a b|c"));
        assert_eq!(split("a | b; c").as_deref(), Some("a|||b;|c"));
        for bad in ["", "  ", "echo 'open", "echo \\"] {
            assert_eq!(words(bad), None, "{bad:?}");
        }
    }
}
