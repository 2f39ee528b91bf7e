//! HTTP/1.1 as a server reads and writes it (RFC 9112 framing, RFC 9110 semantics), and as much of the client side
//! as a WebSocket handshake needs.
//!
//! Inputs: bytes from the peer. Outputs: [`RequestHead`], body pieces from [`BodyDecoder`], response bytes in the
//! caller's `Vec<u8>`. Must not know: sockets, routes, what a path means.
//!
//! Strict where two readers of one message could disagree about its length (request smuggling): a bare LF, a bare CR,
//! a folded line, a space before the colon, two lengths of any kind, and a transfer coding other than one `chunked`
//! are all refused, and they are refused by [`parse_head`] itself, so no caller can forget to ask. Chunk extensions and
//! trailers mean nothing here and must be well formed all the same ([`BodyDecoder`]).

mod body;
mod coding;
mod exchange;
mod fields;
mod head;
mod response;

pub use body::{BodyDecoder, BodyPiece, CHUNK_EXTRA_BYTES_MAX};
pub use coding::gzip;
pub use exchange::{encode_response, escaped, request_parts};
pub use fields::{Fields, is_field_value, is_token, raw_fields};
pub use head::{
    BodyLength, HeadScan, HttpVersion, RequestHead, ResponseHead, is_host, parse_head, parse_response_head,
};
pub use response::{
    Body, CONTINUE, chunk_header, http_date, reason_phrase, write_chunk, write_chunk_with, write_head,
    write_last_chunk, write_response,
};
pub(in crate::proto) use response::{set_header, write_fields};

/// Why a request is refused. The connection cannot be used for another request after it: where the next one would
/// start is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpFault {
    /// Status of the answer: 400, 413, 431, 501 or 505 of the codec, 403, 408, 503 or 504 of its caller.
    pub status: u16,
    /// For the log and the answer's body; never contains anything the peer sent.
    pub reason: &'static str,
}

impl HttpFault {
    pub(super) const fn bad_request(reason: &'static str) -> HttpFault {
        HttpFault { status: 400, reason }
    }

    /// Appends the whole answer: the status, `Connection: close`, and the reason as problem details (RFC 9457).
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_with(out, &[]);
    }

    /// As [`HttpFault::write`], with further fields.
    pub fn write_with(&self, out: &mut Vec<u8>, further: &[(&str, &[u8])]) {
        let body = problem(self.status, self.reason);
        let mut fields: Vec<(&str, &[u8])> =
            vec![("Connection", b"close"), ("Content-Type", b"application/problem+json")];
        if self.status == 503 {
            // What is full now may have room in a second.
            fields.push(("Retry-After", b"1"));
        }
        fields.extend_from_slice(further);
        write_response(out, self.status, &fields, body.as_bytes());
    }
}

/// Problem details (RFC 9457) of a refusal of ours.
pub(in crate::proto) fn problem(status: u16, reason: &'static str) -> String {
    // Reasons and phrases are ours, and have nothing that JSON would want escaped.
    format!(
        "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{status},\"detail\":\"{reason}\"}}\n",
        reason_phrase(status)
    )
}

impl std::fmt::Display for HttpFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.reason)
    }
}

impl std::error::Error for HttpFault {}

#[cfg(test)]
mod tests;
