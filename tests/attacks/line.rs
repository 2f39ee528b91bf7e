//! Connections of an attacker: as much as fits is written, what comes is read or left.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Daemon;

/// What an attacker does with answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Read,
    Leave,
}

/// Writes `flood` again and again on `count` connections until `until`, each begun with `opening`. A connection that the
/// daemon ends is opened again. Returns the bytes written.
pub fn flood(
    daemon: &Daemon,
    count: usize,
    opening: &[u8],
    flood: &[u8],
    answers: Answers,
    until: Instant,
) -> u64 {
    let mut lines: Vec<Line> = Vec::new();
    let mut written = 0;
    while Instant::now() < until {
        while lines.len() < count {
            lines.push(Line::open(daemon, opening));
        }
        let before = written;
        lines.retain_mut(|line| line.go_on(flood, answers, &mut written));
        if written == before {
            thread::sleep(Duration::from_millis(1));
        }
    }
    written
}

pub struct Line {
    stream: TcpStream,
    /// Of the opening, then of the flood.
    pending: Vec<u8>,
    at: usize,
}

impl Line {
    pub fn open(daemon: &Daemon, opening: &[u8]) -> Line {
        let stream = daemon.connect();
        stream.set_nonblocking(true).expect("a socket");
        Line { stream, pending: opening.to_vec(), at: 0 }
    }

    /// False when the daemon has ended the connection.
    pub fn go_on(&mut self, flood: &[u8], answers: Answers, written: &mut u64) -> bool {
        if self.at == self.pending.len() {
            self.pending.clear();
            self.pending.extend_from_slice(flood);
            self.at = 0;
        }
        match self.stream.write(&self.pending[self.at..]) {
            Ok(len) => {
                self.at += len;
                *written += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        answers == Answers::Leave || self.drain()
    }

    /// Writes the rest of what it was opened with.
    pub fn finish_opening(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while self.at < self.pending.len() {
            match self.stream.write(&self.pending[self.at..]) {
                Ok(len) => self.at += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads what is there. False at the end of the stream.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// One byte more. False when the daemon has ended the connection.
    pub fn trickle(&mut self, byte: u8) -> bool {
        match self.stream.write_all(&[byte]) {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
