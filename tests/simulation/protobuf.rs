//! The Protobuf form of the client protocol, from its published definitions alone: commands that are written as JSON go out
//! in it, and what comes is shown as the JSON that it stands for, so that one model reads both.
//!
//! Payloads that are no JSON stand in a string of hex digits behind a tilde.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::value::RawValue;

/// How a field is written.
enum Kind {
    Number,
    Flag,
    Text,
    /// Bytes of the application.
    Payload,
    Message(&'static [Field]),
    /// Texts by name.
    Texts,
    /// Messages by name.
    Messages(&'static [Field]),
}

struct Field {
    number: u64,
    name: &'static str,
    kind: Kind,
    /// It may stand there several times.
    many: bool,
}

const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, many: false }
}

const fn many(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, many: true }
}

use Kind::{Flag, Message, Messages, Number, Payload, Text, Texts};

static CHANNEL: [Field; 1] = [one(1, "channel", Text)];
static EMPTY: [Field; 0] = [];
static POSITION: [Field; 2] = [one(1, "offset", Number), one(2, "epoch", Text)];
static LIFETIME: [Field; 2] = [one(1, "expires", Flag), one(2, "ttl", Number)];
static FILTER: [Field; 6] = [
    one(1, "op", Text),
    one(2, "key", Text),
    one(3, "cmp", Text),
    one(4, "val", Text),
    many(5, "vals", Text),
    many(6, "nodes", Message(&FILTER)),
];
static SUBSCRIBE: [Field; 12] = [
    one(1, "channel", Text),
    one(2, "token", Text),
    one(3, "recover", Flag),
    one(6, "epoch", Text),
    one(7, "offset", Number),
    one(8, "data", Payload),
    one(9, "positioned", Flag),
    one(10, "recoverable", Flag),
    one(11, "join_leave", Flag),
    one(12, "delta", Text),
    one(13, "tf", Message(&FILTER)),
    one(14, "flag", Number),
];
static CONNECT: [Field; 5] = [
    one(1, "token", Text),
    one(2, "data", Payload),
    many(3, "subs", Messages(&SUBSCRIBE)),
    one(4, "name", Text),
    one(5, "version", Text),
];
static PUBLISH: [Field; 2] = [one(1, "channel", Text), one(2, "data", Payload)];
static HISTORY: [Field; 4] = [
    one(1, "channel", Text),
    one(7, "limit", Number),
    one(8, "since", Message(&POSITION)),
    one(9, "reverse", Flag),
];
static SEND: [Field; 1] = [one(1, "data", Payload)];
static CALL: [Field; 2] = [one(1, "data", Payload), one(2, "method", Text)];
static REFRESH: [Field; 1] = [one(1, "token", Text)];
static SUB_REFRESH: [Field; 2] = [one(1, "channel", Text), one(2, "token", Text)];
static COMMAND: [Field; 13] = [
    one(1, "id", Number),
    one(4, "connect", Message(&CONNECT)),
    one(5, "subscribe", Message(&SUBSCRIBE)),
    one(6, "unsubscribe", Message(&CHANNEL)),
    one(7, "publish", Message(&PUBLISH)),
    one(8, "presence", Message(&CHANNEL)),
    one(9, "presence_stats", Message(&CHANNEL)),
    one(10, "history", Message(&HISTORY)),
    one(11, "ping", Message(&EMPTY)),
    one(12, "send", Message(&SEND)),
    one(13, "rpc", Message(&CALL)),
    one(14, "refresh", Message(&REFRESH)),
    one(15, "sub_refresh", Message(&SUB_REFRESH)),
];

static INFO: [Field; 4] = [
    one(1, "user", Text),
    one(2, "client", Text),
    one(3, "conn_info", Payload),
    one(4, "chan_info", Payload),
];
static PUBLICATION: [Field; 4] = [
    one(4, "data", Payload),
    one(5, "info", Message(&INFO)),
    one(6, "offset", Number),
    many(7, "tags", Texts),
];
static SUBSCRIBED: [Field; 9] = [
    one(1, "expires", Flag),
    one(2, "ttl", Number),
    one(3, "recoverable", Flag),
    one(6, "epoch", Text),
    many(7, "publications", Message(&PUBLICATION)),
    one(8, "recovered", Flag),
    one(9, "offset", Number),
    one(10, "positioned", Flag),
    one(12, "was_recovering", Flag),
];
static CONNECTED: [Field; 9] = [
    one(1, "client", Text),
    one(2, "version", Text),
    one(3, "expires", Flag),
    one(4, "ttl", Number),
    many(6, "subs", Messages(&SUBSCRIBED)),
    one(7, "ping", Number),
    one(8, "pong", Flag),
    one(9, "session", Text),
    one(10, "node", Text),
];
static ERROR: [Field; 3] = [one(1, "code", Number), one(2, "message", Text), one(3, "temporary", Flag)];
static WHO: [Field; 1] = [one(1, "info", Message(&INFO))];
static WHY: [Field; 2] = [one(2, "code", Number), one(3, "reason", Text)];
static SUBSCRIBE_PUSH: [Field; 5] = [
    one(1, "recoverable", Flag),
    one(4, "epoch", Text),
    one(5, "offset", Number),
    one(6, "positioned", Flag),
    one(7, "data", Payload),
];
static END: [Field; 3] = [one(1, "code", Number), one(2, "reason", Text), one(3, "reconnect", Flag)];
static PUSH: [Field; 9] = [
    one(2, "channel", Text),
    one(4, "pub", Message(&PUBLICATION)),
    one(5, "join", Message(&WHO)),
    one(6, "leave", Message(&WHO)),
    one(7, "unsubscribe", Message(&WHY)),
    one(8, "message", Message(&SEND)),
    one(9, "subscribe", Message(&SUBSCRIBE_PUSH)),
    one(11, "disconnect", Message(&END)),
    one(12, "refresh", Message(&LIFETIME)),
];
static HISTORY_READ: [Field; 3] =
    [many(1, "publications", Message(&PUBLICATION)), one(2, "epoch", Text), one(3, "offset", Number)];
static PRESENCE: [Field; 1] = [many(1, "presence", Messages(&INFO))];
static STATS: [Field; 2] = [one(1, "num_clients", Number), one(2, "num_users", Number)];
static RENEWED: [Field; 4] =
    [one(1, "client", Text), one(2, "version", Text), one(3, "expires", Flag), one(4, "ttl", Number)];
static REPLY: [Field; 14] = [
    one(1, "id", Number),
    one(2, "error", Message(&ERROR)),
    one(4, "push", Message(&PUSH)),
    one(5, "connect", Message(&CONNECTED)),
    one(6, "subscribe", Message(&SUBSCRIBED)),
    one(7, "unsubscribe", Message(&EMPTY)),
    one(8, "publish", Message(&EMPTY)),
    one(9, "presence", Message(&PRESENCE)),
    one(10, "presence_stats", Message(&STATS)),
    one(11, "history", Message(&HISTORY_READ)),
    one(12, "ping", Message(&EMPTY)),
    one(13, "rpc", Message(&SEND)),
    one(14, "refresh", Message(&RENEWED)),
    one(15, "sub_refresh", Message(&LIFETIME)),
];
/// Fields that JSON has whatever they are.
static ALWAYS: [(&[Field], &str, &str); 7] = [
    (&INFO, "user", "\"\""),
    (&HISTORY_READ, "publications", "[]"),
    (&HISTORY_READ, "offset", "0"),
    (&HISTORY_READ, "epoch", "\"\""),
    (&PRESENCE, "presence", "{}"),
    (&STATS, "num_clients", "0"),
    (&STATS, "num_users", "0"),
];

/// A payload as the model reads it.
pub fn shown(payload: &[u8]) -> String {
    let json =
        std::str::from_utf8(payload).ok().filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    json.map_or_else(
        || {
            let mut out = String::from("\"~");
            payload.iter().for_each(|byte| _ = write!(out, "{byte:02x}"));
            out + "\""
        },
        str::to_string,
    )
}

/// Commands that are lines of JSON, each behind its length.
pub fn commands(lines: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let command: Value = serde_json::from_str(line).expect("commands are JSON");
        let message = written(&COMMAND, &command);
        write_varint(&mut out, message.len() as u64);
        out.extend(message);
    }
    out
}

/// What brings commands of a client whose connection takes none.
pub fn emulation(session: &str, node: &str, commands: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, bytes) in [(1, node.as_bytes()), (2, session.as_bytes()), (3, commands)] {
        write_bytes(&mut out, number, bytes);
    }
    out
}

/// Takes the first of messages that stand behind their lengths, if it is whole.
pub fn take_message<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = *bytes;
    let length = read_varint(&mut rest)? as usize;
    let (message, behind) = rest.split_at_checked(length)?;
    *bytes = behind;
    Some(message)
}

/// A reply or a push as JSON.
///
/// # Panics
/// When it has a field that nobody knows.
pub fn reply(message: &[u8]) -> String {
    read(&REPLY, message)
}

fn written(fields: &[Field], message: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in message.as_object().expect("a message is an object") {
        let field = fields.iter().find(|field| field.name == name);
        let field = field.unwrap_or_else(|| panic!("nobody knows the field {name}"));
        match (field.many, value) {
            (true, Value::Array(list)) => list.iter().for_each(|value| write(&mut out, field, value)),
            _ => write(&mut out, field, value),
        }
    }
    out
}

fn write(out: &mut Vec<u8>, field: &Field, value: &Value) {
    let text = || value.as_str().expect("a text").as_bytes();
    match &field.kind {
        // Negative ones take ten bytes, as the definition has it.
        Number => {
            let number = value.as_u64().or(value.as_i64().map(|number| number as u64)).expect("a number");
            write_varint(out, field.number << 3);
            write_varint(out, number);
        }
        Flag => {
            write_varint(out, field.number << 3);
            write_varint(out, value.as_bool().expect("a flag").into());
        }
        Text => write_bytes(out, field.number, text()),
        Payload => match value.as_str().and_then(|text| text.strip_prefix('~')) {
            Some(hex) => write_bytes(out, field.number, &bytes_of(hex)),
            None => write_bytes(out, field.number, value.to_string().as_bytes()),
        },
        Message(fields) => write_bytes(out, field.number, &written(fields, value)),
        Messages(fields) => {
            for (name, value) in value.as_object().expect("messages by name") {
                let mut entry = Vec::new();
                write_bytes(&mut entry, 1, name.as_bytes());
                write_bytes(&mut entry, 2, &written(fields, value));
                write_bytes(out, field.number, &entry);
            }
        }
        Texts => unreachable!("no command has any"),
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    digits.collect::<Result<_, _>>().expect("hex digits")
}

fn read(fields: &'static [Field], mut message: &[u8]) -> String {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    while !message.is_empty() {
        let key = read_varint(&mut message).expect("a whole key");
        let field = fields.iter().find(|field| field.number == key >> 3);
        let field = field.unwrap_or_else(|| panic!("nobody knows the field {}", key >> 3));
        let value = match (&field.kind, key & 7) {
            (Number, 0) => read_varint(&mut message).expect("a whole number").to_string(),
            (Flag, 0) => (read_varint(&mut message) == Some(1)).to_string(),
            (Number | Flag, kind) => panic!("{} of wire type {kind}", field.name),
            (kind, 2) => {
                let bytes = take_message(&mut message).expect("a whole field");
                match kind {
                    Text => quoted(bytes),
                    Payload => shown(bytes),
                    Message(fields) => read(fields, bytes),
                    Messages(fields) => entry(bytes, |value| read(fields, value)),
                    Texts => entry(bytes, quoted),
                    Number | Flag => unreachable!("read above"),
                }
            }
            (_, kind) => panic!("{} of wire type {kind}", field.name),
        };
        let known = values.entry(field.name).or_default();
        assert!(known.is_empty() || field.many, "{} twice", field.name);
        known.push(value);
    }
    let mut out: Vec<String> = Vec::new();
    for (name, values) in &values {
        let field = fields.iter().find(|field| field.name == *name).expect("it was found above");
        let values = values.join(",");
        out.push(match (&field.kind, field.many) {
            (Messages(_) | Texts, _) => format!("\"{name}\":{{{values}}}"),
            (_, true) => format!("\"{name}\":[{values}]"),
            (_, false) => format!("\"{name}\":{values}"),
        });
    }
    for (of, name, value) in &ALWAYS {
        if std::ptr::eq(*of, fields) && !values.contains_key(*name) {
            out.push(format!("\"{name}\":{value}"));
        }
    }
    format!("{{{}}}", out.join(","))
}

/// A name and a value of a map.
fn entry(mut bytes: &[u8], value: impl Fn(&[u8]) -> String) -> String {
    let (mut name, mut held): (&[u8], &[u8]) = (b"", b"");
    while !bytes.is_empty() {
        match read_varint(&mut bytes).expect("a whole key") {
            0x0a => name = take_message(&mut bytes).expect("a whole name"),
            0x12 => held = take_message(&mut bytes).expect("a whole value"),
            other => panic!("a map has a field {other}"),
        }
    }
    format!("{}:{}", quoted(name), value(held))
}

fn quoted(text: &[u8]) -> String {
    Value::from(std::str::from_utf8(text).expect("texts are UTF-8")).to_string()
}

fn write_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    write_varint(out, number << 3 | 2);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    None
}
