//! The client's side of the wire, written for this test alone: what it reads is checked by other code than wrote it.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress};
use serde::Deserialize;
use serde_json::value::RawValue;

use trunkline::base::prng::Prng;

use crate::protobuf;

/// The example key of RFC 6455 section 1.3 and the answer that belongs to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The handshake of a client, with an offer of compression or without.
pub fn handshake(offers: bool, query: &str) -> Vec<u8> {
    let offer = if offers { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    format!(
        "GET /connection/websocket{query} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
    )
    .into_bytes()
}

/// As RFC 7692 section 7.2.1 has it.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() * 2 + 100);
    let mut compress = Compress::new(Compression::fast(), false);
    compress.compress_vec(payload, &mut out, FlushCompress::Sync).expect("there is room");
    out.truncate(out.len() - 4);
    out
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let whole = [payload, &[0, 0, 0xff, 0xff, 3, 0]].concat();
    let mut out = Vec::new();
    DeflateDecoder::new(&whole[..]).read_to_end(&mut out).expect("what a server compresses is deflate data");
    out
}

/// As [`write_message`], compressed.
pub fn write_compressed(out: &mut Vec<u8>, opcode: u8, payload: &[u8], prng: &mut Prng) {
    let start = out.len();
    write_message(out, opcode, &deflated(payload), prng);
    out[start] |= RSV1;
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
const RSV1: u8 = 0x40;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Appends a masked frame; one of three texts is cut into fragments.
pub fn write_message(out: &mut Vec<u8>, opcode: u8, payload: &[u8], prng: &mut Prng) {
    if opcode != TEXT || prng.u8(..3) != 0 {
        return write_frame(out, opcode, true, payload, prng);
    }
    let (first, second) = payload.split_at(prng.usize(..=payload.len()));
    write_frame(out, TEXT, false, first, prng);
    if prng.bool() {
        write_frame(out, PING, true, b"between", prng);
    }
    write_frame(out, 0, true, second, prng);
}

pub fn write_frame(out: &mut Vec<u8>, opcode: u8, fin: bool, payload: &[u8], prng: &mut Prng) {
    out.push(if fin { 0x80 | opcode } else { opcode });
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let key = prng.u32(..).to_be_bytes();
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// What a server has said, one piece at a time.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Upgraded,
    /// Another status than 101.
    Status(u16),
    Text(Vec<u8>),
    /// Messages behind their lengths.
    Binary(Vec<u8>),
    Close(u16),
    Ping(Vec<u8>),
    Pong,
}

/// Collects bytes and takes them apart.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
    upgraded: bool,
    /// Compression was agreed on.
    pub compresses: bool,
    /// Messages that came compressed.
    pub inflated: u64,
    body: Option<Body>,
}

/// How messages stand in the body of a response that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Lines,
    /// Each behind its length.
    Delimited,
    Events,
}

impl Reader {
    /// Of a response whose body has the messages.
    pub fn of_body(body: Body) -> Reader {
        Reader { body: Some(body), ..Reader::default() }
    }

    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        &mut self.bytes
    }

    /// # Panics
    /// When the server breaks RFC 6455.
    pub fn next(&mut self) -> Option<Heard> {
        if let Some(body) = self.body {
            return self.next_of_body(body);
        }
        let bytes = &self.bytes[self.at..];
        if !self.upgraded {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            let head = std::str::from_utf8(&bytes[..end]).expect("heads are ASCII");
            let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
            self.at += end;
            if status != 101 {
                return Some(Heard::Status(status));
            }
            assert!(head.contains(ACCEPT), "an answer to another key: {head}");
            self.upgraded = true;
            self.compresses =
                head.contains("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
            return Some(Heard::Upgraded);
        }
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let compressed = first & RSV1 != 0;
        let is_message = matches!(first & 0xf, TEXT | BINARY);
        assert!(!compressed || self.compresses && is_message, "nothing else may be compressed");
        assert_eq!(first & 0xf0 & !RSV1, 0x80, "our frames are whole messages");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (len, head) = match second {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
            len => (usize::from(len), 2),
        };
        assert!(head == 2 || len > [125, 0xffff][usize::from(head == 10)], "a length in its shortest form");
        let mut payload = bytes.get(head..head + len)?.to_vec();
        self.at += head + len;
        if compressed {
            self.inflated += 1;
            payload = inflated(&payload);
            assert!(payload.len() > len, "compressed for nothing");
        }
        Some(match first & 0xf {
            TEXT => Heard::Text(payload),
            BINARY => Heard::Binary(payload),
            CLOSE => Heard::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            PING => Heard::Ping(payload),
            PONG => Heard::Pong,
            other => panic!("opcode {other}"),
        })
    }

    fn next_of_body(&mut self, body: Body) -> Option<Heard> {
        let bytes = &self.bytes[self.at..];
        if !self.upgraded {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            let head = std::str::from_utf8(&bytes[..end]).expect("heads are ASCII").to_ascii_lowercase();
            let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
            self.at += end;
            if status != 200 {
                return Some(Heard::Status(status));
            }
            assert!(
                !head.contains("content-length") && head.contains("no-store"),
                "a body that ends: {head}"
            );
            self.upgraded = true;
            return Some(Heard::Upgraded);
        }
        match body {
            Body::Lines => {
                let end = bytes.iter().position(|&byte| byte == b'\n')?;
                let line = bytes[..end].to_vec();
                self.at += end + 1;
                Some(Heard::Text(line))
            }
            Body::Delimited => {
                let mut rest = bytes;
                protobuf::take_message(&mut rest)?;
                let message = bytes[..bytes.len() - rest.len()].to_vec();
                self.at += message.len();
                Some(Heard::Binary(message))
            }
            Body::Events => {
                let end = bytes.windows(2).position(|two| two == b"\n\n")?;
                let event = std::str::from_utf8(&bytes[..end]).expect("UTF-8");
                let data = event.trim_start_matches("\r\n").strip_prefix("data: ").expect("data alone");
                let data = data.as_bytes().to_vec();
                self.at += end + 2;
                Some(Heard::Text(data))
            }
        }
    }

    /// Takes one response of plain HTTP: its status and body.
    pub fn next_response(&mut self) -> Option<(u16, Vec<u8>)> {
        let bytes = &self.bytes[self.at..];
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).expect("heads are ASCII").to_ascii_lowercase();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let length = length.map_or(0, |length| length.parse::<usize>().expect("a number"));
        let body = bytes.get(end..end + length)?.to_vec();
        self.at += end + length;
        Some((status, body))
    }
}

// ---- messages

/// One JSON object of the server. A field that the protocol does not know is a fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message<'a> {
    #[serde(default)]
    pub id: u32,
    pub error: Option<ErrorBody>,
    #[serde(borrow)]
    pub connect: Option<ConnectBody<'a>>,
    #[serde(borrow)]
    pub subscribe: Option<SubscribeBody<'a>>,
    pub unsubscribe: Option<Empty>,
    pub publish: Option<Empty>,
    pub ping: Option<Empty>,
    #[serde(borrow)]
    pub history: Option<HistoryBody<'a>>,
    pub presence: Option<PresenceBody>,
    pub presence_stats: Option<PresenceStatsBody>,
    pub refresh: Option<RefreshBody>,
    pub sub_refresh: Option<LifetimeBody>,
    #[serde(borrow)]
    pub rpc: Option<RpcBody<'a>>,
    #[serde(borrow)]
    pub push: Option<PushBody<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct ErrorBody {
    pub code: u16,
    pub message: String,
    #[serde(default)]
    pub temporary: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct ConnectBody<'a> {
    pub client: String,
    pub version: String,
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u32,
    #[serde(default)]
    pub ping: u32,
    #[serde(default)]
    pub pong: bool,
    /// Of clients whose commands come by requests of their own.
    #[serde(default)]
    pub session: String,
    #[serde(default)]
    pub node: String,
    #[serde(borrow, default)]
    pub subs: BTreeMap<&'a str, SubscribeBody<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct SubscribeBody<'a> {
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u32,
    #[serde(default)]
    pub recoverable: bool,
    #[serde(default)]
    pub positioned: bool,
    pub epoch: Option<&'a str>,
    #[serde(default)]
    pub offset: u64,
    #[serde(borrow, default)]
    pub publications: Vec<PublicationBody<'a>>,
    #[serde(default)]
    pub recovered: bool,
    #[serde(default)]
    pub was_recovering: bool,
    /// Of the backend's, in the runs where that matters.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct PublicationBody<'a> {
    #[serde(borrow)]
    pub data: &'a RawValue,
    #[serde(default)]
    pub offset: u64,
    pub info: Option<InfoBody>,
    pub tags: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct InfoBody {
    pub user: String,
    pub client: String,
    pub conn_info: Option<Box<RawValue>>,
    pub chan_info: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryBody<'a> {
    #[serde(borrow)]
    pub publications: Vec<PublicationBody<'a>>,
    pub epoch: &'a str,
    pub offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct PresenceBody {
    pub presence: BTreeMap<String, InfoBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresenceStatsBody {
    pub num_clients: u32,
    pub num_users: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct RefreshBody {
    pub client: String,
    pub version: String,
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpcBody<'a> {
    #[serde(borrow)]
    pub data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct LifetimeBody {
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushBody<'a> {
    #[serde(default)]
    pub channel: &'a str,
    #[serde(borrow)]
    pub r#pub: Option<PublicationBody<'a>>,
    pub join: Option<NoticeBody>,
    pub leave: Option<NoticeBody>,
    pub unsubscribe: Option<UnsubscribeBody>,
    #[serde(borrow)]
    pub subscribe: Option<SubscribeBody<'a>>,
    pub refresh: Option<LifetimeBody>,
    #[serde(borrow)]
    pub message: Option<MessageBody<'a>>,
    pub disconnect: Option<UnsubscribeBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageBody<'a> {
    #[serde(borrow)]
    pub data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticeBody {
    pub info: InfoBody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct UnsubscribeBody {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub reason: String,
    /// Of a disconnect alone.
    #[serde(default)]
    pub reconnect: bool,
}
