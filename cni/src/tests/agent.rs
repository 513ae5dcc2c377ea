use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// An agent that answers each path with a fixed status and body and remembers what it was asked.
pub(super) struct Agent {
    pub(super) socket: PathBuf,
    answers: Arc<Mutex<BTreeMap<String, (u16, Value)>>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Agent {
    pub(super) fn start(dir: &Path) -> Self {
        let socket = dir.join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let addresses = json!(["10.65.0.7/32", "fd00:65::7/128"]);
        let answers = BTreeMap::from([
            (
                "/v1/cni/add".to_owned(),
                (
                    200,
                    json!({"addresses": addresses, "host_ifname": "mgy0000000000a", "mac": "02:00:00:00:00:07", "mtu": 1410}),
                ),
            ),
            ("/v1/cni/commit".to_owned(), (200, json!({"live_after_us": 5}))),
            ("/v1/cni/del".to_owned(), (200, json!({}))),
            ("/v1/cni/gc".to_owned(), (200, json!({}))),
            ("/v1/cni/status".to_owned(), (200, json!({}))),
            (
                "/v1/cni/check".to_owned(),
                (200, json!({"addresses": addresses, "host_ifname": "mgy0000000000a", "live": true})),
            ),
        ]);
        let agent = Self { socket, answers: Arc::new(Mutex::new(answers)), asked: Arc::default() };
        let (answers, asked) = (Arc::clone(&agent.answers), Arc::clone(&agent.asked));
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &answers, &asked);
            }
        });
        agent
    }

    pub(super) fn answer(&self, path: &str, status: u16, body: Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body));
    }

    pub(super) fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub(super) fn paths_asked(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, _)| path).collect()
    }
}

fn serve(
    mut stream: UnixStream,
    answers: &Mutex<BTreeMap<String, (u16, Value)>>,
    asked: &Mutex<Vec<(String, Value)>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = head.split_whitespace().nth(1).unwrap().to_owned();
    let (status, answer) = answers.lock().unwrap().get(&path).cloned().unwrap_or((404, Value::Null));
    asked.lock().unwrap().push((path, serde_json::from_slice(&body).unwrap_or_default()));
    let text = answer.to_string();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len()).unwrap();
}
