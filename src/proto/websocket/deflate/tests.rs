use std::io::Read as _;

use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::base::prng::Prng;
use crate::proto::http1::{parse_head, parse_response_head};
use crate::proto::websocket::{
    Decoder, Message, Opcode, Role, WsFault, apply_mask, write_fragment_masked, write_frame_masked,
};

const MAX: usize = 1 << 20;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const ALWAYS: CompressionOptions = CompressionOptions { bytes_min: 0, level: 6 };

fn negotiated(fields: &[&str]) -> Result<Option<String>, u16> {
    let mut head = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
    for field in fields {
        head += &format!("sec-websocket-extensions: {field}\r\n");
    }
    head += "\r\n";
    let (head, _) = parse_head(head.as_bytes()).unwrap().unwrap();
    match negotiate(&head) {
        Ok(agreed) => Ok(agreed.map(|agreed| String::from_utf8(agreed.field().1).unwrap())),
        Err(fault) => Err(fault.status),
    }
}

const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

mod negotiation {
    use super::*;

    /// Section 7.1, for each parameter.
    #[test]
    fn every_parameter_is_accepted_where_it_may_stand() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate ; client_max_window_bits = 15",
            "permessage-deflate; client_max_window_bits=\"10\"",
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; client_max_window_bits",
            ", permessage-deflate,,",
        ] {
            assert_eq!(negotiated(&[offer]), Ok(Some(PLAIN.into())), "{offer}");
        }
    }

    /// Section 7.1.2.1: the answer names the same window or a smaller one.
    #[test]
    fn a_small_window_is_answered_and_nothing_is_compressed_for_it() {
        for bits in 8..=15u8 {
            for quote in ["", "\""] {
                let offer = format!("permessage-deflate; server_max_window_bits={quote}{bits}{quote}");
                let answer = format!("{PLAIN}; server_max_window_bits={bits}");
                assert_eq!(negotiated(&[&offer]), Ok(Some(answer)), "{offer}");
                let head = format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
                let (head, _) = parse_head(head.as_bytes()).unwrap().unwrap();
                let agreed = negotiate(&head).unwrap().unwrap();
                assert_eq!(agreed.may_compress(), bits == 15);
            }
        }
    }

    /// Section 7.1: "A server MUST decline an extension negotiation offer for this extension if".
    #[test]
    fn offers_with_a_wrong_parameter_are_declined() {
        for offer in [
            // Not defined for use in an offer.
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover; mux=1",
            "permessage-deflate; SERVER_NO_CONTEXT_TAKEOVER",
            // Invalid values.
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"x\"",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=1",
            "permessage-deflate; server_max_window_bits=100",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; client_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=\"16\"",
            "permessage-deflate; client_max_window_bits=nine",
            // The same parameter twice.
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            // Other extensions.
            "x-webkit-deflate-frame",
            "permessage-bzip2; client_max_window_bits",
            "PERMESSAGE-DEFLATE",
            "",
        ] {
            assert_eq!(negotiated(&[offer]), Ok(None), "{offer}");
        }
        assert_eq!(negotiated(&[]), Ok(None));
    }

    #[test]
    fn one_good_offer_among_others_is_enough() {
        let bad = "permessage-deflate; unknown";
        let small = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(negotiated(&[&format!("{bad}, permessage-deflate")]), Ok(Some(PLAIN.into())));
        assert_eq!(
            negotiated(&[bad, "foo; bar=\"a\\b,c\", permessage-deflate"]),
            Err(400),
            "no token in quotes"
        );
        assert_eq!(negotiated(&[bad, "foo; bar=\"abc\", permessage-deflate"]), Ok(Some(PLAIN.into())));
        // The client prefers what stands first (section 5.2), a server chooses: here what lets it compress.
        assert_eq!(negotiated(&[&format!("{small}, permessage-deflate")]), Ok(Some(PLAIN.into())));
        assert_eq!(negotiated(&[small, bad]), Ok(Some(format!("{PLAIN}; server_max_window_bits=10"))));
        assert_eq!(negotiated(&[&format!("permessage-deflate, {small}")]), Ok(Some(PLAIN.into())));
    }

    /// RFC 6455 section 9.1.
    #[test]
    fn what_is_no_list_of_extensions_is_refused() {
        for field in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =9",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"",
            "permessage-deflate; a=\"9",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"9 \"",
            "permessage-deflate; a=\"9\\",
            "permessage-deflate foo",
            "permessage-deflate; a=9 b",
            "permessage deflate",
            "\"permessage-deflate\"",
            "permessage-deflate; a=9=9",
        ] {
            assert_eq!(negotiated(&[field]), Err(400), "{field}");
        }
        // An escaped digit is a digit.
        let escaped = "permessage-deflate; client_max_window_bits=\"1\\0\"";
        assert_eq!(negotiated(&[escaped]), Ok(Some(PLAIN.into())));
    }

    #[test]
    fn no_field_makes_it_panic() {
        let pieces = [
            "permessage-deflate",
            ";",
            ",",
            "=",
            "\"",
            "\\",
            " ",
            "\t",
            "server_max_window_bits",
            "9",
            "15",
            "é",
            "client_no_context_takeover",
        ];
        for seed in 0..5_000 {
            let mut prng = Prng::with_seed(seed);
            let field: String = (0..prng.usize(..12)).map(|_| pieces[prng.usize(..pieces.len())]).collect();
            let _ = negotiated(&[&field]);
        }
    }

    #[test]
    fn a_client_holds_the_server_to_its_offer() {
        let checked = |field: &str| {
            let head = format!("HTTP/1.1 101 S\r\n{field}\r\n");
            let (head, _) = parse_response_head(head.as_bytes()).unwrap().unwrap();
            check_extension(&head).map_err(drop)
        };
        assert_eq!(checked(""), Ok(false));
        assert_eq!(checked(&format!("Sec-WebSocket-Extensions: {PLAIN}\r\n")), Ok(true));
        assert_eq!(
            checked(&format!("Sec-WebSocket-Extensions: {PLAIN}; server_max_window_bits=9\r\n")),
            Ok(true)
        );
        for wrong in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; unknown",
            "foo",
        ] {
            assert_eq!(checked(&format!("Sec-WebSocket-Extensions: {wrong}\r\n")), Err(()), "{wrong}");
        }
        assert_eq!(checked(&format!("Sec-WebSocket-Extensions: {PLAIN}, {PLAIN}\r\n")), Err(()));
    }
}

/// Inflates as text or binary, in the space of `inflater`.
fn inflated(inflater: &mut Inflater, payload: &[u8], max: usize) -> Result<Vec<u8>, u16> {
    match inflater.message(false, payload, max) {
        Ok(Message::Binary(bytes)) => Ok(bytes.to_vec()),
        Ok(other) => panic!("{other:?}"),
        Err(fault) => Err(fault.close_code),
    }
}

/// Compressed by the library alone, in pieces that are flushed.
fn flushed(pieces: &[&[u8]], level: u32) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(1 << 16);
    for piece in pieces {
        out.reserve(piece.len() * 2 + 64);
        compress.compress_vec(piece, &mut out, FlushCompress::Sync).unwrap();
    }
    assert_eq!(out.split_off(out.len() - 4), TAIL);
    out
}

/// The same with a final block at the end.
fn finished(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::DeflateEncoder::new(message, Compression::new(6)).read_to_end(&mut out).unwrap();
    out
}

mod payloads {
    use super::*;

    /// Sections 7.2.3.1 to 7.2.3.6, but for the one that takes its context over.
    #[test]
    fn the_examples_of_section_7_2_3() {
        let hello = b"Hello".to_vec();
        let mut inflater = Inflater::default();
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // A block without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // A final block, with and without what is appended to it.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            // Two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflated(&mut inflater, payload, MAX), Ok(hello.clone()), "{payload:x?}");
        }
        assert_eq!(inflated(&mut inflater, &[0x00], MAX), Ok(vec![]), "section 7.2.3.6");
        assert_eq!(inflated(&mut inflater, &[0x02, 0x00], MAX), Ok(vec![]), "an empty fixed block");
        assert_eq!(inflated(&mut inflater, &[], MAX), Ok(vec![]), "what some send for an empty message");
        // Section 7.2.3.2: the second "Hello" refers to the first one. Without context there is none.
        assert_eq!(inflated(&mut inflater, &[0xf2, 0x00, 0x11, 0x00, 0x00], MAX), Err(1007));
    }

    #[test]
    fn our_own_frames_are_those_of_the_examples() {
        let mut deflater = Deflater::new(ALWAYS);
        // Too short to become shorter.
        assert_eq!(deflater.frame(Opcode::Text, b"Hello"), *b"\x81\x05Hello");
        assert_eq!(deflater.done(), Deflated::default());
        let hellos = b"HelloHelloHelloHello";
        let frame = deflater.frame(Opcode::Text, hellos);
        assert_eq!(frame[0], 0xc1, "FIN, RSV1, text");
        assert_eq!(usize::from(frame[1]), frame.len() - 2);
        assert_eq!(inflated(&mut Inflater::default(), &frame[2..], MAX), Ok(hellos.to_vec()));
        let bytes_out = (frame.len() - 2) as u64;
        assert_eq!(deflater.done(), Deflated { messages: 1, bytes_in: 20, bytes_out });
    }

    #[test]
    fn short_messages_are_sent_as_they_are() {
        let mut deflater = Deflater::new(CompressionOptions { bytes_min: 100, level: 1 });
        assert_eq!(deflater.frame(Opcode::Binary, &[7; 99])[0], 0x82);
        assert_eq!(deflater.frame(Opcode::Binary, &[7; 100])[0], 0xc2);
        assert!(deflater.frame(Opcode::Text, b"").starts_with(&[0x81, 0]));
    }

    /// Texts that compress well, hardly, and not at all; what comes out is what the library's own reader finds.
    #[test]
    fn messages_come_back_whatever_their_size_and_level() {
        let mut inflater = Inflater::default();
        for level in 1..=9 {
            let mut deflater = Deflater::new(CompressionOptions { bytes_min: 0, level });
            let mut prng = Prng::with_seed(u64::from(level));
            for size in
                [0, 1, 2, 125, 126, 127, 1000, 16_384, 32_768, 65_535, 65_536, 65_537, 131_072, 300_000]
            {
                for variety in [1, 4, 64, 256] {
                    let message: Vec<u8> = (0..size).map(|_| prng.u16(..variety) as u8).collect();
                    let frame = deflater.frame(Opcode::Binary, &message);
                    let mut decoder = Decoder::new(Role::Client, MAX).deflating(true);
                    let mut input = frame.clone();
                    let (consumed, found) = decoder.decode(&mut input).unwrap();
                    assert_eq!(consumed, frame.len());
                    match found.unwrap() {
                        Message::Binary(bytes) => assert_eq!(bytes, message),
                        Message::Compressed { text: false, payload } => {
                            assert!(payload.len() < message.len(), "level {level}, {size} bytes");
                            assert_eq!(inflated(&mut inflater, payload, MAX).as_deref(), Ok(&message[..]));
                            // The block that ends it is the library's to add.
                            let whole = [payload, &TAIL, &[0x03, 0x00]].concat();
                            let mut theirs = Vec::new();
                            DeflateDecoder::new(&whole[..]).read_to_end(&mut theirs).unwrap();
                            assert_eq!(theirs, message, "level {level}, {size} bytes");
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        // What is random does not become shorter, and goes out as it is.
        let mut prng = Prng::with_seed(9);
        let noise: Vec<u8> = (0..10_000).map(|_| prng.u8(..)).collect();
        assert_eq!(Deflater::new(ALWAYS).frame(Opcode::Binary, &noise)[0], 0x82);
    }

    /// Section 7.2.1: any number of blocks, of any kind, the last bit of a block where it likes.
    #[test]
    fn blocks_of_every_kind_may_follow_each_other() {
        let mut inflater = Inflater::default();
        let text = b"a message in parts, a message in parts, a message in parts".as_slice();
        for level in [0, 1, 6, 9] {
            for cut in 0..text.len() {
                let payload = flushed(&[&text[..cut], &text[cut..]], level);
                assert_eq!(
                    inflated(&mut inflater, &payload, MAX).as_deref(),
                    Ok(text),
                    "level {level}, cut {cut}"
                );
                // A final block before others.
                let rest = flushed(&[&text[cut..]], level);
                let payload = [finished(&text[..cut]), rest].concat();
                assert_eq!(
                    inflated(&mut inflater, &payload, MAX).as_deref(),
                    Ok(text),
                    "level {level}, cut {cut}"
                );
            }
        }
    }

    /// The window goes on over a final block.
    #[test]
    fn what_follows_a_final_block_may_refer_to_it() {
        let mut compress = Compress::new(Compression::new(6), false);
        let half = b"what stands here stands there, what stands here stands there";
        let first = finished(half);
        compress.set_dictionary(half).unwrap();
        let mut second = Vec::with_capacity(1000);
        compress.compress_vec(half, &mut second, FlushCompress::Sync).unwrap();
        second.truncate(second.len() - 4);
        assert!(second.len() < 12, "it is a reference: {second:x?}");
        let payload = [first, second].concat();
        let message = inflated(&mut Inflater::default(), &payload, MAX).unwrap();
        assert_eq!(message, [half.as_slice(), half].concat());
    }

    #[test]
    fn final_blocks_are_counted() {
        let blocks = |count: usize| [&b"\x03\x00".repeat(count)[..], &[0]].concat();
        let mut inflater = Inflater::default();
        assert_eq!(inflated(&mut inflater, &blocks(FINAL_BLOCKS_MAX - 1), MAX), Ok(vec![]));
        assert_eq!(inflated(&mut inflater, &blocks(FINAL_BLOCKS_MAX), MAX), Err(1009));
        assert_eq!(inflated(&mut inflater, &blocks(100_000), MAX), Err(1009));
    }

    #[test]
    fn what_is_no_deflate_data_is_1007() {
        let mut inflater = Inflater::default();
        for payload in [
            // The reserved kind of block.
            &[0x07][..],
            &[0xff; 20],
            // A stored block whose length and its complement differ.
            &[0x00, 0x05, 0x00, 0x00, 0x00, 0x48],
            // A distance before the beginning.
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
        ] {
            assert_eq!(inflated(&mut inflater, payload, MAX), Err(1007), "{payload:x?}");
        }
        // The next message is none the worse for it.
        assert_eq!(inflated(&mut inflater, &flushed(&[b"fine"], 6), MAX).as_deref(), Ok(&b"fine"[..]));
    }

    #[test]
    fn text_is_checked_after_it_was_inflated() {
        let mut inflater = Inflater::default();
        let mut judged = |bytes: &[u8]| match inflater.message(true, &flushed(&[bytes], 6), MAX) {
            Ok(Message::Text(text)) => Ok(text.to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(fault) => Err(fault),
        };
        assert_eq!(judged("κόσμε€😀".as_bytes()), Ok("κόσμε€😀".into()));
        assert_eq!(judged(b"ab\xff"), Err(WsFault::NOT_UTF8));
        assert_eq!(judged(&"€".as_bytes()[..2]), Err(WsFault::NOT_UTF8));
    }

    /// A thousand times as long as what was sent: the bound holds for what comes out, and nothing grows past it.
    #[test]
    fn bombs_end_at_the_bound() {
        let bomb = flushed(&[&vec![0; 20 << 20]], 9);
        assert!(bomb.len() < 32 * 1024);
        let mut inflater = Inflater::default();
        for max in [0, 1, 1000, 4095, 4096, 65_536, 1 << 20] {
            assert_eq!(inflated(&mut inflater, &bomb, max), Err(1009));
            let room = inflater.message.capacity();
            assert!(room <= max.max(65_536) + 1, "{room} bytes for a bound of {max}");
        }
        assert_eq!(inflated(&mut inflater, &bomb, 20 << 20).map(|message| message.len()), Ok(20 << 20));
        assert_eq!(inflated(&mut inflater, &[0], MAX), Ok(vec![]));
        assert!(inflater.message.capacity() <= 65_536, "space goes back");
        // Exactly at the bound, and one byte beyond.
        for size in [1, 100, 4096, 70_000] {
            let payload = flushed(&[&vec![b'x'; size]], 6);
            assert_eq!(inflated(&mut inflater, &payload, size).map(|message| message.len()), Ok(size));
            assert_eq!(inflated(&mut inflater, &payload, size - 1), Err(1009), "{size}");
        }
    }

    /// Whatever comes: no panic, no more than the bound, and what the library's own reader finds too.
    #[test]
    fn payloads_of_chance_are_judged_like_the_library_does() {
        let mut inflater = Inflater::default();
        let (mut good, mut bad) = (0, 0);
        for seed in 0..20_000 {
            let mut prng = Prng::with_seed(seed);
            let text: Vec<u8> = (0..prng.usize(..300)).map(|_| prng.u8(b'a'..b'f')).collect();
            let mut payload = flushed(&[&text], prng.u32(..10));
            for _ in 0..prng.usize(..3) {
                let at = prng.usize(..payload.len());
                payload[at] ^= 1 << prng.u32(..8);
            }
            // Up to its first fault or final block.
            let mut theirs = Vec::new();
            let whole = [&payload[..], &TAIL].concat();
            let _ = DeflateDecoder::new(&whole[..]).read_to_end(&mut theirs);
            match inflated(&mut inflater, &payload, MAX) {
                Ok(ours) => {
                    good += 1;
                    assert!(ours.starts_with(&theirs), "seed {seed}");
                }
                Err(code) => {
                    bad += 1;
                    assert!(code == 1007 || code == 1009, "seed {seed}: {code}");
                }
            }
        }
        assert!(good > 5_000 && bad > 2_000, "{good} good, {bad} bad");
    }
}

mod frames {
    use super::*;

    /// A client's frame whose first byte is made by hand.
    fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame_masked(&mut out, Opcode::Binary, payload, KEY);
        out[0] = first;
        out
    }

    /// What a server reads: messages inflated, or the code of the close.
    fn read(deflating: bool, pieces: &[&[u8]], max: usize) -> Result<Vec<String>, u16> {
        let mut inflater = Inflater::default();
        let mut seen = Vec::new();
        let mut decoder = Decoder::new(Role::Server, max).deflating(deflating);
        for piece in pieces {
            let mut input = piece.to_vec();
            let mut at = 0;
            loop {
                let (consumed, message) =
                    decoder.decode(&mut input[at..]).map_err(|fault| fault.close_code)?;
                at += consumed;
                match message {
                    None => break,
                    Some(Message::Compressed { text, payload }) => {
                        let message =
                            inflater.message(text, payload, max).map_err(|fault| fault.close_code)?;
                        seen.push(format!("{message:?}"));
                    }
                    Some(message) => seen.push(format!("{message:?}")),
                }
            }
        }
        Ok(seen)
    }

    const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

    /// Section 6.1 and RFC 6455 section 5.2: RSV1 belongs on the first frame of a data message, where it was agreed on.
    #[test]
    fn reserved_bits_are_refused_where_nobody_agreed_on_them() {
        let hello = Ok(vec!["Text(\"Hello\")".to_owned()]);
        assert_eq!(read(true, &[&raw(0xc1, &HELLO)], MAX), hello);
        assert_eq!(read(false, &[&raw(0xc1, &HELLO)], MAX), Err(1002));
        for deflating in [false, true] {
            // RSV2, RSV3, with and without RSV1.
            for bits in [0x20, 0x10, 0x30, 0x60, 0x50, 0x70] {
                assert_eq!(read(deflating, &[&raw(0x81 | bits, &HELLO)], MAX), Err(1002), "{bits:x}");
            }
            // Ping, Pong, Close.
            for opcode in [0x9, 0xa, 0x8] {
                assert_eq!(read(deflating, &[&raw(0xc0 | opcode, &[])], MAX), Err(1002), "{opcode:x}");
            }
            let fragments = [raw(0x41, &HELLO[..3]), raw(0xc0, &HELLO[3..])].concat();
            assert_eq!(read(deflating, &[&fragments], MAX), Err(1002), "on a continuation");
            let fragments = [raw(0x01, b"Hel"), raw(0xc0, b"lo")].concat();
            assert_eq!(
                read(deflating, &[&fragments], MAX),
                Err(1002),
                "on a continuation of a plain message"
            );
        }
        // An uncompressed message may come at any time, and behind a compressed one.
        let both = [raw(0xc1, &HELLO), raw(0x81, b"Hello"), raw(0xc2, &HELLO), raw(0x82, b"Hello")].concat();
        let seen = read(true, &[&both], MAX).unwrap();
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[2], seen[3]);
    }

    #[test]
    fn plain_text_behind_a_compressed_message_is_checked_again() {
        let stream = [raw(0x41, &HELLO[..2]), raw(0x80, &HELLO[2..]), raw(0x01, b"a\xff")].concat();
        assert_eq!(read(true, &[&stream], MAX), Err(1007));
        // And what is compressed is not taken for text.
        let noise: Vec<u8> = flushed(&["κόσμε€😀".as_bytes()], 6);
        assert!(std::str::from_utf8(&noise).is_err());
        let stream = [raw(0x41, &noise[..5]), raw(0x80, &noise[5..])].concat();
        assert_eq!(read(true, &[&stream], MAX), Ok(vec!["Text(\"κόσμε€😀\")".to_owned()]));
    }

    /// Section 7.2.3.1: in fragments, with control frames between them, in reads that end anywhere.
    #[test]
    fn messages_are_the_same_wherever_frames_and_reads_are_cut() {
        for seed in 0..300 {
            let mut prng = Prng::with_seed(seed);
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..prng.usize(1..5) {
                let text: String =
                    (0..prng.usize(..400)).map(|_| ['a', 'b', 'é', '😀'][prng.usize(..4)]).collect();
                expected.push(format!("{:?}", Message::Text(&text)));
                let payload = match prng.u8(..3) {
                    0 => finished(text.as_bytes()),
                    _ => flushed(&[text.as_bytes()], prng.u32(..10)),
                };
                let start = stream.len();
                let mut rest = &payload[..];
                let mut opcode = Opcode::Text;
                while prng.u8(..3) > 0 {
                    let (piece, after) = rest.split_at(prng.usize(..=rest.len()));
                    write_fragment_masked(&mut stream, opcode, false, piece, prng.u32(..).to_be_bytes());
                    (opcode, rest) = (Opcode::Continuation, after);
                    if prng.bool() {
                        write_frame_masked(&mut stream, Opcode::Ping, b"between", KEY);
                        expected.insert(expected.len() - 1, format!("{:?}", Message::Ping(b"between")));
                    }
                }
                write_fragment_masked(&mut stream, opcode, true, rest, prng.u32(..).to_be_bytes());
                stream[start] |= 0x40;
            }
            assert_eq!(read(true, &[&stream], MAX).as_ref(), Ok(&expected), "seed {seed}");
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(read(true, &bytes, MAX).as_ref(), Ok(&expected), "seed {seed}, byte by byte");
            let cut = prng.usize(..=stream.len());
            let (left, right) = stream.split_at(cut);
            assert_eq!(read(true, &[left, right], MAX).as_ref(), Ok(&expected), "seed {seed}, cut at {cut}");
        }
    }

    /// The bound counts what comes out. What does not compress may be a little longer on the wire.
    #[test]
    fn the_bound_of_a_message_is_that_of_what_it_holds() {
        let mut prng = Prng::with_seed(4);
        for size in [0, 1, 10, 1000, 100_000] {
            let noise: Vec<u8> = (0..size).map(|_| prng.u8(..)).collect();
            for level in [0, 1, 6] {
                let payload = flushed(&[&noise], level);
                let frame = raw(0xc2, &payload);
                assert!(read(true, &[&frame], size).is_ok(), "{size} bytes in {}", payload.len());
            }
        }
        // What cannot fit is refused by its header, before it has come.
        let mut header = raw(0xc2, &vec![0; 70_000]);
        header.truncate(14);
        assert_eq!(read(true, &[&header], 60_000), Err(1009));
        let fragments = [raw(0x42, &vec![0; 40_000]), raw(0x80, &vec![0; 40_000])].concat();
        assert_eq!(read(true, &[&fragments], 60_000), Err(1009));
    }

    #[test]
    fn a_mask_comes_off_before_anything_is_inflated() {
        let mut frame = raw(0xc1, &HELLO);
        let start = frame.len() - HELLO.len();
        apply_mask(&mut frame[start..], KEY);
        assert_eq!(frame[start..], HELLO);
    }
}

/// A long message costs milliseconds of a shard: what a turn has no room for is sent as it is, which every client takes.
#[test]
fn a_turn_compresses_as_much_as_it_may() {
    let mut deflater = Deflater::bounded(CompressionOptions::default(), 10_000);
    let message = vec![b'x'; 4_000];
    let compressed =
        |deflater: &mut Deflater, message: &[u8]| deflater.frame(Opcode::Text, message)[0] & 0x40 != 0;
    for _ in 0..2 {
        assert!(!compressed(&mut deflater, &vec![b'x'; 10_001]), "longer than a turn may take");
        assert!([true, true, false] == [(); 3].map(|()| compressed(&mut deflater, &message)));
        assert!(compressed(&mut deflater, &message[..2_000]), "a shorter one has room");
        let plain = deflater.frame(Opcode::Text, &message);
        assert_eq!(plain[plain.len() - message.len()..], message, "whole, and as it was");
        deflater.begin();
    }
    let mut unbounded = Deflater::new(CompressionOptions::default());
    assert!((0..10).all(|_| compressed(&mut unbounded, &message)));
}
