//! Several processes on one SQLite file: this program starts copies of itself, which run [`run`].

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use margay_datastore::raw::{Cursor, Datastore, Prefix, Watch};
use margay_datastore::{Backend, Error, Revision, StoreConfig};

use crate::setup::{Folder, Guarded, block_on, eventually, trial};

/// Environment variable with the role of a copy; its absence makes the test program.
pub(crate) const ROLE: &str = "MARGAY_STORE_TEST_ROLE";
const PATH: &str = "MARGAY_STORE_TEST_PATH";
const NUMBER: &str = "MARGAY_STORE_TEST_NUMBER";

const PROCESSES: u32 = 4;
const ROUNDS: u32 = 60;
const PINGS: u32 = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("embedded::processes_share_one_file", processes_share_one_file),
        trial(
            "embedded::a_write_wakes_watchers_in_other_processes",
            a_write_wakes_watchers_in_other_processes,
        ),
    ]
}

/// Starts a copy of this program.
pub(crate) fn spawn(role: &str, path: &Path, number: u32) -> Guarded {
    let child = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .env(PATH, path)
        .env(NUMBER, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Guarded(child)
}

/// Everything a copy does.
pub(crate) fn run(role: &str) {
    let path = std::env::var_os(PATH).unwrap();
    let number: u32 = std::env::var(NUMBER).unwrap().parse().unwrap();
    let config = StoreConfig::embedded(path);
    let done = block_on(async move {
        let store = Backend::connect(&config).await.unwrap();
        match role {
            "count" => count(&store, number).await,
            "follow" => follow(&store, number).await,
            "pong" => pong(&store, number).await,
            "write" => write(&store, number).await,
            other => panic!("no role {other}"),
        }
    });
    assert!(done.is_ok());
}

/// Increments the common counter, and creates keys of its own.
async fn count(store: &Backend, number: u32) {
    for round in 0..ROUNDS {
        store.create(&format!("/t/{number}/{round}"), Vec::new()).await.unwrap();
        loop {
            let entry = store.get("/t/counter").await.unwrap().unwrap();
            let value: u32 = String::from_utf8(entry.value).unwrap().parse().unwrap();
            match store.update("/t/counter", (value + 1).to_string().into_bytes(), entry.revision).await {
                Ok(_) => break,
                Err(Error::Conflict { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// Prints the revision of each change until `number` of them came.
async fn follow(store: &Backend, number: u32) {
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], Revision(0))).await.unwrap();
    let mut left = number;
    let mut out = std::io::stdout();
    while left > 0 {
        for change in watch.next().await.unwrap() {
            writeln!(out, "{}", change.revision).unwrap();
            left -= 1;
        }
    }
}

/// Answers each new key of `/t/ping/` with one in `/t/pong/`.
async fn pong(store: &Backend, number: u32) {
    let mut watch = store.watch(Cursor::at([Prefix::new("/t/ping")], Revision(0))).await.unwrap();
    let mut left = number;
    while left > 0 {
        for change in watch.next().await.unwrap() {
            store.create(&change.key.replace("ping", "pong"), Vec::new()).await.unwrap();
            left -= 1;
        }
    }
}

/// Writes until killed, and prints each write after it was acknowledged.
async fn write(store: &Backend, number: u32) {
    let mut out = std::io::stdout();
    for round in 0_u32.. {
        let key = format!("/t/{number}/{}", round % 20);
        let value = format!("{number}-{}-{round}", std::process::id());
        let revision = match store.get(&key).await.unwrap() {
            None => store.create(&key, value.clone().into_bytes()).await.unwrap(),
            Some(old) if round % 5 == 4 => {
                let revision = store.delete(&key, old.revision).await.unwrap();
                writeln!(out, "{revision} {key} -").unwrap();
                continue;
            }
            Some(old) => store.update(&key, value.clone().into_bytes(), old.revision).await.unwrap(),
        };
        writeln!(out, "{revision} {key} {value}").unwrap();
    }
}

async fn processes_share_one_file() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    let store = Backend::connect(&StoreConfig::embedded(&path)).await.unwrap();
    store.create("/t/counter", b"0".to_vec()).await.unwrap();
    let total = 1 + PROCESSES * ROUNDS * 2;
    let follower = spawn("follow", &path, total);
    let mut counters: Vec<Guarded> = (0..PROCESSES).map(|i| spawn("count", &path, i)).collect();

    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], Revision(0))).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < total as usize {
        seen.extend(watch.next().await.unwrap().into_iter().map(|c| c.revision.0));
    }
    assert_eq!(seen, (1..=u64::from(total)).collect::<Vec<_>>());
    let value = store.get("/t/counter").await.unwrap().unwrap().value;
    assert_eq!(String::from_utf8(value).unwrap(), (PROCESSES * ROUNDS).to_string());
    for counter in &mut counters {
        assert!(counter.0.wait().unwrap().success());
    }
    let other = tokio::task::spawn_blocking(move || read_lines(follower)).await.unwrap();
    assert_eq!(other, seen.iter().map(u64::to_string).collect::<Vec<_>>());
}

fn read_lines(mut child: Guarded) -> Vec<String> {
    let out = child.0.stdout.take().unwrap();
    BufReader::new(out).lines().map(Result::unwrap).collect()
}

async fn a_write_wakes_watchers_in_other_processes() {
    let folder = Folder::new();
    let path = folder.path().join("store.db");
    let store = Backend::connect(&StoreConfig::embedded(&path)).await.unwrap();
    let _answerer = spawn("pong", &path, PINGS + 1);
    store.create("/t/ping/warm-up", Vec::new()).await.unwrap();
    eventually("the other process answers", || async { store.get("/t/pong/warm-up").await.unwrap() }).await;

    let start = Instant::now();
    let from = store.revision().await.unwrap();
    let mut watch = store.watch(Cursor::at([Prefix::new("/t/pong")], from)).await.unwrap();
    for i in 0..PINGS {
        store.create(&format!("/t/ping/{i}"), Vec::new()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().len(), 1);
    }
    // Two wake-ups each. Polling alone would take a quarter of a second for most of them.
    assert!(start.elapsed() < PINGS * Duration::from_millis(150), "{:?}", start.elapsed());
}
