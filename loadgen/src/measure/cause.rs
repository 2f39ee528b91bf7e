//! Why a connection, a publication or a request failed: the keys that failures are counted by.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// connect(2) failed with this errno.
    Connect(i32),
    /// No connection, upgrade or subscription within the time allowed: the server stalls.
    HandshakeTimeout,
    /// The upgrade was answered with this HTTP status.
    Status(u16),
    /// What came instead of an answer is not HTTP, or no upgrade.
    Garbage(&'static str),
    /// A frame or message breaks the protocol.
    Protocol(&'static str),
    /// Connect or subscribe was answered with this code of the protocol.
    Refused(u32),
    /// A Close frame or the protocol's own farewell, with its code.
    ClosedByServer(u16),
    /// The server ended the TCP connection without a word.
    Ended,
    /// The server reset the TCP connection, or it broke with this errno.
    Broken(i32),
    /// The server does not read: its window and our buffer are full.
    SendStalled,
    /// Nothing came for longer than the server's pings are apart.
    Silent,
    /// A message is longer than the bound.
    TooLong,
    /// A publication was answered with this HTTP status.
    PublishStatus(u16),
    /// A publication was answered with an error of the API.
    PublishError(u32),
    /// The publisher's connection failed.
    PublishBroken,
    /// A publication had to wait longer than the publisher's queue.
    PublishQueue,
    /// A request was answered with this error code of the protocol.
    RequestError(u32),
    /// TLS failed, and why.
    Tls(&'static str),
    /// The server ended TLS with this alert (RFC 8446 section 6).
    TlsAlert(u8),
    /// This machine has no descriptor, port, or memory left: the generator's failure, not the server's.
    Own(i32),
}

impl Cause {
    /// connect(2)'s errno, told apart by whose fault it is.
    pub fn of_connect(errno: i32) -> Cause {
        match errno {
            libc::EADDRNOTAVAIL | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => {
                Cause::Own(errno)
            }
            errno => Cause::Connect(errno),
        }
    }

    /// What ended a connection that was read from or written to.
    pub fn of_end(errno: i32) -> Cause {
        match errno {
            0 => Cause::Ended,
            libc::EAGAIN => Cause::SendStalled,
            errno => Cause::Broken(errno),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = |errno: i32| std::io::Error::from_raw_os_error(errno);
        match self {
            Cause::Connect(number) => write!(f, "connect: {}", errno(*number)),
            Cause::HandshakeTimeout => f.write_str("no answer in time while connecting"),
            Cause::Status(status) => write!(f, "upgrade answered {status}"),
            Cause::Garbage(what) => write!(f, "no upgrade: {what}"),
            Cause::Protocol(what) => write!(f, "protocol broken: {what}"),
            Cause::Refused(code) => write!(f, "refused with error {code}"),
            Cause::ClosedByServer(code) => write!(f, "closed by the server with code {code}"),
            Cause::Ended => f.write_str("ended by the server without a word"),
            Cause::Broken(number) => write!(f, "broken: {}", errno(*number)),
            Cause::SendStalled => f.write_str("the server does not read"),
            Cause::Silent => f.write_str("the server's pings stayed away"),
            Cause::TooLong => f.write_str("message longer than the bound"),
            Cause::PublishStatus(status) => write!(f, "publish answered {status}"),
            Cause::PublishError(code) => write!(f, "publish answered error {code}"),
            Cause::PublishBroken => f.write_str("publisher's connection broken"),
            Cause::PublishQueue => f.write_str("publisher's queue full"),
            Cause::RequestError(code) => write!(f, "request answered error {code}"),
            Cause::Tls(what) => write!(f, "TLS: {what}"),
            Cause::TlsAlert(alert) => {
                write!(
                    f,
                    "TLS: the server refuses with alert {alert}, {:?}",
                    rustls::AlertDescription::from(*alert)
                )
            }
            Cause::Own(number) => write!(f, "this machine's own: {}", errno(*number)),
        }
    }
}
