//! Replays a recording of the simulation: `cargo run -p margay-bgp --features sim --example replay -- FILE`. Shows what
//! the speakers say, line by line, and fails where it isn't what was recorded.

use std::fs::File;
use std::io::{self, BufReader, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: replay FILE")?;
    let mut out = io::stdout().lock();
    let mut failed = None;
    let replayed = margay_bgp::sim::replay(BufReader::new(File::open(path)?), |node, at, output| {
        if failed.is_none() {
            failed = writeln!(
                out,
                "{:.6} node {node}: {output:?}",
                at.since(margay_bgp::Time::ZERO).as_secs_f64()
            )
            .err();
        }
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(writeln!(out, "{} inputs, {} outputs: as recorded", replayed.inputs, replayed.outputs)?),
    }
}
