//! Answers of any length, made while they are read: a reader that is slow makes the answer wait, nobody else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use margay_bgp::transport::{self, BgpHandle, RoutePages};
use margay_control::bgp::Change;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::convert;

/// Parts that wait for the reader.
const PARTS: usize = 2;
/// How often a reader without news is told that the daemon is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// Why an answer ends early. The connection breaks, which tells the reader.
#[derive(Debug, thiserror::Error)]
#[error("the BGP speaker has stopped")]
struct Stopped;

type Part = Result<Bytes, Stopped>;

fn body<F>(fill: impl FnOnce(mpsc::Sender<Part>) -> F) -> Body
where
    F: Future<Output = Option<Infallible>> + Send + 'static,
{
    let (parts, receiver) = mpsc::channel(PARTS);
    tokio::spawn(fill(parts));
    Body::from_stream(ReceiverStream::new(receiver))
}

/// The routes of a query as one array, a route per line.
pub(super) fn array(mut pages: RoutePages) -> Body {
    body(|parts| async move {
        let mut text = String::from("[\n");
        let mut first = true;
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(_stopped) => {
                    // Its reader may have gone as well.
                    let _gone = parts.send(Err(Stopped)).await;
                    return None;
                }
            };
            for route in page {
                let comma = if std::mem::take(&mut first) { "" } else { "," };
                text.push_str(comma);
                line(&mut text, &convert::route(route));
            }
            parts.send(Ok(std::mem::take(&mut text).into())).await.ok()?;
        }
        parts.send(Ok((text + "]\n").into())).await.ok()?;
        None
    })
}

fn line(text: &mut String, value: &impl serde::Serialize) {
    // Our own types have no maps with strange keys and no failing serializers.
    if let Ok(json) = serde_json::to_string(value) {
        text.push_str(&json);
        text.push('\n');
    }
}

/// What changes, until the reader goes or the speaker ends.
pub(super) fn changes(mut changes: broadcast::Receiver<Arc<transport::Change>>) -> Body {
    body(|parts| async move {
        loop {
            let mut text = String::new();
            match tokio::time::timeout(ALIVE, changes.recv()).await {
                Ok(Ok(change)) => match change.as_ref() {
                    transport::Change::Routes(routes) => {
                        for (prefix, paths) in routes {
                            let paths = paths.iter().cloned().map(convert::route).collect();
                            line(&mut text, &Change::Route { prefix: *prefix, paths });
                        }
                    }
                    transport::Change::Peer(peer) => {
                        line(&mut text, &Change::Peer(Box::new(convert::peer(peer))));
                    }
                    transport::Change::Removed(peer) => {
                        line(&mut text, &Change::Removed { peer: *peer });
                    }
                },
                Ok(Err(RecvError::Lagged(batches))) => line(&mut text, &Change::Lost { batches }),
                Ok(Err(RecvError::Closed)) => {
                    parts.send(Err(Stopped)).await.ok()?;
                    return None;
                }
                Err(_quiet) => text.push('\n'),
            }
            parts.send(Ok(text.into())).await.ok()?;
        }
    })
}

/// The table as MRT.
pub(super) fn dump(speaker: BgpHandle) -> Body {
    body(|parts| async move {
        let mut next = None;
        loop {
            let Ok(page) = speaker.dump(next.take()).await else {
                parts.send(Err(Stopped)).await.ok()?;
                return None;
            };
            if !page.data.is_empty() {
                parts.send(Ok(page.data)).await.ok()?;
            }
            next = Some(page.next?);
        }
    })
}
