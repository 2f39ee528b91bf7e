//! Our WebSocket codec against another implementation of RFC 6455 (tungstenite), in both roles, in memory.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use trunkline::base::prng::Prng;
use trunkline::proto::http1::{parse_head, parse_response_head};
use trunkline::proto::websocket::{
    Decoder, Message, Opcode, Role, WsFault, accept, check_response, write_close, write_close_masked,
    write_fragment, write_fragment_masked, write_frame, write_frame_masked, write_request,
};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, HandshakeError, Message as Theirs, WebSocket};

/// The other implementation's socket: two buffers that we hold as well.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Buffers>>);

#[derive(Default)]
struct Buffers {
    to_them: Vec<u8>,
    to_us: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut buffers = self.0.borrow_mut();
        if buffers.to_them.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = out.len().min(buffers.to_them.len());
        out[..len].copy_from_slice(&buffers.to_them[..len]);
        buffers.to_them.drain(..len);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().to_us.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    fn drain(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().to_us)
    }

    fn give(&self, bytes: &[u8]) {
        self.0.borrow_mut().to_them.extend_from_slice(bytes);
    }
}

/// Everything that `input` says up to a Close or a fault, read in pieces of random length.
fn decode(decoder: &mut Decoder, prng: &mut Prng, input: &[u8]) -> Result<Vec<Theirs>, WsFault> {
    let (got, fault) = decode_until_fault(decoder, prng, input);
    fault.map_or(Ok(got), Err)
}

fn decode_until_fault(
    decoder: &mut Decoder,
    prng: &mut Prng,
    input: &[u8],
) -> (Vec<Theirs>, Option<WsFault>) {
    let mut got = Vec::new();
    let mut input = input.to_vec();
    let mut rest = &mut input[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at_mut(prng.usize(1..=rest.len()));
        rest = after;
        let mut at = 0;
        loop {
            let (consumed, message) = match decoder.decode(&mut piece[at..]) {
                Ok(read) => read,
                Err(fault) => return (got, Some(fault)),
            };
            at += consumed;
            got.push(match message {
                None => break,
                Some(Message::Text(text)) => Theirs::text(text),
                Some(Message::Binary(bytes)) => Theirs::binary(bytes.to_vec()),
                Some(Message::Compressed { .. }) => unreachable!("nobody agreed on compression"),
                Some(Message::Ping(bytes)) => Theirs::Ping(bytes.to_vec().into()),
                Some(Message::Pong(bytes)) => Theirs::Pong(bytes.to_vec().into()),
                Some(Message::Close { code, reason }) => {
                    let reason = reason.to_string().into();
                    got.push(Theirs::Close(code.map(|code| CloseFrame { code: code.into(), reason })));
                    return (got, None);
                }
            });
        }
    }
    (got, None)
}

fn random_message(prng: &mut Prng) -> Theirs {
    let len = *prng.choice([0, 1, 20, 125, 126, 127, 1000, 65_535, 65_536, 100_000].iter()).unwrap();
    match prng.u8(..4) {
        0 => Theirs::text((0..len).map(|_| prng.char(..)).collect::<String>()),
        1 => Theirs::Ping((0..len.min(125)).map(|_| prng.u8(..)).collect::<Vec<u8>>().into()),
        2 => Theirs::Pong((0..len.min(125)).map(|_| prng.u8(..)).collect::<Vec<u8>>().into()),
        _ => Theirs::binary((0..len).map(|_| prng.u8(..)).collect::<Vec<u8>>()),
    }
}

/// Writes a message as we would: sometimes in fragments, masked as a client.
fn encode(out: &mut Vec<u8>, prng: &mut Prng, role: Role, message: &Theirs) {
    let (opcode, payload): (_, &[u8]) = match message {
        Theirs::Text(text) => (Opcode::Text, text.as_bytes()),
        Theirs::Binary(bytes) => (Opcode::Binary, bytes),
        Theirs::Ping(bytes) => (Opcode::Ping, bytes),
        Theirs::Pong(bytes) => (Opcode::Pong, bytes),
        other => panic!("{other:?}"),
    };
    let key = prng.u32(..).to_ne_bytes();
    if opcode.is_control() || prng.bool() {
        return match role {
            Role::Server => write_frame(out, opcode, payload),
            Role::Client => write_frame_masked(out, opcode, payload, key),
        };
    }
    // Cut anywhere, also inside a character.
    let cut = prng.usize(..=payload.len());
    for (opcode, fin, payload) in
        [(opcode, false, &payload[..cut]), (Opcode::Continuation, true, &payload[cut..])]
    {
        match role {
            Role::Server => write_fragment(out, opcode, fin, payload),
            Role::Client => write_fragment_masked(out, opcode, fin, payload, key),
        }
    }
}

fn exchange(mut them: WebSocket<Wire>, wire: Wire, role: Role, prng: &mut Prng) {
    let mut decoder = Decoder::new(role, 1 << 20);
    for _ in 0..200 {
        let ours = random_message(prng);
        let mut out = Vec::new();
        encode(&mut out, prng, role, &ours);
        wire.give(&out);
        assert!(them.read().unwrap() == ours, "they read what we wrote");
        them.flush().unwrap();
        if let Theirs::Ping(payload) = &ours {
            let answer = decode(&mut decoder, prng, &wire.drain()).unwrap();
            assert!(answer == [Theirs::Pong(payload.clone())], "they answer our ping");
        }

        let theirs = random_message(prng);
        them.send(theirs.clone()).unwrap();
        assert!(decode(&mut decoder, prng, &wire.drain()).unwrap() == [theirs], "we read what they wrote");
        assert!(decoder.is_idle());
    }
    let mut out = Vec::new();
    match role {
        Role::Server => write_close(&mut out, 3008, "slow"),
        Role::Client => write_close_masked(&mut out, 3008, "slow", [1, 2, 3, 4]),
    }
    wire.give(&out);
    let close = Theirs::Close(Some(CloseFrame { code: 3008.into(), reason: "slow".into() }));
    assert!(them.read().unwrap() == close);
    let _ = them.flush();
    assert!(decode(&mut decoder, prng, &wire.drain()).unwrap() == [close], "they answer our close");
}

fn prng() -> Prng {
    let seed = Prng::new().u64(..);
    println!("seed {seed}");
    Prng::with_seed(seed)
}

#[test]
fn our_server_and_their_client() {
    let wire = Wire::default();
    let Err(HandshakeError::Interrupted(waiting)) =
        tungstenite::client("ws://example.com/connection/websocket?a=b", wire.clone())
    else {
        panic!("their client waits for our answer")
    };
    let request = wire.drain();
    let (head, len) = parse_head(&request).unwrap().unwrap();
    assert_eq!((len, head.path, head.query), (request.len(), "/connection/websocket", Some(&b"a=b"[..])));
    let mut answer = Vec::new();
    accept(&head, &[]).unwrap().write(&mut answer, &[]);
    wire.give(&answer);
    let (them, _) = waiting.handshake().expect("they accept our answer");
    exchange(them, wire, Role::Server, &mut prng());
}

#[test]
fn our_client_and_their_server() {
    let wire = Wire::default();
    let key = *b"sixteen bytes ok";
    let mut request = Vec::new();
    write_request(&mut request, "example.com", "/x", &key, &[], &[]);
    wire.give(&request);
    let them = tungstenite::accept(wire.clone()).expect("they accept our request");
    let answer = wire.drain();
    let (head, len) = parse_response_head(&answer).unwrap().unwrap();
    assert_eq!((len, check_response(&head, &key, &[])), (answer.len(), Ok(None)));
    exchange(them, wire, Role::Client, &mut prng());
}

/// Where they refuse what we take, or we deliver what they do not, one of us misreads the RFC.
#[test]
fn both_judge_garbled_frames_alike() {
    judge_garbled_frames(&mut prng());
    // Its second frame is read as a close with a code that nobody may send.
    judge_garbled_frames(&mut Prng::with_seed(13_896_113_230_378_960_314));
}

fn judge_garbled_frames(prng: &mut Prng) {
    for _ in 0..5_000 {
        let mut input = Vec::new();
        for _ in 0..2 {
            let message =
                std::iter::repeat_with(|| random_message(prng)).find(|message| message.len() < 2_000);
            encode(&mut input, prng, Role::Client, &message.unwrap());
        }
        let at = prng.usize(..input.len().min(8));
        input[at] = prng.u8(..);
        let shown = &input[..input.len().min(32)];

        let (ours, fault) = decode_until_fault(&mut Decoder::new(Role::Server, 1 << 20), prng, &input);
        let wire = Wire::default();
        wire.give(&input);
        let mut them = WebSocket::from_raw_socket(wire, tungstenite::protocol::Role::Server, None);
        let mut theirs = Vec::new();
        let error = loop {
            match them.read() {
                Ok(message) => theirs.push(message),
                Err(Error::ConnectionClosed) => break None,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) => break Some(error),
            }
        };
        // A close frame with a code that nobody may send is a fault here. They read it as this close.
        let violation = CloseFrame { code: CloseCode::Protocol, reason: "Protocol violation".into() };
        if fault.is_some() && theirs.last() == Some(&Theirs::Close(Some(violation))) {
            theirs.pop();
        }
        match (fault, error) {
            // The one rule they do not hold: section 5.2, the fewest bytes for a length.
            (Some(fault), _) if fault.reason.contains("shortest form") => {}
            (None, Some(error)) => panic!("we take what they refuse: {error} {shown:x?}"),
            // A fault of ours may come before their wait ends, as we look at the part of a frame that is there.
            _ => assert!(ours == theirs, "{shown:x?}: {ours:?} {theirs:?}"),
        }
    }
}
