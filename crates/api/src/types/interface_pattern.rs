//! Names of interfaces with wild cards, as Calico's `ignoredInterfaces` and BGPFilter's `interface` have them.

/// Whether a name fits a pattern, in which each `*` stands for any characters, also for none.
#[must_use]
pub fn interface_matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The first place is as good as any: what is left is the longest.
    for part in middle.split('*') {
        let Some(at) = name.find(part) else { return false };
        name = name.get(at + part.len()..).unwrap_or_default();
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name) in [
            ("eth0", "eth0"),
            ("*", ""),
            ("*", "eth0"),
            ("eth*", "eth"),
            ("*.cali", "vxlan.cali"),
            ("a*b*c", "abbc"),
        ] {
            assert!(interface_matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("eth0", "eth01"),
            ("", "eth0"),
            ("eth*", "et"),
            ("*.cali", "cali"),
            ("a*b*c", "ac"),
            ("ab*ba", "aba"),
        ] {
            assert!(!interface_matches(pattern, name), "{pattern} {name}");
        }
    }
}
