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
    /// Octets of whole lines.
    length: u64,
    /// Something may follow them.
    torn: bool,
    /// What happened and is not written yet: it comes before anything else.
    late: Vec<Entry>,
    /// A line that was written wholly cannot be read: what it said is lost, and may be in force.
    damaged: bool,
}

impl Journal {
    /// Opens (or begins) the journal in `folder` and returns what it says. A line that cannot be read is reported and left out. The
    /// last one may be such a one after a crash, and nobody was told what it says; any other is damage.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<Entry>)> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("journal.jsonl");
        let file = OpenOptions::new().read(true).create(true).append(true).open(&path)?;
        let mut journal =
            Self { path, file, lines: 0, length: 0, torn: true, late: Vec::new(), damaged: false };
        let mut entries = Vec::new();
        let mut reader = BufReader::new(&journal.file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            journal.lines += 1;
            match serde_json::from_slice(&line) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    journal.damaged |= line.ends_with(b"\n");
                    tracing::warn!("{}: line {}: {error}; left out", journal.path.display(), journal.lines);
                }
            }
            if line.ends_with(b"\n") {
                journal.length += u64::try_from(line.len()).unwrap_or_default();
            }
            line.clear();
        }
        Ok((journal, entries))
    }

    /// Appends one line, behind what is late. When it fails it is as if nobody had asked.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.catch_up()?;
        self.write(entry)
    }

    /// Appends one line about what has happened already: when it cannot be written now, it is with the next.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.late.push(entry);
        if let Err(error) = self.catch_up() {
            tracing::error!("cannot write the address journal: {error}; trying again with the next line");
        }
    }

    /// Writes what is late.
    pub(crate) fn catch_up(&mut self) -> io::Result<()> {
        while let Some(entry) = self.late.first().cloned() {
            self.write(&entry)?;
            self.late.remove(0);
        }
        Ok(())
    }

    /// A disk that gets full takes half a line, which must not become the beginning of the next.
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.torn {
            self.file.set_len(self.length)?;
        }
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.length += u64::try_from(line.len()).unwrap_or_default();
        self.lines += 1;
        Ok(())
    }

    /// Something of it is lost: until that is made up for it must not be rewritten, or the next start would not know.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Writes to another file from now on.
    #[cfg(test)]
    pub(crate) fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
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
        let replaced = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)?;
            OpenOptions::new().append(true).open(&self.path)
        };
        self.file = replaced().inspect_err(|_| {
            // Where there is no room, half of it takes what there is.
            let _none = std::fs::remove_file(&fresh);
        })?;
        self.lines = entries.len();
        self.length = u64::try_from(text.len()).unwrap_or_default();
        (self.torn, self.damaged) = (false, false);
        self.late.clear();
        Ok(())
    }
}
