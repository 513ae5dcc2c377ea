//! Where this program was started from. The kernel knows the file, but not the link that led to it, which may lead to another
//! release by the time of an upgrade.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Its path as it was given; what the kernel says where that leads elsewhere.
pub(super) fn of_process() -> PathBuf {
    let first = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let folder = std::env::current_dir().unwrap_or_default();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let given = as_given(&first, &folder, &search, Path::new("/proc/self/exe"));
    given.or_else(|| std::env::current_exe().ok()).unwrap_or(first)
}

/// What `first`, the word that a program was started with, is a path of for who works in `folder` and searches for programs in `search`. Where
/// it is no whole path it must lead to the file `running`: the word is its starter's choice.
fn as_given(first: &Path, folder: &Path, search: &OsStr, running: &Path) -> Option<PathBuf> {
    if first.is_absolute() {
        return Some(first.to_owned());
    }
    let bare = first.components().count() == 1 && !first.as_os_str().as_encoded_bytes().contains(&b'/');
    let candidates: Vec<PathBuf> = match bare {
        // An empty one is the working directory, and so is `.` before it.
        true => std::env::split_paths(search).map(|at| folder.join(at).join(first)).collect(),
        false => vec![folder.join(first)],
    };
    candidates.into_iter().find(|path| same_file(path, running))
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_in_the_search_path_stays_a_link() {
        let folder = std::env::temp_dir().join(format!("margay-program-{}", std::process::id()));
        let at = |path: &str| folder.join(path);
        for made in ["release-1", "bin", "other"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        std::fs::write(at("release-1/prog"), "the program").unwrap();
        std::fs::write(at("other/prog"), "another of that name").unwrap();
        symlink(at("release-1/prog"), at("bin/prog")).unwrap();
        let running = at("release-1/prog");
        let given = |first: &str, working: &str, search: &str| {
            as_given(Path::new(first), &at(working), OsStr::new(search), &running)
        };
        let search = format!("/nonexistent:{}:{}", at("other").display(), at("bin").display());
        let link = Some(at("bin/prog"));
        let found = [
            given("prog", "other", &search),
            given("prog", "bin", ""),
            given("prog", "", "/nonexistent:bin"),
            given("./prog", "bin", ""),
            given("../bin/prog", "other", ""),
            given("/any/where/prog", "other", ""),
            // A shell says so of itself, and some put in what they like.
            given("-prog", "bin", &search),
            given("./prog", "other", &search),
            given("", "bin", &search),
        ];
        std::fs::remove_dir_all(&folder).unwrap();
        let same = |path: &Option<PathBuf>| {
            path.as_deref().is_some_and(|path| path.starts_with(&folder) && path.ends_with("bin/prog"))
        };
        assert_eq!(found[0], link);
        assert_eq!(found[2], link);
        assert!(same(&found[1]) && same(&found[3]) && same(&found[4]), "{found:?}");
        assert_eq!(found[5].as_deref(), Some(Path::new("/any/where/prog")), "even if it is not there yet");
        assert_eq!(found[6..], [None, None, None]);
    }
}
