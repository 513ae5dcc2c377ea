//! kill -9 in the middle of writes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use libtest_mimic::Trial;
use margay_datastore::raw::{Cursor, Datastore, Prefix, Watch};
use margay_datastore::{Backend, Revision, StoreConfig};

use crate::processes::spawn;
use crate::setup::{Folder, trial};

const ROUNDS: u32 = 12;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("embedded::kill_9_loses_no_acknowledged_write", kill_9_loses_no_acknowledged_write)]
}

/// A write that a copy printed after its acknowledgement.
struct Acknowledged {
    revision: u64,
    key: String,
    value: Option<Vec<u8>>,
}

impl Acknowledged {
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let (revision, key, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let value = (value != "-").then(|| value.as_bytes().to_vec());
        Self { revision: revision.parse().unwrap(), key: key.to_owned(), value }
    }
}

/// Lets two processes write and kills each after so many of its writes.
fn write_and_kill(path: &Path, round: u32) -> Vec<Acknowledged> {
    let writers: Vec<_> = (0..2)
        .map(|number| {
            let path = path.to_owned();
            std::thread::spawn(move || {
                let mut child = spawn("write", &path, number);
                let mut out = BufReader::new(child.0.stdout.take().unwrap());
                let mut text = String::new();
                // Different every time, so that the kill meets different moments.
                for _ in 0..3 + (round * 7 + number * 5) % 41 {
                    out.read_line(&mut text).unwrap();
                }
                child.kill();
                out.read_to_string(&mut text).unwrap();
                // What was not written to the end was not acknowledged to anybody.
                let complete = text.rfind('\n').map_or(0, |end| end + 1);
                text[..complete].lines().map(Acknowledged::parse).collect::<Vec<_>>()
            })
        })
        .collect();
    writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
}

async fn kill_9_loses_no_acknowledged_write() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    // One process that lives through it all and watches.
    let store = Backend::connect(&StoreConfig::embedded(&path)).await.unwrap();
    let root = || Cursor::at([Prefix::new("/t")], Revision(0));
    let mut watch = store.watch(root()).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let path = path.clone();
        acknowledged.extend(tokio::task::spawn_blocking(move || write_and_kill(&path, round)).await.unwrap());
    }
    let newest = store.revision().await.unwrap();
    assert!(acknowledged.len() > 100, "only {} writes", acknowledged.len());

    let mut seen = BTreeMap::new();
    let mut revisions = Vec::new();
    while revisions.last() != Some(&newest.0) {
        for change in watch.next().await.unwrap() {
            revisions.push(change.revision.0);
            seen.insert(change.revision.0, change);
        }
    }
    assert_eq!(revisions, (1..=newest.0).collect::<Vec<_>>());
    for write in &acknowledged {
        let change = &seen[&write.revision];
        assert_eq!((&change.key, &change.value), (&write.key, &write.value), "revision {}", write.revision);
    }
    // At most the one write that a killed process was in may be there without having been acknowledged.
    assert!(newest.0 - acknowledged.len() as u64 <= u64::from(ROUNDS) * 2);

    // The values are what the history leads to, also for those who open the file now.
    drop((store, watch));
    let store = Backend::connect(&StoreConfig::embedded(&path)).await.unwrap();
    let mut expected = BTreeMap::new();
    for change in seen.into_values() {
        match change.value {
            Some(value) => expected.insert(change.key, (change.revision, value)),
            None => expected.remove(&change.key),
        };
    }
    let listing = store.list(&[Prefix::new("/t")]).await.unwrap();
    let stored: BTreeMap<_, _> =
        listing.entries.into_iter().map(|e| (e.key, (e.revision, e.value))).collect();
    assert_eq!(stored, expected);
    let check: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
