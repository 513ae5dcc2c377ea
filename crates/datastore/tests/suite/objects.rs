//! The typed layer and the syncer, on every backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use margay_api::{Key, Kind, Resource};
use margay_datastore::raw::{Cursor, Datastore, Prefix};
use margay_datastore::{Applied, Error, Event, Revision, Scope, Store, SyncEvent, Syncer};
use serde_json::json;

use crate::setup::{EtcdServer, Folder, PATIENCE, Site, etcd_trial, eventually, kine_trial, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    macro_rules! on_both {
        ($($test:ident),* $(,)?) => {$(
            trials.push(trial(concat!("embedded::", stringify!($test)), || $test(Site::Embedded(Folder::new()))));
            trials.push(etcd_trial(concat!("etcd::", stringify!($test)), || $test(Site::Etcd(EtcdServer::started()))));
            trials.extend(kine_trial(concat!("kine::", stringify!($test)), $test));
        )*};
    }
    on_both!(
        objects_are_stored_as_calico_does,
        apply_writes_only_differences,
        update_with_competes_without_losing,
        unreadable_objects_spoil_nothing_else,
        impossible_objects_are_refused,
        a_syncer_tells_the_state_then_every_change,
        a_syncer_that_was_too_slow_gets_the_difference,
        a_syncer_survives_the_store_going_away,
        a_syncer_starts_before_the_store,
        a_dropped_syncer_stops,
    );
    trials
}

async fn open(site: &Site) -> Store {
    let store = Store::connect(&site.config()).await.unwrap();
    eventually("the datastore answers", || async { store.revision().await.ok() }).await;
    store
}

fn pool(name: &str, cidr: &str) -> Resource {
    let json = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr},
    });
    Resource::from_json(&json).unwrap()
}

fn policy(namespace: &str, name: &str) -> Resource {
    let json = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"selector": "all()"},
    });
    Resource::from_json(&json).unwrap()
}

fn pool_key(name: &str) -> Key {
    Key::cluster(Kind::IpPool, name)
}

fn labels(resource: &mut Resource) -> &mut BTreeMap<String, String> {
    &mut resource.metadata_mut().labels
}

async fn objects_are_stored_as_calico_does(site: Site) {
    let store = open(&site).await;
    let created = store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let path = "/margay/resources/v3/projectcalico.org/ippools/a";
    let raw = store.backend().get(path).await.unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&raw.value).unwrap();
    assert_eq!((&json["kind"], &json["apiVersion"]), (&json!("IPPool"), &json!("projectcalico.org/v3")));
    assert!(
        json["metadata"]["uid"].is_string() && json["metadata"]["creationTimestamp"].is_string(),
        "{json}"
    );
    assert!(json["metadata"]["resourceVersion"].is_null(), "{json}");

    let read = store.get(&pool_key("a")).await.unwrap().unwrap();
    assert_eq!((read.revision, &read.key), (created, &pool_key("a")));
    let mut changed = Resource::clone(read.resource.as_ref().unwrap());
    labels(&mut changed).insert("l".to_owned(), "1".to_owned());
    let updated = store.update(changed.clone(), read.revision).await.unwrap();
    let conflict = store.update(changed, read.revision).await.unwrap_err();
    assert!(
        matches!(conflict, Error::Conflict { expected, current, .. } if (expected, current) == (created, updated))
    );
    assert!(matches!(store.create(pool("a", "10.0.0.0/16")).await, Err(Error::AlreadyExists { .. })));

    store.create(policy("ns1", "p")).await.unwrap();
    store.create(policy("ns2", "p")).await.unwrap();
    let keys = |scopes: Vec<Scope>| {
        let store = store.clone();
        async move {
            store
                .list(&scopes)
                .await
                .unwrap()
                .items
                .into_iter()
                .map(|v| v.key.to_string())
                .collect::<Vec<_>>()
        }
    };
    let ns2 = Scope { kind: Kind::NetworkPolicy, namespace: Some("ns2".to_owned()) };
    assert_eq!(keys(vec![ns2]).await, ["NetworkPolicy(ns2/p)"]);
    assert_eq!(keys(Scope::all()).await, ["IPPool(a)", "NetworkPolicy(ns1/p)", "NetworkPolicy(ns2/p)"]);

    assert!(matches!(store.delete(&pool_key("a"), Some(created)).await, Err(Error::Conflict { .. })));
    store.delete(&pool_key("a"), None).await.unwrap();
    assert!(matches!(store.delete(&pool_key("a"), None).await, Err(Error::NotFound { .. })));
    assert_eq!(store.get(&pool_key("a")).await.unwrap(), None);
}

async fn apply_writes_only_differences(site: Site) {
    let store = open(&site).await;
    let Applied::Created(first) = store.apply(pool("a", "10.0.0.0/16")).await.unwrap() else { panic!() };
    assert_eq!(store.apply(pool("a", "10.0.0.0/16")).await.unwrap(), Applied::Unchanged(first));
    let before = store.get(&pool_key("a")).await.unwrap().unwrap().resource.unwrap();
    let mut labelled = pool("a", "10.0.0.0/16");
    labels(&mut labelled).insert("l".to_owned(), "1".to_owned());
    assert_eq!(store.apply(labelled).await.unwrap(), Applied::Updated(Revision(first.0 + 1)));
    let after = store.get(&pool_key("a")).await.unwrap().unwrap().resource.unwrap();
    assert_eq!(before.metadata().uid, after.metadata().uid);
    assert_eq!(before.metadata().creation_timestamp, after.metadata().creation_timestamp);
    assert_ne!(before, after);

    // Many appliers of the same: one creates, nobody fails.
    let mut appliers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        appliers.spawn(async move { store.apply(pool("same", "10.1.0.0/16")).await.unwrap() });
    }
    let outcomes = appliers.join_all().await;
    assert_eq!(outcomes.iter().filter(|o| matches!(o, Applied::Created(_))).count(), 1, "{outcomes:?}");
    assert!(
        outcomes.iter().all(|o| matches!(o, Applied::Created(_) | Applied::Unchanged(_))),
        "{outcomes:?}"
    );
}

async fn update_with_competes_without_losing(site: Site) {
    let store = open(&site).await;
    store.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6 {
        let store = open(&site).await;
        tasks.spawn(async move {
            for round in 0..12 {
                let label = format!("t{task}-{round}");
                store
                    .update_with(&pool_key("a"), |r| {
                        labels(r).insert(label.clone(), String::new());
                    })
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    let stored = store.get(&pool_key("a")).await.unwrap().unwrap();
    assert_eq!(stored.resource.unwrap().metadata().labels.len(), 6 * 12);
    let unchanged = store.update_with(&pool_key("a"), |_| {}).await.unwrap();
    assert_eq!(unchanged, stored.revision);
    let renamed =
        store.update_with(&pool_key("a"), |r| r.metadata_mut().name = "b".to_owned()).await.unwrap_err();
    assert!(matches!(renamed, Error::Invalid(_)), "{renamed}");
    assert!(matches!(store.update_with(&pool_key("none"), |_| {}).await, Err(Error::NotFound { .. })));
}

async fn unreadable_objects_spoil_nothing_else(site: Site) {
    let store = open(&site).await;
    let folder = "/margay/resources/v3/projectcalico.org/ippools";
    store.backend().create(&format!("{folder}/bad"), b"{\"kind\": 7".to_vec()).await.unwrap();
    store.backend().create(&format!("{folder}/too/deep"), b"{}".to_vec()).await.unwrap();
    store.create(pool("good", "10.0.0.0/16")).await.unwrap();
    let snapshot = store.list(&[Kind::IpPool.into()]).await.unwrap();
    let names: Vec<_> = snapshot.items.iter().map(|v| (v.key.name.as_str(), v.resource.is_ok())).collect();
    assert_eq!(names, [("bad", false), ("good", true)]);
    let reason = snapshot.items[0].resource.as_ref().unwrap_err().to_string();
    assert!(reason.contains("not JSON"), "{reason}");

    let mut syncer = Syncer::spawn(store.clone(), &[Kind::IpPool.into()]).unwrap();
    let (told, _) = until_in_sync(&mut syncer).await;
    assert_eq!(told, [(pool_key("bad"), false), (pool_key("good"), true)].into());
    let error = store.update_with(&pool_key("bad"), |_| {}).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("unreadable")), "{error}");
    // Applying over it mends it.
    assert!(matches!(store.apply(pool("bad", "10.9.0.0/16")).await.unwrap(), Applied::Updated(_)));
    let Some(SyncEvent::Put(mended)) = next(&mut syncer).await else { panic!() };
    assert!(mended.resource.is_ok());
}

async fn impossible_objects_are_refused(site: Site) {
    let store = open(&site).await;
    let at = store.revision().await.unwrap();
    let mut slash = pool("a", "10.0.0.0/16");
    slash.metadata_mut().name = "a/b".to_owned();
    let mut homeless = policy("ns", "p");
    homeless.metadata_mut().namespace = None;
    for resource in [slash, homeless] {
        let error = store.create(resource.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(store.apply(resource).await.is_err());
    }
    assert!(matches!(store.get(&Key::cluster(Kind::Pod, "p")).await, Err(Error::Invalid(_))));
    assert!(Syncer::spawn(store.clone(), &[]).is_err());
    assert_eq!(store.revision().await.unwrap(), at);
}

/// The next event, which must come.
async fn next(syncer: &mut Syncer) -> Option<SyncEvent> {
    tokio::time::timeout(PATIENCE / 3, syncer.next()).await.expect("an event")
}

/// What was told until in sync (key → readable), and how often the store was lost and restored meanwhile.
async fn until_in_sync(syncer: &mut Syncer) -> (BTreeMap<Key, bool>, Vec<SyncEvent>) {
    let (mut told, mut health) = (BTreeMap::new(), Vec::new());
    loop {
        match next(syncer).await.unwrap() {
            SyncEvent::Put(v) => drop(told.insert(v.key, v.resource.is_ok())),
            SyncEvent::Delete(key) => panic!("deleted before in sync: {key}"),
            SyncEvent::InSync => return (told, health),
            event @ (SyncEvent::Lost(_) | SyncEvent::Restored) => health.push(event),
        }
    }
}

async fn a_syncer_tells_the_state_then_every_change(site: Site) {
    let store = open(&site).await;
    for i in 0..20 {
        store.create(pool(&format!("p{i}"), "10.0.0.0/16")).await.unwrap();
    }
    store.create(policy("ns", "unwanted")).await.unwrap();
    let mut syncer = Syncer::spawn(store.clone(), &[Kind::IpPool.into(), Kind::Tier.into()]).unwrap();
    let (told, health) = until_in_sync(&mut syncer).await;
    assert_eq!((told.len(), health), (20, Vec::new()));

    let created = store.create(pool("new", "10.5.0.0/16")).await.unwrap();
    store.create(policy("ns", "unwanted2")).await.unwrap();
    store.delete(&pool_key("p3"), None).await.unwrap();
    let Some(SyncEvent::Put(put)) = next(&mut syncer).await else { panic!() };
    assert_eq!((put.key, put.revision), (pool_key("new"), created));
    assert_eq!(next(&mut syncer).await, Some(SyncEvent::Delete(pool_key("p3"))));

    // The same through the plain watch.
    let mut watch = store.watch(Cursor::at([Prefix::new("/margay")], Revision(created.0 - 1))).await.unwrap();
    let first = watch.next().await.unwrap().remove(0);
    assert!(matches!(first, Event::Put(v) if v.key == pool_key("new")));
}

async fn a_syncer_that_was_too_slow_gets_the_difference(site: Site) {
    let store = open(&site).await;
    for name in ["kept", "changed", "gone"] {
        store.create(pool(name, "10.0.0.0/16")).await.unwrap();
    }
    let mut syncer = Syncer::spawn(store.clone(), &[Kind::IpPool.into()]).unwrap();
    until_in_sync(&mut syncer).await;
    // Far more than fits into the queue, so that the syncer stops reading; then the history goes.
    for i in 0..1500 {
        let value = format!("{i}");
        store
            .update_with(&pool_key("changed"), |r| {
                labels(r).insert("i".to_owned(), value.clone());
            })
            .await
            .unwrap();
    }
    store.delete(&pool_key("gone"), None).await.unwrap();
    store.create(pool("new", "10.7.0.0/16")).await.unwrap();
    let newest = store.revision().await.unwrap();
    store.compact(newest).await.unwrap();
    let last = store.create(pool("last", "10.8.0.0/16")).await.unwrap();

    let (mut state, mut revisions) = (BTreeMap::new(), BTreeMap::new());
    for name in ["kept", "changed", "gone"] {
        state.insert(pool_key(name), None);
    }
    while !["last", "new"].iter().all(|name| state.contains_key(&pool_key(name))) {
        match next(&mut syncer).await.unwrap() {
            SyncEvent::Put(v) => {
                let newer =
                    revisions.insert(v.key.clone(), v.revision).is_none_or(|before| before < v.revision);
                assert!(newer, "{} came twice", v.key);
                assert!(v.revision <= last);
                state.insert(v.key, v.resource.ok());
            }
            SyncEvent::Delete(key) => assert!(state.remove(&key).is_some(), "{key} was not there"),
            other => panic!("the store was never away, but: {other:?}"),
        }
    }
    let names: Vec<_> = state.keys().map(|k| k.name.as_str()).collect();
    assert_eq!(names, ["changed", "kept", "last", "new"]);
    assert_eq!(state[&pool_key("kept")], None, "what didn't change was told again");
    let changed: &Arc<Resource> = state[&pool_key("changed")].as_ref().unwrap();
    assert_eq!(changed.metadata().labels["i"], "1499");
}

/// Takes the store away and gives it back with `meanwhile` done to it, by other means than the syncer's store.
async fn interrupt<F: Future<Output = ()>>(
    site: &mut Site,
    syncer: &mut Syncer,
    meanwhile: impl FnOnce(Store) -> F,
) {
    match site {
        Site::Embedded(folder) => {
            let path = folder.path().join("store.db");
            let away = path.with_extension("away");
            std::fs::rename(&path, &away).unwrap();
            assert!(
                matches!(next(syncer).await, Some(SyncEvent::Lost(reason)) if reason.contains("replaced"))
            );
            std::fs::rename(&away, &path).unwrap();
        }
        Site::Etcd(server) => {
            server.stop();
            let Some(SyncEvent::Lost(reason)) = next(syncer).await else { panic!() };
            assert!(!reason.is_empty());
            assert!(server.start());
        }
    }
    meanwhile(open(site).await).await;
}

async fn a_syncer_survives_the_store_going_away(mut site: Site) {
    let store = open(&site).await;
    store.create(pool("kept", "10.0.0.0/16")).await.unwrap();
    store.create(pool("gone", "10.0.0.0/16")).await.unwrap();
    let mut syncer = Syncer::spawn(store.clone(), &[Kind::IpPool.into()]).unwrap();
    until_in_sync(&mut syncer).await;
    for round in 0..3 {
        let name = format!("new{round}");
        interrupt(&mut site, &mut syncer, |store| {
            let name = name.clone();
            async move {
                store.create(pool(&name, "10.0.0.0/16")).await.unwrap();
                store.delete(&pool_key(if round == 0 { "gone" } else { "new0" }), None).await.ok();
            }
        })
        .await;
        let mut expected = vec![SyncEvent::Restored];
        let (mut puts, mut deletes) = (0, 0);
        while !expected.is_empty() || puts == 0 || (round < 2 && deletes == 0) {
            match next(&mut syncer).await.unwrap() {
                SyncEvent::Put(v) => {
                    assert_eq!(v.key, pool_key(&name), "told again");
                    puts += 1;
                }
                SyncEvent::Delete(_) => deletes += 1,
                event => assert_eq!(Some(event), expected.pop()),
            }
        }
        assert_eq!((puts, deletes), (1, i32::from(round < 2)));
    }
    // And it follows on.
    store.create(pool("after", "10.0.0.0/16")).await.unwrap();
    assert!(matches!(next(&mut syncer).await, Some(SyncEvent::Put(v)) if v.key == pool_key("after")));
}

async fn a_syncer_starts_before_the_store(site: Site) {
    // For the embedded store that is a file which somebody holds away; for etcd a server that isn't started yet.
    let (mut site, store, away) = match site {
        Site::Embedded(folder) => {
            let path = folder.path().join("store.db");
            let site = Site::Embedded(folder);
            let store = open(&site).await;
            let away = path.with_extension("away");
            std::fs::rename(&path, &away).unwrap();
            eventually("its absence is noticed", || async { store.revision().await.err() }).await;
            (site, store, Some((away, path)))
        }
        Site::Etcd(_) => {
            let server = EtcdServer::stopped();
            let store = Store::connect(&server.config()).await.unwrap();
            (Site::Etcd(server), store, None)
        }
    };
    let mut syncer = Syncer::spawn(store, &[Kind::IpPool.into()]).unwrap();
    assert!(matches!(next(&mut syncer).await, Some(SyncEvent::Lost(_))));
    // Once, however long it takes.
    assert!(tokio::time::timeout(Duration::from_millis(700), syncer.next()).await.is_err());
    match (&mut site, away) {
        (Site::Etcd(server), _) => assert!(server.start()),
        (_, Some((away, path))) => std::fs::rename(away, path).unwrap(),
        _ => unreachable!(),
    }
    let other = open(&site).await;
    other.apply(pool("a", "10.0.0.0/16")).await.unwrap();
    let mut events = Vec::new();
    while !(events.contains(&SyncEvent::InSync) && events.contains(&SyncEvent::Restored) && events.len() >= 3)
    {
        events.push(next(&mut syncer).await.unwrap());
    }
    let puts = events.iter().filter(|e| matches!(e, SyncEvent::Put(v) if v.key == pool_key("a"))).count();
    assert_eq!((puts, events.len()), (1, 3), "{events:?}");
}

async fn a_dropped_syncer_stops(site: Site) {
    let store = open(&site).await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut syncer = Syncer::spawn(store.clone(), &Scope::all()).unwrap();
    until_in_sync(&mut syncer).await;
    drop(syncer);
    drop(store);
    eventually("its tasks end", || async {
        (tokio::runtime::Handle::current().metrics().num_alive_tasks() <= before).then_some(())
    })
    .await;
}
