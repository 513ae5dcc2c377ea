//! `margay-cni install`: what an init container runs to put the shim and the conflist on its host.
//!
//! An image made from nothing has no `cp`, and a runtime may execute the shim at any moment: the new file is complete
//! before it gets the name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::Config;
use crate::environment::Verb;

/// How it is called.
pub const USAGE: &str = "margay-cni install SHIM_FOLDER [CONFLIST CONFLIST_FOLDER]\n       margay-cni uninstall SHIM_FOLDER [INSTALLED_CONFLIST]";

/// The name under which the runtime looks for the shim: the conflist's `type`.
const SHIM: &str = "margay-cni";

/// Why nothing, or only the shim, was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The arguments are wrong.
    #[error("wrong arguments; usage: {USAGE}")]
    Usage,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; is the host's folder mounted there, and writable?", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conflist would make every pod fail.
    #[error("{}: {reason}; it was not installed", .path.display())]
    Conflist {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Installs `program` (this program's own file) and, if asked to, a conflist. Returns what was written.
///
/// The shim comes first: with a conflist there, a runtime starts to execute it.
///
/// # Errors
/// See [`InstallError`]. What was there before stays.
pub fn install(program: &Path, arguments: &[PathBuf]) -> Result<Vec<PathBuf>, InstallError> {
    let (shim_folder, conflist) = match arguments {
        [shim_folder] => (shim_folder, None),
        [shim_folder, conflist, folder] => (shim_folder, Some((conflist, folder))),
        _ => return Err(InstallError::Usage),
    };
    let conflist = conflist.map(|(path, folder)| Conflist::read(path, folder)).transpose()?;
    let shim = shim_folder.join(SHIM);
    put(&shim, &read(program)?, 0o755)?;
    let mut written = vec![shim];
    if let Some(conflist) = conflist {
        conflist.install()?;
        written.push(conflist.path);
    }
    Ok(written)
}

/// Removes what [`install`] put there; the conflist first, so that no runtime looks for a shim that is gone. Returns what was
/// there.
///
/// # Errors
/// See [`InstallError`].
pub fn uninstall(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, InstallError> {
    let (shim_folder, conflist) = match arguments {
        [shim_folder] => (shim_folder, None),
        [shim_folder, conflist] => (shim_folder, Some(conflist.clone())),
        _ => return Err(InstallError::Usage),
    };
    let mut removed = Vec::new();
    for path in conflist.into_iter().chain([shim_folder.join(SHIM)]) {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(InstallError::Write { path, source }),
        }
    }
    Ok(removed)
}

/// A conflist that the shim will understand, and where it is to be: with it there, a runtime begins to start pods.
#[derive(Debug, Clone)]
pub struct Conflist {
    path: PathBuf,
    text: Vec<u8>,
}

impl Conflist {
    /// Reads `path`, which is to get the same name in `folder`.
    ///
    /// # Errors
    /// It cannot be read, or would make every pod fail.
    pub fn read(path: &Path, folder: &Path) -> Result<Self, InstallError> {
        let name = path.file_name().ok_or(InstallError::Usage)?;
        let text = read(path)?;
        check(&text).map_err(|reason| InstallError::Conflist { path: path.to_owned(), reason })?;
        Ok(Self { path: folder.join(name), text })
    }

    /// Where it is to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it there, complete or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn install(&self) -> Result<(), InstallError> {
        put(&self.path, &self.text, 0o644)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InstallError> {
    fs::read(path).map_err(|source| InstallError::Read { path: path.to_owned(), source })
}

/// Our plugins of a conflist, read as the shim will read them.
fn check(text: &[u8]) -> Result<(), String> {
    let list: Value = serde_json::from_slice(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let plugins = list.get("plugins").and_then(Value::as_array).ok_or("it has no list `plugins`")?;
    let ours: Vec<&Value> =
        plugins.iter().filter(|plugin| plugin.get("type").and_then(Value::as_str) == Some(SHIM)).collect();
    if ours.is_empty() {
        return Err(format!("none of its plugins has the type {SHIM}"));
    }
    for plugin in ours {
        let mut plugin = plugin.clone();
        for key in ["cniVersion", "name"] {
            if let (Some(object), Some(value)) = (plugin.as_object_mut(), list.get(key)) {
                object.insert(key.to_owned(), value.clone());
            }
        }
        Config::parse(Verb::Add, plugin.to_string().as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Writes `path` so that it is there complete or as it was before, also after a power failure.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let failed = |source| InstallError::Write { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A dot in front: runtimes take neither such a program nor such a conflist.
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_synced(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the error that matters is the one returned.
        let _ignored = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, gone at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("margay-install-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> =
                entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn replaces_the_shim_and_the_conflist_and_leaves_nothing_else() {
        let (source, target) = (Folder::new("source"), Folder::new("target"));
        let program = source.file("program", "new");
        let conflist =
            source.file("10-margay.conflist", include_str!("../../examples/cni/10-margay.conflist"));
        let old = target.file(SHIM, "old");
        let running = File::open(&old).unwrap();
        let written = install(&program, &[target.0.clone(), conflist, target.0.clone()]).unwrap();
        assert_eq!(written, [target.0.join(SHIM), target.0.join("10-margay.conflist")]);
        assert_eq!(target.names(), ["10-margay.conflist", SHIM]);
        assert_eq!(fs::read_to_string(&old).unwrap(), "new");
        assert_eq!(fs::metadata(&old).unwrap().permissions().mode() & 0o777, 0o755);
        // What a runtime had open is still the old file.
        assert_eq!(io::read_to_string(running).unwrap(), "old");
        let arguments = [target.0.clone(), target.0.join("10-margay.conflist")];
        assert_eq!(uninstall(&arguments).unwrap(), [arguments[1].clone(), old]);
        assert_eq!(target.names(), [""; 0]);
        assert_eq!(uninstall(&arguments).unwrap(), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn a_wrong_conflist_installs_nothing() {
        let (source, target) = (Folder::new("wrong-source"), Folder::new("wrong-target"));
        let program = source.file("program", "new");
        for (text, word) in [
            ("{", "JSON"),
            (r#"{"name":"x"}"#, "plugins"),
            (r#"{"name":"x","plugins":[{"type":"bridge"}]}"#, "margay-cni"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"margay-cni","sokcet":"/s"}]}"#,
                "sokcet",
            ),
        ] {
            let conflist = source.file("10-margay.conflist", text);
            let error = install(&program, &[target.0.clone(), conflist, target.0.clone()]).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(target.names(), [""; 0]);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let source = Folder::new("no-target");
        let program = source.file("program", "new");
        let error = install(&program, &["/nonexistent/bin".into()]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bin/margay-cni") && error.contains("mounted"), "{error}");
        assert!(matches!(install(&program, &[]), Err(InstallError::Usage)));
    }
}
