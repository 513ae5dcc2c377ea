//! Releases that wait for an agent that was down: DEL must succeed, and no address may leak.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use margay_control::cni::{Attachment, DelRequest};

/// Ending of a complete record.
const ENDING: &str = "json";
/// A record is one small JSON object; anything bigger isn't ours.
const MAX_RECORD: u64 = 64 << 10;

/// A directory of [`DelRequest`]s, one file each. The shim writes, the agent replays.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The spool in `dir`, which is made when first written to.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Writes a record so that it survives a power failure: complete or not at all. The same release twice is one record.
    ///
    /// # Errors
    /// When the directory can't be made or written.
    pub fn put(&self, request: &DelRequest) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let name = file_name(&request.attachment);
        let temporary = self.dir.join(format!(".{name}.{}", std::process::id()));
        let written = write_synced(&temporary, &serde_json::to_vec(request)?)
            .and_then(|()| std::fs::rename(&temporary, self.dir.join(format!("{name}.{ENDING}"))));
        if written.is_err() {
            // Best effort: the error that matters is the one returned.
            let _ignored = std::fs::remove_file(&temporary);
        }
        written?;
        File::open(&self.dir)?.sync_all()
    }

    /// Hands every record to `release`, in the order of their file names, and removes those that it says are done. What was read and
    /// is no record goes, too; what cannot be read now stays for the next time. Returns what went wrong.
    ///
    /// # Errors
    /// When the directory can't be read; there are no records when it doesn't exist.
    pub fn replay(&self, mut release: impl FnMut(&DelRequest) -> bool) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == ENDING));
        paths.sort();
        let mut problems = Vec::new();
        for path in paths {
            let mut tell = |problem: String| problems.push(format!("{}: {problem}", path.display()));
            let done = match read(&path) {
                Ok(Ok(request)) => release(&request),
                Ok(Err(broken)) => {
                    tell(format!("{broken}; the file is removed"));
                    true
                }
                Err(error) => {
                    tell(format!("{error}; trying again"));
                    false
                }
            };
            if done
                && let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tell(format!("cannot be removed: {error}"));
            }
        }
        Ok(problems)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The release to perform, or why the file is no record.
fn read(path: &Path) -> io::Result<Result<DelRequest, String>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_RECORD {
        return Ok(Err(format!("{size} bytes is too big for a release record")));
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?).map_err(|error| error.to_string()))
}

/// A readable start (bounded: ids may be long) and a hash (FNV-1a, 64 bits) that keeps attachments apart.
fn file_name(attachment: &Attachment) -> String {
    let Attachment { container_id, ifname, network } = attachment;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in network.bytes().chain([0]).chain(container_id.bytes()).chain([0]).chain(ifname.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let readable: String = container_id
        .chars()
        .take(64)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .collect();
    format!("{readable}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> DelRequest {
        let attachment =
            Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned(), network: "pods".to_owned() };
        DelRequest { attachment }
    }

    #[test]
    fn records_are_kept_once_each_and_removed_when_done() {
        let dir = std::env::temp_dir().join(format!("margay-spool-{}", std::process::id()));
        let spool = Spool::new(&dir);
        assert!(spool.replay(|_| panic!("there is none")).unwrap().is_empty());
        let long = "c".repeat(300);
        for id in ["one", "one", "two/../..", long.as_str()] {
            spool.put(&request(id)).unwrap();
        }
        std::fs::write(dir.join(".half-written"), b"{").unwrap();
        std::fs::write(dir.join("broken.json"), b"{").unwrap();
        // Cannot be read today, like any file of a process that has too many of them open.
        let unreadable = dir.join("unreadable.json");
        std::os::unix::fs::symlink(&unreadable, &unreadable).unwrap();
        let replay = |done: bool| {
            let mut ids = Vec::new();
            let release = |request: &DelRequest| {
                ids.push(request.attachment.container_id.clone());
                done
            };
            let problems = spool.replay(release).unwrap();
            ids.sort_unstable();
            (ids, problems)
        };
        for done in [false, true] {
            let (ids, problems) = replay(done);
            assert_eq!(ids, [long.as_str(), "one", "two/../.."]);
            assert_eq!(problems.len(), if done { 1 } else { 2 }, "{problems:?}");
        }
        std::fs::remove_file(&unreadable).unwrap();
        std::fs::write(&unreadable, serde_json::to_vec(&request("three")).unwrap()).unwrap();
        assert_eq!(replay(true).0, ["three"]);
        assert_eq!(replay(true), (Vec::new(), Vec::new()));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
