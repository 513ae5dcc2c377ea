//! The wire codec alone, beside both decoders of UPDATEs on crates.io that are kept up, on the same octets in the same run.
//! On 23 November 2026 the newest of each were bgpkit-parser 0.23.0 and netgauze-bgp-pkt 0.13.0; Cargo.toml names them.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bgpkit_parser::models::{AsnLength, BgpMessage as BgpkitMessage};
use bgpkit_parser::parser::bgp::messages::parse_bgp_message;
use bytes::{Bytes, BytesMut};
use comfy_table::{CellAlignment, Table, presets};
use margay_bgp::wire::{self, Framer, Message};
use netgauze_bgp_pkt::BgpMessage as NetgauzeMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use serde::Serialize;

use crate::form::Form;
use crate::plan::{Plan, SESSION};
use crate::scenario::quantile;

/// Octets of each shape of stream, and rounds of each codec, of which medians count.
const FULL: (usize, usize) = (4 << 20, 7);
const QUICK: (usize, usize) = (1 << 16, 1);

/// What a reflector reads and writes: nodes' blocks, sets of routes, a whole table.
const SHAPES: [(&str, usize); 3] =
    [("1 prefix per message", 1), ("5 prefixes per message", 5), ("full messages", 800)];

const OURS: &str = "margay";

/// What one codec does in a second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    stream: &'static str,
    codec: &'static str,
    decode_messages: f64,
    decode_bytes: f64,
    encode_messages: f64,
    encode_bytes: f64,
}

type Work<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// A codec at work on a stream.
struct Subject<'a> {
    name: &'static str,
    /// How many it finds announced.
    prefixes: usize,
    decode: Work<'a>,
    encode: Work<'a>,
    /// Seconds of each round.
    times: [Vec<f64>; 2],
}

fn subject<'a, M: 'a>(
    name: &'static str,
    decode: impl Fn() -> Result<Vec<M>> + 'a,
    prefixes: fn(&M) -> usize,
    encode: impl Fn(&[M]) -> Result<()> + 'a,
) -> Result<Subject<'a>> {
    let messages = decode().context(name)?;
    Ok(Subject {
        name,
        prefixes: messages.iter().map(prefixes).sum(),
        decode: Box::new(move || decode().map(|all| drop(black_box(all)))),
        encode: Box::new(move || encode(&messages)),
        times: Default::default(),
    })
}

impl Subject<'_> {
    fn round(&mut self) -> Result<()> {
        for (times, work) in self.times.iter_mut().zip([&self.decode, &self.encode]) {
            let start = Instant::now();
            work()?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    }
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

/// Ours finds the messages, too.
fn ours(stream: &Bytes) -> Result<Subject<'_>> {
    let decode = move || {
        let mut rest: &[u8] = stream;
        let mut framer = Framer::new();
        let mut out = Vec::new();
        while let Some(frame) = framer.next_frame(&mut rest)? {
            out.push(wire::decode(frame, &SESSION)?.message);
        }
        Ok(out)
    };
    let prefixes = |message: &Message| match message {
        Message::Update(update) => update.announced().count(),
        _ => 0,
    };
    let encode = |messages: &[Message]| {
        let mut out = BytesMut::new();
        for message in messages {
            out.clear();
            message.encode(&SESSION, &mut out)?;
            black_box(&out);
        }
        Ok(())
    };
    subject(OURS, decode, prefixes, encode)
}

fn bgpkit(messages: &[Bytes]) -> Result<Subject<'_>> {
    let parse = |message: &Bytes| Ok(parse_bgp_message(&mut message.clone(), false, &AsnLength::Bits32)?);
    let prefixes = |message: &BgpkitMessage| match message {
        BgpkitMessage::Update(update) => update.announced_prefixes.len(),
        _ => 0,
    };
    // It makes a buffer for every message.
    let encode = |messages: &[BgpkitMessage]| {
        for message in messages {
            black_box(message.encode(AsnLength::Bits32)?);
        }
        Ok(())
    };
    subject("bgpkit-parser", move || messages.iter().map(parse).collect(), prefixes, encode)
}

fn netgauze(messages: &[Bytes]) -> Result<Subject<'_>> {
    let decode = move || {
        let mut context = BgpParsingContext::default();
        let parse =
            |message: &Bytes| Ok(NetgauzeMessage::parse(&mut SliceReader::new(message), &mut context)?);
        messages.iter().map(parse).collect()
    };
    let prefixes = |message: &NetgauzeMessage| match message {
        NetgauzeMessage::Update(update) => update.nlri().len(),
        _ => 0,
    };
    let encode = |messages: &[NetgauzeMessage]| {
        let mut out = Vec::new();
        for message in messages {
            out.clear();
            message.write(&mut out)?;
            black_box(&out);
        }
        Ok(())
    };
    subject("netgauze-bgp-pkt", decode, prefixes, encode)
}

fn shape(stream: &'static str, per_set: usize, (octets, rounds): (usize, usize)) -> Result<Vec<Row>> {
    let plan = Plan { clients: (60_000 / per_set.max(1)).min(900), prefixes: per_set, per_set };
    let mut all = Vec::new();
    let mut client = 0;
    while all.len() < octets {
        all.extend(plan.announcement(plan.own(client % plan.clients), 1)?);
        client += 1;
    }
    let all = Bytes::from(all);
    let single = messages(&all)?;
    let mut subjects = [ours(&all)?, bgpkit(&single)?, netgauze(&single)?];
    for other in &subjects {
        let expected = client * per_set;
        ensure!(other.prefixes == expected, "{}: {} of {expected} prefixes", other.name, other.prefixes);
    }
    for _ in 0..rounds {
        subjects.iter_mut().try_for_each(Subject::round)?;
    }
    let row = |subject: &Subject<'_>| {
        let [decode, encode] = subject.times.each_ref().map(|times| quantile(times, 0.5));
        let (messages, bytes) = (single.len() as f64, all.len() as f64);
        Row {
            stream,
            codec: subject.name,
            decode_messages: messages / decode,
            decode_bytes: bytes / decode,
            encode_messages: messages / encode,
            encode_bytes: bytes / encode,
        }
    };
    Ok(subjects.iter().map(row).collect())
}

/// Where another is faster.
fn missed(rows: &[Row]) -> Vec<String> {
    let mut missed = Vec::new();
    for other in rows.iter().filter(|row| row.codec != OURS) {
        let ours = rows.iter().find(|row| row.codec == OURS && row.stream == other.stream);
        let Some(ours) = ours else { continue };
        for (what, own, theirs) in [
            ("decode", ours.decode_messages, other.decode_messages),
            ("encode", ours.encode_messages, other.encode_messages),
        ] {
            if own < theirs {
                let ratio = own / theirs;
                missed.push(format!("{}: {what}: {ratio:.2} of {}'s speed", ours.stream, other.codec));
            }
        }
    }
    missed
}

/// Measures and prints; false if a goal is missed: nobody is faster.
pub(crate) fn run(form: &Form) -> Result<bool> {
    let extent = if form.quick { QUICK } else { FULL };
    let mut rows = Vec::new();
    for (stream, per_set) in SHAPES {
        rows.extend(shape(stream, per_set, extent).context(stream)?);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["stream", "codec", "decode messages/s", "MB/s", "encode messages/s", "MB/s"]);
    for row in &rows {
        let mut cells = vec![row.stream.to_owned(), row.codec.to_owned()];
        for (messages, bytes) in
            [(row.decode_messages, row.decode_bytes), (row.encode_messages, row.encode_bytes)]
        {
            cells.extend([format!("{messages:.0}"), format!("{:.0}", bytes / 1e6)]);
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    form.keep(&serde_json::json!({ "rows": rows }))?;
    let missed = if form.check { missed(&rows) } else { Vec::new() };
    missed.iter().for_each(|line| println!("missed: {line}"));
    Ok(missed.is_empty())
}
