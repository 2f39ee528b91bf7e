//! A client's frames: read in one piece, in pieces, and by tungstenite. Where compression was agreed on, which tungstenite
//! does not know, compressed messages are inflated by the library's own reader as well.
#![no_main]

use std::io::{self, Read, Write};

use flate2::read::DeflateDecoder;
use libfuzzer_sys::fuzz_target;
use trunkline::proto::websocket::deflate::Inflater;
use trunkline::proto::websocket::{Decoder, Message, Role, WsFault};
use tungstenite::protocol::{Role as OtherRole, WebSocketConfig};

const MESSAGE_BYTES_MAX: usize = 1024;

/// A message, as far as both readers tell the same of it.
#[derive(Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, input)) = data.split_first() else { return };
    let deflating = step & 0x10 != 0;
    let (whole, fault) = ours(input, input.len().max(1), deflating);
    let (pieces, fault_in_pieces) = ours(input, usize::from(step % 16) + 1, deflating);
    assert_eq!((&whole, fault), (&pieces, fault_in_pieces), "cuts change what is read");
    if deflating {
        return;
    }

    let (theirs, refused) = tungstenite(input);
    if fault.is_some() {
        // We are the stricter one, and refuse at the first byte that shows the fault.
        assert!(theirs.starts_with(&whole), "{whole:?} but {theirs:?}");
    } else {
        assert_eq!(whole, theirs);
        assert!(!refused, "tungstenite refuses what we take");
    }
});

fn ours(input: &[u8], step: usize, deflating: bool) -> (Vec<Seen>, Option<WsFault>) {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX).deflating(deflating);
    let mut inflater = Inflater::default();
    let mut seen = Vec::new();
    for piece in input.chunks(step) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            let (consumed, message) = match decoder.decode(&mut piece[at..]) {
                Ok(read) => read,
                Err(fault) => return (seen, Some(fault)),
            };
            at += consumed;
            match message {
                None => break,
                Some(Message::Text(text)) => seen.push(Seen::Text(text.into())),
                Some(Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.into())),
                Some(Message::Compressed { text, payload }) => {
                    assert!(deflating, "nobody agreed on compression");
                    match inflated(&mut inflater, text, payload) {
                        Ok(message) => seen.push(message),
                        Err(fault) => return (seen, Some(fault)),
                    }
                }
                Some(Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.into())),
                Some(Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.into())),
                Some(Message::Close { .. }) => {
                    seen.push(Seen::Close);
                    return (seen, None);
                }
            }
        }
        assert_eq!(at, piece.len(), "what is needed for more is consumed");
        assert!(decoder.stored_bytes() < 4 * MESSAGE_BYTES_MAX, "memory grows without a bound");
    }
    (seen, None)
}

/// A compressed message. What the library's reader finds in it, up to its first final block, begins it.
fn inflated(inflater: &mut Inflater, text: bool, payload: &[u8]) -> Result<Seen, WsFault> {
    let seen = match inflater.message(text, payload, MESSAGE_BYTES_MAX)? {
        Message::Text(text) => Seen::Text(text.into()),
        Message::Binary(bytes) => Seen::Binary(bytes.into()),
        other => unreachable!("{other:?}"),
    };
    let ours = match &seen {
        Seen::Text(text) => text.as_bytes(),
        Seen::Binary(bytes) => bytes,
        _ => &[],
    };
    assert!(ours.len() <= MESSAGE_BYTES_MAX, "longer than a message may be");
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut theirs = Vec::new();
    let _ = DeflateDecoder::new(&whole[..]).read_to_end(&mut theirs);
    assert!(ours.starts_with(&theirs), "{ours:?} but {theirs:?}");
    Ok(seen)
}

/// What tungstenite reads, and whether it refused rather than waited.
fn tungstenite(input: &[u8]) -> (Vec<Seen>, bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = tungstenite::WebSocket::from_raw_socket(Wire(input), OtherRole::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => seen.push(Seen::Text(text.as_str().into())),
            Ok(tungstenite::Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(tungstenite::Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(tungstenite::Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            Ok(tungstenite::Message::Close(_)) => {
                seen.push(Seen::Close);
                return (seen, false);
            }
            Ok(tungstenite::Message::Frame(_)) => unreachable!("never read"),
            Err(tungstenite::Error::Io(_)) => return (seen, false),
            Err(_) => return (seen, true),
        }
    }
}

/// Input that would go on, and a sink.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
