//! Request bodies: a known length, or chunks (RFC 9112 sections 6 and 7).

use super::fields::{is_field_value, is_token};
use super::{BodyLength, HttpFault};

/// Most bytes of chunk extensions and trailers in one body together. Neither is used by anything that is served, so
/// this only leaves room for clients that send them; without it a body of one-byte chunks could carry any amount.
pub const CHUNK_EXTRA_BYTES_MAX: u32 = 8 * 1024;

/// Most hexadecimal digits of a chunk size: as many as a 64-bit number needs.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where in one request's body the input stands. Plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyDecoder {
    state: BodyState,
    /// Bytes of data that may still come, in all.
    allowance: u64,
    extra: u32,
}

const _: () = assert!(std::mem::size_of::<BodyDecoder>() <= 32);

/// ```text
///  Size ─▶ (SizeSpace | Extension)* ─▶ SizeLf ─▶ Data ─▶ DataCr ─▶ DataLf ─▶ Size ...
///                                        └─size 0─▶ LineStart ─▶ TrailerName ─▶ TrailerValue ─▶ TrailerLf ─▶ LineStart
///                                                       └─CR─▶ LastLf ─▶ Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// A body of known length: bytes left.
    Length(u64),
    Size {
        size: u64,
        digits: u8,
    },
    /// White space after the size, which RFC 9112 section 7.1.1 allows before a `;` only.
    SizeSpace {
        size: u64,
    },
    Extension {
        size: u64,
        at: ChunkExtension,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// Where in `BWS ";" BWS name [BWS "=" BWS (token / quoted-string)]` (RFC 9112 section 7.1.1) the input stands.
/// Extensions mean nothing here. Their grammar is checked because readers that skip what is malformed disagree about
/// where the chunk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkExtension {
    /// Behind the `;`.
    Start,
    Name,
    NameSpace,
    /// Behind the `=`.
    ValueStart,
    Value,
    Quoted,
    /// Behind a backslash in quotes.
    Escaped,
    QuoteEnd,
    ValueSpace,
}

impl ChunkExtension {
    /// The place behind `byte`; `None` where no such byte may stand.
    fn step(self, byte: u8) -> Option<ChunkExtension> {
        use ChunkExtension::{
            Escaped, Name, NameSpace, QuoteEnd, Quoted, Start, Value, ValueSpace, ValueStart,
        };
        let is_text = is_field_value(&[byte]);
        Some(match (self, byte) {
            (Start, b' ' | b'\t') => Start,
            (Start | Name, _) if is_token(&[byte]) => Name,
            (Name | NameSpace, b' ' | b'\t') => NameSpace,
            (Name | NameSpace, b'=') => ValueStart,
            (ValueStart, b' ' | b'\t') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if is_token(&[byte]) => Value,
            (Quoted, b'\\') => Escaped,
            (Quoted, b'"') => QuoteEnd,
            (Quoted | Escaped, _) if is_text => Quoted,
            (Value | QuoteEnd | ValueSpace, b' ' | b'\t') => ValueSpace,
            (Name | NameSpace | Value | QuoteEnd | ValueSpace, b';') => Start,
            _ => return None,
        })
    }

    /// Whether the line may end here.
    fn is_whole(self) -> bool {
        matches!(self, ChunkExtension::Name | ChunkExtension::Value | ChunkExtension::QuoteEnd)
    }
}

/// One step of [`BodyDecoder::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPiece<'i> {
    /// Bytes of the input that are done with, framing included.
    pub consumed: usize,
    /// Body data among them; may be empty.
    pub data: &'i [u8],
    /// The body is complete. What follows in the input is the next request.
    pub done: bool,
}

impl BodyDecoder {
    /// For a body that ends as `length` says and holds at most `body_bytes_max` bytes of data.
    ///
    /// # Errors
    /// 413 when the announced length is over the bound already.
    pub fn new(length: BodyLength, body_bytes_max: u64) -> Result<BodyDecoder, HttpFault> {
        let state = match length {
            BodyLength::None | BodyLength::Length(0) => BodyState::Done,
            BodyLength::Length(length) if length > body_bytes_max => return Err(TOO_LARGE),
            BodyLength::Length(length) => BodyState::Length(length),
            BodyLength::Chunked => BodyState::Size { size: 0, digits: 0 },
        };
        Ok(BodyDecoder { state, allowance: body_bytes_max, extra: 0 })
    }

    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// Reads on, up to the end of the body or of one run of data. Call it until `done`, or until all input is
    /// consumed, which it always is when more is needed. Data is handed out as it comes, not chunk by chunk.
    ///
    /// # Errors
    /// 400 for malformed framing, 413 for more data than allowed, 431 for more extensions and trailers than
    /// [`CHUNK_EXTRA_BYTES_MAX`]. The connection must be closed; the decoder must not be used again.
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> Result<BodyPiece<'i>, HttpFault> {
        let mut at = 0;
        while self.state != BodyState::Done {
            if let BodyState::Length(left) | BodyState::Data(left) = self.state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                let left = left - taken as u64;
                self.state = match self.state {
                    BodyState::Length(_) if left == 0 => BodyState::Done,
                    BodyState::Length(_) => BodyState::Length(left),
                    _ if left == 0 => BodyState::DataCr,
                    _ => BodyState::Data(left),
                };
                let data = &input[at..at + taken];
                return Ok(BodyPiece { consumed: at + taken, data, done: self.is_done() });
            }
            let Some(&byte) = input.get(at) else { break };
            self.state = self.step(byte)?;
            at += 1;
        }
        Ok(BodyPiece { consumed: at, data: &[], done: self.is_done() })
    }

    /// One byte of chunk framing. Line ends are CRLF and nothing else: a decoder in front of or behind this one
    /// that took a bare LF would see other chunks.
    fn step(&mut self, byte: u8) -> Result<BodyState, HttpFault> {
        Ok(match (self.state, byte) {
            (BodyState::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(HttpFault::bad_request("chunk size too long"));
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                BodyState::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (BodyState::Size { digits: 0, .. }, _) => {
                return Err(HttpFault::bad_request("missing chunk size"));
            }
            (BodyState::Size { size, .. }, b'\r') => BodyState::SizeLf { size },
            (BodyState::Size { size, .. } | BodyState::SizeSpace { size }, b';') => {
                self.count_extra()?;
                BodyState::Extension { size, at: ChunkExtension::Start }
            }
            (BodyState::Size { size, .. } | BodyState::SizeSpace { size }, b' ' | b'\t') => {
                self.count_extra()?;
                BodyState::SizeSpace { size }
            }
            (BodyState::Size { .. } | BodyState::SizeSpace { .. }, _) => {
                return Err(HttpFault::bad_request("invalid chunk size"));
            }
            (BodyState::Extension { size, at }, b'\r') if at.is_whole() => BodyState::SizeLf { size },
            (BodyState::Extension { size, at }, _) => {
                self.count_extra()?;
                let at = at.step(byte).ok_or(HttpFault::bad_request("malformed chunk extension"))?;
                BodyState::Extension { size, at }
            }
            (BodyState::SizeLf { size: 0 }, b'\n') => BodyState::LineStart,
            (BodyState::SizeLf { size }, b'\n') => {
                self.allowance = self.allowance.checked_sub(size).ok_or(TOO_LARGE)?;
                BodyState::Data(size)
            }
            (BodyState::DataCr, b'\r') => BodyState::DataLf,
            (BodyState::DataLf, b'\n') => BodyState::Size { size: 0, digits: 0 },
            (BodyState::DataCr | BodyState::DataLf, _) => {
                return Err(HttpFault::bad_request("chunk longer than its size"));
            }
            (BodyState::LineStart, b'\r') => BodyState::LastLf,
            (BodyState::LineStart, b' ' | b'\t') => {
                return Err(HttpFault::bad_request("folded trailer line"));
            }
            (BodyState::LineStart | BodyState::TrailerName, _) if is_token(&[byte]) => {
                self.count_extra()?;
                BodyState::TrailerName
            }
            (BodyState::TrailerName, b':') => {
                self.count_extra()?;
                BodyState::TrailerValue
            }
            (BodyState::TrailerName, b'\r') => {
                return Err(HttpFault::bad_request("trailer line without a colon"));
            }
            (BodyState::LineStart | BodyState::TrailerName, _) => {
                return Err(HttpFault::bad_request("invalid byte in a trailer name"));
            }
            (BodyState::TrailerValue, b'\r') => BodyState::TrailerLf,
            (BodyState::TrailerValue, _) => {
                self.count_extra()?;
                if !is_field_value(&[byte]) {
                    return Err(HttpFault::bad_request("control character in a trailer"));
                }
                BodyState::TrailerValue
            }
            (BodyState::TrailerLf, b'\n') => BodyState::LineStart,
            (BodyState::LastLf, b'\n') => BodyState::Done,
            (BodyState::SizeLf { .. } | BodyState::TrailerLf | BodyState::LastLf, _) => {
                return Err(HttpFault::bad_request("bare CR in chunk framing"));
            }
            // `decode` takes these itself and never steps in them.
            (BodyState::Length(_) | BodyState::Data(_) | BodyState::Done, _) => self.state,
        })
    }

    fn count_extra(&mut self) -> Result<(), HttpFault> {
        self.extra += 1;
        if self.extra > CHUNK_EXTRA_BYTES_MAX {
            return Err(HttpFault { status: 431, reason: "chunk extensions and trailers too large" });
        }
        Ok(())
    }
}

const TOO_LARGE: HttpFault = HttpFault { status: 413, reason: "request body too large" };
