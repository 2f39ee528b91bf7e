//! The extension in the opening handshake (RFC 7692 section 7.1, RFC 6455 section 9.1).

use smallvec::SmallVec;

use super::super::HandshakeFault;
use crate::proto::http1::{RequestHead, ResponseHead, is_token};

const FIELD: &str = "Sec-WebSocket-Extensions";
const NAME: &[u8] = b"permessage-deflate";

const SERVER_NO_CONTEXT: &[u8] = b"server_no_context_takeover";
const CLIENT_NO_CONTEXT: &[u8] = b"client_no_context_takeover";
const SERVER_WINDOW: &[u8] = b"server_max_window_bits";
const CLIENT_WINDOW: &[u8] = b"client_max_window_bits";

const FULL_WINDOW_BITS: u8 = 15;

/// What both sides have agreed on, besides that neither takes its context from one message to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `server_max_window_bits` of the offer.
    server_window_bits: Option<u8>,
}

impl Agreed {
    /// Whether frames that are compressed for everybody may be sent. They may refer to data 32 KiB back, too far for a
    /// client that keeps a smaller window: its messages go uncompressed, as section 6.1 allows for any message.
    pub fn may_compress(self) -> bool {
        self.server_window_bits.unwrap_or(FULL_WINDOW_BITS) == FULL_WINDOW_BITS
    }

    /// The answer's field.
    pub fn field(self) -> (&'static str, Vec<u8>) {
        let mut value =
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_vec();
        if let Some(bits) = self.server_window_bits {
            value.extend_from_slice(format!("; server_max_window_bits={bits}").as_bytes());
        }
        (FIELD, value)
    }
}

/// Chooses one of the client's offers: the first under which messages to it may be compressed, else the first that can
/// be accepted. `None`: there is none.
///
/// An offer is declined for a parameter that is unknown, stands twice, or has a value that it must not have (section
/// 7.1). `server_no_context_takeover` and `client_no_context_takeover` are answered with whether they are offered or
/// not: a server may demand both (sections 7.1.1.1 and 7.1.1.2). `client_max_window_bits` needs no answer: a client may
/// use any window.
///
/// # Errors
/// 400 for a field that is no list of extensions (RFC 6455 section 9.1).
pub fn negotiate(head: &RequestHead<'_>) -> Result<Option<Agreed>, HandshakeFault> {
    let mut chosen = None;
    for value in head.fields().all(FIELD) {
        each_extension(value, |extension| {
            let agreed = extension.as_offer();
            if chosen.is_none_or(|chosen: Agreed| !chosen.may_compress())
                && let Some(agreed) = agreed
                && (chosen.is_none() || agreed.may_compress())
            {
                chosen = Some(agreed);
            }
        })
        .map_err(|Malformed| HandshakeFault {
            status: 400,
            reason: "Sec-WebSocket-Extensions is no list of extensions",
        })?;
    }
    Ok(chosen)
}

/// A client's offer of what is spoken here.
pub const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Reads a server's answer to [`OFFER`]. Whether compression was agreed on.
///
/// # Errors
/// The server uses what was not offered, or answers with what no answer may hold (section 7.1).
pub fn check_extension(head: &ResponseHead<'_>) -> Result<bool, &'static str> {
    let (mut agreed, mut valid) = (false, true);
    for value in head.fields.all(FIELD) {
        each_extension(value, |extension| {
            valid &= !agreed && extension.is_answer();
            agreed = true;
        })
        .map_err(|Malformed| "Sec-WebSocket-Extensions is no list of extensions")?;
    }
    if valid { Ok(agreed) } else { Err("the server uses an extension in a way that was not offered") }
}

/// One element of the list.
#[derive(Default)]
struct Extension<'v> {
    name: &'v [u8],
    /// A value is unquoted.
    parameters: SmallVec<[(&'v [u8], Option<ParameterValue>); 4]>,
}

type ParameterValue = SmallVec<[u8; 8]>;

impl Extension<'_> {
    /// `None`: declined.
    fn as_offer(&self) -> Option<Agreed> {
        let (parameters, mut agreed) = (self.of_deflate()?, Agreed { server_window_bits: None });
        for &(name, ref value) in parameters {
            match (name, value) {
                (SERVER_NO_CONTEXT | CLIENT_NO_CONTEXT | CLIENT_WINDOW, None) => {}
                (CLIENT_WINDOW, Some(value)) => drop(window_bits(value)?),
                (SERVER_WINDOW, Some(value)) => agreed.server_window_bits = Some(window_bits(value)?),
                _ => return None,
            }
        }
        Some(agreed)
    }

    /// Neither was `client_max_window_bits` offered, nor can be done without `server_no_context_takeover`, which was.
    fn is_answer(&self) -> bool {
        let Some(parameters) = self.of_deflate() else { return false };
        let known = parameters.iter().all(|(name, value)| match (*name, value) {
            (SERVER_NO_CONTEXT | CLIENT_NO_CONTEXT, None) => true,
            (SERVER_WINDOW, Some(value)) => window_bits(value).is_some(),
            _ => false,
        });
        known && parameters.iter().any(|(name, _)| *name == SERVER_NO_CONTEXT)
    }

    /// The parameters, none of them twice. Names of extensions and parameters have a case, as in every other server.
    fn of_deflate(&self) -> Option<&[(&[u8], Option<ParameterValue>)]> {
        let twice = |at: usize| self.parameters[..at].iter().any(|(name, _)| *name == self.parameters[at].0);
        let valid = self.name == NAME && !(0..self.parameters.len()).any(twice);
        valid.then_some(&self.parameters)
    }
}

/// A decimal number from 8 to 15 without leading zeros (section 7.1.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    match *value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

struct Malformed;

/// Gives each extension of one field line.
fn each_extension<'v>(value: &'v [u8], mut each: impl FnMut(&Extension<'v>)) -> Result<(), Malformed> {
    let mut rest = OfferRest(value);
    loop {
        // Empty elements count for nothing (RFC 9110 section 5.6.1).
        while rest.take(b',') {}
        if rest.is_empty() {
            return Ok(());
        }
        let mut extension = Extension { name: rest.token()?, ..Extension::default() };
        while rest.take(b';') {
            let name = rest.token()?;
            let value = if rest.take(b'=') { Some(rest.value()?) } else { None };
            extension.parameters.push((name, value));
        }
        if !rest.is_empty() && !rest.take(b',') {
            return Err(Malformed);
        }
        each(&extension);
    }
}

/// What is left of a field line.
struct OfferRest<'v>(&'v [u8]);

impl<'v> OfferRest<'v> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn is_empty(&mut self) -> bool {
        self.skip_space();
        self.0.is_empty()
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let there = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(there)..];
        there
    }

    fn token(&mut self) -> Result<&'v [u8], Malformed> {
        self.skip_space();
        let end = self.0.iter().position(|&byte| !is_token(&[byte])).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, or one in quotes: what is inside must be a token too (RFC 6455 section 9.1).
    fn value(&mut self) -> Result<ParameterValue, Malformed> {
        if !self.take(b'"') {
            return Ok(ParameterValue::from_slice(self.token()?));
        }
        let mut value = ParameterValue::new();
        loop {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            match byte {
                b'"' if is_token(&value) => return Ok(value),
                b'"' => return Err(Malformed),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first().ok_or(Malformed)?;
                    self.0 = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
    }
}
