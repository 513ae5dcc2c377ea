//! A cpio archive of the form the kernel unpacks ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One that is being written.
pub(super) struct Archive {
    file: BufWriter<File>,
    folders: BTreeSet<PathBuf>,
    entries: u32,
}

impl Archive {
    pub(super) fn begin(path: &Path) -> Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self { file, folders: BTreeSet::new(), entries: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        let padding = bytes.len().wrapping_neg() % 4;
        Ok(self.file.write_all(&[0; 3][..padding])?)
    }

    fn entry(&mut self, name: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let name = name.strip_prefix("/").unwrap_or(name).as_os_str().as_bytes();
        let mut head = b"070701".to_vec();
        let fields = [self.entries, mode, 0, 0, 1, 0, u32::try_from(content.len())?, 0, 0, 0, 0];
        for field in fields.into_iter().chain([u32::try_from(name.len() + 1)?, 0]) {
            write!(head, "{field:08x}")?;
        }
        head.extend(name);
        head.push(0);
        self.put(&head)?;
        self.put(content)
    }

    /// A folder, and those it is in.
    pub(super) fn folder(&mut self, path: &Path) -> Result<()> {
        if path.parent().is_none() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        path.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(path, 0o040_755, &[])
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let name = Path::new(name);
        name.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(name, 0o100_000 | mode, content)
    }

    pub(super) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        let name = Path::new(name);
        name.parent().map_or(Ok(()), |parent| self.folder(parent))?;
        self.entry(name, 0o120_777, target.as_bytes())
    }

    pub(super) fn copy(&mut self, source: &Path, name: &str) -> Result<()> {
        let content = std::fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        let mode = std::fs::metadata(source)?.permissions().mode() & 0o777;
        self.file(name, &content, mode)
    }

    pub(super) fn end(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        Ok(self.file.flush()?)
    }
}
