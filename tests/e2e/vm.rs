//! The virtual machine of cases that need another kernel. Its first process is this test program, which is told its cases over the
//! serial line as it is told them in the sandbox.

use std::process::Command;

use anyhow::Result;
use margay_tests::cluster::repository;
use margay_tests::machine::{Machine, has_kernel};

use crate::{Lacks, host};

/// Our programs, beside this one.
const PROGRAMS: [&str; 3] = ["margay", "margay-agent", "margay-cni"];

/// qemu, ready to be started with pipes.
pub(crate) fn command() -> Result<Command> {
    let target = host::target()?;
    if !has_kernel(&target) {
        let lacks = "the virtual machine's kernel is not there: run `cargo xtask vm` once";
        return Err(Lacks(lacks.to_owned()).into());
    }
    let mut programs = vec![(std::env::current_exe()?, "e2e")];
    for name in PROGRAMS {
        programs.push((host::program(name)?, name));
    }
    let machine = Machine {
        name: "e2e",
        programs: &programs,
        tools: &[],
        folders: &["examples", "tests/labs"].map(|folder| repository().join(folder)),
        script: "export MARGAY_SANDBOX=1\nexec /margay/e2e\n",
    };
    machine.command(&target)
}
