//! The frames of a publication, one for each encoding, and what a unidirectional client of several channels gets in
//! place of them.

use crate::base::bytes::Bytes;
use crate::base::ids::Offset;
use crate::base::publication::Publication;
use crate::proto::centrifuge::write;
use crate::proto::encoding::Encoding;
use crate::proto::http1;
use crate::proto::unidirectional::position::write_position;
use crate::proto::websocket::{self, FRAME_HEADER_BYTES_MAX, Opcode};

/// The tag of a publication that names its SSE event.
pub const EVENT_TAG: &str = "event";

/// Names that this surface gives to events of its own; a publication's may not pose as one.
const OWN_EVENTS: [&str; 5] = ["ready", "reset", "disconnect", "error", "push"];

/// What opens each message of an iframe's page. `t` is set by the page's head: see [`super::notes::write_iframe_head`].
const SCRIPT_OPEN: &[u8] = b"<script>t({\"position\":\"";
const SCRIPT_CLOSE: &[u8] = b"})</script>\n";

/// The shared frame of `publication` for `kind`.
///
/// A publication that history skipped has no offset of its own and moves no position: its frame has no head.
///
/// # Panics
/// For a kind of the client protocol, which is not one of this folder's.
pub fn encode(kind: Encoding, publication: &Publication) -> Bytes {
    let own = (publication.offset() != Offset(0)).then_some(Own(publication));
    let mut out = Vec::with_capacity(publication.data.len() + publication.channel.len() + 160);
    match kind {
        Encoding::Sse | Encoding::SsePlain => {
            if let Some(own) = own {
                write_events(&mut out, kind, |out| write_sse_id(out, own));
            }
            write_events(&mut out, kind, |out| {
                if let Some(event) = event_name(publication) {
                    out.extend_from_slice(b"event: ");
                    out.extend_from_slice(event.as_bytes());
                    out.push(b'\n');
                }
                out.extend_from_slice(b"data: {");
                write_members(out, publication);
                out.extend_from_slice(b"}\n\n");
            });
        }
        Encoding::JsonLines => {
            if let Some(own) = own {
                http1::write_chunk_with(&mut out, |out| write_json_head(out, own));
            }
            http1::write_chunk_with(&mut out, |out| {
                out.push(if own.is_some() { b',' } else { b'{' });
                write_members(out, publication);
                out.extend_from_slice(b"}\n");
            });
        }
        Encoding::Iframe => {
            match own {
                None => out.extend_from_slice(&SCRIPT_OPEN[..b"<script>t({".len()]),
                Some(own) => {
                    write_script_head(&mut out, own);
                    out.push(b',');
                }
            }
            write_script(&mut out, |out| write_members(out, publication));
            out.extend_from_slice(SCRIPT_CLOSE);
        }
        Encoding::WebSocketJson => websocket::write_frame_with(&mut out, Opcode::Text, |out| {
            match own {
                None => out.push(b'{'),
                Some(own) => {
                    write_json_head(out, own);
                    out.push(b',');
                }
            }
            write_members(out, publication);
            out.push(b'}');
        }),
        Encoding::WebSocketBare => websocket::write_frame(&mut out, Opcode::Text, &publication.data),
        Encoding::Poll => {
            out.push(b'{');
            write_members(&mut out, publication);
            out.push(b'}');
        }
        _ => unreachable!("framed by the client protocol's codec"),
    }
    out.into()
}

/// What a head says: where its client stands.
pub(super) trait Stand: Copy {
    fn write(self, out: &mut Vec<u8>);
}

/// At this publication, in its channel alone.
#[derive(Clone, Copy)]
struct Own<'p>(&'p Publication);

impl Stand for Own<'_> {
    fn write(self, out: &mut Vec<u8>) {
        write_position(out, [(&*self.0.channel, self.0.position)]);
    }
}

/// As was written before.
impl Stand for &[u8] {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// The frame of a message to a user, which belongs to no channel and moves no position: `{"message":…}`, as an SSE
/// event named `push`; on bare WebSocket the payload itself.
pub fn message(kind: Encoding, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 80);
    let write_json = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"{\"message\":");
        write::raw(out, data);
        out.push(b'}');
    };
    match kind {
        Encoding::Sse | Encoding::SsePlain => write_events(&mut out, kind, |out| {
            out.extend_from_slice(b"event: push\ndata: ");
            write_json(out);
            out.extend_from_slice(b"\n\n");
        }),
        Encoding::JsonLines => http1::write_chunk_with(&mut out, |out| {
            write_json(out);
            out.push(b'\n');
        }),
        Encoding::Iframe => {
            out.extend_from_slice(b"<script>t(");
            write_script(&mut out, write_json);
            out.extend_from_slice(b")</script>\n");
        }
        Encoding::WebSocketJson => websocket::write_frame_with(&mut out, Opcode::Text, write_json),
        Encoding::WebSocketBare => websocket::write_frame(&mut out, Opcode::Text, data),
        // A client of the protocol has a codec of its own; a poll is no connection of its user's.
        _ => {}
    }
    out.into()
}

/// Whether frames of `kind` have a head that a unidirectional client of several channels must have replaced.
pub fn has_head(kind: Encoding, publication: &Publication) -> bool {
    use Encoding::{Iframe, JsonLines, Sse, SsePlain, WebSocketJson};
    matches!(kind, Sse | SsePlain | JsonLines | Iframe | WebSocketJson) && publication.offset() != Offset(0)
}

/// The frame less its head, shared with it. The frame must [have a head](has_head).
pub fn tail(kind: Encoding, frame: &Bytes) -> Bytes {
    let after = |mark: u8, from: usize| {
        frame[from..].iter().position(|&byte| byte == mark).map_or(0, |offset| from + offset)
    };
    let start = match kind {
        Encoding::SsePlain => after(b'\n', 0) + 1,
        // The first chunk is a line of its own: it ends at the third line break.
        Encoding::Sse => after(b'\n', after(b'\n', after(b'\n', 0) + 1) + 1) + 1,
        // The first chunk ends at the second line break.
        Encoding::JsonLines => after(b'\n', after(b'\n', 0) + 1) + 1,
        // No position has a comma: the first one follows the head.
        Encoding::Iframe => after(b',', 0),
        Encoding::WebSocketJson => after(b',', websocket_header_len(frame)),
        _ => 0,
    };
    frame.slice(start..)
}

/// Appends a head with the unidirectional client's own `position`, for a tail of `tail_len` bytes to follow.
pub fn write_own_head(out: &mut Vec<u8>, kind: Encoding, position: &[u8], tail_len: usize) {
    match kind {
        Encoding::Sse | Encoding::SsePlain => {
            write_events(out, kind, |out| write_sse_id(out, position));
        }
        Encoding::JsonLines => http1::write_chunk_with(out, |out| write_json_head(out, position)),
        Encoding::Iframe => write_script_head(out, position),
        Encoding::WebSocketJson => {
            let head_len = JSON_OPEN.len() + position.len() + 1;
            let (header, header_len) = websocket::frame_header(Opcode::Text, head_len + tail_len);
            out.extend_from_slice(&header[..header_len]);
            write_json_head(out, position);
        }
        _ => {}
    }
}

/// The data of a frame or tail made of whole chunks, for a client of HTTP/1.0 that knows none.
pub fn without_chunks(framed: &Bytes) -> Vec<u8> {
    let mut data = Vec::with_capacity(framed.len());
    let mut rest = &framed[..];
    while let Some(line) = rest.iter().position(|&byte| byte == b'\n') {
        let digits = rest[..line].trim_ascii_end();
        let size = digits
            .iter()
            .fold(0, |size, &digit| size << 4 | char::from(digit).to_digit(16).unwrap_or(0) as usize);
        let Some(chunk) = rest.get(line + 1..line + 1 + size) else { break };
        data.extend_from_slice(chunk);
        rest = rest.get(line + 1 + size + 2..).unwrap_or_default();
    }
    data
}

/// Appends `"channel":…,"offset":…,"tags":…,"data":…`.
fn write_members(out: &mut Vec<u8>, publication: &Publication) {
    out.extend_from_slice(b"\"channel\":");
    write::string(out, &publication.channel);
    if publication.offset() != Offset(0) {
        out.extend_from_slice(b",\"offset\":");
        write::number(out, publication.offset().0);
    }
    if !publication.tags.is_empty() {
        out.extend_from_slice(b",\"tags\":");
        for (at, (name, value)) in publication.tags.iter().enumerate() {
            out.push(if at == 0 { b'{' } else { b',' });
            write::string(out, name);
            out.push(b':');
            write::string(out, value);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b",\"data\":");
    match publication.data.is_empty() {
        true => out.extend_from_slice(b"null"),
        false => write::raw(out, &publication.data),
    }
}

fn event_name(publication: &Publication) -> Option<&str> {
    let (_, name) = publication.tags.iter().find(|(tag, _)| tag == EVENT_TAG)?;
    let fits = !name.is_empty() && !name.contains(['\r', '\n', '\0']) && !OWN_EVENTS.contains(&name.as_str());
    fits.then_some(name.as_str())
}

pub(super) fn write_sse_id(out: &mut Vec<u8>, position: impl Stand) {
    out.extend_from_slice(b"id: ");
    position.write(out);
    out.push(b'\n');
}

/// Appends a part of an event stream, which must not be empty, as `kind` frames it.
pub(super) fn write_events(out: &mut Vec<u8>, kind: Encoding, write: impl FnOnce(&mut Vec<u8>)) {
    match kind {
        Encoding::SsePlain => write(out),
        _ => http1::write_chunk_with(out, write),
    }
}

const JSON_OPEN: &[u8] = b"{\"position\":\"";

fn write_json_head(out: &mut Vec<u8>, position: impl Stand) {
    out.extend_from_slice(JSON_OPEN);
    position.write(out);
    out.push(b'"');
}

fn write_script_head(out: &mut Vec<u8>, position: impl Stand) {
    out.extend_from_slice(SCRIPT_OPEN);
    position.write(out);
    out.push(b'"');
}

/// Appends the JSON that `write` appends, as script text.
pub(super) fn write_script(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    write(out);
    // Most has nothing to escape, and stays where it is.
    if out[from..].iter().any(|&byte| byte == b'<' || byte == 0xe2) {
        let json = out.split_off(from);
        write_script_text(out, &json);
    }
}

/// Appends JSON as script text. `<` stands in strings of JSON only, and could end the script element; the two line
/// separators end a line of script in browsers older than 2019.
fn write_script_text(out: &mut Vec<u8>, json: &[u8]) {
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        match rest {
            [b'<', ..] => out.extend_from_slice(b"\\u003c"),
            [0xe2, 0x80, 0xa8, ..] => out.extend_from_slice(b"\\u2028"),
            [0xe2, 0x80, 0xa9, ..] => out.extend_from_slice(b"\\u2029"),
            _ => out.push(byte),
        }
        rest = if byte == 0xe2 && matches!(rest, [_, 0x80, 0xa8 | 0xa9, ..]) { &rest[3..] } else { after };
    }
}

/// Length of an unmasked frame's header (RFC 6455 section 5.2).
fn websocket_header_len(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    }
}

const _: () = assert!(FRAME_HEADER_BYTES_MAX >= 10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Epoch, Position};
    use crate::base::publication::Encoded;
    use crate::proto::websocket::{Decoder, Message, Role};
    use serde_json::json;

    const HEADED: [Encoding; 5] =
        [Encoding::Sse, Encoding::SsePlain, Encoding::JsonLines, Encoding::Iframe, Encoding::WebSocketJson];

    fn publication(offset: u64, data: &str, tags: &[(&str, &str)]) -> Publication {
        Publication {
            channel: "chat:a<b".into(),
            position: Position { offset: Offset(offset), epoch: Epoch(7) },
            data: Bytes::copy_from_slice(data.as_bytes()),
            info: None,
            tags: tags.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            except: None,
            time_ms: 0,
            encoded: Encoded::default(),
        }
    }

    /// What a client of `kind` reads from frames: each message's position and its other members.
    fn read(kind: Encoding, bytes: &[u8]) -> Vec<(String, serde_json::Value)> {
        if kind == Encoding::Sse {
            return read(Encoding::SsePlain, &without_chunks(&Bytes::copy_from_slice(bytes)));
        }
        let texts: Vec<(String, Vec<u8>)> = match kind {
            Encoding::SsePlain => std::str::from_utf8(bytes)
                .unwrap()
                .split_terminator("\n\n")
                .map(|event| {
                    let field =
                        |name| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                    (field("id: ").to_string(), field("data: ").as_bytes().to_vec())
                })
                .collect(),
            Encoding::JsonLines => without_chunks(&Bytes::copy_from_slice(bytes))
                .split_inclusive(|&byte| byte == b'\n')
                .map(|line| (String::new(), line.to_vec()))
                .collect(),
            Encoding::Iframe => std::str::from_utf8(bytes)
                .unwrap()
                .lines()
                .map(|line| {
                    let json = line.strip_prefix("<script>t(").unwrap().strip_suffix(")</script>").unwrap();
                    assert!(!json.contains('<'));
                    (String::new(), json.as_bytes().to_vec())
                })
                .collect(),
            _ => {
                let mut bytes = bytes.to_vec();
                let (mut decoder, mut at, mut texts) = (Decoder::new(Role::Client, 1 << 20), 0, Vec::new());
                while let (consumed, Some(Message::Text(text))) = decoder.decode(&mut bytes[at..]).unwrap() {
                    texts.push((String::new(), text.as_bytes().to_vec()));
                    at += consumed;
                }
                texts
            }
        };
        texts
            .into_iter()
            .map(|(id, json)| {
                let mut value: serde_json::Value = serde_json::from_slice(&json).unwrap();
                let inside = value.as_object_mut().and_then(|members| members.remove("position"));
                (inside.map_or(id, |position| position.as_str().unwrap().to_string()), value)
            })
            .collect()
    }

    #[test]
    fn every_kind_carries_the_same_message_and_position() {
        for data in [
            "{\"a\": \"<\u{2028}\"}",
            "1",
            &format!("\"{}\"", "x".repeat(300)),
            &format!("[{}1]", "1,".repeat(40_000)),
        ] {
            let publication = publication(300, data, &[("k", "v")]);
            let mut position = Vec::new();
            write_position(&mut position, [("chat:a<b", publication.position)]);
            for kind in HEADED {
                let frame = encode(kind, &publication);
                let value: serde_json::Value = serde_json::from_str(data).unwrap();
                let expected =
                    json!({"channel": "chat:a<b", "offset": 300, "tags": {"k": "v"}, "data": value});
                assert_eq!(
                    read(kind, &frame),
                    [(String::from_utf8(position.clone()).unwrap(), expected)],
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn a_tail_behind_its_own_head_is_the_frame_and_behind_another_is_a_frame() {
        for data in ["{}", &format!("\"{}\"", "y".repeat(65_500))] {
            let publication = publication(5, data, &[]);
            let mut position = Vec::new();
            write_position(&mut position, [("chat:a<b", publication.position)]);
            for kind in HEADED {
                assert!(has_head(kind, &publication));
                let frame = encode(kind, &publication);
                let tail = tail(kind, &frame);
                for other in [position.clone(), b"A".repeat(500)] {
                    let mut whole = Vec::new();
                    write_own_head(&mut whole, kind, &other, tail.len());
                    whole.extend_from_slice(&tail);
                    assert_eq!(whole == frame, other == position, "{kind:?}");
                    let messages = read(kind, &whole);
                    assert_eq!(messages.len(), 1);
                    assert_eq!(messages[0].0.as_bytes(), other);
                    assert_eq!(messages[0].1["offset"], 5);
                }
            }
        }
    }

    #[test]
    fn a_publication_outside_history_moves_no_position() {
        let publication = publication(0, "1", &[]);
        for kind in HEADED {
            assert!(!has_head(kind, &publication));
            let expected = json!({"channel": "chat:a<b", "data": 1});
            assert_eq!(read(kind, &encode(kind, &publication)), [(String::new(), expected)]);
        }
    }

    #[test]
    fn events_are_named_by_a_tag_that_cannot_break_out() {
        for (name, written) in [
            ("tick", true),
            ("a\nid: 1", false),
            ("a\r", false),
            ("", false),
            ("reset", false),
            ("ready", false),
        ] {
            let frame = encode(Encoding::SsePlain, &publication(1, "1", &[(EVENT_TAG, name)]));
            let text = std::str::from_utf8(&frame).unwrap();
            assert_eq!(text.contains("event: "), written, "{name:?}");
            assert_eq!(text.lines().count(), if written { 4 } else { 3 });
        }
    }

    #[test]
    fn a_payload_of_several_lines_stays_one_line() {
        for kind in [Encoding::Sse, Encoding::JsonLines, Encoding::Poll] {
            let frame = encode(kind, &publication(1, "{\r\n\"a\":\n1}", &[]));
            assert!(std::str::from_utf8(&frame).unwrap().contains("\"data\":{\"a\":1}}"), "{kind:?}");
        }
    }

    #[test]
    fn bare_is_the_payload_and_nothing_else() {
        let frame = encode(Encoding::WebSocketBare, &publication(1, "[1, 2]", &[]));
        assert_eq!(&frame[..], b"\x81\x06[1, 2]");
    }
}
