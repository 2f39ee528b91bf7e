//! What a stream says besides publications: where it begins, what was lost, how it ends, and that it still lives.

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::proto::centrifuge::write;
use crate::proto::encoding::Encoding;
use crate::proto::http1;
use crate::proto::unidirectional::frames::{write_events, write_script, write_sse_id};
use crate::proto::websocket::{self, Opcode};

/// One note. Positions are texts of [`super::position`].
#[derive(Clone, Copy, Debug)]
pub enum Note<'a> {
    /// The first one: everything after this position will come.
    Ready {
        position: &'a [u8],
    },
    /// What was published in the channel since the unidirectional client's position is no longer kept; it goes on from
    /// here.
    Reset {
        channel: &'a str,
        position: &'a [u8],
    },
    /// The server ends the stream.
    Disconnect(&'a Disconnect),
    /// Answers of plain WebSocket to its commands.
    Subscribed {
        channel: &'a str,
        position: &'a [u8],
    },
    Unsubscribed {
        channel: &'a str,
    },
    Refused {
        channel: &'a str,
        error_code: ErrorCode,
    },
    Pong,
}

impl Note<'_> {
    /// The name of its SSE event, and of its member in JSON.
    fn name(&self) -> &'static str {
        match self {
            Note::Ready { .. } => "ready",
            Note::Reset { .. } => "reset",
            Note::Disconnect(_) => "disconnect",
            Note::Subscribed { .. } => "subscribed",
            Note::Unsubscribed { .. } => "unsubscribed",
            Note::Refused { .. } => "error",
            Note::Pong => "pong",
        }
    }

    fn position(&self) -> Option<&[u8]> {
        match *self {
            Note::Ready { position } | Note::Reset { position, .. } | Note::Subscribed { position, .. } => {
                Some(position)
            }
            Note::Disconnect(_) | Note::Unsubscribed { .. } | Note::Refused { .. } | Note::Pong => None,
        }
    }

    /// Appends the note as one JSON object, which begins with its position where it has one.
    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        if let Some(position) = self.position() {
            out.extend_from_slice(b"\"position\":\"");
            out.extend_from_slice(position);
            out.extend_from_slice(b"\",");
        }
        out.push(b'"');
        out.extend_from_slice(self.name().as_bytes());
        out.extend_from_slice(b"\":");
        match *self {
            Note::Ready { .. } | Note::Pong => out.extend_from_slice(b"true"),
            Note::Reset { channel, .. }
            | Note::Subscribed { channel, .. }
            | Note::Unsubscribed { channel } => {
                write::string(out, channel);
            }
            Note::Disconnect(disconnect) => {
                out.extend_from_slice(b"{\"code\":");
                write::number(out, disconnect.code.into());
                out.extend_from_slice(b",\"reason\":");
                write::string(out, &disconnect.reason);
                out.extend_from_slice(b",\"reconnect\":");
                out.extend_from_slice(if disconnect.reconnects() { b"true" } else { b"false" });
                out.push(b'}');
            }
            Note::Refused { channel, error_code } => {
                out.extend_from_slice(b"{\"code\":");
                write::number(out, error_code.code().into());
                out.extend_from_slice(b",\"message\":");
                write::string(out, error_code.message());
                if !channel.is_empty() {
                    out.extend_from_slice(b",\"channel\":");
                    write::string(out, channel);
                }
                out.push(b'}');
            }
        }
        out.push(b'}');
    }
}

/// Appends `note` as `kind` frames it. `chunked` matters to streamed lines only. Bare WebSocket and polls have no
/// notes.
pub fn write_note(out: &mut Vec<u8>, kind: Encoding, chunked: bool, note: &Note<'_>) {
    match kind {
        Encoding::Sse | Encoding::SsePlain => {
            write_events(out, kind, |out| write_sse_note(out, None, note));
        }
        Encoding::JsonLines => {
            let line = |out: &mut Vec<u8>| {
                note.write_json(out);
                out.push(b'\n');
            };
            match chunked {
                true => http1::write_chunk_with(out, line),
                false => line(out),
            }
        }
        Encoding::Iframe => {
            out.extend_from_slice(b"<script>t(");
            write_script(out, |out| note.write_json(out));
            out.extend_from_slice(b")</script>\n");
        }
        Encoding::WebSocketJson => {
            websocket::write_frame_with(out, Opcode::Text, |out| note.write_json(out));
        }
        _ => {}
    }
}

/// Appends a note of an event stream with how long its unidirectional client should wait before it comes back. In one
/// block: some clients make an empty message of a block without data.
pub fn write_note_with_retry(out: &mut Vec<u8>, kind: Encoding, retry_ms: u64, note: &Note<'_>) {
    write_events(out, kind, |out| write_sse_note(out, Some(retry_ms), note));
}

/// Appends a note as an event, without chunks.
pub fn write_sse_note(out: &mut Vec<u8>, retry_ms: Option<u64>, note: &Note<'_>) {
    if let Some(retry_ms) = retry_ms {
        out.extend_from_slice(b"retry: ");
        write::number(out, retry_ms);
        out.push(b'\n');
    }
    if let Some(position) = note.position() {
        write_sse_id(out, position);
    }
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(note.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    note.write_json(out);
    out.extend_from_slice(b"\n\n");
}

/// What tells a silent peer, and the proxies between, that the stream lives.
pub fn heartbeat(kind: Encoding, chunked: bool) -> Bytes {
    Bytes::from_static(match kind {
        // A comment, and no empty line behind it: that would be the end of a block, without data.
        Encoding::Sse => b"2\r\n:\n\r\n",
        Encoding::SsePlain => b":\n",
        // An empty line, which unidirectional clients of lines skip.
        Encoding::JsonLines if chunked => b"1\r\n\n\r\n",
        Encoding::JsonLines => b"\n",
        Encoding::Iframe => b" \n",
        // A Ping without payload (RFC 6455 section 5.5.2).
        Encoding::WebSocketJson | Encoding::WebSocketBare => &[0x80 | Opcode::Ping as u8, 0],
        _ => b"",
    })
}

/// What a stream ends with, after its last message.
pub fn ending(kind: Encoding, chunked: bool) -> &'static [u8] {
    match kind {
        Encoding::Sse => b"0\r\n\r\n",
        Encoding::JsonLines if chunked => b"0\r\n\r\n",
        _ => b"",
    }
}

/// Appends the start of an iframe's page. `callback` is the function of the parent page that gets every message; it
/// must be [a name](is_callback).
pub fn write_iframe_head(out: &mut Vec<u8>, callback: &str) {
    debug_assert!(is_callback(callback));
    out.extend_from_slice(b"<!doctype html><meta charset=utf-8><script>function t(m){parent.");
    out.extend_from_slice(callback.as_bytes());
    out.extend_from_slice(b"(m)}</script>\n");
    // Old browsers show nothing of a page before they have seen this much of it.
    out.resize(out.len() + 1024, b' ');
    out.push(b'\n');
}

/// Names joined by dots, each a letter, `_` or `$` and then digits too, together at most 64 bytes: nothing else of
/// the query gets into a script.
pub fn is_callback(name: &str) -> bool {
    name.len() <= 64
        && name.split('.').all(|part| {
            let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b'$';
            let mut bytes = part.bytes();
            bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Encoding, chunked: bool, note: &Note<'_>) -> String {
        let mut out = Vec::new();
        write_note(&mut out, kind, chunked, note);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn notes_are_framed_like_messages() {
        let reset = Note::Reset { channel: "a</script>", position: b"P" };
        assert_eq!(
            written(Encoding::SsePlain, false, &reset),
            "id: P\nevent: reset\ndata: {\"position\":\"P\",\"reset\":\"a</script>\"}\n\n"
        );
        assert_eq!(
            written(Encoding::JsonLines, false, &reset),
            "{\"position\":\"P\",\"reset\":\"a</script>\"}\n"
        );
        assert_eq!(written(Encoding::JsonLines, true, &Note::Pong), "e\r\n{\"pong\":true}\n\r\n");
        assert_eq!(
            written(Encoding::Iframe, false, &reset),
            "<script>t({\"position\":\"P\",\"reset\":\"a\\u003c/script>\"})</script>\n"
        );
        let end = Note::Disconnect(&Disconnect::SHUTDOWN);
        assert_eq!(
            written(Encoding::SsePlain, false, &end),
            "event: disconnect\ndata: {\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\",\"reconnect\":true}}\n\n"
        );
        let refused = Note::Refused { channel: "x", error_code: ErrorCode::PermissionDenied };
        assert_eq!(
            written(Encoding::JsonLines, false, &refused),
            "{\"error\":{\"code\":103,\"message\":\"permission denied\",\"channel\":\"x\"}}\n"
        );
        assert_eq!(written(Encoding::WebSocketBare, false, &end), "");
    }

    #[test]
    fn no_block_of_an_event_stream_is_without_data() {
        let mut stream = Vec::new();
        write_note_with_retry(&mut stream, Encoding::SsePlain, 1500, &Note::Ready { position: b"P" });
        stream.extend_from_slice(&heartbeat(Encoding::SsePlain, false));
        write_note(&mut stream, Encoding::SsePlain, false, &Note::Reset { channel: "c", position: b"P" });
        stream.extend_from_slice(&heartbeat(Encoding::SsePlain, false));
        stream.extend_from_slice(&heartbeat(Encoding::SsePlain, false));
        write_note_with_retry(
            &mut stream,
            Encoding::SsePlain,
            5000,
            &Note::Disconnect(&Disconnect::SHUTDOWN),
        );
        let text = String::from_utf8(stream).unwrap();
        assert!(text.starts_with("retry: 1500\nid: P\nevent: ready\ndata: "), "{text}");
        let blocks: Vec<_> = text.strip_suffix("\n\n").unwrap().split("\n\n").collect();
        assert_eq!(blocks.len(), 3);
        assert!(blocks.iter().all(|block| block.contains("\ndata: ")), "{text}");

        // The same in chunks.
        let mut chunked = Vec::new();
        write_note_with_retry(&mut chunked, Encoding::Sse, 1500, &Note::Ready { position: b"P" });
        chunked.extend_from_slice(&heartbeat(Encoding::Sse, true));
        assert_eq!(
            crate::proto::unidirectional::frames::without_chunks(&chunked.into()),
            &text.as_bytes()[..text.find("id: P\nevent: reset").unwrap()]
        );
    }

    #[test]
    fn only_names_are_called() {
        for name in ["parentCallback", "app.on_message", "$", "_a1.b$2"] {
            assert!(is_callback(name), "{name}");
        }
        for name in ["", "1a", "a.", ".a", "a b", "a(", "alert(1)//", "é", "a..b", &"a".repeat(65)] {
            assert!(!is_callback(name), "{name}");
        }
    }
}
