//! What a process under test costs, its children included.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Clock ticks per second of `/proc/<pid>/stat` (USER_HZ, the same on every Linux architecture in use).
const TICKS: u64 = 100;

/// Processes of a group (`/proc/<pid>/stat`, field 5).
fn members(group: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| fields(*number).get(2).is_some_and(|field| *field == u64::from(group))).collect()
}

/// The numeric fields of `/proc/<pid>/stat` behind the name, from the state on; the state reads as 0.
fn fields(process: u32) -> Vec<u64> {
    fields_of(&format!("/proc/{process}/stat"))
}

fn fields_of(path: &str) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

/// utime and stime, fields 14 and 15 of the whole line.
fn used(fields: &[u64]) -> u64 {
    fields.iter().skip(11).take(2).sum()
}

fn ticks(process: u32) -> u64 {
    used(&fields(process))
}

/// Processor time of each thread of a process group so far.
#[derive(Debug)]
pub(crate) struct Threads(BTreeMap<u32, u64>);

impl Threads {
    pub(crate) fn of(group: u32) -> Self {
        let threads = members(group).into_iter().flat_map(|process| {
            let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
            tasks.filter_map(move |task| {
                let number = task.file_name().to_str()?.parse().ok()?;
                Some((number, used(&fields_of(&format!("/proc/{process}/task/{number}/stat")))))
            })
        });
        Self(threads.collect())
    }

    /// What the thread that worked most has used since.
    pub(crate) fn busiest_since(&self, before: &Self) -> Duration {
        let since = |(thread, now): (&u32, &u64)| now - before.0.get(thread).copied().unwrap_or(0).min(*now);
        Duration::from_millis(self.0.iter().map(since).max().unwrap_or(0) * 1000 / TICKS)
    }
}

/// Processor time of a process group so far.
pub(crate) fn cpu(group: u32) -> Duration {
    Duration::from_millis(members(group).into_iter().map(ticks).sum::<u64>() * 1000 / TICKS)
}

/// Processor time of one process so far.
pub(crate) fn cpu_of(process: u32) -> Duration {
    Duration::from_millis(ticks(process) * 1000 / TICKS)
}

/// Processor time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    cpu_of(std::process::id())
}

/// A line of `/proc/<pid>/status` about memory, in KiB.
fn status_kib(process: u32, label: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Peak resident memory of a process group, in KiB: the sum of its processes' peaks.
pub(crate) fn peak_kib(group: u32) -> u64 {
    members(group).into_iter().filter_map(|process| status_kib(process, "VmHWM:")).sum()
}

/// Resident memory of a process, in KiB.
pub(crate) fn current_kib_of(process: u32) -> u64 {
    status_kib(process, "VmRSS:").unwrap_or(0)
}

/// Peak resident memory of a process, in KiB.
pub(crate) fn peak_kib_of(process: u32) -> u64 {
    status_kib(process, "VmHWM:").unwrap_or(0)
}

/// Resident memory of this process, in KiB.
pub(crate) fn current_kib() -> u64 {
    current_kib_of(std::process::id())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_used_time_and_memory() {
        let group = u32::try_from(nix::unistd::getpgrp().as_raw()).unwrap();
        assert!(super::members(group).contains(&std::process::id()));
        assert!(super::peak_kib(group) > 500);
        let before = super::Threads::of(group);
        let mut busiest = std::time::Duration::ZERO;
        while super::own_cpu().is_zero() || busiest.is_zero() {
            busiest = super::Threads::of(group).busiest_since(&before);
        }
        assert!(busiest <= super::cpu(group), "a thread is a part of its process");
    }
}
