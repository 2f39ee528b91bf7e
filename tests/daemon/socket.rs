//! A client of exact bytes, and of WebSocket frames. Its HTTP is in [`crate::http`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::frame::{self, Frame};
use crate::process::Daemon;

/// The request of RFC 6455 section 1.3, whose accept value the RFC gives.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub struct Socket {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Socket {
    /// Connects and upgrades at `path`.
    pub fn open(daemon: &Daemon, path: &str) -> Socket {
        let mut socket = Socket { stream: daemon.connect(), received: Vec::new() };
        socket.send_bytes(upgrade_request(path, "").as_bytes());
        let head = socket.recv_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {head}");
        assert!(head.contains(ACCEPT), "a wrong Sec-WebSocket-Accept: {head}");
        socket
    }

    /// A socket on which no request was sent yet.
    pub fn raw(daemon: &Daemon) -> Socket {
        Socket { stream: daemon.connect(), received: Vec::new() }
    }

    pub fn over(stream: TcpStream) -> Socket {
        Socket { stream, received: Vec::new() }
    }

    /// Writes the bytes. The peer may have closed already, which is what some tests are about: that is not a failure
    /// here, it shows in what is received.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if !is_disconnect(error.kind()) => panic!("the daemon does not read: {error}"),
            _ => {}
        }
    }

    pub fn send(&mut self, frame: Frame) {
        self.send_bytes(&frame.masked());
    }

    pub fn send_all(&mut self, frames: &[Frame]) {
        self.send_bytes(&frame::masked(frames));
    }

    /// Each byte in a write of its own.
    pub fn send_in_octets(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send_bytes(std::slice::from_ref(byte));
        }
    }

    /// The next frame; `None` when the peer has ended the stream.
    pub fn recv(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, len)) = Frame::parse(&self.received) {
                self.received.drain(..len);
                return Some(frame);
            }
            if !self.fill() {
                assert!(self.received.is_empty(), "the stream ends inside a frame: {:02x?}", self.received);
                return None;
            }
        }
    }

    /// The next frame is exactly this one.
    pub fn expect(&mut self, wanted: &Frame) {
        let got = self.recv();
        let same = got.as_ref() == Some(wanted);
        assert!(same, "wanted {}, got {}", brief(Some(wanted)), brief(got.as_ref()));
    }

    /// What comes next is a Close with this code, then the end of the stream: the connection was failed
    /// (RFC 6455 section 7.1.7).
    pub fn expect_failed(&mut self, code: u16) {
        let got = self.recv().unwrap_or_else(|| panic!("the stream ends without a Close of {code}"));
        assert_eq!(got.close_code(), Some(code), "{}", brief(Some(&got)));
        self.expect_end();
    }

    /// What comes next is a Close with this code; answered, it is the end of the stream.
    pub fn expect_failed_by(&mut self, code: u16) {
        let got = self.recv().unwrap_or_else(|| panic!("the stream ends without a Close of {code}"));
        assert_eq!(got.close_code(), Some(code), "{}", brief(Some(&got)));
        self.send(got);
        self.expect_end();
    }

    /// The peer ends the stream and sends nothing before that.
    pub fn expect_end(&mut self) {
        let got = self.recv();
        assert!(got.is_none(), "the stream should end, got {}", brief(got.as_ref()));
    }

    /// A close handshake that we start: the code comes back, the server ends the stream first (RFC 6455 section 7.1.1).
    pub fn close(mut self) {
        self.send(Frame::close(1000, ""));
        self.expect(&Frame::close(1000, ""));
        self.expect_end();
    }

    /// An HTTP response head with its empty line.
    pub fn recv_head(&mut self) -> String {
        String::from_utf8(self.recv_until(b"\r\n\r\n")).expect("a head in ASCII")
    }

    /// Bytes up to `mark`, with it.
    pub fn recv_until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(mark.len()).position(|window| window == mark) {
                return self.received.drain(..at + mark.len()).collect();
            }
            assert!(self.fill(), "the stream ends: {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// The next `len` bytes.
    pub fn recv_body(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() < len {
            assert!(self.fill(), "the stream ends in a body");
        }
        self.received.drain(..len).collect()
    }

    /// Everything up to the end of the stream.
    pub fn recv_rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.received)
    }

    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// A second handle for a thread that writes while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor")
    }

    pub fn into_stream(self) -> TcpStream {
        assert!(self.received.is_empty(), "unread bytes");
        self.stream
    }

    /// False at the end of the stream. A reset is an end too: a server that fails a connection while bytes of ours are
    /// unread resets it (RFC 9293 section 3.6.1), after its Close.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                self.received.extend_from_slice(&buffer[..len]);
                true
            }
            Err(error) if is_disconnect(error.kind()) => false,
            Err(error) => panic!("nothing comes: {error}; received so far: {} bytes", self.received.len()),
        }
    }
}

/// A correct upgrade with `extra` header lines, each ending in CRLF.
pub fn upgrade_request(path: &str, extra: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    )
}

fn is_disconnect(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

fn brief(frame: Option<&Frame>) -> String {
    match frame {
        None => "the end of the stream".into(),
        Some(frame) => {
            let shown = &frame.payload[..frame.payload.len().min(64)];
            format!(
                "opcode {:#x} fin {} rsv {} with {} bytes {:?}",
                frame.opcode,
                frame.fin,
                frame.rsv,
                frame.payload.len(),
                String::from_utf8_lossy(shown)
            )
        }
    }
}
