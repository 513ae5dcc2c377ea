//! The program is replaced while it runs: its clients see nothing.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use margay_control::bgp::Peer;

use crate::foreign::{BGPD, BIRD, Bird, Frr, Monitor};
use crate::lab::{Lab, PATIENCE, block, kill, possible, wait};
use crate::ours::Ours;

/// Clients of our own; BIRD and FRR come before them.
const OURS: std::ops::Range<u16> = 2..102;
const ALL: usize = OURS.end as usize;

struct World {
    lab: Lab,
    bird: Bird,
    frr: Frr,
    ours: Ours,
}

impl World {
    fn new(name: &str) -> Self {
        let mut lab = Lab::new(name, OURS.end);
        lab.start();
        let (bird, frr) = (Bird::start(&lab, 0), Frr::start(&lab, 1));
        let ours = Ours::start(&lab, OURS);
        let world = Self { lab, bird, frr, ours };
        world.settle();
        world
    }

    /// Everybody knows everything.
    fn settle(&self) {
        self.ours.settle(ALL);
        wait("all routes in BIRD", PATIENCE, || (self.bird.routes() == ALL - 1).then_some(()));
        wait("all routes in FRR", PATIENCE, || (self.frr.routes() == ALL).then_some(()));
    }

    fn upgrade(&self) {
        let before = self.lab.all();
        let output = self.lab.upgrade();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait("the old process has ended", PATIENCE, || {
            let now = self.lab.all();
            (now.len() == 1 && now != before).then_some(())
        });
    }

    /// The upgrade fails with this in its message, and the same process goes on.
    fn refuse(&self, program: &[u8], message: &str) {
        let before = self.lab.all();
        self.lab.replace_program(program);
        let output = self.lab.upgrade();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(message), "{error}");
        assert_eq!(self.lab.all(), before);
    }
}

#[test]
fn clients_see_nothing_of_an_upgrade() {
    if !possible(&[BIRD, BGPD]) {
        return;
    }
    let mut world = World::new("upgrade");
    let original = std::fs::read(world.lab.program()).unwrap();
    let monitor = Monitor::start(&world.lab);
    let before = (world.bird.session(), world.frr.session());
    world.ours.forget();

    // Another file: the same program, built otherwise as far as anybody can see.
    let mut other = original.clone();
    other.extend_from_slice(b"another build");
    for program in [&other, &original, &other] {
        world.lab.replace_program(program);
        world.lab.notified();
        world.upgrade();
        let told = world.lab.notified();
        assert!(told.contains(&format!("MAINPID={}", world.lab.all()[0])), "{told:?}");
        world.lab.reap();
    }
    assert_eq!((world.bird.session(), world.frr.session()), before);
    assert_eq!(world.ours.told(), []);

    // Programs that don't take over: the old one goes on.
    world.refuse(b"no program", "cannot start");
    world.refuse(b"#!/bin/sh\nexit 1\n", "did not get prepared: it has ended");
    // Prepared, but not for what comes.
    let word = "printf '\\000\\000\\000\\012\"prepared\"' >&0";
    let ready = "printf '\\000\\000\\000\\007\"ready\"' >&0";
    world.refuse(format!("#!/bin/sh\n{word}\n").as_bytes(), "did not");
    world.refuse(format!("#!/bin/sh\n{word}\nexec sleep 60\n").as_bytes(), "did not");
    // It ends when it is to begin: systemd, which has been told to follow it, is told to come back.
    let begin = r#"perl -e 'while (sysread STDIN, $in, 65536, length $in) { exit if $in =~ /"go"/ }'"#;
    world.lab.notified();
    world.refuse(format!("#!/bin/sh\n{word}\n{ready}\nexec {begin}\n").as_bytes(), "did not begin");
    let told = world.lab.notified();
    let whom: Vec<_> = told.iter().filter(|word| word.starts_with("MAINPID=")).collect();
    assert_eq!(whom.len(), 2, "{told:?}");
    assert_eq!(*whom[1], format!("MAINPID={}", world.lab.all()[0]));
    assert_eq!((world.bird.session(), world.frr.session()), before);
    assert_eq!((world.ours.told(), monitor.changes(&[])), (vec![], vec![]));
    world.lab.replace_program(&original);

    // The same while routes change.
    let number = AtomicU32::new(1);
    let churned = OURS.start;
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                world.ours.announce(churned, number.fetch_add(1, Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..5 {
            world.upgrade();
        }
        stop.store(1, Ordering::Relaxed);
        churn.join().unwrap();
    });
    let last = number.load(Ordering::Relaxed) - 1;
    assert!(last > 20, "{last}");
    for at in OURS.skip(1) {
        wait("the last change", PATIENCE, || (world.ours.med(at, churned) == Some(last)).then_some(()));
    }
    world.settle();
    assert_eq!(world.ours.undisturbed(), OURS.len());
    let prefix = block(churned).addr().to_string();
    assert_eq!(monitor.changes(&[prefix]), Vec::<String>::new());
    // The changes were none of the next hop.
    assert_eq!(world.ours.told(), []);
    assert_eq!(world.bird.session()[0], before.0[0], "since when");
    assert_eq!(world.frr.session()[..5], before.1[..5]);
    assert!(!world.bird.log().contains("Error"), "{}", world.bird.log());
}

/// Who started it by its name alone finds the new program where the old one was.
#[test]
fn a_reflector_started_by_its_bare_name_is_upgraded() {
    if !possible(&[]) {
        return;
    }
    let mut lab = Lab::new("bare", 0);
    lab.bare = true;
    lab.start();
    for extra in ["one", "another"] {
        let before = lab.all();
        let mut program = std::fs::read(lab.program()).unwrap();
        program.extend_from_slice(extra.as_bytes());
        lab.replace_program(&program);
        let output = lab.upgrade();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait("the old process has ended", PATIENCE, || {
            let now = lab.all();
            (now.len() == 1 && now != before).then_some(())
        });
        lab.reap();
    }
}

/// Releases in folders of their own, the one in use by a link in the search path.
#[test]
fn an_upgrade_follows_the_link_that_was_started() {
    if !possible(&[]) {
        return;
    }
    let mut lab = Lab::new("link", 0);
    lab.bare = true;
    let name = lab.program().file_name().unwrap().to_owned();
    let (old, new) = (lab.program(), lab.folder.join("release-2").join(&name));
    for folder in [&lab.search(), &lab.folder.join("release-2")] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::copy(&old, &new).unwrap();
    let (fresh, link) = (lab.folder.join("fresh-link"), lab.search().join(&name));
    let install = |release: &Path| {
        symlink(release, &fresh).unwrap();
        std::fs::rename(&fresh, &link).unwrap();
    };
    install(&old);
    lab.start();
    for release in [&new, &old] {
        install(release);
        let before = lab.all();
        let output = lab.upgrade();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pid = wait("the old process has ended", PATIENCE, || match lab.all()[..] {
            [now] if before != [now] => Some(now),
            _ => None,
        });
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), *release);
        lab.reap();
    }
}

/// A process killed at any moment of an upgrade: another one serves on, or graceful restart covers.
#[test]
fn a_kill_at_any_moment_loses_no_route() {
    if !possible(&[BIRD, BGPD]) {
        return;
    }
    let mut world = World::new("kill");
    let monitor = Monitor::start(&world.lab);
    let mut restarts = 0;
    for round in 0..10_u64 {
        let old = world.lab.all();
        let victim = std::thread::scope(|scope| {
            let lab = &world.lab;
            let upgrade = scope.spawn(move || lab.upgrade());
            let new = wait("a successor", PATIENCE, || lab.all().into_iter().find(|pid| !old.contains(pid)));
            // From its first instruction on to the time when it serves.
            std::thread::sleep(Duration::from_millis(round * 40));
            let victim = if round % 2 == 0 { new } else { old[0] };
            kill(victim);
            upgrade.join().unwrap();
            victim
        });
        // What is left may be about to end, too: then a supervisor starts another.
        wait("all sessions", PATIENCE, || {
            let left = world.lab.all();
            if left.is_empty() {
                restarts += 1;
                world.lab.start();
            }
            let alone = left.len() == 1 && !left.contains(&victim);
            let up = |peer: &Peer| peer.state == "Established";
            // A process without its speaker does not answer.
            (alone && world.lab.peers().iter().filter(|peer| up(peer)).count() == ALL).then_some(())
        });
        world.settle();
    }
    // The kernel has noticed nothing, but for the block of FRR, which does not ask for graceful restart.
    let without = block(1).addr().to_string();
    assert_eq!(monitor.changes(&[without]), Vec::<String>::new(), "{restarts} restarts");
}
