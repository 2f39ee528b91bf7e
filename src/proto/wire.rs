//! What carries the messages of the Centrifuge protocol: frames of WebSocket, or the body of a response.
//!
//! A client of [`Carrier::Stream`] or [`Carrier::Sse`] sends its commands by requests of their own. A unidirectional client
//! sends none after its connect, and gets bare pushes. Must not know: sessions, sockets.

use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::proto::centrifuge::{Format, Push, encode_bare_push, encode_push};
use crate::proto::encoding::Encoding;
use crate::proto::http1;
use crate::proto::websocket::{self, Opcode};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Carrier {
    #[default]
    WebSocket,
    /// WebSocket whose pings are its own control frames.
    WebSocketPings,
    /// The body of a response: messages one behind the other.
    Stream,
    /// An event stream (HTML, section 9.2), a message an event.
    Sse,
    /// Unidirectional, over WebSocket: a message a frame.
    UniWebSocket,
    /// Unidirectional: lines, in chunks of HTTP/1.1.
    UniStream,
    /// The same for HTTP/1.0, which knows no chunks.
    UniStreamPlain,
    /// Unidirectional: events, in chunks of HTTP/1.1.
    UniSse,
    UniSsePlain,
}

/// How a client's messages are written, and what carries them. Chosen with the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    pub format: Format,
    pub carrier: Carrier,
}

/// A ping of WebSocket without payload.
const CONTROL_PING: [u8; 2] = [0x80 | Opcode::Ping as u8, 0];

impl Carrier {
    const ALL: [Carrier; 9] = [
        Carrier::WebSocket,
        Carrier::WebSocketPings,
        Carrier::Stream,
        Carrier::Sse,
        Carrier::UniWebSocket,
        Carrier::UniStream,
        Carrier::UniStreamPlain,
        Carrier::UniSse,
        Carrier::UniSsePlain,
    ];

    /// Takes and gives frames of WebSocket.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Carrier::WebSocket | Carrier::WebSocketPings | Carrier::UniWebSocket)
    }

    /// Its client's commands come by requests of their own.
    pub const fn is_emulated(self) -> bool {
        matches!(self, Carrier::Stream | Carrier::Sse)
    }

    /// Its client sends a connect and nothing more.
    pub const fn is_unidirectional(self) -> bool {
        matches!(
            self,
            Carrier::UniWebSocket
                | Carrier::UniStream
                | Carrier::UniStreamPlain
                | Carrier::UniSse
                | Carrier::UniSsePlain
        )
    }

    pub const fn is_chunked(self) -> bool {
        matches!(self, Carrier::UniStream | Carrier::UniSse)
    }

    /// Each message is an event.
    pub const fn is_events(self) -> bool {
        matches!(self, Carrier::Sse | Carrier::UniSse | Carrier::UniSsePlain)
    }

    /// As backends and events name it.
    pub const fn transport(self) -> &'static str {
        match self {
            Carrier::WebSocket | Carrier::WebSocketPings => "websocket",
            Carrier::Stream => "http_stream",
            Carrier::Sse => "sse",
            Carrier::UniWebSocket => "uni_websocket",
            Carrier::UniStream | Carrier::UniStreamPlain => "uni_http_stream",
            Carrier::UniSse | Carrier::UniSsePlain => "uni_sse",
        }
    }
}

impl Wire {
    pub const fn new(format: Format, carrier: Carrier) -> Wire {
        Wire { format, carrier }
    }

    /// The number that records name it by: 1 and 2 are WebSocket with JSON and Protobuf.
    pub const fn number(self) -> u8 {
        self.carrier as u8 * 2 + self.format as u8 + 1
    }

    /// The wire of a number, if it is one that a client may have.
    pub fn of_number(number: u8) -> Option<Wire> {
        let at = number.checked_sub(1)?;
        let carrier = *Carrier::ALL.get(usize::from(at / 2))?;
        let format = if at % 2 == 0 { Format::Json } else { Format::Protobuf };
        let exists = format == Format::Json
            || matches!(carrier, Carrier::WebSocket | Carrier::WebSocketPings | Carrier::Stream);
        exists.then_some(Wire { format, carrier })
    }

    /// What publications are framed as for clients of it.
    pub const fn encoding(self) -> Encoding {
        match (self.carrier, self.format) {
            (Carrier::WebSocket | Carrier::WebSocketPings, Format::Json) => Encoding::CentrifugeJson,
            (Carrier::WebSocket | Carrier::WebSocketPings, Format::Protobuf) => Encoding::CentrifugeProtobuf,
            (Carrier::Stream, Format::Json) => Encoding::CentrifugeStream,
            (Carrier::Stream, Format::Protobuf) => Encoding::CentrifugeProtobufStream,
            (Carrier::Sse, _) => Encoding::CentrifugeSse,
            (Carrier::UniWebSocket, _) => Encoding::UniWebSocket,
            (Carrier::UniStream, _) => Encoding::UniStream,
            (Carrier::UniStreamPlain, _) => Encoding::UniStreamPlain,
            (Carrier::UniSse, _) => Encoding::UniSse,
            (Carrier::UniSsePlain, _) => Encoding::UniSsePlain,
        }
    }

    /// The wire of an encoding, if it is one of this protocol's.
    pub const fn of(encoding: Encoding) -> Option<Wire> {
        let (format, carrier) = match encoding {
            Encoding::CentrifugeJson => (Format::Json, Carrier::WebSocket),
            Encoding::CentrifugeProtobuf => (Format::Protobuf, Carrier::WebSocket),
            Encoding::CentrifugeStream => (Format::Json, Carrier::Stream),
            Encoding::CentrifugeProtobufStream => (Format::Protobuf, Carrier::Stream),
            Encoding::CentrifugeSse => (Format::Json, Carrier::Sse),
            Encoding::UniWebSocket => (Format::Json, Carrier::UniWebSocket),
            Encoding::UniStream => (Format::Json, Carrier::UniStream),
            Encoding::UniStreamPlain => (Format::Json, Carrier::UniStreamPlain),
            Encoding::UniSse => (Format::Json, Carrier::UniSse),
            Encoding::UniSsePlain => (Format::Json, Carrier::UniSsePlain),
            Encoding::Sse
            | Encoding::SsePlain
            | Encoding::JsonLines
            | Encoding::Iframe
            | Encoding::WebSocketJson
            | Encoding::WebSocketBare
            | Encoding::Poll => return None,
        };
        Some(Wire { format, carrier })
    }

    /// What a message of WebSocket is.
    pub const fn opcode(self) -> Opcode {
        match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        }
    }

    /// Appends messages, as a [`ReplyBatch`](crate::proto::centrifuge::ReplyBatch) has written them, in what carries them.
    pub fn write_messages(self, out: &mut Vec<u8>, messages: &[u8]) {
        let lines = || messages.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        match self.carrier {
            Carrier::WebSocket | Carrier::WebSocketPings => {
                websocket::write_frame(out, self.opcode(), messages);
            }
            Carrier::UniWebSocket => {
                lines().for_each(|line| websocket::write_frame(out, Opcode::Text, line));
            }
            Carrier::Stream if self.format == Format::Protobuf => out.extend_from_slice(messages),
            Carrier::Stream | Carrier::UniStreamPlain => {
                out.extend_from_slice(messages);
                out.push(b'\n');
            }
            Carrier::UniStream => http1::write_chunk(out, &[messages, b"\n"].concat()),
            Carrier::Sse | Carrier::UniSsePlain => lines().for_each(|line| write_event(out, line)),
            Carrier::UniSse => {
                let mut events = Vec::with_capacity(messages.len() + 8);
                lines().for_each(|line| write_event(&mut events, line));
                http1::write_chunk(out, &events);
            }
        }
    }

    /// A push in what carries it.
    pub fn push(self, channel: &str, push: &Push<'_>) -> Bytes {
        let mut message = Vec::new();
        self.encode_push(&mut message, channel, push);
        let mut framed = Vec::with_capacity(message.len() + FRAMING_BYTES);
        self.write_messages(&mut framed, &message);
        framed.into()
    }

    fn encode_push(self, out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
        match self.carrier.is_unidirectional() {
            true => encode_bare_push(out, channel, push),
            false => encode_push(out, self.format, channel, push),
        }
    }

    /// A ping in what carries it; the same for everybody.
    pub fn ping(self) -> &'static [u8] {
        const JSON: &[u8] = &[0x80 | Opcode::Text as u8, 2, b'{', b'}'];
        const PROTOBUF: &[u8] = &[0x80 | Opcode::Binary as u8, 1, 0];
        // The one for the client, the other for its library, which answers it.
        const BOTH: &[u8] = &[0x80 | Opcode::Text as u8, 2, b'{', b'}', CONTROL_PING[0], CONTROL_PING[1]];
        match (self.carrier, self.format) {
            (Carrier::WebSocket, Format::Json) => JSON,
            (Carrier::WebSocket, Format::Protobuf) => PROTOBUF,
            (Carrier::WebSocketPings, _) => &CONTROL_PING,
            (Carrier::Stream, Format::Protobuf) => &[0],
            (Carrier::Stream, Format::Json) | (Carrier::UniStreamPlain, _) => b"{}\n",
            (Carrier::Sse | Carrier::UniSsePlain, _) => b"data: {}\n\n",
            (Carrier::UniWebSocket, _) => BOTH,
            (Carrier::UniStream, _) => b"3\r\n{}\n\r\n",
            (Carrier::UniSse, _) => b"a\r\ndata: {}\n\n\r\n",
        }
    }

    /// Appends the last bytes of a connection that ends for the reason. `retry_ms`: when a client of events that knows no
    /// codes is to come back.
    pub fn write_end(self, out: &mut Vec<u8>, disconnect: &Disconnect, retry_ms: impl FnOnce() -> u64) {
        if self.carrier.is_websocket() {
            return websocket::write_close(out, disconnect.code, &disconnect.reason);
        }
        let mut message = Vec::new();
        let push = Push::Disconnect { code: disconnect.code.into(), reason: &disconnect.reason };
        self.encode_push(&mut message, "", &push);
        if self.carrier.is_events() && self.carrier.is_unidirectional() {
            let retry = format!("retry: {}\n", retry_ms()).into_bytes();
            match self.carrier.is_chunked() {
                true => http1::write_chunk(out, &retry),
                false => out.extend_from_slice(&retry),
            }
        }
        self.write_messages(out, &message);
        if self.carrier.is_chunked() {
            http1::write_last_chunk(out);
        }
    }
}

/// What a frame, an event or a chunk adds to a message, at most.
const FRAMING_BYTES: usize = 32;

fn write_event(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Wire> {
        (0..=u8::MAX).filter_map(Wire::of_number)
    }

    #[test]
    fn a_wire_is_found_by_its_number_and_by_its_encoding() {
        assert_eq!(all().count(), 12);
        for wire in all() {
            assert_eq!(Wire::of_number(wire.number()), Some(wire));
            let found = Wire::of(wire.encoding()).unwrap();
            assert_eq!(found.format, wire.format);
            // Pings are all that the two differ in.
            let carrier = match wire.carrier {
                Carrier::WebSocketPings => Carrier::WebSocket,
                carrier => carrier,
            };
            assert_eq!(found.carrier, carrier);
            assert_eq!(wire.encoding().is_websocket(), wire.carrier.is_websocket());
        }
        assert_eq!(Wire::new(Format::Protobuf, Carrier::WebSocket).number(), 2);
    }

    /// The body without its chunks.
    fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
            body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
            assert_eq!(&bytes[end + 2 + size..end + 4 + size], b"\r\n");
            bytes = &bytes[end + 4 + size..];
        }
        body
    }

    #[test]
    fn each_message_of_a_batch_stands_where_its_carrier_wants_it() {
        let write = |carrier| {
            let mut out = Vec::new();
            Wire::new(Format::Json, carrier).write_messages(&mut out, b"{\"a\":1}\n{\"b\":2}");
            if carrier.is_chunked() { unchunked(&out) } else { out }
        };
        let lines = b"{\"a\":1}\n{\"b\":2}\n";
        let events = b"data: {\"a\":1}\n\ndata: {\"b\":2}\n\n";
        for (carrier, expected) in [
            (Carrier::Stream, &lines[..]),
            (Carrier::UniStream, lines),
            (Carrier::UniStreamPlain, lines),
            (Carrier::Sse, events),
            (Carrier::UniSse, events),
            (Carrier::UniSsePlain, events),
            (Carrier::WebSocket, b"\x81\x0f{\"a\":1}\n{\"b\":2}"),
            (Carrier::UniWebSocket, b"\x81\x07{\"a\":1}\x81\x07{\"b\":2}"),
        ] {
            assert_eq!(write(carrier), expected, "{carrier:?}");
        }
        let mut out = Vec::new();
        Wire::new(Format::Protobuf, Carrier::Stream).write_messages(&mut out, &[1, 2, 0]);
        assert_eq!(out, [1, 2, 0]);
    }

    #[test]
    fn a_ping_is_a_message_like_any_other() {
        for wire in all() {
            let mut expected = Vec::new();
            let message: &[u8] = if wire.format == Format::Json { b"{}" } else { &[0] };
            if wire.carrier != Carrier::WebSocketPings {
                wire.write_messages(&mut expected, message);
            }
            if matches!(wire.carrier, Carrier::WebSocketPings | Carrier::UniWebSocket) {
                expected.extend_from_slice(&[0x89, 0]);
            }
            assert_eq!(wire.ping(), expected, "{wire:?}");
        }
    }

    #[test]
    fn an_end_says_why_and_completes_the_body() {
        for wire in all() {
            let mut out = Vec::new();
            wire.write_end(&mut out, &Disconnect::SHUTDOWN, || 1234);
            if wire.carrier.is_websocket() {
                assert_eq!(out[..4], [0x88, 10, 0x0b, 0xb9], "{wire:?}");
                continue;
            }
            let body = if wire.carrier.is_chunked() { unchunked(&out) } else { out };
            if wire.format == Format::Protobuf {
                // Reply { push: Push { disconnect: Disconnect { code: 3001, reason: "shutdown" } } }
                assert_eq!(body, b"\x11\x22\x0f\x5a\x0d\x08\xb9\x17\x12\x08shutdown");
                continue;
            }
            let text = String::from_utf8(body).unwrap();
            let push = r#"{"disconnect":{"code":3001,"reason":"shutdown"}}"#;
            let push = match wire.carrier.is_unidirectional() {
                true => push.to_owned(),
                false => format!("{{\"push\":{push}}}"),
            };
            let expected = match (wire.carrier.is_events(), wire.carrier.is_unidirectional()) {
                (true, true) => format!("retry: 1234\ndata: {push}\n\n"),
                (true, false) => format!("data: {push}\n\n"),
                _ => format!("{push}\n"),
            };
            assert_eq!(text, expected, "{wire:?}");
        }
    }
}
