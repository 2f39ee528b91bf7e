//! Section 8.1: text is UTF-8 (RFC 3629), and the connection fails at the first byte that cannot be.
//! Autobahn's section 6.

use super::{echo, expect_alive};
use crate::frame::{BINARY, Frame, TEXT, fragments};
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;

/// The first and last sequence of each length, the neighbours of the surrogates, non-characters (which are valid),
/// and words with marks.
const VALID: [&[u8]; 16] = [
    b"",
    b"Hello-\xC2\xB5@\xC3\x9F\xC3\xB6\xC3\xA4\xC3\xBC\xC3\xA0\xC3\xA1-UTF-8!!",
    b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5",
    b"\x00",
    b"\x7F",
    b"\xC2\x80",
    b"\xDF\xBF",
    b"\xE0\xA0\x80",
    b"\xED\x9F\xBF",
    b"\xEE\x80\x80",
    b"\xEF\xBF\xBD",
    b"\xEF\xBF\xBE",
    b"\xEF\xBF\xBF",
    b"\xF0\x90\x80\x80",
    b"\xF4\x8F\xBF\xBE",
    b"\xF4\x8F\xBF\xBF",
];

/// Each with the number of bytes after which it is lost: at that byte a strict reader fails. 0 stands for a sequence
/// that is only unfinished.
const INVALID: [(&[u8], usize); 32] = [
    // Continuations without a start.
    (b"\x80", 1),
    (b"\xBF", 1),
    (b"ok\x80\xBF\x80", 3),
    // Starts without their continuations.
    (b"\xC2 ", 2),
    (b"\xE0\xA0 ", 3),
    (b"\xF0\x90\x80 ", 4),
    (b"\xC2\xC2", 2),
    (b"\xE2\x82\xE2", 3),
    // Bytes that no sequence has.
    (b"\xFE", 1),
    (b"\xFF", 1),
    (b"\xC0", 1),
    (b"\xC1", 1),
    (b"\xF5", 1),
    (b"\xF8\x88\x80\x80\x80", 1),
    (b"\xFC\x84\x80\x80\x80\x80", 1),
    // Longer than need be.
    (b"\xC0\xAF", 1),
    (b"\xE0\x80\xAF", 2),
    (b"\xE0\x9F\xBF", 2),
    (b"\xF0\x80\x80\xAF", 2),
    (b"\xF0\x8F\xBF\xBF", 2),
    // Surrogates.
    (b"\xED\xA0\x80", 2),
    (b"\xED\xAD\xBF", 2),
    (b"\xED\xAF\xBF", 2),
    (b"\xED\xB0\x80", 2),
    (b"\xED\xBF\xBF", 2),
    (b"\xED\xA0\x80\xED\xB0\x80", 2),
    // Beyond U+10FFFF.
    (b"\xF4\x90\x80\x80", 2),
    (b"\xF7\xBF\xBF\xBF", 1),
    // Words that end inside a character.
    (b"\xCE\xBA\xE1\xBD", 0),
    (b"\xCE", 0),
    (b"\xE2\x82", 0),
    (b"\xF0\x9F\x98", 0),
];

/// Autobahn's 6.3 and 6.4: the surrogate makes byte 14 (counted from 1) impossible.
const MIDDLE: &[u8] = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80\x65\x64\x69\x74\x65\x64";
const MIDDLE_LOST_AT: usize = 13;

on_both_drivers! {
    /// 6.1, 6.2, 6.5 and on: whole, and in fragments cut at every byte.
    fn valid_text_comes_back_in_every_cut(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for words in VALID {
            let whole = Frame::new(TEXT, words);
            socket.send(whole.clone());
            socket.expect(&whole);
            for cut in 0..=words.len() {
                let (front, back) = words.split_at(cut);
                socket.send_all(&[Frame::new(TEXT, front).unfinished(), Frame::new(0, back)]);
                socket.expect(&whole);
            }
            if !words.is_empty() {
                socket.send_in_octets(&crate::frame::masked(&fragments(TEXT, words, 1)));
                socket.expect(&whole);
            }
        }
        socket.close();
    }

    /// Whole in one frame, in one segment.
    fn invalid_text_fails_the_connection(driver: Driver) {
        let daemon = Daemon::start(driver);
        for (words, _) in INVALID {
            let mut socket = Socket::open(&daemon, "/echo");
            socket.send(Frame::new(TEXT, words));
            socket.expect_failed(1007);
        }
    }

    /// Cut between every two bytes into two fragments.
    fn invalid_text_in_fragments_fails_the_connection(driver: Driver) {
        let daemon = Daemon::start(driver);
        for (words, _) in INVALID {
            for cut in 0..=words.len() {
                let (front, back) = words.split_at(cut);
                let mut socket = Socket::open(&daemon, "/echo");
                socket.send_all(&[Frame::new(TEXT, front).unfinished(), Frame::new(0, back)]);
                socket.expect_failed(1007);
            }
        }
    }

    /// 6.4.1, 6.4.2: the fragment with the impossible byte is the last thing sent; the message is never finished.
    fn an_impossible_byte_fails_at_its_fragment(driver: Driver) {
        let daemon = Daemon::start(driver);
        let lost = INVALID.iter().filter(|(_, at)| *at > 0).map(|&(words, at)| &words[..at]);
        for words in lost.chain([&MIDDLE[..MIDDLE_LOST_AT]]) {
            let (front, impossible) = words.split_at(words.len() - 1);
            let mut socket = Socket::open(&daemon, "/echo");
            socket.send(Frame::new(TEXT, front).unfinished());
            // The fragment before it is taken: the connection answers a Ping.
            socket.send(Frame::ping("between"));
            socket.expect(&Frame::pong("between"));
            socket.send(Frame::new(0, impossible).unfinished());
            socket.expect_failed(1007);
        }
    }

    /// 6.4.3, 6.4.4: the same inside one frame, whose rest is never sent.
    fn an_impossible_byte_fails_inside_its_frame(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut cases: Vec<(&[u8], usize)> = INVALID.iter().filter(|(_, at)| *at > 0).copied().collect();
        cases.push((MIDDLE, MIDDLE_LOST_AT));
        for (words, lost_at) in cases {
            // Bytes that are owed but never come: nothing but the impossible byte can end it.
            let bytes = Frame::new(TEXT, [words, &[b'.'; 20]].concat()).masked();
            let head = 6;
            let mut socket = Socket::open(&daemon, "/echo");
            socket.send_bytes(&bytes[..head + lost_at]);
            socket.expect_failed(1007);
        }
    }

    /// Nothing is lost yet while the bytes so far can still become a character.
    fn an_unfinished_character_is_waited_for(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let words = "€𝄞".as_bytes();
        for cut in 1..words.len() {
            socket.send(Frame::new(TEXT, &words[..cut]).unfinished());
            socket.send(Frame::ping("between"));
            socket.expect(&Frame::pong("between"));
            socket.send(Frame::new(0, &words[cut..]));
            socket.expect(&Frame::new(TEXT, words));
        }
        socket.close();
    }

    /// Only text is UTF-8.
    fn binary_messages_are_not_read_as_text(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for (bytes, _) in INVALID {
            let message = Frame::new(BINARY, bytes);
            socket.send(message.clone());
            socket.expect(&message);
        }
        expect_alive(&mut socket);
        socket.close();
    }
}
