//! Objects to bytes and back.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use margay_api::{Key, Resource};

use crate::error::{Error, Result};
use crate::raw::Revision;
use crate::store::{Unreadable, Versioned};

/// Reads a stored object; whatever is wrong with it becomes part of the result.
pub(crate) fn decode(key: Key, revision: Revision, value: &[u8]) -> Versioned {
    let resource = match serde_json::from_slice(value) {
        Ok(json) => read(&key, &json).map_err(|reason| Unreadable { reason, raw: Some(json) }),
        Err(error) => Err(Unreadable { reason: format!("not JSON: {error}"), raw: None }),
    };
    Versioned { revision, key, resource: resource.map(Arc::new) }
}

fn read(key: &Key, json: &serde_json::Value) -> Result<Resource, String> {
    let resource = Resource::from_json(json).map_err(|e| e.to_string())?.with_defaults();
    if resource.key() != *key {
        return Err(format!("stored as {key}, but calls itself {}", resource.key()));
    }
    resource.validate().map_err(|e| e.to_string())?;
    Ok(resource)
}

/// What is stored when somebody writes `resource`: with defaults, valid, and with the server's fields.
pub(crate) fn prepare(resource: Resource, old: Option<&Resource>) -> Result<Resource> {
    let mut new = resource.with_defaults();
    new.validate().map_err(|e| Error::Invalid(format!("{}: {e}", new.key())))?;
    if let Some(old) = old {
        new = keep_status(new, old);
    }
    let known = old.map(Resource::metadata);
    let metadata = new.metadata_mut();
    // The revision is the datastore's own, and not part of what is stored.
    metadata.resource_version = None;
    if metadata.uid.is_none() {
        metadata.uid = known.and_then(|m| m.uid.clone()).or_else(new_uid);
    }
    if metadata.creation_timestamp.is_none() {
        metadata.creation_timestamp =
            known.and_then(|m| m.creation_timestamp.clone()).or_else(|| rfc3339(SystemTime::now()));
    }
    Ok(new)
}

/// A status is what was observed, and not for the writer of a manifest to remove.
fn keep_status(new: Resource, old: &Resource) -> Resource {
    let mut json = new.to_json();
    let Some(fields) = json.as_object_mut() else { return new };
    if fields.contains_key("status") {
        return new;
    }
    let Some(status) = old.to_json().get("status").cloned() else { return new };
    fields.insert("status".to_owned(), status);
    // Both parts were read from the same kind, so this reads, too.
    Resource::from_json(&json).unwrap_or(new)
}

pub(crate) fn encode(resource: Resource) -> Vec<u8> {
    resource.to_json().to_string().into_bytes()
}

/// A random UUID of the kernel.
fn new_uid() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok().map(|text| text.trim().to_owned())
}

/// `2006-01-02T15:04:05Z`; `None` for a clock before 1970.
#[must_use]
pub fn rfc3339(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in eras of 400 years, after Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    Some(format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use margay_api::Kind;
    use serde_json::json;

    use super::*;

    fn pool(name: &str) -> Resource {
        Resource::from_json(&json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
            "spec": {"cidr": "10.0.0.0/16"},
        }))
        .unwrap()
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)).as_deref(), Some(text));
        }
    }

    #[test]
    fn the_servers_fields_are_given_once_and_kept() {
        let first = prepare(pool("a"), None).unwrap();
        assert_eq!(first.metadata().uid.as_ref().unwrap().len(), 36);
        assert!(first.metadata().creation_timestamp.is_some());
        let again = prepare(pool("a"), Some(&first)).unwrap();
        assert_eq!(first, again);
        let other = prepare(pool("a"), None).unwrap();
        assert_ne!(first.metadata().uid, other.metadata().uid);
        let mut versioned = pool("a");
        versioned.metadata_mut().resource_version = Some("7".to_owned());
        assert_eq!(prepare(versioned, None).unwrap().metadata().resource_version, None);
    }

    #[test]
    fn what_was_written_is_read() {
        let written = prepare(pool("a"), None).unwrap();
        let key = written.key();
        let read = decode(key.clone(), Revision(3), &encode(written.clone()));
        assert_eq!(read, Versioned { revision: Revision(3), key, resource: Ok(Arc::new(written)) });
    }

    #[test]
    fn unreadable_objects_say_why() {
        let key = Key::cluster(Kind::IpPool, "a");
        let stored = |json: serde_json::Value| json.to_string().into_bytes();
        let head = |name: &str, spec: serde_json::Value| {
            stored(
                json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec}),
            )
        };
        for (bytes, says) in [
            (b"{".to_vec(), "not JSON"),
            (vec![0xff, 0xfe], "not JSON"),
            (stored(json!({"kind": "Unheard"})), ""),
            (head("a", json!({"cidr": "10.0.0.0/16", "cdir": 1})), "cdir"),
            (head("a", json!({"cidr": "nonsense"})), "cidr"),
            (head("a", json!({"cidr": "10.0.0.0/16", "blockSize": 99})), "blockSize"),
            (head("b", json!({"cidr": "10.0.0.0/16"})), "IPPool(b)"),
        ] {
            let reason = decode(key.clone(), Revision(1), &bytes).resource.unwrap_err().reason;
            assert!(reason.contains(says), "{reason:?} should say {says:?}");
        }
    }
}
