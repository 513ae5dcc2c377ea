//! BIRD on a machine of a lab.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use margay_lab::Process;
use margay_tests::cluster::{Cluster, wait};

use crate::labs::PATIENCE;

/// How soon BIRD tries again, in every protocol of it.
pub(crate) const SOON: &str = "connect delay time 1; connect retry time 1; error wait time 1, 2;";

/// See the module; it ends with this.
pub(crate) struct Bird {
    machine: &'static str,
    control: PathBuf,
    pub(crate) process: Process,
}

impl Bird {
    /// Starts it with this configuration and a folder of this name.
    pub(crate) fn start(cluster: &Cluster, machine: &'static str, name: &str, conf: &str) -> Result<Self> {
        let folder = cluster.folder(name);
        std::fs::create_dir_all(&folder)?;
        let (file, control) = (folder.join("bird.conf"), folder.join("ctl"));
        std::fs::write(&file, format!("log stderr all;\nprotocol device {{}}\n{conf}"))?;
        let mut bird = Command::new("bird");
        bird.arg("-f").arg("-c").arg(&file).arg("-s").arg(&control);
        let process = cluster.node(machine)?.spawn("bird", bird, &folder.join("log"));
        Ok(Self { machine, control, process: process.context("Debian's bird2")? })
    }

    pub(crate) fn ask(&self, cluster: &Cluster, question: &str) -> Result<String> {
        let mut words = vec!["-s", self.control.to_str().context("a path")?];
        words.extend(question.split(' '));
        cluster.run_in(self.machine, "birdc", &words)
    }

    /// Waits for an answer with all of this in it.
    pub(crate) fn says(&self, cluster: &Cluster, question: &str, wanted: &[&str]) -> Result<()> {
        let said = || self.ask(cluster, question);
        wait(PATIENCE, || Ok(said().is_ok_and(|said| wanted.iter().all(|one| said.contains(one)))))
            .with_context(|| {
                format!("{}: {question}: {wanted:?} in {}", self.machine, said().unwrap_or_default())
            })
    }
}
