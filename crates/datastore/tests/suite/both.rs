//! What every backend must do.

use std::collections::BTreeMap;
use std::time::Duration;

use libtest_mimic::Trial;
use margay_datastore::raw::{Change, Cursor, Datastore, Prefix, VALUE_LIMIT, Watch};
use margay_datastore::{Backend, Error, Revision};

use crate::setup::{EtcdServer, Folder, PATIENCE, Site, etcd_trial, kine_trial, trial};

/// Each test on each backend: name, function.
macro_rules! on_all {
    (kine, too: $($test:ident),*; not on kine: $($strict:ident),*;) => {
        pub(crate) fn trials() -> Vec<Trial> {
            let mut trials = Vec::new();
            $(
                trials.push(trial(concat!("embedded::", stringify!($test)), || $test(Site::Embedded(Folder::new()))));
                trials.push(etcd_trial(concat!("etcd::", stringify!($test)), || $test(Site::Etcd(EtcdServer::started()))));
                trials.extend(kine_trial(concat!("kine::", stringify!($test)), $test));
            )*
            $(
                trials.push(trial(concat!("embedded::", stringify!($strict)), || $strict(Site::Embedded(Folder::new()))));
                trials.push(etcd_trial(concat!("etcd::", stringify!($strict)), || $strict(Site::Etcd(EtcdServer::started()))));
            )*
            trials
        }
    };
}

on_all! {
    kine, too:
        writes_follow_their_preconditions,
        lists_are_sorted_whole_and_bounded_by_their_folder,
        concurrent_compare_and_swap_loses_no_update,
        a_watch_sees_its_folders_only,
        a_dropped_next_loses_nothing,
        large_values_pass_and_too_large_ones_are_refused;
    // kine 0.17 takes the revision of a deletion for that of an object, reports a revision that isn't the key's own when a
    // deleted key is created anew beside other writers, and compacts when it likes, not when told.
    not on kine:
        any_sequence_of_calls_does_as_a_map_would,
        watches_see_every_change_once_and_in_order,
        compaction_ends_old_watches_and_keeps_values;
}

fn root() -> Prefix {
    Prefix::new("/t")
}

async fn writes_follow_their_preconditions(site: Site) {
    let store = site.open().await;
    assert_eq!(store.get("/t/a").await.unwrap(), None);
    let absent = Error::NotFound { key: "/t/a".to_owned() };
    assert_eq!(store.update("/t/a", b"1".to_vec(), Revision(7)).await.unwrap_err(), absent);
    assert_eq!(store.delete("/t/a", Revision(7)).await.unwrap_err(), absent);

    let created = store.create("/t/a", b"1".to_vec()).await.unwrap();
    let entry = store.get("/t/a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.revision, entry.value.as_slice()), ("/t/a", created, &b"1"[..]));
    assert_eq!(
        store.create("/t/a", b"2".to_vec()).await.unwrap_err(),
        Error::AlreadyExists { key: "/t/a".to_owned() }
    );

    let updated = store.update("/t/a", b"2".to_vec(), created).await.unwrap();
    assert_eq!(updated, Revision(created.0 + 1), "a refused write takes no revision");
    let conflict = Error::Conflict { key: "/t/a".to_owned(), expected: created, current: updated };
    assert!(!conflict.is_retryable());
    assert_eq!(store.update("/t/a", b"3".to_vec(), created).await.unwrap_err(), conflict);
    assert_eq!(store.delete("/t/a", created).await.unwrap_err(), conflict);
    assert_eq!(store.get("/t/a").await.unwrap().unwrap().value, b"2");

    let deleted = store.delete("/t/a", updated).await.unwrap();
    assert_eq!((deleted, store.revision().await.unwrap()), (Revision(updated.0 + 1), deleted));
    assert_eq!(store.get("/t/a").await.unwrap(), None);
    assert_eq!(store.delete("/t/a", updated).await.unwrap_err(), absent);
    // Deleted and made anew is a new object: the old revision is good for nothing.
    let again = store.create("/t/a", b"4".to_vec()).await.unwrap();
    let stale = store.update("/t/a", b"5".to_vec(), updated).await.unwrap_err();
    assert_eq!(stale, Error::Conflict { key: "/t/a".to_owned(), expected: updated, current: again });
}

/// The simplest store that keeps the contract.
#[derive(Default)]
struct Model {
    newest: u64,
    entries: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Model {
    fn compare(&self, key: &str, expected: u64) -> Result<(), Error> {
        let (key, expected) = (key.to_owned(), Revision(expected));
        match self.entries.get(&key) {
            None => Err(Error::NotFound { key }),
            Some((current, _)) if *current != expected.0 => {
                Err(Error::Conflict { key, expected, current: Revision(*current) })
            }
            Some(_) => Ok(()),
        }
    }

    fn put(&mut self, key: &str, value: Vec<u8>) -> Revision {
        self.newest += 1;
        self.entries.insert(key.to_owned(), (self.newest, value));
        Revision(self.newest)
    }

    fn delete(&mut self, key: &str) -> Revision {
        self.newest += 1;
        self.entries.remove(key);
        Revision(self.newest)
    }
}

async fn any_sequence_of_calls_does_as_a_map_would(site: Site) {
    let store = site.open().await;
    let mut model = Model { newest: store.revision().await.unwrap().0, ..Model::default() };
    let keys = ["/t/a", "/t/a/b", "/t/b", "/t/\u{e9}", "/t/a-b"];
    // Knuth's MMIX generator: the same calls every time.
    let mut state = 0x4d61_7267_6179_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut successes = 0;
    for step in 0..700 {
        let key = keys[usize::try_from(random(keys.len() as u64)).unwrap()];
        let current = model.entries.get(key).map_or(0, |(at, _)| *at);
        // Mostly what is current, otherwise any revision there ever was or will be.
        let expected = if random(3) > 0 && current > 0 { current } else { random(model.newest + 3) + 1 };
        let value = vec![b'v'; usize::try_from(random(40)).unwrap()];
        let (got, wanted) = match random(4) {
            0 => {
                let wanted = match model.entries.contains_key(key) {
                    true => Err(Error::AlreadyExists { key: key.to_owned() }),
                    false => Ok(model.put(key, value.clone())),
                };
                (store.create(key, value).await, wanted)
            }
            1 => {
                let wanted = model.compare(key, expected).map(|()| model.put(key, value.clone()));
                (store.update(key, value, Revision(expected)).await, wanted)
            }
            2 => {
                let wanted = model.compare(key, expected).map(|()| model.delete(key));
                (store.delete(key, Revision(expected)).await, wanted)
            }
            _ => {
                let got = store.get(key).await.unwrap().map(|e| (e.revision.0, e.value));
                assert_eq!(got.as_ref(), model.entries.get(key), "step {step}: get {key}");
                continue;
            }
        };
        assert_eq!(got, wanted, "step {step}: {key}");
        successes += u32::from(got.is_ok());
    }
    assert!(successes > 150, "{successes}");
    let listing = store.list(&[root()]).await.unwrap();
    assert_eq!(listing.cursor, Cursor::at([root()], Revision(model.newest)));
    let stored: Vec<_> = listing.entries.into_iter().map(|e| (e.key, (e.revision.0, e.value))).collect();
    assert_eq!(stored, model.entries.into_iter().collect::<Vec<_>>());
}

async fn lists_are_sorted_whole_and_bounded_by_their_folder(site: Site) {
    let store = site.open().await;
    assert_eq!(store.list(&[root()]).await.unwrap().entries, []);
    // More than two pages.
    let names: Vec<String> = (0..1203).map(|i| format!("/t/deep/{i:04}")).collect();
    let mut writers = tokio::task::JoinSet::new();
    for part in names.chunks(151) {
        let (store, part) = (store.clone(), part.to_vec());
        writers.spawn(async move {
            for name in part.iter().rev() {
                store.create(name, name.clone().into_bytes()).await.unwrap();
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    for neighbour in ["/t", "/t0", "/ta/x", "/s/x", "/u/x"] {
        store.create(neighbour, b"no".to_vec()).await.unwrap();
    }
    let at = store.revision().await.unwrap();
    let listing = store.list(&[root()]).await.unwrap();
    assert_eq!(listing.cursor, Cursor::at([root()], at));
    assert_eq!(listing.entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>(), names);
    for entry in &listing.entries {
        assert_eq!(entry.key.as_bytes(), entry.value);
        assert_eq!(store.get(&entry.key).await.unwrap().as_ref(), Some(entry));
    }
    let two = store.list(&[Prefix::new("/u"), Prefix::new("/s")]).await.unwrap();
    assert_eq!(two.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["/u/x", "/s/x"]);
}

async fn concurrent_compare_and_swap_loses_no_update(site: Site) {
    const TASKS: u32 = 8;
    const ROUNDS: u32 = 25;
    let store = site.open().await;
    store.create("/t/counter", b"0".to_vec()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        // Each with connections of its own.
        let store = site.open().await;
        tasks.spawn(async move {
            let mut lost = 0_u32;
            for _ in 0..ROUNDS {
                loop {
                    let entry = store.get("/t/counter").await.unwrap().unwrap();
                    let value: u32 = String::from_utf8(entry.value).unwrap().parse().unwrap();
                    let next = (value + 1).to_string().into_bytes();
                    match store.update("/t/counter", next, entry.revision).await {
                        Ok(_) => break,
                        Err(Error::Conflict { .. }) => lost += 1,
                        Err(e) => panic!("{e}"),
                    }
                }
            }
            lost
        });
    }
    let mut lost = 0;
    while let Some(task) = tasks.join_next().await {
        lost += task.unwrap();
    }
    let value = store.get("/t/counter").await.unwrap().unwrap().value;
    assert_eq!(String::from_utf8(value).unwrap(), (TASKS * ROUNDS).to_string());
    assert!(lost > 0, "no compare-and-swap ever lost: the tasks didn't compete");
}

/// Writes and deletes until `count` changes were made; returns each with its revision.
async fn churn(store: Backend, writer: u32, count: u32) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut known = BTreeMap::new();
    for i in 0..count {
        let key = format!("/t/{}/{}", writer, i % 7);
        let value = format!("{writer}-{i}").into_bytes();
        let (revision, value) = match known.get(&key) {
            None => (store.create(&key, value.clone()).await.unwrap(), Some(value)),
            Some(&at) if i % 3 == 0 => (store.delete(&key, at).await.unwrap(), None),
            Some(&at) => (store.update(&key, value.clone(), at).await.unwrap(), Some(value)),
        };
        if value.is_some() {
            known.insert(key.clone(), revision);
        } else {
            known.remove(&key);
        }
        changes.push(Change { key, revision, value });
    }
    changes
}

/// The next `count` changes.
async fn collect(watch: &mut impl Watch, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        let next = tokio::time::timeout(PATIENCE / 3, watch.next()).await;
        let next = next.unwrap_or_else(|_| panic!("only {} of {count} changes came", changes.len())).unwrap();
        assert!(!next.is_empty());
        changes.extend(next);
    }
    changes
}

async fn watches_see_every_change_once_and_in_order(site: Site) {
    const WRITERS: u32 = 4;
    const CHANGES: u32 = 120;
    let store = site.open().await;
    let from = store.create("/t/first", b"before".to_vec()).await.unwrap();
    let total = (WRITERS * CHANGES) as usize;

    let mut early = store.watch(Cursor::at([root()], from)).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(churn(site.open().await, writer, CHANGES));
    }
    let other = site.open().await;
    let following = tokio::spawn(async move {
        let mut seen = collect(&mut early, total / 3).await;
        // Others begin in the middle: from the beginning, and from where this one is.
        let mut late = other.watch(Cursor::at([root()], from)).await.unwrap();
        let mut resumed = other.watch(early.cursor()).await.unwrap();
        let rest = total - seen.len();
        let (tail, late, resumed) =
            tokio::join!(collect(&mut early, rest), collect(&mut late, total), collect(&mut resumed, rest));
        assert_eq!(tail, resumed);
        seen.extend(tail);
        assert_eq!(seen, late);
        seen
    });
    let mut written = Vec::new();
    while let Some(writer) = writers.join_next().await {
        written.extend(writer.unwrap());
    }
    written.sort_by_key(|change| change.revision);
    let seen = following.await.unwrap();
    let revisions: Vec<u64> = seen.iter().map(|change| change.revision.0).collect();
    let dense: Vec<u64> = (from.0 + 1..=from.0 + total as u64).collect();
    assert_eq!(revisions, dense);
    assert_eq!(seen, written);
    // A watch begun after the fact replays the same history.
    let mut replay = store.watch(Cursor::at([root()], from)).await.unwrap();
    assert_eq!(collect(&mut replay, total).await, written);
}

async fn a_watch_sees_its_folders_only(site: Site) {
    let store = site.open().await;
    let from = store.create("/t/a/0", Vec::new()).await.unwrap();
    let after = store.create("/t/c/0", Vec::new()).await.unwrap();
    let folders = [(Prefix::new("/t/a"), from), (Prefix::new("/t/c"), after)];
    let mut watch = store.watch(Cursor(folders.to_vec())).await.unwrap();
    for key in ["/t/a/1", "/t/ab/1", "/t/b/1", "/t/a", "/t/a0", "/t/c/1", "/t/c0", "/t/a/2/3"] {
        store.create(key, Vec::new()).await.unwrap();
    }
    let mut seen: Vec<String> = collect(&mut watch, 3).await.into_iter().map(|c| c.key).collect();
    // Between folders no order is promised.
    seen.sort();
    assert_eq!(seen, ["/t/a/1", "/t/a/2/3", "/t/c/1"]);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), watch.next()).await.is_err(),
        "nothing else may come"
    );
}

async fn a_dropped_next_loses_nothing(site: Site) {
    const CHANGES: u32 = 150;
    let store = site.open().await;
    let from = store.create("/t/first", Vec::new()).await.unwrap();
    let mut watch = store.watch(Cursor::at([root()], from)).await.unwrap();
    let writer = tokio::spawn(churn(site.open().await, 1, CHANGES));
    let mut seen = Vec::new();
    let (mut dropped, mut wait) = (0, 0);
    while seen.len() < CHANGES as usize {
        wait = (wait + 37) % 1500;
        match tokio::time::timeout(Duration::from_micros(wait), watch.next()).await {
            Ok(changes) => seen.extend(changes.unwrap()),
            Err(_) => dropped += 1,
        }
    }
    assert_eq!(seen, writer.await.unwrap());
    assert!(dropped > 0);
}

async fn compaction_ends_old_watches_and_keeps_values(site: Site) {
    let store = site.open().await;
    let first = store.create("/t/kept", b"k".to_vec()).await.unwrap();
    let written = churn(store.clone(), 1, 30).await;
    let middle = written[14].revision;
    store.compact(middle).await.unwrap();
    // Again is fine, and older is nothing to do.
    store.compact(middle).await.unwrap();
    store.compact(first).await.unwrap();

    let ended = match store.watch(Cursor::at([root()], first)).await {
        Ok(mut watch) => watch.next().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(ended, Error::Compacted(_)), "{ended}");
    let mut watch = store.watch(Cursor::at([root()], middle)).await.unwrap();
    assert_eq!(collect(&mut watch, 15).await, written[15..]);
    assert_eq!(store.get("/t/kept").await.unwrap().unwrap().value, b"k");
    let listing = store.list(&[root()]).await.unwrap();
    assert!(listing.entries.iter().any(|e| e.key == "/t/kept"));

    let newest = store.revision().await.unwrap();
    let future = store.compact(Revision(newest.0 + 5)).await.unwrap_err();
    assert!(matches!(future, Error::Invalid(_)), "{future}");
    store.compact(newest).await.unwrap();
    let mut watch = store.watch(Cursor::at([root()], newest)).await.unwrap();
    let next = store.create("/t/next", Vec::new()).await.unwrap();
    assert_eq!(collect(&mut watch, 1).await[0].revision, next);
}

async fn large_values_pass_and_too_large_ones_are_refused(site: Site) {
    let store = site.open().await;
    let from = store.revision().await.unwrap();
    let mut watch = store.watch(Cursor::at([root()], from)).await.unwrap();
    let large = vec![b'x'; VALUE_LIMIT];
    for i in 0..6 {
        store.create(&format!("/t/{i}"), large.clone()).await.unwrap();
    }
    let seen = collect(&mut watch, 6).await;
    assert!(seen.iter().all(|c| c.value.as_ref() == Some(&large)));
    assert_eq!(store.list(&[root()]).await.unwrap().entries.len(), 6);
    let refused = store.create("/t/huge", vec![b'x'; VALUE_LIMIT + 1]).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    assert_eq!(store.get("/t/huge").await.unwrap(), None);
}
