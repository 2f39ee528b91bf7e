//! Reading frames into messages (RFC 6455 sections 5 to 8).

use std::ops::Range;

use super::close::parse_close;
use super::encode::{FRAME_HEADER_BYTES_MAX, RSV1};
use super::mask::{apply_mask, rotate_key};
use super::utf8::Utf8Stream;
use super::{Message, Opcode, Role, WsFault};
use crate::base::limits;

/// Capacity that is kept from one stored message to the next of the same decoder, in bytes. More goes back to the
/// allocator, so that one long message does not stay with its connection.
const PAYLOAD_KEPT_BYTES: usize = 4 * 1024;

/// One connection's incoming side. Needed only while a frame or message is incomplete: make one for a read, and keep
/// it until the next read only if it is not [idle](Decoder::is_idle) afterwards. That is also the way to give a
/// finished message's memory back.
///
/// ```
/// use trunkline::proto::websocket::{Decoder, Message, Role};
/// fn handle_read(decoder: &mut Decoder, input: &mut [u8]) -> Result<(), trunkline::proto::websocket::WsFault> {
///     let mut at = 0;
///     loop {
///         let (consumed, message) = decoder.decode(&mut input[at..])?;
///         at += consumed;
///         match message {
///             Some(Message::Close { .. }) | None => return Ok(()),
///             Some(message) => println!("{message:?}"),
///         }
///     }
/// }
/// let mut decoder = Decoder::new(Role::Client, 1024);
/// handle_read(&mut decoder, &mut [0x81, 0x02, b'h', b'i']).unwrap();
/// assert!(decoder.is_idle());
/// ```
#[derive(Debug)]
pub struct Decoder {
    pub(super) role: Role,
    pub(super) message_bytes_max: usize,
    /// Messages may be compressed.
    pub(super) deflating: bool,
    /// The beginning of a frame header that is not complete.
    pub(super) header: [u8; FRAME_HEADER_BYTES_MAX],
    pub(super) header_len: u8,
    /// The frame whose payload is coming.
    pub(super) frame: Option<Frame>,
    /// The data message whose frames are coming. `frame` may be one of them or a control frame between them.
    pub(super) message: Option<FrameKind>,
    /// Whether `message` is compressed.
    pub(super) compressed: bool,
    /// Payload of `message` so far, unmasked; after a stored message was returned, that message.
    pub(super) payload: Vec<u8>,
    /// `payload` belongs to a message that has been returned.
    pub(super) payload_returned: bool,
    pub(super) utf8: Utf8Stream,
    /// Payload so far of a control frame in `frame`.
    pub(super) control: [u8; limits::WS_CONTROL_BYTES_MAX],
    pub(super) control_len: u8,
}

const _: () = assert!(size_of::<Decoder>() <= 256, "what half a frame costs a connection");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Text,
    Binary,
}

/// A frame after its header was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    /// RSV1, on the first frame of a message.
    pub(super) compressed: bool,
    /// Turned to the next byte of the payload. `None` from a server.
    pub(super) key: Option<[u8; 4]>,
    /// Payload bytes that are still to come.
    pub(super) left: usize,
}

/// Where a complete message lies. Found first and borrowed after, at one place.
enum FoundFrame {
    /// Unmasked, in the input.
    InPlace(Opcode, Range<usize>),
    /// The same, compressed.
    InPlaceCompressed(Opcode, Range<usize>),
    /// In `payload`, compressed or not as `compressed` says.
    Stored(FrameKind),
    /// In `control`.
    Control(Opcode),
}

impl Decoder {
    /// Allocates nothing. `message_bytes_max` bounds a data message's payload over all its frames; control frames are
    /// bounded by the RFC.
    pub fn new(role: Role, message_bytes_max: usize) -> Decoder {
        Decoder {
            role,
            message_bytes_max,
            deflating: false,
            header: [0; FRAME_HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            message: None,
            compressed: false,
            payload: Vec::new(),
            payload_returned: false,
            utf8: Utf8Stream::default(),
            control: [0; limits::WS_CONTROL_BYTES_MAX],
            control_len: 0,
        }
    }

    /// The same, for a connection on which permessage-deflate was agreed on or not.
    pub fn deflating(mut self, deflating: bool) -> Decoder {
        self.deflating = deflating;
        self
    }

    /// Whether nothing incomplete is stored: a new decoder would go on just as well.
    pub fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Memory behind this decoder, in bytes, for the connection's account.
    pub fn stored_bytes(&self) -> usize {
        size_of::<Decoder>() + self.payload.capacity()
    }

    /// Reads `input` up to the end of the first complete message or control frame, and returns how many bytes that
    /// took. `None` comes only with all of `input` consumed. `input` is changed: its masks are taken off.
    ///
    /// A message that lies whole in `input` as one frame is borrowed from there; any other is collected here, in
    /// memory that grows by doubling with what has arrived, never with what was announced.
    ///
    /// # Errors
    /// 1002 for a frame that sections 5 and 7.4 forbid, 1007 for text that is not UTF-8 at the first byte that shows
    /// it, 1009 for a message over the bound as soon as a frame announces it. The connection is to be failed; the
    /// decoder must not be used again.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8]) -> Result<(usize, Option<Message<'a>>), WsFault> {
        if self.payload_returned {
            self.payload_returned = false;
            self.payload.clear();
            self.payload.shrink_to(PAYLOAD_KEPT_BYTES);
        }
        let (consumed, found) = self.find_message(input)?;
        let message = match found {
            None => None,
            Some(FoundFrame::Stored(kind)) => {
                self.payload_returned = true;
                Some(match self.compressed {
                    true => Message::Compressed { text: kind == FrameKind::Text, payload: &self.payload },
                    false => data_message(kind, &self.payload)?,
                })
            }
            Some(FoundFrame::Control(opcode)) => {
                Some(control_message(opcode, &self.control[..self.control_len.into()])?)
            }
            Some(FoundFrame::InPlaceCompressed(opcode, range)) => {
                Some(Message::Compressed { text: opcode == Opcode::Text, payload: &input[range] })
            }
            Some(FoundFrame::InPlace(opcode, range)) => Some(match opcode {
                Opcode::Text => data_message(FrameKind::Text, &input[range])?,
                Opcode::Binary | Opcode::Continuation => Message::Binary(&input[range]),
                Opcode::Close | Opcode::Ping | Opcode::Pong => control_message(opcode, &input[range])?,
            }),
        };
        Ok((consumed, message))
    }

    fn find_message(&mut self, input: &mut [u8]) -> Result<(usize, Option<FoundFrame>), WsFault> {
        let mut at = 0;
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_header(input, &mut at)? {
                    Some(frame) => {
                        self.control_len = 0;
                        frame
                    }
                    None => return Ok((input.len(), None)),
                },
            };
            let taken = frame.left.min(input.len() - at);
            let complete = taken == frame.left;
            let range = at..at + taken;
            at += taken;
            if let Some(key) = frame.key {
                apply_mask(&mut input[range.clone()], key);
            }
            let rest =
                Frame { key: frame.key.map(|key| rotate_key(key, taken)), left: frame.left - taken, ..frame };

            if frame.opcode.is_control() {
                if complete && self.control_len == 0 {
                    return Ok((at, Some(FoundFrame::InPlace(frame.opcode, range))));
                }
                self.store_control(&input[range]);
                if complete {
                    return Ok((at, Some(FoundFrame::Control(frame.opcode))));
                }
                self.frame = Some(rest);
                return Ok((at, None));
            }

            let kind = match (self.message, frame.opcode) {
                (Some(kind), _) => kind,
                (None, opcode) if complete && frame.fin => {
                    let found =
                        if frame.compressed { FoundFrame::InPlaceCompressed } else { FoundFrame::InPlace };
                    return Ok((at, Some(found(opcode, range))));
                }
                // Header and payload written apart by the peer: the payload may still come whole in the next read.
                (None, _) if taken == 0 && !complete => {
                    self.frame = Some(rest);
                    return Ok((at, None));
                }
                (None, Opcode::Text) => FrameKind::Text,
                (None, _) => FrameKind::Binary,
            };
            if self.message.is_none() {
                self.message = Some(kind);
                self.compressed = frame.compressed;
            }
            self.store_payload(kind, &input[range], rest)?;
            if !complete {
                self.frame = Some(rest);
                return Ok((at, None));
            }
            if frame.fin {
                self.message = None;
                return Ok((at, Some(FoundFrame::Stored(kind))));
            }
        }
    }

    /// The next frame's header, from what is stored and from `input[*at..]`. `None` consumes and stores all of it.
    fn read_header(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Frame>, WsFault> {
        let rest = &input[*at..];
        if self.header_len == 0 {
            if let Some((frame, len)) = self.parse_header(rest)? {
                *at += len;
                return Ok(Some(frame));
            }
            // An incomplete header is shorter than the array.
            self.header[..rest.len()].copy_from_slice(rest);
            self.header_len = rest.len() as u8;
            return Ok(None);
        }
        // At most 13 more bytes, one by one, as the length of the header shows only while it is read.
        for &byte in rest {
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            *at += 1;
            if let Some((frame, _)) = self.parse_header(&self.header[..self.header_len.into()])? {
                self.header_len = 0;
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Checks as much of a header as there is; `None` when that is not all of it.
    pub(super) fn parse_header(&self, bytes: &[u8]) -> Result<Option<(Frame, usize)>, WsFault> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let compressed = first & RSV1 != 0;
        if first & 0x70 & !RSV1 != 0 || compressed && !self.deflating {
            return Err(WsFault::protocol("reserved bit set"));
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(WsFault::protocol("reserved opcode"))?;
        if compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
            // RFC 7692 section 6.1.
            return Err(WsFault::protocol("only the first frame of a message says that it is compressed"));
        }
        match (opcode, self.message) {
            (Opcode::Continuation, None) => return Err(WsFault::protocol("continuation of no message")),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(WsFault::protocol("new message inside a fragmented one"));
            }
            _ if opcode.is_control() && !fin => return Err(WsFault::protocol("fragmented control frame")),
            _ => {}
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let masked = second & 0x80 != 0;
        match (self.role, masked) {
            (Role::Server, false) => return Err(WsFault::protocol("unmasked frame from a client")),
            (Role::Client, true) => return Err(WsFault::protocol("masked frame from a server")),
            (Role::Server, true) | (Role::Client, false) => {}
        }
        let short_len = second & 0x7f;
        if opcode.is_control() && short_len > 125 {
            return Err(WsFault::protocol("control frame longer than 125 bytes"));
        }

        // Section 5.2: the shortest form that can hold the length must be used.
        const NOT_MINIMAL: WsFault = WsFault::protocol("payload length not in its shortest form");
        let (len, mut header_len) = match short_len {
            126 => {
                let Some(&len) = bytes.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
                match u16::from_be_bytes(len) {
                    0..=125 => return Err(NOT_MINIMAL),
                    len => (u64::from(len), 4),
                }
            }
            127 => {
                let Some(&len) = bytes.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
                match u64::from_be_bytes(len) {
                    0..=0xffff => return Err(NOT_MINIMAL),
                    len if len >> 63 != 0 => {
                        return Err(WsFault::protocol("payload length with its top bit set"));
                    }
                    len => (len, 10),
                }
            }
            len => (u64::from(len), 2),
        };
        let left = usize::try_from(len).map_err(|_| WsFault::TOO_BIG)?;
        let bytes_max = self.payload_bytes_max(compressed || self.compressed && self.message.is_some());
        if !opcode.is_control() && left > bytes_max.saturating_sub(self.payload.len()) {
            return Err(WsFault::TOO_BIG);
        }

        let mut key = None;
        if masked {
            let Some(&bytes) = bytes.get(header_len..).and_then(|rest| rest.first_chunk()) else {
                return Ok(None);
            };
            key = Some(bytes);
            header_len += 4;
        }
        Ok(Some((Frame { opcode, fin, compressed, key, left }, header_len)))
    }

    /// A message that compression makes no shorter grows by an eighth at most, in blocks of fixed codes, and by some bytes
    /// for its end.
    fn payload_bytes_max(&self, compressed: bool) -> usize {
        let more = if compressed { self.message_bytes_max / 8 + 16 } else { 0 };
        self.message_bytes_max.saturating_add(more)
    }

    fn store_control(&mut self, piece: &[u8]) {
        // In range: the header was refused otherwise.
        let start = usize::from(self.control_len);
        self.control[start..start + piece.len()].copy_from_slice(piece);
        self.control_len += piece.len() as u8;
    }

    /// Appends unmasked payload. `frame` is what remains of the frame after it.
    fn store_payload(&mut self, kind: FrameKind, piece: &[u8], frame: Frame) -> Result<(), WsFault> {
        if kind == FrameKind::Text && !self.compressed {
            self.utf8.push(piece).map_err(|_| WsFault::NOT_UTF8)?;
        }
        let needed = self.payload.len() + piece.len();
        if needed > self.payload.capacity() {
            // Twice what has arrived, so that appending stays linear; never past the end, where it is known, nor the
            // bound, both of which `needed` respects.
            let end = if frame.fin { needed + frame.left } else { self.payload_bytes_max(self.compressed) };
            let capacity = needed.saturating_mul(2).min(end).max(needed);
            self.payload.reserve_exact(capacity - self.payload.len());
        }
        self.payload.extend_from_slice(piece);
        Ok(())
    }
}

fn data_message(kind: FrameKind, payload: &[u8]) -> Result<Message<'_>, WsFault> {
    match kind {
        FrameKind::Binary => Ok(Message::Binary(payload)),
        FrameKind::Text => std::str::from_utf8(payload).map(Message::Text).map_err(|_| WsFault::NOT_UTF8),
    }
}

fn control_message(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, WsFault> {
    match opcode {
        Opcode::Close => parse_close(payload),
        Opcode::Ping => Ok(Message::Ping(payload)),
        _ => Ok(Message::Pong(payload)),
    }
}
