//! WebSocket frames (RFC 6455 section 5.2) written the long way, wrong ones too.

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame as it stands on the wire. Nothing is checked: the tests write what the RFC forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// RSV1 to RSV3 as a number below 8.
    pub rsv: u8,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { fin: true, rsv: 0, opcode, payload: payload.into() }
    }

    pub fn text(payload: &str) -> Frame {
        Frame::new(TEXT, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(BINARY, payload)
    }

    pub fn ping(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(PING, payload)
    }

    pub fn pong(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(PONG, payload)
    }

    pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
        Frame::new(CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
    }

    /// The same frame as one that more follow.
    pub fn unfinished(mut self) -> Frame {
        self.fin = false;
        self
    }

    pub fn with_rsv(mut self, rsv: u8) -> Frame {
        self.rsv = rsv;
        self
    }

    /// As a client sends it: masked, with the shortest length.
    pub fn masked(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.payload.len() + 14);
        self.masked_into(&mut bytes);
        bytes
    }

    pub fn masked_into(&self, out: &mut Vec<u8>) {
        self.head(0x80, out);
        out.extend_from_slice(&MASK);
        out.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    /// As no client may send it (RFC 6455 section 5.1).
    pub fn unmasked(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.head(0, &mut bytes);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn head(&self, mask_bit: u8, out: &mut Vec<u8>) {
        out.push((self.fin as u8) << 7 | self.rsv << 4 | self.opcode);
        match self.payload.len() {
            len @ 0..=125 => out.push(mask_bit | len as u8),
            len @ 126..=0xFFFF => {
                out.push(mask_bit | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(mask_bit | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
    }

    /// Cuts one frame of a server off the front of `input`: the frame and its length on the wire; `None`: need more.
    /// Panics on what a server may never send: a mask, or a length that is not the shortest.
    pub fn parse(input: &[u8]) -> Option<(Frame, usize)> {
        let (&first, &second) = (input.first()?, input.get(1)?);
        assert_eq!(second & 0x80, 0, "a server must not mask (RFC 6455 section 5.1)");
        let (len, head): (usize, usize) = match second {
            126 => {
                let len = u16::from_be_bytes(input.get(2..4)?.try_into().ok()?) as usize;
                assert!(len > 125, "a length of {len} in 16 bits");
                (len, 4)
            }
            127 => {
                let len = u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize;
                assert!(len > 0xFFFF, "a length of {len} in 64 bits");
                (len, 10)
            }
            len => (len as usize, 2),
        };
        let payload = input.get(head..head.checked_add(len)?)?.to_vec();
        let frame = Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 0xF, payload };
        Some((frame, head + len))
    }

    /// The code of a Close frame; `None` when it has no payload. Panics on another frame.
    pub fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE, "a Close was due, not {self:?}");
        Some(u16::from_be_bytes(self.payload.get(..2)?.try_into().expect("two bytes")))
    }
}

/// The message in frames of at most `size` bytes, the first with the message's opcode.
pub fn fragments(opcode: u8, payload: &[u8], size: usize) -> Vec<Frame> {
    let mut frames: Vec<Frame> =
        payload.chunks(size).map(|part| Frame::new(CONTINUATION, part).unfinished()).collect();
    frames.first_mut().expect("a message to cut").opcode = opcode;
    frames.last_mut().expect("a message to cut").fin = true;
    frames
}

/// The frames one after the other as a client sends them.
pub fn masked(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.masked_into(&mut bytes);
    }
    bytes
}
