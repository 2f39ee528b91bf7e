//! Publishing by HTTP: one request a publication, on kept connections.

use std::net::SocketAddr;

use trunkline::proto::http1::parse_response_head;

use super::Published;
use crate::measure::Cause;
use crate::profile::{Audience, Filling, Template};

/// Longest answer to a publication, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a publication looks like.
#[derive(Clone, Debug)]
pub struct HttpPublishing {
    pub target: SocketAddr,
    pub host: String,
    pub path: Template,
    pub headers: Vec<(String, String)>,
    pub body: Template,
}

impl HttpPublishing {
    pub(super) fn write(
        &self,
        published: &Published,
        audience: &Audience,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        let channel = audience.name(published.channel);
        let filling =
            Filling { channel: &channel, index: published.channel, number: published.number, data: payload };
        let mut body = Vec::with_capacity(payload.len() + 64);
        self.body.fill(filling, &mut body);
        out.extend_from_slice(b"POST ");
        self.path.fill(Filling { data: b"", ..filling }, out);
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("\r\n{name}: {value}").as_bytes());
        }
        out.extend_from_slice(format!("\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(&body);
    }
}

/// How long an answer is, and what it says.
pub(super) type Answer = (usize, Result<(), Cause>);

/// The first answer in `bytes`, if it is whole.
///
/// # Errors
/// When it is no HTTP, or too long: the connection is of no use any more.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Answer>, Cause> {
    let broken = Cause::PublishBroken;
    let Some((head, head_len)) = parse_response_head(bytes).map_err(|_| broken)? else { return Ok(None) };
    let rest = &bytes[head_len..];
    let status = head.status;
    let (body, len) = if head.fields.has_token("Transfer-Encoding", "chunked") {
        // Only its end is looked for: answers are short, and their text is searched as it stands.
        let end = if rest.starts_with(b"0\r\n\r\n") {
            Some(0)
        } else {
            find(rest, b"\r\n0\r\n\r\n").map(|at| at + 2)
        };
        match end {
            Some(end) => (&rest[..end], end + 5),
            None if rest.len() > ANSWER_BYTES_MAX => return Err(broken),
            None => return Ok(None),
        }
    } else {
        let len = match head.fields.get("Content-Length") {
            None => 0,
            Some(digits) => {
                std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(broken)?
            }
        };
        if len > ANSWER_BYTES_MAX {
            return Err(broken);
        }
        match rest.get(..len) {
            Some(body) => (body, len),
            None => return Ok(None),
        }
    };
    let said = match (status, error_code(body)) {
        (200..=299, None) => Ok(()),
        (200..=299, Some(code)) => Err(Cause::PublishError(code)),
        (status, _) => Err(Cause::PublishStatus(status)),
    };
    Ok(Some((head_len + len, said)))
}

/// `{"error":{"code":102,...}}`, as the Centrifuge API answers beside a status of 200.
fn error_code(body: &[u8]) -> Option<u32> {
    find(body, br#""error":{"#)?;
    let code = find(body, br#""code":"#).map_or(0, |at| {
        let digits = body[at + 7..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0u32, |code, digit| code.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    Some(code)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_understood() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"result\":{}}";
        assert_eq!(answer(ok), Ok(Some((ok.len(), Ok(())))));
        for len in 0..ok.len() {
            assert_eq!(answer(&ok[..len]), Ok(None), "cut at {len}");
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nrest";
        assert_eq!(answer(chunked), Ok(Some((chunked.len() - 4, Ok(())))));
        let error = b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"error\":{\"code\":102,\"m\":1}}";
        assert_eq!(answer(error), Ok(Some((error.len(), Err(Cause::PublishError(102))))));
        let status = b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answer(status), Ok(Some((status.len(), Err(Cause::PublishStatus(503))))));
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answer(empty), Ok(Some((empty.len(), Ok(())))));
        assert_eq!(answer(b"garbage\r\n\r\n"), Err(Cause::PublishBroken));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"), Err(Cause::PublishBroken));
    }
}
