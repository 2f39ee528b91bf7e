//! What goes wrong, by whose fault, and the code that goes out for it.
//!
//! Three families. A bug of ours is an assertion. A peer's, the kernel's or the backend's fault is one of the
//! enums here or beside the operation. A fault of the configuration ends the program before a socket is bound.
//! The numbers are those of the Centrifuge client protocol (its published code tables).

use std::fmt;

/// An error reply: the command failed, the connection lives on (except after `connect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    Internal = 100,
    Unauthorized = 101,
    UnknownChannel = 102,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    Expired = 110,
    TooManyRequests = 111,
    UnrecoverablePosition = 112,
    Conflict = 113,
    // Ours, and 100 for clients: what a client can do about them is to try again later.
    /// The store has no room.
    StoreFull = 0xf000,
    /// The store's disk has failed: nothing more is written before a restart.
    StoreFailed,
    /// More is on its way to the store than may be.
    StoreBusy,
    /// What keeps the channel is away. On the wire it is 100, which clients try again.
    Unavailable,
}

impl ErrorCode {
    pub fn code(self) -> u16 {
        if self.is_of_store() || self == ErrorCode::Unavailable {
            ErrorCode::Internal as u16
        } else {
            self as u16
        }
    }

    /// The store of durable channels takes nothing now.
    pub fn is_of_store(self) -> bool {
        matches!(self, ErrorCode::StoreFull | ErrorCode::StoreFailed | ErrorCode::StoreBusy)
    }

    pub fn message(self) -> &'static str {
        match self {
            ErrorCode::StoreFull => "the store is full: nothing more is kept",
            ErrorCode::StoreFailed => "the store's disk has failed: it is read-only until a restart",
            ErrorCode::StoreBusy => "the store does not keep up: try again",
            ErrorCode::Internal => "internal server error",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::UnknownChannel => "unknown channel",
            ErrorCode::PermissionDenied => "permission denied",
            ErrorCode::MethodNotFound => "method not found",
            ErrorCode::AlreadySubscribed => "already subscribed",
            ErrorCode::LimitExceeded => "limit exceeded",
            ErrorCode::BadRequest => "bad request",
            ErrorCode::NotAvailable => "not available",
            ErrorCode::TokenExpired => "token expired",
            ErrorCode::Expired => "expired",
            ErrorCode::TooManyRequests => "too many requests",
            ErrorCode::UnrecoverablePosition => "unrecoverable position",
            ErrorCode::Conflict => "conflict",
            ErrorCode::Unavailable => "unavailable",
        }
    }

    /// The client may try the same command again later.
    pub fn temporary(self) -> bool {
        let comes_back =
            matches!(self, ErrorCode::Internal | ErrorCode::TooManyRequests | ErrorCode::Unavailable);
        self.is_of_store() || comes_back
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())
    }
}

/// Why the server ends a connection: the code and reason of the Close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub code: u16,
    pub reason: std::borrow::Cow<'static, str>,
}

impl Disconnect {
    const fn known(code: u16, reason: &'static str) -> Disconnect {
        Disconnect { code, reason: std::borrow::Cow::Borrowed(reason) }
    }

    // The client reconnects after these.
    pub const CONNECTION_CLOSED: Disconnect = Disconnect::known(3000, "connection closed");
    pub const SHUTDOWN: Disconnect = Disconnect::known(3001, "shutdown");
    pub const EXPIRED: Disconnect = Disconnect::known(3005, "connection expired");
    pub const SUBSCRIPTION_EXPIRED: Disconnect = Disconnect::known(3006, "subscription expired");
    pub const SLOW: Disconnect = Disconnect::known(3008, "slow");
    pub const INSUFFICIENT_STATE: Disconnect = Disconnect::known(3010, "insufficient state");
    pub const FORCE_RECONNECT: Disconnect = Disconnect::known(3011, "force reconnect");
    pub const NO_PONG: Disconnect = Disconnect::known(3012, "no pong");
    pub const TOO_MANY_REQUESTS: Disconnect = Disconnect::known(3013, "too many requests");
    // The client gives up after these.
    pub const INVALID_TOKEN: Disconnect = Disconnect::known(3500, "invalid token");
    pub const BAD_REQUEST: Disconnect = Disconnect::known(3501, "bad request");
    pub const STALE: Disconnect = Disconnect::known(3502, "stale");
    pub const FORCE_NO_RECONNECT: Disconnect = Disconnect::known(3503, "force disconnect");
    pub const CONNECTION_LIMIT: Disconnect = Disconnect::known(3504, "connection limit");
    pub const CHANNEL_LIMIT: Disconnect = Disconnect::known(3505, "channel limit");
    pub const PERMISSION_DENIED: Disconnect = Disconnect::known(3507, "permission denied");
    /// Ours: the user has connected again, and may have no more connections than that. Terminal, so that two devices do not
    /// take the connection from each other for ever.
    pub const REPLACED: Disconnect = Disconnect::known(3510, "replaced by a newer connection");

    /// A channel that the client relies on could not be joined, or an event stream met an error that is temporary.
    pub const SERVER_ERROR: Disconnect = Disconnect::known(3004, "internal server error");
    /// The client reads JSON, and the channel's publications are bytes.
    pub const INAPPROPRIATE_PROTOCOL: Disconnect = Disconnect::known(3506, "inappropriate protocol");

    // Of the published table, and never given by this daemon of its own accord: a backend may name them.
    pub const WRITE_ERROR: Disconnect = Disconnect::known(3009, "write error");
    pub const STATE_INVALIDATED: Disconnect = Disconnect::known(3014, "state invalidated");
    pub const NOT_AVAILABLE: Disconnect = Disconnect::known(3508, "not available");
    pub const TOO_MANY_ERRORS: Disconnect = Disconnect::known(3509, "too many errors");

    /// Whether a client of the Centrifuge protocol comes back by itself after this code.
    pub fn reconnects(&self) -> bool {
        matches!(self.code, 3000..=3499 | 4000..=4499 | 5000..)
    }
}

/// Why the server ends one subscription; the connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Unsubscribed {
    /// The client asked for it: nothing is pushed.
    Client = 0,
    /// Its connection has ended: told to the backend alone.
    Disconnected = 1,
    Server = 2000,
    /// The subscriber fell off the log's tail: it resubscribes and recovers or learns that it cannot.
    InsufficientState = 2500,
    Expired = 2501,
    /// What the subscription was granted with has changed: it resubscribes.
    StateInvalidated = 2502,
}

impl Unsubscribed {
    pub fn code(self) -> u16 {
        self as u16
    }

    pub fn reason(self) -> &'static str {
        match self {
            Unsubscribed::Client => "client unsubscribed",
            Unsubscribed::Disconnected => "disconnected",
            Unsubscribed::Server => "server unsubscribed",
            Unsubscribed::InsufficientState => "insufficient state",
            Unsubscribed::Expired => "subscription expired",
            Unsubscribed::StateInvalidated => "state invalidated",
        }
    }
}
