//! The wire codec alone, beside the newest decoder of UPDATEs on crates.io, on the same octets in the same run.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bgpkit_parser::models::{AsnLength, BgpMessage};
use bgpkit_parser::parser::bgp::messages::parse_bgp_message;
use bytes::{Bytes, BytesMut};
use comfy_table::{CellAlignment, Table, presets};
use margay_bgp::wire::{Framer, Message, decode};

use crate::plan::{Plan, SESSION};
use crate::scenario::quantile;

/// Octets of each shape of stream.
const STREAM: usize = 4 << 20;
/// Rounds of each; medians count.
const ROUNDS: usize = 7;

/// What a reflector reads and writes: nodes' blocks, sets of routes, a whole table.
const SHAPES: [(&str, usize); 3] =
    [("1 prefix per message", 1), ("5 prefixes per message", 5), ("full messages", 800)];

/// Seconds of one call.
fn time(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The messages of a stream, each for itself.
fn messages(stream: &Bytes) -> Result<Vec<Bytes>> {
    let mut rest: &[u8] = stream;
    let mut framer = Framer::new();
    let mut out = Vec::new();
    while let Some(frame) = framer.next_frame(&mut rest)? {
        out.push(stream.slice_ref(frame.bytes()));
    }
    Ok(out)
}

fn ours(stream: &Bytes) -> Result<Vec<Message>> {
    let mut rest: &[u8] = stream;
    let mut framer = Framer::new();
    let mut out = Vec::new();
    while let Some(frame) = framer.next_frame(&mut rest)? {
        out.push(decode(frame, &SESSION)?.message);
    }
    Ok(out)
}

fn theirs(messages: &[Bytes]) -> Result<Vec<BgpMessage>> {
    let parse = |message: &Bytes| parse_bgp_message(&mut message.clone(), false, &AsnLength::Bits32);
    messages.iter().map(|message| parse(message).context("bgpkit-parser")).collect()
}

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["stream", "codec", "decode messages/s", "MB/s", "encode messages/s", "MB/s"]);
    for (name, per_set) in SHAPES {
        let clients = 60_000 / per_set.max(1);
        let plan = Plan { clients: clients.min(900), prefixes: per_set, per_set };
        let mut stream = Vec::new();
        let mut client = 0;
        while stream.len() < STREAM {
            stream.extend(plan.announcement(plan.own(client % plan.clients), 1)?);
            client += 1;
        }
        let stream = Bytes::from(stream);
        let single = messages(&stream)?;
        let (own, other) = (ours(&stream)?, theirs(&single)?);
        let prefixes = |message: &Message| match message {
            Message::Update(update) => update.announced().count(),
            _ => 0,
        };
        let announced = |message: &BgpMessage| match message {
            BgpMessage::Update(update) => update.announced_prefixes.len(),
            _ => 0,
        };
        let (a, b): (usize, usize) = (own.iter().map(prefixes).sum(), other.iter().map(announced).sum());
        ensure!(a == b && a > 0, "{name}: {a} prefixes and {b} with bgpkit-parser");
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(time(|| ours(black_box(&stream)).map(|all| drop(black_box(all))))?);
            times[1].push(time(|| {
                let mut out = BytesMut::new();
                for message in &own {
                    out.clear();
                    message.encode(&SESSION, &mut out)?;
                    black_box(&out);
                }
                Ok(())
            })?);
            times[2].push(time(|| theirs(black_box(&single)).map(|all| drop(black_box(all))))?);
            times[3].push(time(|| {
                for message in &other {
                    black_box(message.encode(AsnLength::Bits32)?);
                }
                Ok(())
            })?);
        }
        let medians = times.map(|times| quantile(&times, 0.5));
        for (codec, figures) in [("margay", &medians[..2]), ("bgpkit-parser", &medians[2..])] {
            let mut row = vec![name.to_owned(), codec.to_owned()];
            for seconds in figures {
                row.push(format!("{:.0}", single.len() as f64 / seconds));
                row.push(format!("{:.0}", stream.len() as f64 / seconds / 1e6));
            }
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}
