//! Problem details (RFC 9457): how a request of this surface is refused.

use crate::base::fault::ErrorCode;
use crate::proto::centrifuge::write;

/// A refusal as HTTP says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of RFC 9110.
    pub status: u16,
    /// The code of the client protocol.
    pub error_code: ErrorCode,
    /// What this request did wrong; never contains anything the peer sent.
    pub detail: &'static str,
}

pub const PROBLEM_TYPE: &[u8] = b"application/problem+json";

impl Problem {
    pub const fn new(error_code: ErrorCode, detail: &'static str) -> Problem {
        Problem { status: status_of(error_code), error_code, detail }
    }

    pub const fn bad_request(detail: &'static str) -> Problem {
        Problem::new(ErrorCode::BadRequest, detail)
    }

    /// Appends the body. The type is `about:blank` (RFC 9457 section 4.2.1): the code tells problems apart.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_problem(out, self.status, self.error_code.code(), self.error_code.message(), self.detail);
    }
}

impl From<ErrorCode> for Problem {
    fn from(error_code: ErrorCode) -> Problem {
        Problem::new(error_code, "")
    }
}

/// Appends a problem's body; an empty detail is left out.
pub fn write_problem(out: &mut Vec<u8>, status: u16, code: u16, title: &str, detail: &str) {
    out.extend_from_slice(b"{\"type\":\"about:blank\",\"title\":");
    write::string(out, title);
    out.extend_from_slice(b",\"status\":");
    write::number(out, status.into());
    out.extend_from_slice(b",\"code\":");
    write::number(out, code.into());
    if !detail.is_empty() {
        out.extend_from_slice(b",\"detail\":");
        write::string(out, detail);
    }
    out.extend_from_slice(b"}\n");
}

const fn status_of(error_code: ErrorCode) -> u16 {
    match error_code {
        ErrorCode::Internal => 500,
        ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::Expired => 401,
        ErrorCode::UnknownChannel | ErrorCode::MethodNotFound | ErrorCode::NotAvailable => 404,
        ErrorCode::PermissionDenied => 403,
        ErrorCode::AlreadySubscribed | ErrorCode::Conflict => 409,
        // Every channel that the node may remember is in use: the client can do nothing about it.
        ErrorCode::LimitExceeded => 503,
        ErrorCode::BadRequest => 400,
        ErrorCode::TooManyRequests | ErrorCode::Unavailable => 503,
        ErrorCode::UnrecoverablePosition => 416,
        ErrorCode::StoreFull | ErrorCode::StoreFailed | ErrorCode::StoreBusy => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_json_with_the_code_of_the_protocol() {
        let mut out = Vec::new();
        Problem::new(ErrorCode::PermissionDenied, "no \"right\"").write(&mut out);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "type": "about:blank", "title": "permission denied", "status": 403, "code": 103,
                "detail": "no \"right\"",
            })
        );
    }
}
