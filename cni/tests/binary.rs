//! The executable itself: environment and standard input in, standard output and exit code out.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn execute(environment: &[(&str, &str)], stdin: &str) -> std::io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay-cni"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // It may end without reading its input.
        let _ignored = pipe.write_all(stdin.as_bytes());
    }
    child.wait_with_output()
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let output = execute(&[], "").unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("CNI plugin"));
}

#[test]
fn version_names_every_version() {
    // As podman asks, with placeholders for the rest.
    let environment =
        [("CNI_COMMAND", "VERSION"), ("CNI_NETNS", "dummy"), ("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy")];
    let output = execute(&environment, r#"{"cniVersion":"1.0.0"}"#).unwrap();
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        answer["supportedVersions"],
        serde_json::json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}

#[test]
fn errors_are_objects_on_standard_output_in_the_version_asked_for() {
    for (command, stdin, code, version) in [
        ("DANCE", r#"{"cniVersion":"0.4.0","name":"x"}"#, 4, "0.4.0"),
        ("ADD", "not json", 6, "1.1.0"),
        ("ADD", r#"{"cniVersion":"0.3.1","name":"x","unknown":1}"#, 7, "0.3.1"),
        ("ADD", r#"{"cniVersion":"0.3.1","name":"x"}"#, 4, "0.3.1"),
        ("DEL", r#"{"cniVersion":"3.0.0","name":"x"}"#, 1, "1.1.0"),
    ] {
        let output = execute(&[("CNI_COMMAND", command)], stdin).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stdin}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (error["code"].as_u64(), error["cniVersion"].as_str()),
            (Some(code), Some(version)),
            "{error}"
        );
        assert!(!error["msg"].as_str().unwrap().is_empty());
    }
}
