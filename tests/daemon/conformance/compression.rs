//! RFC 7692, permessage-deflate. Autobahn's sections 12 and 13 by exact bytes; by clients as they are in tests/js.

use std::io::{Read as _, Write as _};

use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress};

use super::{noise, text};
use crate::frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::{Socket, upgrade_request};

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const PATHS: [&str; 3] = ["/echo", "/connection/websocket", "/ws"];
/// RSV1.
const COMPRESSED: u8 = 4;
/// The example of section 7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn compressing(driver: Driver) -> Daemon {
    let settings = [("CLIENT_COMPRESSION", "true"), ("CLIENT_COMPRESSION_MIN_BYTES", "100")];
    Daemon::start_set(driver, &[], &settings)
}

/// The status and the extensions of the answer to an upgrade with such field lines.
fn offered(daemon: &Daemon, path: &str, fields: &[&str]) -> (Socket, String, Option<String>) {
    let mut socket = Socket::raw(daemon);
    let lines: String = fields.iter().map(|field| format!("Sec-WebSocket-Extensions: {field}\r\n")).collect();
    socket.send_bytes(upgrade_request(path, &lines).as_bytes());
    let head = socket.recv_head();
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    let extensions: Vec<&str> =
        head.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).collect();
    assert!(extensions.len() <= 1, "{head}");
    let extensions = extensions.first().map(|value| (*value).to_owned());
    (socket, status, extensions)
}

fn open(daemon: &Daemon) -> Socket {
    let (socket, status, extensions) = offered(daemon, "/echo", &["permessage-deflate"]);
    assert_eq!((&*status, extensions.as_deref()), ("101", Some(ANSWER)));
    socket
}

/// Compressed as section 7.2.1 says: an empty block at the end, without its last four bytes.
fn deflated(message: &[u8]) -> Vec<u8> {
    if message.is_empty() {
        // Section 7.2.3.6; the library writes nothing.
        return vec![0];
    }
    let mut flushed = Vec::with_capacity(message.len() * 2 + 100);
    let mut compress = Compress::new(Compression::new(6), false);
    compress.compress_vec(message, &mut flushed, FlushCompress::Sync).expect("there is room");
    flushed.strip_suffix(&[0, 0, 0xff, 0xff]).expect("an empty block").to_vec()
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    // The block that ends it is ours to add.
    let whole = [payload, &[0, 0, 0xff, 0xff, 0x03, 0]].concat();
    let mut message = Vec::new();
    DeflateDecoder::new(&whole[..]).read_to_end(&mut message).expect("deflate data");
    message
}

fn compressed(opcode: u8, message: &[u8]) -> Frame {
    Frame::new(opcode, deflated(message)).with_rsv(COMPRESSED)
}

/// The next message is this one, compressed or not.
fn expect_message(socket: &mut Socket, opcode: u8, message: &[u8]) {
    let got = socket.recv().expect("an echo");
    assert_eq!((got.opcode, got.fin), (opcode, true), "a message in one frame");
    let came = match got.rsv {
        0 => got.payload,
        COMPRESSED => {
            assert!(got.payload.len() < message.len(), "compressed for nothing");
            inflated(&got.payload)
        }
        other => panic!("reserved bits {other}"),
    };
    assert!(came == message, "{} bytes came of {}", came.len(), message.len());
}

on_both_drivers! {
    /// Sections 5.1 and 7.1: what is offered, and what is answered.
    fn offers_are_answered_or_declined(driver: Driver) {
        let daemon = compressing(driver);
        let small = format!("{ANSWER}; server_max_window_bits=9");
        let cases: [(&[&str], Option<&str>); 12] = [
            (&["permessage-deflate"], Some(ANSWER)),
            (&["permessage-deflate; client_max_window_bits"], Some(ANSWER)),
            (&["permessage-deflate; client_no_context_takeover; server_no_context_takeover; client_max_window_bits=8"], Some(ANSWER)),
            (&["permessage-deflate; server_max_window_bits=\"9\""], Some(&small)),
            (&["permessage-deflate; server_max_window_bits=9", "permessage-deflate"], Some(ANSWER)),
            (&["permessage-deflate; unknown, permessage-deflate"], Some(ANSWER)),
            (&["permessage-deflate; server_max_window_bits=7"], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; client_max_window_bits=16"], None),
            (&["permessage-deflate; server_no_context_takeover=1"], None),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits"], None),
            (&["x-webkit-deflate-frame, bbf-usp-protocol"], None),
        ];
        for path in PATHS {
            for (fields, answer) in cases {
                let (_, status, extensions) = offered(&daemon, path, fields);
                assert_eq!((&*status, extensions.as_deref()), ("101", answer), "{path}: {fields:?}");
            }
            for malformed in ["permessage-deflate;", "permessage-deflate; a=\"", "permessage-deflate foo", "; a"] {
                let (_, status, extensions) = offered(&daemon, path, &[malformed]);
                assert_eq!((&*status, extensions), ("400", None), "{path}: {malformed}");
            }
        }
    }

    /// Without the setting, the field is not read: whatever it says, the answer has none.
    fn nothing_is_accepted_unless_it_is_configured(driver: Driver) {
        let daemon = Daemon::start(driver);
        for field in ["permessage-deflate", "permessage-deflate;"] {
            let (mut socket, status, extensions) = offered(&daemon, "/echo", &[field]);
            assert_eq!((&*status, extensions), ("101", None));
            socket.send(Frame::new(TEXT, HELLO).with_rsv(COMPRESSED));
            socket.expect_failed(1002);
        }
    }

    /// 12.1 to 12.5, 13: texts and noise from nothing to 128 KiB, whole and in fragments.
    fn messages_come_back_in_every_size(driver: Driver) {
        let daemon = compressing(driver);
        let mut socket = open(&daemon);
        for size in [0, 1, 16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072] {
            let (words, noise) = (text(size).into_bytes(), noise(size));
            socket.send(compressed(TEXT, &words));
            expect_message(&mut socket, TEXT, &words);
            socket.send(compressed(BINARY, &noise));
            expect_message(&mut socket, BINARY, &noise);
            // An endpoint may send any message as it is (section 6.1).
            socket.send(Frame::new(BINARY, noise.clone()));
            expect_message(&mut socket, BINARY, &noise);
            // In fragments of a payload that was compressed as a whole, with a ping between them.
            let payload = deflated(&words);
            let (first, last) = payload.split_at(payload.len() / 2);
            socket.send_all(&[
                Frame::new(TEXT, first).with_rsv(COMPRESSED).unfinished(),
                Frame::ping("between"),
                Frame::new(CONTINUATION, Vec::new()).unfinished(),
                Frame::new(CONTINUATION, last),
            ]);
            socket.expect(&Frame::pong("between"));
            expect_message(&mut socket, TEXT, &words);
        }
        socket.close();
    }

    /// Section 7.2.3: every kind of block, several of them, a final one; in octets.
    fn the_examples_of_the_rfc_are_understood(driver: Driver) {
        let daemon = compressing(driver);
        let mut socket = open(&daemon);
        for payload in [
            &HELLO[..],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            socket.send_in_octets(&Frame::new(TEXT, payload).with_rsv(COMPRESSED).masked());
            expect_message(&mut socket, TEXT, b"Hello");
        }
        socket.send(Frame::new(TEXT, [0]).with_rsv(COMPRESSED));
        expect_message(&mut socket, TEXT, b"");
        socket.close();
    }

    /// What goes out is compressed from the configured size on, and each message by itself (section 7.1.1.1).
    fn messages_of_ours_do_not_depend_on_each_other(driver: Driver) {
        let daemon = compressing(driver);
        let mut socket = open(&daemon);
        let message = "again and again ".repeat(20);
        for _ in 0..3 {
            socket.send(Frame::text(&message));
            let got = socket.recv().expect("an echo");
            assert_eq!(got.rsv, COMPRESSED);
            assert!(got.payload.len() < 60, "{} bytes", got.payload.len());
            assert!(!got.payload.ends_with(&[0, 0, 0xff, 0xff]), "section 7.2.1");
            assert_eq!(inflated(&got.payload), message.as_bytes());
        }
        socket.send(Frame::text(&message[..99]));
        socket.expect(&Frame::text(&message[..99]));
        // A window of 512 bytes: what it gets is not compressed.
        let (mut small, ..) = offered(&daemon, "/echo", &["permessage-deflate; server_max_window_bits=9"]);
        small.send(compressed(TEXT, message.as_bytes()));
        small.expect(&Frame::text(&message));
    }

    /// Sections 6 and 6.1: RSV1 on the first frame of a data message and nowhere else, RSV2 and RSV3 never.
    fn bits_where_they_do_not_belong_fail_the_connection(driver: Driver) {
        let daemon = compressing(driver);
        for frames in [
            vec![Frame::ping("x").with_rsv(COMPRESSED)],
            vec![Frame::new(PONG, "").with_rsv(COMPRESSED)],
            vec![Frame::close(1000, "").with_rsv(COMPRESSED)],
            vec![
                Frame::new(TEXT, &HELLO[..3]).with_rsv(COMPRESSED).unfinished(),
                Frame::new(CONTINUATION, &HELLO[3..]).with_rsv(COMPRESSED),
            ],
            vec![Frame::text("a").unfinished(), Frame::new(CONTINUATION, "b").with_rsv(COMPRESSED)],
            vec![Frame::new(TEXT, HELLO).with_rsv(COMPRESSED | 2)],
            vec![Frame::new(TEXT, HELLO).with_rsv(COMPRESSED | 1)],
            vec![Frame::new(TEXT, HELLO).with_rsv(2)],
            vec![Frame::new(PING, "").with_rsv(1)],
        ] {
            let mut socket = open(&daemon);
            socket.send_all(&frames);
            socket.expect_failed(1002);
        }
    }

    /// Section 6.2: what cannot be inflated, and text that is none after it was.
    fn payloads_that_are_no_message_fail_the_connection(driver: Driver) {
        let daemon = compressing(driver);
        for (frame, code) in [
            (Frame::new(TEXT, [0xff; 40]).with_rsv(COMPRESSED), 1007),
            (Frame::new(BINARY, [0x00, 0x05, 0x00, 0x00, 0x00, 0x48]).with_rsv(COMPRESSED), 1007),
            // It refers to a message before it, which section 7.1.1.2 forbids here.
            (Frame::new(TEXT, [0xf2, 0x00, 0x11, 0x00, 0x00]).with_rsv(COMPRESSED), 1007),
            (compressed(TEXT, b"\xc3\x28"), 1007),
            (compressed(TEXT, &"€".as_bytes()[..2]), 1007),
            (Frame::new(BINARY, [0x03, 0x00].repeat(1000)).with_rsv(COMPRESSED), 1009),
        ] {
            let mut socket = open(&daemon);
            socket.send(Frame::new(TEXT, HELLO).with_rsv(COMPRESSED));
            expect_message(&mut socket, TEXT, b"Hello");
            socket.send(frame);
            socket.expect_failed(code);
        }
    }

    /// Bombs: some hundred bytes that are longer than a message may be. Thousands of messages that are long when
    /// inflated: all of them are served, and others meanwhile.
    fn what_is_long_when_inflated_is_bounded(driver: Driver) {
        let daemon = compressing(driver);
        let max = 16 * 1024 * 1024;
        let mut bomber = open(&daemon);
        bomber.send(compressed(BINARY, &vec![0; max + 1]));
        bomber.expect_failed(1009);
        for (path, max) in [("/connection/websocket", 256 * 1024), ("/ws", 256 * 1024)] {
            let (mut bomber, ..) = offered(&daemon, path, &["permessage-deflate"]);
            bomber.send(compressed(TEXT, &vec![b' '; max + 1]));
            let close = loop {
                let got = bomber.recv().expect("a Close");
                if got.opcode == CLOSE {
                    break got;
                }
            };
            assert_eq!(close.close_code(), Some(1009), "{path}");
        }

        let mut greedy = open(&daemon);
        let mut honest = open(&daemon);
        let message = vec![b'x'; 50_000];
        let frames: Vec<Frame> = (0..400).map(|_| compressed(BINARY, &message)).collect();
        let bytes = crate::frame::masked(&frames);
        assert!(bytes.len() < 100_000);
        let mut writer = greedy.writer();
        let writing = std::thread::spawn(move || writer.write_all(&bytes));
        for number in 0..20 {
            let words = format!("{number} ").repeat(200);
            honest.send(compressed(TEXT, words.as_bytes()));
            expect_message(&mut honest, TEXT, words.as_bytes());
        }
        for _ in 0..400 {
            expect_message(&mut greedy, BINARY, &message);
        }
        writing.join().expect("a writer").expect("it is read");
        let paused = crate::tls::metric(&daemon, "trunkline_inflating_paused_total");
        assert!(paused > 0, "twenty megabytes in one turn");
        greedy.close();
        honest.close();
    }

    /// A close behind compressed messages, and compressed messages behind a Close of ours.
    fn the_close_handshake_is_that_of_every_connection(driver: Driver) {
        let daemon = compressing(driver);
        let mut socket = open(&daemon);
        let message = text(5000);
        socket.send_all(&[compressed(TEXT, message.as_bytes()), Frame::close(1000, "")]);
        expect_message(&mut socket, TEXT, message.as_bytes());
        socket.expect(&Frame::close(1000, ""));
        socket.expect_end();

        // Not the client protocol: we close, and what still comes compressed is no fault.
        let (mut client, ..) = offered(&daemon, "/connection/websocket", &["permessage-deflate"]);
        client.send(compressed(TEXT, b"{\"id\":1,\"subscribe\":{\"channel\":\"before the connect\"}}"));
        let close = client.recv().expect("a Close");
        assert_eq!(close.opcode, CLOSE);
        client.send(compressed(TEXT, message.as_bytes()));
        client.send(close);
        client.expect_end();
    }
}
