//! Kernel settings through `/proc/sys`, as the calling thread's network namespace sees them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where a setting lives. Components are given apart because interface names may contain dots.
fn path(components: &[&str]) -> Result<PathBuf> {
    let mut path = PathBuf::from("/proc/sys");
    for component in components {
        if component.is_empty() || *component == "." || *component == ".." || component.contains('/') {
            return Err(Error::Invalid {
                what: format!("sysctl {}", components.join("/")),
                reason: format!("{component:?} is no path component"),
            });
        }
        path.push(component);
    }
    Ok(path)
}

/// Reads a setting, without its trailing newline: `read(&["net", "ipv4", "ip_forward"])`.
///
/// # Errors
/// [`Error::NotFound`] when this kernel (or namespace, or interface) has no such setting.
pub fn read(components: &[&str]) -> Result<String> {
    let path = path(components)?;
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::io(format!("read sysctl {}", components.join("/")), e))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a setting unless it already has that value. Returns whether something was written.
///
/// # Errors
/// [`Error::NotFound`] as for [`read`], [`Error::NotPermitted`] for a read-only `/proc/sys`.
pub fn write(components: &[&str], value: &str) -> Result<bool> {
    if read(components).is_ok_and(|now| now == value) {
        return Ok(false);
    }
    std::fs::write(path(components)?, value)
        .map_err(|e| Error::io(format!("set sysctl {} to {value}", components.join("/")), e))?;
    Ok(true)
}

/// Whether this kernel has IPv6 (`ipv6.disable=1` at boot takes it away).
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Splits the dotted form people write (`net.ipv4.conf.eth0.forwarding`), where a slash stands for a dot inside a
/// component as in sysctl(8) (`net.ipv4.conf.eth0/100.forwarding`).
pub fn parse_dotted(name: &str) -> Vec<String> {
    name.split('.').map(|component| component.replace('/', ".")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_names_keep_dots_of_vlan_interfaces() {
        assert_eq!(
            parse_dotted("net.ipv4.conf.eth0/100.forwarding").join("|"),
            "net|ipv4|conf|eth0.100|forwarding"
        );
    }

    #[test]
    fn escapes_are_refused() {
        let error = read(&["net", "..", "kernel"]).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn missing_setting_is_not_found() {
        let error = read(&["net", "ipv4", "no_such_setting"]).unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }
}
