//! The second execution of this program, in a sandbox or in a virtual machine: told a case per line, it answers with a line.

use std::any::Any;
use std::io::{BufRead, BufReader, Write};
use std::panic::AssertUnwindSafe;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use margay_tests::sandbox;

use crate::labs::Labs;
use crate::{CASES, Place};

/// The line that says it is there.
const READY: &str = "ready";

/// Begins the line that answers; anything else on standard output is noise.
const ANSWER: &str = "answer: ";

/// What a case that passed answers.
const PASSED: &str = "\"\"";

/// The outer end; clones share the process, which is started when first needed.
#[derive(Clone)]
pub(crate) struct Remote {
    command: fn() -> Result<Command>,
    process: Arc<Mutex<Option<Process>>>,
}

struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Remote {
    /// One that `command` starts.
    pub(crate) fn new(command: fn() -> Result<Command>) -> Self {
        Self { command, process: Arc::default() }
    }

    /// Runs a case inside.
    pub(crate) fn run(&self, case: &str) -> Result<()> {
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = match &mut *slot {
            Some(process) => process,
            none => none.insert(Process::start((self.command)()?)?),
        };
        match process.ask(case) {
            Ok(text) if text.is_empty() => Ok(()),
            Ok(text) => bail!(text),
            Err(error) => {
                // The next case gets a new one.
                *slot = None;
                Err(error)
            }
        }
    }
}

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut process = Self { child, orders, answers };
        process.wait_for(READY)?;
        Ok(process)
    }

    /// The error's text, empty for none.
    fn ask(&mut self, case: &str) -> Result<String> {
        writeln!(self.orders, "{case}")?;
        Ok(serde_json::from_str(&self.wait_for(ANSWER)?)?)
    }

    /// The rest of the next line that begins like this.
    fn wait_for(&mut self, beginning: &str) -> Result<String> {
        let mut line = Vec::new();
        while self.answers.read_until(b'\n', &mut line)? > 0 {
            if let Some(rest) = String::from_utf8_lossy(&line).strip_prefix(beginning) {
                return Ok(rest.to_owned());
            }
            line.clear();
        }
        Err(anyhow!("the other end is gone: {}", self.child.wait()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The inner end: until standard input ends.
pub(crate) fn serve() -> ExitCode {
    if let Err(error) = sandbox::inside().and_then(|_| margay_tests::foreign::open_root()) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    println!("{READY}");
    let mut labs = Labs::default();
    for case in std::io::stdin().lines().map_while(Result::ok) {
        let outcome = perform(&case, &mut labs);
        if outcome.is_err() {
            // Nobody knows what it left.
            labs = labs.fresh();
        }
        let text = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
        let text = serde_json::to_string(&text).unwrap_or_else(|_| PASSED.to_owned());
        println!("{ANSWER}{text}");
    }
    ExitCode::SUCCESS
}

fn perform(case: &str, labs: &mut Labs) -> Result<()> {
    let Some((_, Place::Inside(run) | Place::Virtual(run))) = CASES.iter().find(|(name, _)| *name == case)
    else {
        bail!("no case {case} in here");
    };
    std::panic::catch_unwind(AssertUnwindSafe(|| run(labs)))
        .unwrap_or_else(|panic| Err(anyhow!(words(&panic))))
}

/// What a panic said.
fn words(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
