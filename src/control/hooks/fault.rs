//! Why a hook call got no answer: whose fault it is, what it says about the backend, what is logged and counted.

use std::fmt;

use crate::control::outbound::{BodyFault, deepest};

/// Longest quotation of what the backend said that a log line takes, in bytes.
const QUOTED_BYTES_MAX: usize = 200;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
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

impl Fault {
    /// The fault of a request that got no answer.
    pub fn of_request(error: &reqwest::Error) -> Fault {
        let what = quoted(&deepest(error));
        if error.is_connect() {
            return Fault::Unreachable(what);
        }
        if error.is_timeout() {
            return Fault::Timeout;
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                return Fault::NotHttp(what);
            }
            source = cause.source();
        }
        Fault::Closed(what)
    }

    pub fn of_body(fault: &BodyFault) -> Fault {
        match fault {
            BodyFault::TooLong => Fault::TooLong,
            BodyFault::Cut(error) if error.is_timeout() => Fault::Timeout,
            BodyFault::Cut(error) => Fault::Cut(quoted(&deepest(error))),
        }
    }

    /// Its name in metrics and logs: a closed list.
    pub fn cause(&self) -> &'static str {
        match self {
            Fault::Unreachable(_) => "unreachable",
            Fault::Closed(_) => "closed",
            Fault::Cut(_) => "cut",
            Fault::NotHttp(_) => "not_http",
            Fault::Timeout => "timeout",
            Fault::Status(_) => "status",
            Fault::Redirect(_) => "redirect",
            Fault::TooLong => "too_long",
            Fault::NotJson(_) => "not_json",
            Fault::WrongShape(_) => "wrong_shape",
            Fault::UnknownCode(_) => "unknown_code",
            Fault::BreakerOpen => "breaker_open",
            Fault::WaitFull => "wait_full",
            Fault::WaitTimeout => "wait_timeout",
        }
    }

    /// Whether it counts against the backend in the circuit breaker. An answer that came in time does not, however
    /// wrong it is: a backend that refuses one client's nonsense with 400 must not be closed to all others.
    pub fn is_trouble(&self) -> bool {
        match self {
            Fault::Unreachable(_) | Fault::Closed(_) | Fault::Cut(_) | Fault::NotHttp(_) | Fault::Timeout => {
                true
            }
            Fault::Status(status) => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// Whether the backend has more to do than it can: it is asked fewer hook calls at a time then.
    pub fn is_strain(&self) -> bool {
        matches!(self, Fault::Timeout | Fault::Status(429 | 503))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreachable(what) => write!(f, "the backend cannot be reached: {what}"),
            Fault::Closed(what) => write!(f, "the backend closed the connection without an answer: {what}"),
            Fault::Cut(what) => write!(f, "the backend's answer was cut short: {what}"),
            Fault::NotHttp(what) => write!(f, "the backend does not speak HTTP: {what}"),
            Fault::Timeout => f.write_str("the backend did not answer in time"),
            Fault::Status(status) => write!(f, "the backend answered with HTTP status {status}"),
            Fault::Redirect(status) => {
                write!(f, "the backend answered with HTTP status {status}: redirects are not followed")
            }
            Fault::TooLong => f.write_str("the backend's answer is too long"),
            Fault::NotJson(what) => write!(f, "the backend's answer is not JSON: {what}"),
            Fault::WrongShape(what) => write!(f, "the backend's answer has a wrong shape: {what}"),
            Fault::UnknownCode(code) => {
                write!(
                    f,
                    "the backend answered with the code {code}: errors have 400 to 1999, disconnects 4000 to 4999"
                )
            }
            Fault::BreakerOpen => f.write_str("the backend is taken for down and is not asked"),
            Fault::WaitFull => f.write_str("too many hook calls wait for the backend"),
            Fault::WaitTimeout => f.write_str("the hook call waited for its turn too long"),
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
