//! A layer of connections that is none of security: records with a number, so that one that is lost, repeated, cut or out of
//! its place is found. What TLS will need of a shard is in it: it speaks first by itself, its records end where they like,
//! its bytes may be sealed only once, and it says its end.
//!
//! A record is its kind, the length of its payload in two bytes, and its number in its direction, modulo 256; the payload is
//! masked with a stream that begins at that number.

use std::ops::{Deref, DerefMut};

use trunkline::base::bytes::{Bytes, BytesMut};
use trunkline::base::ids::ListenerId;
use trunkline::driver::sim::{ClientEnd, SimNet};
use trunkline::layer::{Fault, Layer, LayerMaker, OpenedBytes};

use crate::tls::{TLS, TlsEnd};

/// The listener whose connections are sealed, in the runs that have it.
pub const SEALED: ListenerId = ListenerId(1);

const HEADER: usize = 4;
/// Short, so that most of what is said needs several records.
const PAYLOAD_MAX: usize = 48;

const DATA: u8 = 1;
const HELLO: u8 = 2;
const END: u8 = 3;
const ALERT: u8 = 4;

fn mask(number: u8, payload: &mut [u8]) {
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= number.wrapping_mul(31).wrapping_add(at as u8);
    }
}

/// Writes records of one direction.
#[derive(Default)]
struct Writer {
    number: u8,
    ended: bool,
}

impl Writer {
    fn record(&mut self, kind: u8, payload: &[u8], into: &mut BytesMut) {
        assert!(!self.ended, "a record of kind {kind} behind the end");
        self.ended = kind == END;
        into.extend_from_slice(&[kind, (payload.len() >> 8) as u8, payload.len() as u8, self.number]);
        let from = into.len();
        into.extend_from_slice(payload);
        mask(self.number, &mut into[from..]);
        self.number = self.number.wrapping_add(1);
    }

    fn data(&mut self, plain: &[u8], into: &mut BytesMut) {
        plain.chunks(PAYLOAD_MAX).for_each(|chunk| self.record(DATA, chunk, into));
    }
}

/// Reads records of one direction.
#[derive(Default)]
struct RecordReader {
    number: u8,
    /// What there is of a record that comes in pieces.
    stored: Vec<u8>,
    /// Such a record, whole, while it is looked at.
    opened: Vec<u8>,
    over: bool,
}

/// The kind and the payload of an opened record.
type Record<'a> = (u8, &'a mut [u8]);

/// The kind and the place of the payload in a whole record.
struct Whole {
    kind: u8,
    len: usize,
}

impl RecordReader {
    /// The record that `bytes` begin with, if it is whole.
    fn whole(&self, bytes: &[u8]) -> Result<Option<Whole>, Fault> {
        let Some(&[kind, high, low, number]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let len = usize::from(high) << 8 | usize::from(low);
        if !(DATA..=ALERT).contains(&kind) || len > PAYLOAD_MAX {
            return Err(Fault::Broken);
        }
        if number != self.number {
            return Err(Fault::Broken);
        }
        Ok((bytes.len() >= HEADER + len).then_some(Whole { kind, len: HEADER + len }))
    }

    /// As [`Layer::open`], with the kind of what was opened.
    fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, Result<Option<Record<'a>>, Fault>) {
        if self.over {
            return (bytes.len(), Ok(None));
        }
        let in_place = self.stored.is_empty();
        let mut taken = 0;
        let whole = loop {
            let look = if in_place { self.whole(bytes) } else { self.whole(&self.stored) };
            match look {
                Ok(Some(whole)) => break whole,
                Err(fault) => {
                    self.over = true;
                    return (bytes.len(), Err(fault));
                }
                Ok(None) if in_place => {
                    self.stored.extend_from_slice(bytes);
                    return (bytes.len(), Ok(None));
                }
                Ok(None) if taken == bytes.len() => return (taken, Ok(None)),
                // Byte by byte: what follows the record is the next one's.
                Ok(None) => {
                    self.stored.push(bytes[taken]);
                    taken += 1;
                }
            }
        };
        let number = self.number;
        self.number = self.number.wrapping_add(1);
        self.over = whole.kind == END;
        let (consumed, record): (usize, &mut [u8]) = match in_place {
            true => (whole.len, &mut bytes[..whole.len]),
            false => {
                std::mem::swap(&mut self.stored, &mut self.opened);
                self.stored.clear();
                (taken, &mut self.opened)
            }
        };
        let payload = &mut record[HEADER..];
        mask(number, payload);
        (consumed, Ok(Some((whole.kind, payload))))
    }
}

/// The server's end.
#[derive(Default)]
struct Server {
    reader: RecordReader,
    writer: Writer,
    /// The client's hello has come, and is to be answered.
    hello_due: bool,
    said_hello: bool,
    alert_due: bool,
}

impl Layer for Server {
    fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, OpenedBytes<'a>) {
        let (consumed, opened) = self.reader.open(bytes);
        let opened = match opened {
            Ok(Some((DATA, plain))) if !plain.is_empty() => OpenedBytes::Plain(plain),
            Ok(Some((HELLO, _))) => {
                self.hello_due = true;
                OpenedBytes::Nothing
            }
            Ok(Some((END, _))) => OpenedBytes::End,
            Ok(_) => OpenedBytes::Nothing,
            Err(fault) => {
                self.alert_due = true;
                OpenedBytes::Fault(fault)
            }
        };
        (consumed, opened)
    }

    fn seal(&mut self, plain: &[Bytes], last: bool, sealed: &mut BytesMut) {
        // Before anything else, asked for or not: a connection may be refused before its client has said a word.
        let speaks = self.hello_due || self.alert_due || last || !plain.is_empty();
        if speaks && !std::mem::replace(&mut self.said_hello, true) {
            self.writer.record(HELLO, b"", sealed);
        }
        self.hello_due = false;
        if std::mem::take(&mut self.alert_due) && !self.writer.ended {
            self.writer.record(ALERT, b"", sealed);
        }
        plain.iter().for_each(|bytes| self.writer.data(bytes, sealed));
        if last && !self.writer.ended {
            self.writer.record(END, b"", sealed);
        }
    }

    fn wants_to_speak(&self) -> bool {
        self.hello_due && !self.said_hello || self.alert_due
    }

    fn stored_bytes(&self) -> usize {
        self.reader.stored.len()
    }
}

pub struct Maker;

impl LayerMaker for Maker {
    fn make(&self) -> Box<dyn Layer> {
        Box::<Server>::default()
    }
}

/// What a sealed client has heard besides bytes.
#[derive(Default)]
struct Sealing {
    reader: RecordReader,
    writer: Writer,
    said_hello: bool,
    heard_hello: bool,
    heard_end: bool,
    alerted: bool,
    arrived: Vec<u8>,
}

/// A client's end of a connection, plain or sealed.
pub struct End {
    end: ClientEnd,
    sealing: Option<Sealing>,
    tls: Option<Box<TlsEnd>>,
}

impl End {
    pub fn plain(net: &SimNet) -> End {
        End { end: net.connect(), sealing: None, tls: None }
    }

    pub fn sealed(net: &SimNet) -> End {
        End { end: net.connect_by(SEALED), sealing: Some(Sealing::default()), tls: None }
    }

    pub fn over_tls(net: &SimNet, tls: TlsEnd) -> End {
        End { end: net.connect_by(TLS), sealing: None, tls: Some(Box::new(tls)) }
    }

    pub fn is_sealed(&self) -> bool {
        self.sealing.is_some() || self.tls.is_some()
    }

    /// It speaks TLS, and has not agreed with the shard yet.
    pub fn in_handshake(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.in_handshake())
    }

    pub fn send(&mut self, bytes: &[u8]) -> bool {
        if let Some(tls) = &mut self.tls {
            return !self.end.finished() && !tls.is_over() && tls.send(&mut self.end, bytes);
        }
        let Some(sealing) = &mut self.sealing else { return self.end.send(bytes) };
        if self.end.finished() || sealing.writer.ended {
            return false;
        }
        let mut sealed = BytesMut::new();
        if !std::mem::replace(&mut sealing.said_hello, true) {
            sealing.writer.record(HELLO, b"hello", &mut sealed);
        }
        sealing.writer.data(bytes, &mut sealed);
        self.end.send(&sealed)
    }

    /// As it is, whatever the connection is.
    pub fn send_unsealed(&mut self, bytes: &[u8]) -> bool {
        self.end.send(bytes)
    }

    pub fn recv(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        self.recv_into(&mut plain);
        plain
    }

    pub fn recv_into(&mut self, out: &mut Vec<u8>) -> usize {
        if let Some(tls) = &mut self.tls {
            let before = out.len();
            tls.recv_into(&mut self.end, out);
            return out.len() - before;
        }
        let Some(sealing) = &mut self.sealing else { return self.end.recv_into(out) };
        let before = out.len();
        sealing.arrived.clear();
        self.end.recv_into(&mut sealing.arrived);
        let mut bytes = &mut sealing.arrived[..];
        while !bytes.is_empty() {
            assert!(!sealing.heard_end, "bytes behind the end of a sealed connection");
            let (consumed, opened) = sealing.reader.open(bytes);
            match opened.expect("records of a shard are sound") {
                Some((HELLO, _)) => {
                    assert!(!std::mem::replace(&mut sealing.heard_hello, true), "a second hello")
                }
                Some((DATA, plain)) => {
                    assert!(sealing.heard_hello, "the layer speaks first");
                    out.extend_from_slice(plain);
                }
                Some((END, _)) => sealing.heard_end = true,
                Some((ALERT, _)) => sealing.alerted = true,
                Some((kind, _)) => panic!("a record of kind {kind}"),
                None => {}
            }
            bytes = &mut bytes[consumed..];
        }
        out.len() - before
    }

    /// The end in the layer first, as far as the connection has one.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls
            && !self.end.finished()
        {
            tls.end(&mut self.end);
        }
        if let Some(sealing) = &mut self.sealing
            && !self.end.finished()
            && !sealing.writer.ended
        {
            let mut sealed = BytesMut::new();
            sealing.writer.record(END, b"", &mut sealed);
            self.end.send(&sealed);
        }
        self.end.finish();
    }

    /// The shard's layer has said that it was the last.
    pub fn heard_end(&mut self) -> bool {
        if let Some(tls) = &mut self.tls {
            return tls.heard_end();
        }
        self.sealing.as_ref().is_some_and(|sealing| sealing.heard_end)
    }

    /// The shard's layer did not understand what it was sent.
    pub fn alerted(&self) -> bool {
        if let Some(tls) = &self.tls {
            return tls.alerted;
        }
        self.sealing.as_ref().is_some_and(|sealing| sealing.alerted)
    }
}

impl Deref for End {
    type Target = ClientEnd;

    fn deref(&self) -> &ClientEnd {
        &self.end
    }
}

impl DerefMut for End {
    fn deref_mut(&mut self) -> &mut ClientEnd {
        &mut self.end
    }
}

mod tests {
    use super::*;

    fn say(server: &mut Server, plain: &[u8], last: bool) -> BytesMut {
        let mut sealed = BytesMut::new();
        server.seal(&[Bytes::copy_from_slice(plain)], last, &mut sealed);
        sealed
    }

    /// A layer is fed with what came, however it was cut.
    #[test]
    fn records_are_opened_in_any_pieces() {
        let text: Vec<u8> = (0..PAYLOAD_MAX as u8 * 3 + 5).collect();
        let mut writer = Writer::default();
        let mut sealed = BytesMut::new();
        writer.record(HELLO, b"hello", &mut sealed);
        writer.data(&text, &mut sealed);
        writer.record(END, b"", &mut sealed);
        for size in 1..sealed.len() {
            let mut server = Server::default();
            let (mut heard, mut ended) = (Vec::new(), false);
            for piece in sealed.clone().chunks_mut(size) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let (consumed, opened) = server.open(piece);
                    match opened {
                        OpenedBytes::Plain(plain) => heard.extend_from_slice(plain),
                        OpenedBytes::Nothing => {}
                        OpenedBytes::End => ended = true,
                        OpenedBytes::Fault(fault) => panic!("{fault:?}"),
                    }
                    assert!(consumed > 0);
                    piece = &mut piece[consumed..];
                }
            }
            assert_eq!((&heard, ended, server.stored_bytes()), (&text, true, 0), "pieces of {size}");
            assert!(server.wants_to_speak());
        }
    }

    #[test]
    fn a_record_that_is_lost_or_repeated_is_a_fault() {
        let mut server = Server::default();
        let mut writer = Writer::default();
        let mut record = |text: &[u8]| {
            let mut sealed = BytesMut::new();
            writer.record(DATA, text, &mut sealed);
            sealed
        };
        let (mut one, _two, mut three) = (record(b"one"), record(b"two"), record(b"three"));
        assert_eq!(server.open(&mut one).1, OpenedBytes::Plain(&mut b"one".to_vec()[..]));
        assert!(matches!(server.open(&mut three).1, OpenedBytes::Fault(_)));
        assert!(server.wants_to_speak());
        let len = one.len();
        assert_eq!(server.open(&mut one), (len, OpenedBytes::Nothing), "nothing is heard behind a fault");
        let said = say(&mut server, b"", true);
        assert_eq!(said.iter().step_by(HEADER).copied().collect::<Vec<_>>(), [HELLO, ALERT, END]);
        assert!(say(&mut server, b"", true).is_empty(), "said once");
    }
}
