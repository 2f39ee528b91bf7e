//! The form in JSON: objects joined by newlines, in text frames.

use std::borrow::Cow;
use std::io::Write as _;

use memchr::{memchr, memmem};
use serde::Deserialize;

use super::{CONNECT_ID, Codec, Heard, REQUEST_ID, Subscribe, Subscribed};
use crate::measure::Cause;
use crate::profile::{Filling, Outgoing, Template};

pub struct Json {
    /// The command a request is, as `"rpc":{"method":"echo","data":{data}}`.
    pub request: Template,
}

/// As much of a reply as is looked at.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u32,
    error: Option<Code>,
    #[serde(borrow)]
    subscribe: Option<SubscribeResult<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Code {
    code: u32,
}

#[derive(Deserialize)]
struct SubscribeResult<'a> {
    #[serde(default)]
    offset: u64,
    #[serde(default, borrow)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    was_recovering: bool,
    #[serde(default)]
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default, borrow)]
    channel: Cow<'a, str>,
    #[serde(rename = "pub")]
    publication: Option<Publication>,
    disconnect: Option<Code>,
    unsubscribe: Option<Code>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default)]
    offset: u64,
}

impl Codec for Json {
    const NAME: &'static str = "centrifuge-json";
    const PONG: &'static [u8] = b"{}";

    fn write_connect(&self, token: Option<&str>, out: &mut Vec<u8>) {
        let _ = write!(out, r#"{{"id":{CONNECT_ID},"connect":{{"#);
        if let Some(token) = token {
            let _ = write!(out, r#""token":"{token}","#);
        }
        out.extend_from_slice(br#""name":"loadgen"}}"#);
    }

    fn write_subscribe(&self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>) {
        let Subscribe { id, channel, .. } = subscribe;
        let _ = write!(out, "\n{{\"id\":{id},\"subscribe\":{{\"channel\":\"{channel}\"");
        if subscribe.positions {
            out.extend_from_slice(br#","positioned":true,"recoverable":true"#);
        }
        if subscribe.join_leave {
            out.extend_from_slice(br#","join_leave":true"#);
        }
        if let Some((offset, epoch)) = subscribe.since {
            let _ = write!(out, r#","recover":true,"offset":{offset},"epoch":"#);
            // The server's own text: it may need escapes. A vector takes all of it.
            let _ = serde_json::to_writer(&mut *out, epoch);
        }
        out.extend_from_slice(b"}}");
    }

    fn write_request(&self, with: Filling<'_>, out: &mut Vec<u8>) -> bool {
        let _ = write!(out, r#"{{"id":{REQUEST_ID},"#);
        self.request.fill(with, out);
        out.push(b'}');
        true
    }

    fn send(&self, frame: &[u8], out: &mut Outgoing) {
        out.text(frame);
    }

    fn hear<'a>(&self, frame: &mut &'a [u8], positions: bool) -> Result<Option<Heard<'a>>, Cause> {
        let line = loop {
            if frame.is_empty() {
                return Ok(None);
            }
            let end = memchr(b'\n', frame).unwrap_or(frame.len());
            let line = &frame[..end];
            *frame = frame.get(end + 1..).unwrap_or_default();
            if !line.is_empty() {
                break line;
            }
        };
        if line == Self::PONG {
            return Ok(Some(Heard::Ping));
        }
        let is_publication =
            || line.starts_with(br#"{"push":{"channel""#) && memmem::find(line, br#""pub":{"#).is_some();
        if !positions && is_publication() {
            return Ok(Some(Heard::Publication(None)));
        }
        read(line).map(Some)
    }
}

fn read(line: &[u8]) -> Result<Heard<'_>, Cause> {
    let reply: Reply<'_> =
        serde_json::from_slice(line).map_err(|_| Cause::Protocol("no JSON of this protocol"))?;
    Ok(match reply.push {
        Some(
            Push { disconnect: Some(Code { code }), .. } | Push { unsubscribe: Some(Code { code }), .. },
        ) => Heard::Farewell(code),
        Some(Push { channel, publication: Some(publication), .. }) => {
            Heard::Publication(Some((channel, publication.offset)))
        }
        Some(_) => Heard::OtherPush,
        None => Heard::Reply {
            id: reply.id,
            result: match reply.error {
                Some(error) => Err(error.code),
                None => Ok(reply.subscribe.map(SubscribeResult::into_subscribed)),
            },
        },
    })
}

impl<'a> SubscribeResult<'a> {
    fn into_subscribed(self) -> Subscribed<'a> {
        Subscribed {
            epoch: self.epoch,
            offset: self.publications.last().map_or(self.offset, |last| last.offset),
            recovered: self.was_recovering.then_some(self.recovered),
        }
    }
}
