//! What a key of a configuration file wants, for who wrote something else: the parser knows types, people know units and ranges.

/// Keys whose numbers have narrower ranges than their types.
const RANGES: [(&str, u64, u64); 9] = [
    ("bufferKib", 512, U32),
    ("files", 1, U16),
    ("history", 1000, 10_000_000),
    ("maximumPaths", 1, 64),
    ("maxMib", 1, U32),
    ("maxPeers", 1, u64::MAX),
    ("maxPrefixes", 1, U32),
    ("timeoutMs", 100, 600_000),
    ("ttlSecurity", 1, U8),
];

/// Units, by how the key ends.
const UNITS: [(&str, &str); 4] =
    [("Seconds", " of seconds"), ("Ms", " of milliseconds"), ("Kib", " of KiB"), ("Mib", " of MiB")];

const U8: u64 = u8::MAX as u64;
const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;

/// The place, the key, and what it wants, of a parser's complaint about a value in `text`; none if the complaint is about
/// something else, or says that itself.
pub(crate) fn wanted(text: &str, error: &serde_saphyr::Error) -> Option<String> {
    let error = error.without_snippet();
    let at = usize::try_from(error.location()?.line()).ok()?.checked_sub(1)?;
    let reason = error.to_string();
    let (at, key, value) = entry(text, at, &reason)?;
    let kind = kind(&reason, key)?;
    Some(format!("line {}: `{key}` must be {kind}, not `{value}`", at + 1))
}

/// Line, key and value. What is read twice (the datastore's section) is complained of at its beginning: the value says where it is.
fn entry<'a>(text: &'a str, at: usize, reason: &str) -> Option<(usize, &'a str, &'a str)> {
    let own = |(at, line)| parts(line).map(|(key, value)| (at, key, value));
    let mut lines = text.lines().enumerate().skip(at);
    let first = own(lines.next()?)?;
    let quoted = reason.split_once("invalid type: ").and_then(|(_, what)| what.split(['"', '`']).nth(1));
    match quoted {
        Some(quoted) if first.2 != quoted => lines.filter_map(own).find(|(_, _, value)| *value == quoted),
        _ => Some(first),
    }
}

/// `key: value`, in a list or not.
fn parts(line: &str) -> Option<(&str, &str)> {
    let line = line.split(" #").next().unwrap_or(line);
    let (key, value) = line.trim_start_matches([' ', '-']).split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_key.then(|| (key, value.trim().trim_matches(['"', '\''])))
}

fn kind(reason: &str, key: &str) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let whole = |name: &str| says(&[&format!("invalid {name}"), &format!("expected {name}")]);
    let types = [("u8", U8), ("u16", U16), ("u32", U32), ("u64", u64::MAX), ("usize", u64::MAX)];
    if let Some((_, most)) = types.into_iter().find(|(name, _)| whole(name)) {
        let own = RANGES.iter().find(|(own, ..)| *own == key);
        let (least, most) = own.map_or((0, most), |(_, least, most)| (*least, *most));
        let unit = UNITS.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, unit)| unit);
        return Some(match most {
            u64::MAX => format!("a whole number{unit}, {least} or more"),
            _ => format!("a whole number{unit}, from {least} to {most}"),
        });
    }
    let kinds: [(&[&str], &str); 6] = [
        (&["invalid boolean", "expected a boolean"], "true or false"),
        (&["invalid socket address"], "an address and a port, as 192.0.2.1:9180 or '[2001:db8::1]:9180'"),
        (&["invalid IPv4 address"], "an IPv4 address, as 192.0.2.1"),
        (&["invalid IP address"], "a prefix, as 192.0.2.128/25 or 2001:db8::/64"),
        (&["expected string scalar", "expected a string"], "a text"),
        (&["expected sequence start", "expected a sequence"], "a list"),
    ];
    kinds.into_iter().find(|(words, _)| says(words)).map(|(_, kind)| kind.to_owned())
}
