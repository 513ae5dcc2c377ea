//! `nf_conntrack_tcp_loose`, while the ends of cut connections may go on sending.

use std::path::PathBuf;

use margay_netlink::{Result, sysctl};

/// Where the kernel has it.
const LOOSE: [&str; 3] = ["net", "netfilter", "nf_conntrack_tcp_loose"];
/// What is written while connections are cut.
const OFF: &str = "0";

/// Whether conntrack takes up TCP connections in their middle, and what that was before somebody of ours changed it: a file knows,
/// because who changed it may have ended.
#[derive(Debug)]
pub struct Loose {
    note: PathBuf,
    before: Option<String>,
}

impl Loose {
    /// As the file left it.
    pub fn noted(note: PathBuf) -> Self {
        let noted = std::fs::read_to_string(&note).ok();
        // A kernel that began anew knows nothing of it.
        let is_off = || sysctl::read(&LOOSE).is_ok_and(|now| now.trim() == OFF);
        let before = noted.map(|noted| noted.trim().to_owned()).filter(|_| is_off());
        Self { note, before }
    }

    /// It was changed, and not given back.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.before.is_some()
    }

    /// From now on conntrack takes up no connection in its middle. The setting exists only once rules have made the kernel
    /// track connections.
    pub(super) fn hold(&mut self) -> Result<()> {
        if self.before.is_none() {
            let before = sysctl::read(&LOOSE)?.trim().to_owned();
            if let Err(error) = std::fs::write(&self.note, &before) {
                let path = self.note.display();
                tracing::warn!(
                    "nf_conntrack_tcp_loose stays 0 if this agent ends now: writing {path}: {error}"
                );
            }
            self.before = Some(before);
        }
        sysctl::write(&LOOSE, OFF).map(drop)
    }

    /// Gives it back as it was.
    ///
    /// # Errors
    /// The kernel's; it stays as it is.
    pub fn give_back(&mut self) -> Result<()> {
        if let Some(before) = &self.before {
            sysctl::write(&LOOSE, before)?;
            self.before = None;
        }
        // Where it is not there, nothing was changed.
        let _absent = std::fs::remove_file(&self.note);
        Ok(())
    }
}
