//! Why a hook call got no answer: whose fault it is, what it says about the backend, what is logged and counted.

use std::fmt;

use crate::control::outbound::{BodyFault, deepest};

/// Longest quotation of what the backend said that a log line takes, in bytes.
const QUOTED_BYTES_MAX: usize = 200;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookFault {
    // Trouble of the backend.
    /// No connection: refused, no such host, no route, TLS that cannot be agreed on.
    Unreachable(String),
    /// The connection ended before an answer began.
    Closed(String),
    /// The connection ended in the middle of the answer.
    Cut(String),
    /// What came is not HTTP.
    NotHttp(String),
    Timeout,
    /// An HTTP status that no rule of the hook gives a meaning.
    Status(u16),
    // Answers that came, and that nobody can use.
    /// The backend is where the configuration says: nobody is followed elsewhere.
    Redirect(u16),
    /// Longer than [`super::hook::ANSWER_BYTES_MAX`], or all answers together than [`super::hook::ANSWERS_BYTES_MAX`].
    TooLong,
    NotJson(String),
    /// JSON of another shape; which.
    WrongShape(String),
    /// A code that a backend must not use.
    UnknownCode(u64),
    // The protection of the backend.
    /// The backend is taken for down.
    BreakerOpen,
    /// Too many hook calls wait already.
    WaitFull,
    /// Its turn did not come in time.
    WaitTimeout,
}

impl HookFault {
    /// The fault of a request that got no answer.
    pub fn of_request(error: &reqwest::Error) -> HookFault {
        let what = quoted(&deepest(error));
        if error.is_connect() {
            return HookFault::Unreachable(what);
        }
        if error.is_timeout() {
            return HookFault::Timeout;
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                return HookFault::NotHttp(what);
            }
            source = cause.source();
        }
        HookFault::Closed(what)
    }

    pub fn of_body(fault: &BodyFault) -> HookFault {
        match fault {
            BodyFault::TooLong => HookFault::TooLong,
            BodyFault::Cut(error) if error.is_timeout() => HookFault::Timeout,
            BodyFault::Cut(error) => HookFault::Cut(quoted(&deepest(error))),
        }
    }

    /// Its name in metrics and logs: a closed list.
    pub fn cause(&self) -> &'static str {
        match self {
            HookFault::Unreachable(_) => "unreachable",
            HookFault::Closed(_) => "closed",
            HookFault::Cut(_) => "cut",
            HookFault::NotHttp(_) => "not_http",
            HookFault::Timeout => "timeout",
            HookFault::Status(_) => "status",
            HookFault::Redirect(_) => "redirect",
            HookFault::TooLong => "too_long",
            HookFault::NotJson(_) => "not_json",
            HookFault::WrongShape(_) => "wrong_shape",
            HookFault::UnknownCode(_) => "unknown_code",
            HookFault::BreakerOpen => "breaker_open",
            HookFault::WaitFull => "wait_full",
            HookFault::WaitTimeout => "wait_timeout",
        }
    }

    /// Whether it counts against the backend in the circuit breaker. An answer that came in time does not, however
    /// wrong it is: a backend that refuses one client's nonsense with 400 must not be closed to all others.
    pub fn is_trouble(&self) -> bool {
        match self {
            HookFault::Unreachable(_)
            | HookFault::Closed(_)
            | HookFault::Cut(_)
            | HookFault::NotHttp(_)
            | HookFault::Timeout => true,
            HookFault::Status(status) => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// Whether the backend has more to do than it can: it is asked fewer hook calls at a time then.
    pub fn is_strain(&self) -> bool {
        matches!(self, HookFault::Timeout | HookFault::Status(429 | 503))
    }
}

impl fmt::Display for HookFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookFault::Unreachable(what) => write!(f, "the backend cannot be reached: {what}"),
            HookFault::Closed(what) => {
                write!(f, "the backend closed the connection without an answer: {what}")
            }
            HookFault::Cut(what) => write!(f, "the backend's answer was cut short: {what}"),
            HookFault::NotHttp(what) => write!(f, "the backend does not speak HTTP: {what}"),
            HookFault::Timeout => f.write_str("the backend did not answer in time"),
            HookFault::Status(status) => write!(f, "the backend answered with HTTP status {status}"),
            HookFault::Redirect(status) => {
                write!(f, "the backend answered with HTTP status {status}: redirects are not followed")
            }
            HookFault::TooLong => f.write_str("the backend's answer is too long"),
            HookFault::NotJson(what) => write!(f, "the backend's answer is not JSON: {what}"),
            HookFault::WrongShape(what) => write!(f, "the backend's answer has a wrong shape: {what}"),
            HookFault::UnknownCode(code) => {
                write!(
                    f,
                    "the backend answered with the code {code}: errors have 400 to 1999, disconnects 4000 to 4999"
                )
            }
            HookFault::BreakerOpen => f.write_str("the backend is taken for down and is not asked"),
            HookFault::WaitFull => f.write_str("too many hook calls wait for the backend"),
            HookFault::WaitTimeout => f.write_str("the hook call waited for its turn too long"),
        }
    }
}

/// As much of `text` as a log line takes, on one line.
pub fn quoted(text: &str) -> String {
    let mut end = text.len().min(QUOTED_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
