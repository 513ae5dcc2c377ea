//! A folder of its own for each test, and the binary run in it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Removed when the test is over.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
}

/// Exit code, stdout, stderr.
type Output = (Option<i32>, String, String);

impl Lab {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("margay-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn store(&self) -> String {
        self.dir.join("store.db").display().to_string()
    }

    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Without any flag of ours.
    pub(crate) fn bare(&self, args: &[&str], stdin: Option<&str>, env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        for name in ["MARGAY_CONFIG", "MARGAY_DATASTORE_PATH", "MARGAY_ETCD_ENDPOINTS", "MARGAY_SOCKET"] {
            command.env_remove(name);
        }
        command.args(args).envs(env.iter().copied()).current_dir(&self.dir);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.unwrap_or_default().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// On this test's datastore.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn run(&self, args: &[&str], stdin: Option<&str>, env: &[(&str, &str)]) -> Output {
        let store = self.store();
        self.bare(&[args, &["--datastore", &store]].concat(), stdin, env)
    }

    /// Stdout of a success.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let (status, out, error) = self.run(args, None, &[]);
        assert_eq!(status, Some(0), "{args:?}: {error}");
        out
    }

    /// Stderr of a failure.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let (status, out, error) = self.run(args, None, &[]);
        assert_eq!(status, Some(1), "{args:?}: {out}");
        error
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
