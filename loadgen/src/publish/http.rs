//! Publishing by HTTP: one request a publication, on kept connections.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Published;
use crate::engine::whole_response;
use crate::measure::Cause;
use crate::profile::{Audience, Filling, PusherKeys, Template};
use crate::tls::Tls;

/// Longest answer to a publication, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a publication looks like.
#[derive(Clone, Debug)]
pub struct HttpPublishing {
    pub target: SocketAddr,
    pub tls: Option<Tls>,
    pub host: String,
    pub path: Template,
    pub headers: Vec<(String, String)>,
    pub body: Template,
    /// Signs each request, and makes its target; `path` is not used then.
    pub pusher: Option<PusherKeys>,
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
        match &self.pusher {
            Some(keys) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                out.extend_from_slice(keys.target(&body, since).as_bytes());
            }
            None => self.path.fill(Filling { data: b"", ..filling }, out),
        }
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
    let response = whole_response(bytes, ANSWER_BYTES_MAX).map_err(|_| Cause::PublishBroken)?;
    Ok(response.map(|response| {
        let said = match (response.head.status, error_code(&response.body)) {
            (200..=299, None) => Ok(()),
            (200..=299, Some(code)) => Err(Cause::PublishError(code)),
            (status, _) => Err(Cause::PublishStatus(status)),
        };
        (response.len, said)
    }))
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
