//! What survives a restart of the agent: addresses and attachments, one JSON object a line.
//!
//! A line is written before anybody is told what it says, so a killed agent forgets nothing it promised. Lines are not
//! flushed to the disk: what a power failure takes away, it takes together with the pods.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use margay_ipam::Record;
use serde::{Deserialize, Serialize};

use crate::attachments::Attached;

/// Rewrite the journal when it has this many lines more than it needs.
const SLACK: usize = 4096;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    /// A change of blocks or addresses.
    Address(Record),
    /// A change of attachments.
    Attachment(AttachmentEntry),
}

/// A change of attachments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum AttachmentEntry {
    /// The interface exists and is to be live.
    Attach(Box<Attached>),
    /// It is gone.
    Detach {
        /// Handle of its addresses.
        handle: String,
    },
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens (or begins) the journal in `folder` and returns what it says. A line that cannot be read, as the last
    /// one may be after a crash, is reported and left out.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<Entry>)> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("journal.jsonl");
        let mut entries = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
                    match serde_json::from_slice(&line?) {
                        Ok(entry) => entries.push(entry),
                        Err(error) => {
                            tracing::warn!("{}: line {}: {error}; left out", path.display(), number + 1);
                        }
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut journal = Self { path, file, lines: 0 };
        // Begins with whole lines only, whatever the crash left.
        journal.rewrite(&entries)?;
        Ok((journal, entries))
    }

    /// Appends one line.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.lines += 1;
        Ok(())
    }

    /// Whether the journal is much longer than the `needed` lines that say the same.
    pub(crate) fn is_long(&self, needed: usize) -> bool {
        self.lines > needed + SLACK
    }

    /// Replaces the journal by one that says the same in fewer lines.
    pub(crate) fn rewrite(&mut self, entries: &[Entry]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.lines = entries.len();
        Ok(())
    }
}
