//! Answers without an end: one JSON value per line, as they come.

use std::time::Duration;

use axum::body::{Body, Bytes};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Parts that wait for the reader.
const PARTS: usize = 2;
/// How often a reader without news is told that the daemon is alive.
const ALIVE: Duration = Duration::from_secs(15);
/// Values of one part at most.
const TOGETHER: usize = 256;

type Part = Result<Bytes, std::convert::Infallible>;

/// What comes until the reader or the sender goes; `lost` says that so many were missed.
pub fn body<T: Serialize + Clone + Send + 'static>(
    mut values: broadcast::Receiver<T>,
    lost: impl Fn(u64) -> T + Send + 'static,
) -> Body {
    let (parts, receiver) = mpsc::channel::<Part>(PARTS);
    tokio::spawn(async move {
        loop {
            let mut text = String::new();
            match tokio::time::timeout(ALIVE, values.recv()).await {
                Ok(Ok(value)) => {
                    line(&mut text, &value);
                    for _ in 1..TOGETHER {
                        let Ok(value) = values.try_recv() else { break };
                        line(&mut text, &value);
                    }
                }
                Ok(Err(RecvError::Lagged(missed))) => line(&mut text, &lost(missed)),
                Ok(Err(RecvError::Closed)) => return,
                Err(_quiet) => text.push('\n'),
            }
            if parts.send(Ok(text.into())).await.is_err() {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// Appends a value and the end of its line.
pub fn line(text: &mut String, value: &impl Serialize) {
    // Our own types have no maps with strange keys and no failing serializers.
    if let Ok(json) = serde_json::to_string(value) {
        text.push_str(&json);
        text.push('\n');
    }
}
