//! What is particular to the SQLite file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use margay_datastore::raw::{Cursor, Datastore, Prefix, Watch};
use margay_datastore::{Backend, EmbeddedConfig, Error, Revision, StoreConfig};

use crate::setup::{Folder, eventually, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("embedded::many_first_openers_agree", many_first_openers_agree),
        trial("embedded::reopening_keeps_values_and_history", reopening_keeps_values_and_history),
        trial("embedded::history_is_bounded", history_is_bounded),
        trial(
            "embedded::unusable_files_are_refused_and_left_alone",
            unusable_files_are_refused_and_left_alone,
        ),
        trial("embedded::unwritable_places_are_named", unwritable_places_are_named),
        trial("embedded::damage_is_reported", damage_is_reported),
        trial("embedded::a_lock_that_stays_is_reported_in_time", a_lock_that_stays_is_reported_in_time),
        trial("embedded::a_replaced_file_is_noticed", a_replaced_file_is_noticed),
        trial("embedded::settings_out_of_range_are_refused", settings_out_of_range_are_refused),
    ]
}

async fn open(path: &Path) -> Result<Backend, Error> {
    Backend::connect(&StoreConfig::embedded(path)).await
}

/// Waits until this process has closed the file, and moves everything from its WAL into it.
async fn settle(path: &Path) {
    let open = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|p| p == path))
    };
    eventually("the file is closed", || async { (!open()).then_some(()) }).await;
    // Connections that close at the same moment leave the WAL behind; the last one alone doesn't.
    rusqlite::Connection::open(path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok();
    assert!(!path.with_extension("db-wal").exists());
}

async fn many_first_openers_agree() {
    let folder = Folder::new();
    let path = folder.path().join("new/deeper/store.db");
    let mut openers = tokio::task::JoinSet::new();
    for i in 0..8 {
        let path = path.clone();
        openers.spawn(async move {
            open(&path).await.unwrap().create(&format!("/t/{i}"), Vec::new()).await.unwrap()
        });
    }
    let mut revisions: Vec<_> = openers.join_all().await.into_iter().map(|r| r.0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=8).collect::<Vec<_>>());
    for file in ["store.db", "store.db-wal", "store.db-wake"] {
        if let Ok(metadata) = fs::metadata(path.with_file_name(file)) {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
        }
    }
}

async fn reopening_keeps_values_and_history() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    let store = open(&path).await.unwrap();
    for i in 0..10 {
        store.create(&format!("/t/{i}"), vec![i]).await.unwrap();
    }
    drop(store);
    let store = open(&path).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(10));
    assert_eq!(store.list(&[Prefix::new("/t")]).await.unwrap().entries.len(), 10);
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], Revision(4))).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 6);
    // A position of another life of the file, which it hasn't reached.
    let ahead = store.watch(Cursor::at([Prefix::new("/t")], Revision(11))).await.unwrap_err();
    assert!(matches!(ahead, Error::Compacted(_)), "{ahead}");
}

async fn history_is_bounded() {
    let folder = Folder::new();
    let mut config = EmbeddedConfig::new(folder.path().join("store.db"));
    config.history = 1000;
    let store = Backend::connect(&StoreConfig::Embedded(config)).await.unwrap();
    let mut at = store.create("/t/a", Vec::new()).await.unwrap();
    let mut slow = store.watch(Cursor::at([Prefix::new("/t")], at)).await.unwrap();
    while at.0 < 2100 {
        at = store.update("/t/a", at.0.to_string().into_bytes(), at).await.unwrap();
    }
    let ended = slow.next().await.unwrap_err();
    assert!(matches!(ended, Error::Compacted(_)), "{ended}");
    let kept = Revision(at.0 - 1000);
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], kept)).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision, Revision(kept.0 + 1));
}

async fn unusable_files_are_refused_and_left_alone() {
    let folder = Folder::new();
    let text = folder.path().join("text.db");
    fs::write(&text, "this is a text of more than a hundred bytes, ".repeat(40)).unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let newer = folder.path().join("newer.db");
    drop(open(&newer).await.unwrap());
    settle(&newer).await;
    rusqlite::Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();

    for (path, says) in [(&text, "not a SQLite database"), (&foreign, "not a Margay"), (&newer, "format 99")]
    {
        let before = fs::read(path).unwrap();
        let error = open(path).await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt(reason) if reason.contains(says)), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.is_retryable());
        assert!(fs::read(path).unwrap() == before, "{} was changed", path.display());
    }
}

async fn unwritable_places_are_named() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.join("store.db"), folder.path().to_owned()] {
        let start = Instant::now();
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "nothing to wait for, but took {:?}",
            start.elapsed()
        );
    }
}

async fn damage_is_reported() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    let store = open(&path).await.unwrap();
    for i in 0..400 {
        store.create(&format!("/t/{i}"), vec![b'x'; 500]).await.unwrap();
    }
    drop(store);
    settle(&path).await;
    let mut bytes = fs::read(&path).unwrap();
    let (begin, end) = (4096 * 2, bytes.len());
    bytes[begin..end].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = match open(&path).await {
        Ok(store) => store.list(&[Prefix::new("/t")]).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(&error, Error::Corrupt(reason) if reason.contains("damaged")), "{error}");
}

async fn a_lock_that_stays_is_reported_in_time() {
    let folder = Folder::new();
    let mut config = EmbeddedConfig::new(folder.path().join("store.db"));
    config.timeout_ms = 400;
    let store = Backend::connect(&StoreConfig::Embedded(config.clone())).await.unwrap();
    let at = store.create("/t/a", b"1".to_vec()).await.unwrap();
    let other = rusqlite::Connection::open(&config.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let error = store.update("/t/a", b"2".to_vec(), at).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("locked")), "{error}");
    assert!(error.is_retryable());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Readers don't mind.
    assert_eq!(store.get("/t/a").await.unwrap().unwrap().value, b"1");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.update("/t/a", b"2".to_vec(), at).await.unwrap(), Revision(at.0 + 1));
}

async fn a_replaced_file_is_noticed() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    let store = open(&path).await.unwrap();
    let at = store.create("/t/a", Vec::new()).await.unwrap();
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], at)).await.unwrap();
    fs::rename(&path, path.with_extension("away")).unwrap();
    let ended = watch.next().await.unwrap_err();
    assert!(matches!(&ended, Error::Corrupt(reason) if reason.contains("replaced")), "{ended}");
    assert!(
        store.create("/t/b", Vec::new()).await.is_err(),
        "a write nobody will see must not be acknowledged"
    );
}

async fn settings_out_of_range_are_refused() {
    let folder = Folder::new();
    for (history, timeout_ms, says) in
        [(999, 5000, "history"), (20_000, 99, "timeoutMs"), (20_000, 600_001, "timeoutMs")]
    {
        let config = EmbeddedConfig { path: folder.path().join("store.db"), history, timeout_ms };
        let error = Backend::connect(&StoreConfig::Embedded(config)).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(reason) if reason.contains(says)), "{error}");
    }
    assert!(!folder.path().join("store.db").exists());
}
