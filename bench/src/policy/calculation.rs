//! The calculation alone, in a process of its own so that its memory can be told.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use felix_rs::calc::Calculator;
use serde::{Deserialize, Serialize};

use super::cluster::Size;
use crate::process::current_kib;

/// What a calculation cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Cost {
    /// All endpoints of the cluster.
    pub(super) endpoints: u32,
    /// All policies of the cluster.
    pub(super) policies: u32,
    /// From the first object to everything that the node has to enforce.
    pub(super) seconds: f64,
    /// What the process has more of afterwards.
    pub(super) mib: f64,
    /// Of one more endpoint.
    pub(super) one_us: f64,
}

/// Cluster to calculate.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    endpoints: u32,
    policies: u32,
}

/// In this process; prints the cost.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let local = 200;
    let size = Size { local, remote: flags.endpoints - local, outsiders: 0, policies: flags.policies };
    let mut calculator = Calculator::new("node-0");
    let before = current_kib();
    let mut seconds = 0.0;
    // Objects are made and dropped one by one: what they cost is not the calculation's.
    for resource in size.resources() {
        let resource = resource?;
        let begun = Instant::now();
        calculator.update(&resource.key(), Some(&resource));
        seconds += begun.elapsed().as_secs_f64();
    }
    let begun = Instant::now();
    let delta = calculator.flush();
    seconds += begun.elapsed().as_secs_f64();
    drop(delta);
    let mib = (current_kib() - before) as f64 / 1024.0;
    let one = size.remote(flags.endpoints);
    let begun = Instant::now();
    calculator.update(&one.key(), Some(&one));
    let delta = calculator.flush();
    let one_us = begun.elapsed().as_secs_f64() * 1e6;
    ensure!(!delta.sets.is_empty(), "one more client is in no set");
    let cost = Cost { endpoints: flags.endpoints, policies: flags.policies, seconds, mib, one_us };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

/// In a process of its own.
pub(super) fn measure(endpoints: u32, policies: u32) -> Result<Cost> {
    let numbers = [endpoints, policies].map(|number| number.to_string());
    let output = Command::new(std::env::current_exe()?).arg("calculate").args(numbers).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("what the calculation says")
}
