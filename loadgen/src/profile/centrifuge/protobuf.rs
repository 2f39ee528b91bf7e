//! The form in Protobuf: messages after their lengths, in binary frames. Field numbers are those of the published schema.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CONNECT_ID, Codec, Heard, REQUEST_ID, Subscribe, Subscribed};
use crate::measure::Cause;
use crate::profile::{Filling, Outgoing, Template};

pub struct Protobuf {
    /// As that of the JSON form: it is filled in, read as JSON, and sent in this one.
    request: Template,
}

/// The commands that a request may be, as the JSON form writes them.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Request<'a> {
    Rpc(#[serde(borrow)] Rpc<'a>),
    Publish(#[serde(borrow)] Publish<'a>),
    History(#[serde(borrow)] History<'a>),
    Presence(#[serde(borrow)] Channel<'a>),
    PresenceStats(#[serde(borrow)] Channel<'a>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rpc<'a> {
    #[serde(default, borrow)]
    method: Cow<'a, str>,
    /// Its text is the payload.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct History<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(default)]
    limit: i32,
    #[serde(borrow)]
    since: Option<Position<'a>>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Position<'a> {
    #[serde(default)]
    offset: u64,
    #[serde(default, borrow)]
    epoch: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

impl Protobuf {
    /// # Errors
    /// When `request` is no command that can be written in this form, with the reason.
    pub fn new(request: Template) -> Result<Protobuf, String> {
        let mut text = Vec::new();
        fill(&request, Filling { data: b"{}", ..Filling::default() }, &mut text);
        match serde_json::from_slice::<Request<'_>>(&text) {
            Ok(_) => Ok(Protobuf { request }),
            Err(error) => Err(format!("no command of the Protobuf form: {error}")),
        }
    }
}

fn fill(request: &Template, with: Filling<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    request.fill(with, out);
    out.push(b'}');
}

impl Codec for Protobuf {
    const NAME: &'static str = "centrifuge-protobuf";
    /// The message of no fields.
    const PONG: &'static [u8] = &[0];

    fn write_connect(&self, token: Option<&str>, out: &mut Vec<u8>) {
        write_command(out, CONNECT_ID, 4, |out| {
            write_bytes(out, 1, token.unwrap_or_default().as_bytes());
            write_bytes(out, 4, b"loadgen");
        });
    }

    fn write_subscribe(&self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>) {
        write_command(out, subscribe.id, 5, |out| {
            write_bytes(out, 1, subscribe.channel.as_bytes());
            if let Some((offset, epoch)) = subscribe.since {
                write_number(out, 3, 1);
                write_bytes(out, 6, epoch.as_bytes());
                write_number(out, 7, offset);
            }
            write_number(out, 9, subscribe.positions.into());
            write_number(out, 10, subscribe.positions.into());
            write_number(out, 11, subscribe.join_leave.into());
        });
    }

    fn write_request(&self, with: Filling<'_>, out: &mut Vec<u8>) -> bool {
        let mut text = Vec::with_capacity(with.data.len() + 64);
        fill(&self.request, with, &mut text);
        let Ok(request) = serde_json::from_slice::<Request<'_>>(&text) else { return false };
        let command = match &request {
            Request::Publish(_) => 7,
            Request::Presence(_) => 8,
            Request::PresenceStats(_) => 9,
            Request::History(_) => 10,
            Request::Rpc(_) => 13,
        };
        write_command(out, REQUEST_ID, command, |out| match &request {
            Request::Rpc(rpc) => {
                write_bytes(out, 1, text_of(rpc.data));
                write_bytes(out, 2, rpc.method.as_bytes());
            }
            Request::Publish(publish) => {
                write_bytes(out, 1, publish.channel.as_bytes());
                write_bytes(out, 2, text_of(publish.data));
            }
            Request::History(history) => {
                write_bytes(out, 1, history.channel.as_bytes());
                // int32: a negative one has all ten digits.
                write_number(out, 7, i64::from(history.limit) as u64);
                if let Some(since) = &history.since {
                    write_message(out, 8, |out| {
                        write_number(out, 1, since.offset);
                        write_bytes(out, 2, since.epoch.as_bytes());
                    });
                }
                write_number(out, 9, history.reverse.into());
            }
            Request::Presence(of) | Request::PresenceStats(of) => {
                write_bytes(out, 1, of.channel.as_bytes());
            }
        });
        true
    }

    fn send(&self, frame: &[u8], out: &mut Outgoing) {
        out.binary(frame);
    }

    /// A publication is known by the tags on the way to it: what it carries is passed over, not looked at.
    fn hear<'a>(&self, frame: &mut &'a [u8], positions: bool) -> Result<Option<Heard<'a>>, Cause> {
        if frame.is_empty() {
            return Ok(None);
        }
        let message = take_bytes(frame)?;
        if message.is_empty() {
            return Ok(Some(Heard::Ping));
        }
        read_reply(message, positions).map(Some)
    }
}

fn text_of(data: Option<&RawValue>) -> &[u8] {
    data.map_or("", RawValue::get).as_bytes()
}

fn read_reply(bytes: &[u8], positions: bool) -> Result<Heard<'_>, Cause> {
    let (mut id, mut error, mut subscribed) = (0, None, None);
    for field in Fields(bytes) {
        match field? {
            (1, value) => id = value.number()? as u32,
            (2, value) => error = Some(read_code(value.bytes()?, 1)?),
            (4, value) => return read_push(value.bytes()?, positions),
            (6, value) => subscribed = Some(read_subscribed(value.bytes()?)?),
            _ => {}
        }
    }
    Ok(Heard::Reply { id, result: error.map_or(Ok(subscribed), Err) })
}

fn read_push(bytes: &[u8], positions: bool) -> Result<Heard<'_>, Cause> {
    let (mut channel, mut publication) = (&[][..], None);
    for field in Fields(bytes) {
        match field? {
            (2, value) => channel = value.bytes()?,
            (4, value) => publication = Some(value.bytes()?),
            // Unsubscribe and Disconnect.
            (7, value) => return read_code(value.bytes()?, 2).map(Heard::Farewell),
            (11, value) => return read_code(value.bytes()?, 1).map(Heard::Farewell),
            _ => {}
        }
    }
    Ok(match publication {
        None => Heard::OtherPush,
        Some(_) if !positions => Heard::Publication(None),
        Some(publication) => Heard::Publication(Some((text(channel)?, read_offset(publication)?))),
    })
}

fn read_subscribed(bytes: &[u8]) -> Result<Subscribed<'_>, Cause> {
    let (mut epoch, mut offset, mut last) = (Cow::default(), 0, None);
    let (mut recovered, mut was_recovering) = (false, false);
    for field in Fields(bytes) {
        match field? {
            (6, value) => epoch = text(value.bytes()?)?,
            (7, value) => last = Some(read_offset(value.bytes()?)?),
            (8, value) => recovered = value.number()? != 0,
            (9, value) => offset = value.number()?,
            (12, value) => was_recovering = value.number()? != 0,
            _ => {}
        }
    }
    let recovered = was_recovering.then_some(recovered);
    Ok(Subscribed { epoch, offset: last.unwrap_or(offset), recovered })
}

/// A publication's.
fn read_offset(bytes: &[u8]) -> Result<u64, Cause> {
    let mut offset = 0;
    for field in Fields(bytes) {
        if let (6, value) = field? {
            offset = value.number()?;
        }
    }
    Ok(offset)
}

/// The code of an error or farewell, which is field `number` of it.
fn read_code(bytes: &[u8], number: u32) -> Result<u32, Cause> {
    let mut code = 0;
    for field in Fields(bytes) {
        let (at, value) = field?;
        if at == number {
            code = value.number()? as u32;
        }
    }
    Ok(code)
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Cause> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Cause::Protocol("text that is no UTF-8"))
}

/// The fields of a message with their numbers, as they come. Of one that comes twice the last counts.
struct Fields<'a>(&'a [u8]);

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, which this protocol has in no field that is looked at.
    Fixed,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Cause>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| take_field(&mut self.0))
    }
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u64, Cause> {
        match self {
            Value::Number(number) => Ok(number),
            _ => Err(Cause::Protocol("a field of another type")),
        }
    }

    fn bytes(self) -> Result<&'a [u8], Cause> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Cause::Protocol("a field of another type")),
        }
    }
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Value<'a>), Cause> {
    let tag = take_varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok().filter(|&number| number > 0);
    let number = number.ok_or(Cause::Protocol("a field of no number"))?;
    let value = match tag & 7 {
        0 => Value::Number(take_varint(bytes)?),
        2 => Value::Bytes(take_bytes(bytes)?),
        kind @ (1 | 5) => {
            let (_, rest) = bytes.split_at_checked(if kind == 1 { 8 } else { 4 }).ok_or(CUT)?;
            *bytes = rest;
            Value::Fixed
        }
        // Groups, which no proto3 has, and two numbers that mean nothing.
        _ => return Err(Cause::Protocol("a field of no type")),
    };
    Ok((number, value))
}

const CUT: Cause = Cause::Protocol("a length beyond the message");

/// Bytes after their length.
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Cause> {
    let len = usize::try_from(take_varint(bytes)?).map_err(|_| CUT)?;
    let (taken, rest) = bytes.split_at_checked(len).ok_or(CUT)?;
    *bytes = rest;
    Ok(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Cause> {
    let mut number = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(number);
        }
    }
    Err(if bytes.len() < 10 { CUT } else { Cause::Protocol("a number of more than ten bytes") })
}

/// A command after its length: its id, and `body` as the message in field `number`.
fn write_command(out: &mut Vec<u8>, id: u32, number: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write_number(out, 1, id.into());
    write_message(out, number, body);
    prefix_len(out, start);
}

fn write_message(out: &mut Vec<u8>, number: u32, body: impl FnOnce(&mut Vec<u8>)) {
    write_varint(out, u64::from(number << 3 | 2));
    let start = out.len();
    body(out);
    prefix_len(out, start);
}

/// Puts the length of what stands from `start` on before it.
fn prefix_len(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    write_varint(out, (end - start) as u64);
    let digits = out.len() - end;
    out[start..].rotate_right(digits);
}

/// Nothing if it is empty: that is what its absence says.
fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        write_varint(out, u64::from(number << 3 | 2));
        write_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Nothing if it is zero.
fn write_number(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        write_varint(out, u64::from(number << 3));
        write_varint(out, value);
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
