use super::*;
use crate::base::limits;
use crate::base::prng::Prng;
use crate::proto::http1::{parse_head, parse_response_head};

/// An owned [`Message`], to compare and to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Message<'_>> for Got {
    fn from(message: Message<'_>) -> Got {
        match message {
            Message::Text(text) => Got::Text(text.into()),
            Message::Binary(bytes) => Got::Binary(bytes.into()),
            Message::Compressed { .. } => panic!("nobody agreed on compression"),
            Message::Ping(bytes) => Got::Ping(bytes.into()),
            Message::Pong(bytes) => Got::Pong(bytes.into()),
            Message::Close { code, reason } => Got::Close(code, reason.into()),
        }
    }
}

const MAX: usize = 1 << 20;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Decodes pieces one after the other with one decoder, dropping it whenever it is idle as the shard does.
fn decode_pieces<'i>(
    role: Role,
    max: usize,
    pieces: impl Iterator<Item = &'i [u8]>,
) -> (Vec<Got>, Option<WsFault>, bool) {
    let mut got = Vec::new();
    let mut kept: Option<Box<Decoder>> = None;
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut fresh = Decoder::new(role, max);
        let decoder = kept.as_deref_mut().unwrap_or(&mut fresh);
        let mut at = 0;
        loop {
            match decoder.decode(&mut input[at..]) {
                Err(fault) => return (got, Some(fault), false),
                Ok((consumed, None)) => {
                    assert_eq!(at + consumed, input.len(), "None comes with all consumed");
                    break;
                }
                Ok((consumed, Some(message))) => {
                    got.push(message.into());
                    at += consumed;
                }
            }
        }
        match (decoder.is_idle(), kept.is_some()) {
            (true, _) => kept = None,
            (false, true) => {}
            (false, false) => kept = Some(Box::new(fresh)),
        }
    }
    (got, None, kept.is_none())
}

fn decode_all(role: Role, input: &[u8]) -> (Vec<Got>, Option<u16>) {
    let (got, fault, _) = decode_pieces(role, MAX, std::iter::once(input));
    (got, fault.map(|fault| fault.close_code))
}

/// What a decoder holds besides itself.
fn heap_bytes(decoder: &Decoder) -> usize {
    decoder.stored_bytes() - size_of::<Decoder>()
}

fn fault_of(input: &[u8]) -> Option<u16> {
    decode_all(Role::Server, input).1
}

/// A client's frame with a header made by hand, so that it can be wrong.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame_masked(&mut out, Opcode::Binary, payload, KEY);
    out[0] = first;
    out
}

fn close_frame(payload: &[u8]) -> Vec<u8> {
    raw(0x88, payload)
}

mod rfc6455 {
    use super::*;

    /// The examples of section 5.7, byte for byte.
    #[test]
    fn section_5_7_examples() {
        let hello = || vec![Got::Text("Hello".into())];
        let unmasked = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(decode_all(Role::Client, &unmasked), (hello(), None));
        let mut out = Vec::new();
        write_frame(&mut out, Opcode::Text, b"Hello");
        assert_eq!(out, unmasked);

        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode_all(Role::Server, &masked), (hello(), None));
        out.clear();
        write_frame_masked(&mut out, Opcode::Text, b"Hello", KEY);
        assert_eq!(out, masked);

        let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(decode_all(Role::Client, &fragments), (hello(), None));
        out.clear();
        write_fragment(&mut out, Opcode::Text, false, b"Hel");
        write_fragment(&mut out, Opcode::Continuation, true, b"lo");
        assert_eq!(out, fragments);

        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(decode_all(Role::Client, &ping), (vec![Got::Ping(b"Hello".to_vec())], None));
        let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode_all(Role::Server, &pong), (vec![Got::Pong(b"Hello".to_vec())], None));

        assert_eq!(frame_header(Opcode::Binary, 256).0[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(frame_header(Opcode::Binary, 65_536).0[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn section_5_1_a_client_must_mask_and_a_server_must_not() {
        let mut unmasked = Vec::new();
        write_frame(&mut unmasked, Opcode::Text, b"a");
        assert_eq!(decode_all(Role::Server, &unmasked), (vec![], Some(1002)));
        assert_eq!(decode_all(Role::Client, &raw(0x81, b"a")), (vec![], Some(1002)));
        // Known from the second byte: nothing is waited for.
        assert_eq!(fault_of(&unmasked[..2]), Some(1002));
    }

    #[test]
    fn section_5_2_reserved_bits_must_be_zero() {
        for bit in [0x10, 0x20, 0x40] {
            for first in [0x81, 0x82, 0x89, 0x8a, 0x88] {
                assert_eq!(fault_of(&raw(first | bit, b"")), Some(1002), "{first:x} {bit:x}");
            }
            assert_eq!(fault_of(&[0x81 | bit]), Some(1002), "from the first byte");
        }
    }

    #[test]
    fn section_5_2_unknown_opcodes_fail_the_connection() {
        for opcode in (0x3..=0x7).chain(0xb..=0xf) {
            assert_eq!(fault_of(&raw(0x80 | opcode, b"")), Some(1002), "{opcode:x}");
            assert_eq!(fault_of(&[0x80 | opcode]), Some(1002), "{opcode:x}");
        }
    }

    #[test]
    fn section_5_2_the_length_must_take_the_fewest_bytes() {
        for (len, minimal) in [(0u16, false), (125, false), (126, true), (65_535, true)] {
            let mut input = vec![0x82, 0xfe];
            input.extend_from_slice(&len.to_be_bytes());
            assert_eq!(fault_of(&input).is_none(), minimal, "{len} in 16 bits");
        }
        for (len, minimal) in [(0u64, false), (126, false), (65_535, false), (65_536, true)] {
            let mut input = vec![0x82, 0xff];
            input.extend_from_slice(&len.to_be_bytes());
            assert_eq!(fault_of(&input).is_none(), minimal, "{len} in 64 bits");
        }
    }

    #[test]
    fn section_5_2_the_top_bit_of_a_64_bit_length_must_be_zero() {
        for len in [1u64 << 63, u64::MAX] {
            let mut input = vec![0x82, 0xff];
            input.extend_from_slice(&len.to_be_bytes());
            assert_eq!(fault_of(&input), Some(1002));
        }
        let mut input = vec![0x82, 0xff];
        input.extend_from_slice(&(u64::MAX >> 1).to_be_bytes());
        assert_eq!(fault_of(&input), Some(1009), "a legal length that nobody takes");
    }

    #[test]
    fn section_5_4_fragments_make_one_message() {
        let mut input = raw(0x01, b"a");
        input.extend(raw(0x00, b""));
        input.extend(raw(0x00, b"b"));
        input.extend(raw(0x80, b"c"));
        input.extend(raw(0x82, b"d"));
        input.extend(raw(0x02, b""));
        input.extend(raw(0x80, b""));
        let expected = vec![Got::Text("abc".into()), Got::Binary(b"d".to_vec()), Got::Binary(vec![])];
        assert_eq!(decode_all(Role::Server, &input), (expected, None));
    }

    #[test]
    fn section_5_4_control_frames_may_stand_between_fragments() {
        let mut input = raw(0x01, b"a");
        input.extend(raw(0x89, b"p"));
        input.extend(raw(0x00, b"b"));
        input.extend(raw(0x8a, b""));
        input.extend(raw(0x80, b"c"));
        let expected = vec![Got::Ping(b"p".to_vec()), Got::Pong(vec![]), Got::Text("abc".into())];
        assert_eq!(decode_all(Role::Server, &input), (expected, None));
        let mut input = raw(0x01, b"a");
        input.extend(close_frame(&1000u16.to_be_bytes()));
        assert_eq!(decode_all(Role::Server, &input), (vec![Got::Close(Some(1000), String::new())], None));
    }

    #[test]
    fn section_5_4_a_continuation_needs_a_message_and_a_message_its_end() {
        assert_eq!(fault_of(&raw(0x80, b"a")), Some(1002));
        assert_eq!(fault_of(&raw(0x00, b"a")), Some(1002));
        for second in [0x01, 0x02, 0x81, 0x82] {
            let mut input = raw(0x01, b"a");
            input.extend(raw(second, b"b"));
            assert_eq!(fault_of(&input), Some(1002), "{second:x}");
        }
        let mut input = raw(0x01, b"a");
        input.extend(raw(0x80, b"b"));
        input.extend(raw(0x80, b"c"));
        let (got, fault) = decode_all(Role::Server, &input);
        assert_eq!((got.len(), fault), (1, Some(1002)));
    }

    #[test]
    fn section_5_5_control_frames_are_short_and_whole() {
        for opcode in [0x8, 0x9, 0xa] {
            assert_eq!(fault_of(&raw(opcode, b"")), Some(1002), "{opcode:x} fragmented");
            assert_eq!(fault_of(&raw(0x80 | opcode, &[b'a'; 126])), Some(1002), "{opcode:x} long");
            assert_eq!(fault_of(&[0x80 | opcode, 0xff]), Some(1002), "{opcode:x} longer");
        }
        let longest = [b'a'; limits::WS_CONTROL_BYTES_MAX];
        assert_eq!(decode_all(Role::Server, &raw(0x89, &longest)), (vec![Got::Ping(longest.to_vec())], None));
    }

    #[test]
    fn section_5_5_1_close_payloads() {
        let close = |payload: &[u8]| decode_all(Role::Server, &close_frame(payload));
        assert_eq!(close(b""), (vec![Got::Close(None, String::new())], None));
        assert_eq!(close(b"\x03"), (vec![], Some(1002)));
        assert_eq!(close(b"\x03\xe8"), (vec![Got::Close(Some(1000), String::new())], None));
        assert_eq!(close(b"\x03\xe8\xc3\xa9"), (vec![Got::Close(Some(1000), "é".into())], None));
        assert_eq!(close(b"\x03\xe8\xc3"), (vec![], Some(1007)));
        assert_eq!(close(b"\x03\xe8\xed\xa0\x80"), (vec![], Some(1007)));
    }

    /// The codes of Autobahn's cases 7.7.* and 7.9.*, and the registered ones.
    #[test]
    fn section_7_4_close_codes() {
        let taken: Vec<u16> =
            (0..=u16::MAX).filter(|code| fault_of(&close_frame(&code.to_be_bytes())).is_none()).collect();
        let expected: Vec<u16> = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
            .into_iter()
            .chain(3000..=4999)
            .collect();
        assert_eq!(taken, expected);
        for invalid in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535u16] {
            assert_eq!(fault_of(&close_frame(&invalid.to_be_bytes())), Some(1002), "{invalid}");
        }
    }

    #[test]
    fn section_8_1_text_must_be_utf_8() {
        for bad in [&b"\x80"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xff", b"\xe2\x82"] {
            assert_eq!(fault_of(&raw(0x81, bad)), Some(1007), "{bad:x?}");
            assert_eq!(fault_of(&raw(0x82, bad)), None, "binary is free");
        }
        // Judged over the whole message, not fragment by fragment.
        let mut input = raw(0x01, b"\xe2");
        input.extend(raw(0x00, b"\x82"));
        input.extend(raw(0x80, b"\xac"));
        assert_eq!(decode_all(Role::Server, &input), (vec![Got::Text("€".into())], None));
        let mut input = raw(0x01, b"\xe2\x82");
        input.extend(raw(0x80, b""));
        assert_eq!(fault_of(&input), Some(1007), "ends inside a character");
    }

    /// A text that ended badly must not leave its tail to the next one, nor a binary message be taken for text.
    #[test]
    fn section_8_1_messages_do_not_share_utf_8_state() {
        let mut input = raw(0x02, b"\xe2");
        input.extend(raw(0x80, b"\x82"));
        input.extend(raw(0x01, b"a"));
        input.extend(raw(0x80, b"b"));
        let expected = vec![Got::Binary(b"\xe2\x82".to_vec()), Got::Text("ab".into())];
        assert_eq!(decode_all(Role::Server, &input), (expected, None));
    }
}

/// Autobahn 6.4: a text is failed by its first impossible byte, in whichever fragment or part of a frame it comes.
#[test]
fn impossible_text_fails_before_the_frame_is_complete() {
    let text = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80\x65\x64";
    let frame = raw(0x81, text);
    for step in 1..frame.len() {
        let mut consumed = 0;
        let mut decoder = Decoder::new(Role::Server, MAX);
        let fault = frame.chunks(step).find_map(|piece| {
            consumed += piece.len();
            decoder.decode(&mut piece.to_vec()).err()
        });
        assert_eq!(fault, Some(WsFault::NOT_UTF8));
        let bad = frame.len() - text.len() + 13;
        assert_eq!(
            consumed,
            (bad.div_ceil(step) * step).min(frame.len()),
            "by {step}, at the piece with the 0x90"
        );
    }
    let mut input = raw(0x01, &text[..12]);
    assert_eq!(fault_of(&input), None);
    let whole = raw(0x00, &text[12..]);
    let header_and_first_byte = whole.len() - (text.len() - 12) + 1;
    input.extend_from_slice(&whole[..header_and_first_byte]);
    assert_eq!(fault_of(&input), Some(1007));
}

#[test]
fn valid_text_may_be_cut_at_every_byte() {
    let text = "aé€😀\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}z";
    for cut in 0..=text.len() {
        let mut fragments = raw(0x01, &text.as_bytes()[..cut]);
        fragments.extend(raw(0x80, &text.as_bytes()[cut..]));
        assert_eq!(decode_all(Role::Server, &fragments), (vec![Got::Text(text.into())], None), "{cut}");
    }
}

#[test]
fn payload_lengths_at_their_borders() {
    for len in [0, 1, 2, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        for (role, key) in [(Role::Server, Some(KEY)), (Role::Client, None)] {
            let mut frame = Vec::new();
            match key {
                Some(key) => write_frame_masked(&mut frame, Opcode::Binary, &payload, key),
                None => write_frame(&mut frame, Opcode::Binary, &payload),
            }
            let mask = key.map_or(0, |_| 4);
            let header_len = mask
                + if len < 126 {
                    2
                } else if len < 65_536 {
                    4
                } else {
                    10
                };
            assert_eq!(frame.len(), header_len + len);
            let expected = vec![Got::Binary(payload.clone())];
            assert_eq!(decode_all(role, &frame), (expected.clone(), None), "{len} {role:?}");
            for cut in [1, 2, 3, header_len - 1, header_len, header_len + 1, frame.len() - 1] {
                let cut = cut.clamp(0, frame.len());
                let pieces = [&frame[..cut], &frame[cut..]];
                let (got, fault, idle) = decode_pieces(role, len, pieces.into_iter());
                assert_eq!((got, fault, idle), (expected.clone(), None, true), "{len} {role:?} cut {cut}");
            }
        }
    }
}

#[test]
fn a_whole_message_is_borrowed_from_the_input_and_allocates_nothing() {
    let mut input = raw(0x81, b"hello");
    let start = input.as_ptr();
    let mut decoder = Decoder::new(Role::Server, MAX);
    match decoder.decode(&mut input) {
        Ok((11, Some(Message::Text(text)))) => {
            assert_eq!((text, text.as_ptr()), ("hello", start.wrapping_add(6)));
        }
        other => panic!("{other:?}"),
    }
    let (_, message) = decoder.decode(&mut []).unwrap();
    assert!(message.is_none() && decoder.is_idle());
    assert_eq!(heap_bytes(&decoder), 0);

    // Also when only the header came in an earlier read.
    let mut input = raw(0x81, b"hello");
    let (header, payload) = input.split_at_mut(6);
    let start = payload.as_ptr();
    assert_eq!(decoder.decode(header), Ok((6, None)));
    assert!(!decoder.is_idle());
    match decoder.decode(payload) {
        Ok((5, Some(Message::Text(text)))) => assert_eq!(text.as_ptr(), start),
        other => panic!("{other:?}"),
    }
    assert!(decoder.is_idle() && heap_bytes(&decoder) == 0);
}

#[test]
fn the_bound_is_checked_against_the_announced_length_before_anything_is_stored() {
    let decode = |max: usize, input: &[u8]| {
        let mut decoder = Decoder::new(Role::Server, max);
        let result = decoder.decode(&mut input.to_vec()).map(|(_, message)| message.map(Got::from));
        (result.map_err(|fault| fault.close_code), heap_bytes(&decoder))
    };
    let frame = raw(0x82, &[0; 200]);
    assert_eq!(decode(200, &frame).0, Ok(Some(Got::Binary(vec![0; 200]))));
    assert_eq!(decode(199, &frame), (Err(1009), 0));
    assert_eq!(decode(199, &frame[..4]), (Err(1009), 0), "the length alone is enough");
    assert_eq!(decode(0, &raw(0x82, b"")).0, Ok(Some(Got::Binary(vec![]))));
    assert_eq!(
        decode(0, &raw(0x89, b"ping")).0,
        Ok(Some(Got::Ping(b"ping".to_vec()))),
        "control frames are apart"
    );
    // Over all fragments together.
    let mut input = raw(0x02, &[0; 150]);
    input.extend(raw(0x80, &[0; 50]));
    assert_eq!(decode(200, &input).0, Ok(Some(Got::Binary(vec![0; 200]))));
    assert_eq!(decode(199, &input).0, Err(1009));
}

#[test]
fn memory_follows_what_has_arrived() {
    let mut frame = Vec::new();
    write_frame_masked(&mut frame, Opcode::Binary, &vec![7; MAX], KEY);
    let mut decoder = Decoder::new(Role::Server, MAX);
    let mut arrived = 0;
    for piece in frame.chunks(1000) {
        arrived += piece.len();
        let last = arrived == frame.len();
        assert_eq!(decoder.decode(&mut piece.to_vec()).unwrap().1.is_some(), last);
        assert!(heap_bytes(&decoder) <= (2 * arrived).min(MAX), "{arrived}");
    }
    // A returned message's memory goes with the next call, or with the decoder, which is idle.
    assert!(decoder.is_idle());
    assert_eq!(decoder.decode(&mut []), Ok((0, None)));
    assert!(heap_bytes(&decoder) <= 4096 && decoder.stored_bytes() < 4096 + 512);
}

/// 16 MiB in 65,536 fragments, and byte by byte: quadratic handling would take minutes here, linear takes under a second.
#[test]
fn many_fragments_and_single_bytes_cost_linear_time() {
    let payload = vec![b'x'; 256];
    let mut input = Vec::new();
    let fragments = 65_536;
    for i in 0..fragments {
        let opcode = if i == 0 { Opcode::Text } else { Opcode::Continuation };
        write_fragment_masked(&mut input, opcode, i == fragments - 1, &payload, KEY);
    }
    // Of this thread alone: other tests, and a busy machine, do not count.
    let spent_s = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
    let started_s = spent_s();
    for step in [input.len(), 16 * 1024, 1] {
        let mut decoder = Decoder::new(Role::Server, 16 * 1024 * 1024);
        let mut lens = Vec::new();
        for piece in input.clone().chunks_mut(step) {
            if let (_, Some(Message::Text(text))) = decoder.decode(piece).unwrap() {
                lens.push(text.len());
            }
        }
        assert_eq!(lens, [16 * 1024 * 1024], "by {step}");
    }
    let spent_s = spent_s() - started_s;
    assert!(spent_s < 30, "{spent_s} s");
}

/// Inputs whose every cut must give the same messages and the same fault.
fn corpus() -> Vec<Vec<u8>> {
    let mut mixed = raw(0x81, "κόσμε".as_bytes());
    mixed.extend(raw(0x01, b"a\xe2"));
    mixed.extend(raw(0x89, b"ping"));
    mixed.extend(raw(0x00, b""));
    mixed.extend(raw(0x80, b"\x82\xacb"));
    mixed.extend(raw(0x82, &[9; 130]));
    mixed.extend(raw(0x8a, b""));
    mixed.extend(close_frame(b"\x0f\xa0bye"));
    let faulty = |tail: Vec<u8>| {
        let mut input = raw(0x81, b"first");
        input.extend(tail);
        input
    };
    vec![
        mixed,
        faulty(raw(0x83, b"")),
        faulty(raw(0x81, b"\xed\xa0\x80 and on")),
        faulty(raw(0x01, b"\xe2\x82")),
        faulty(vec![0x81, 0x01, b'a']),
        faulty(vec![0x82, 0xfe, 0x00, 0x7d, 1, 2, 3, 4]),
        faulty(close_frame(b"\x03\xec")),
        faulty(close_frame(b"\x03")),
    ]
}

#[test]
fn split_anywhere_gives_what_one_piece_gives() {
    for input in corpus() {
        let (got, fault, idle) = decode_pieces(Role::Server, MAX, std::iter::once(&input[..]));
        for first in 0..=input.len() {
            for second in (first..=input.len()).step_by(if input.len() > 200 { 7 } else { 1 }) {
                let pieces = [&input[..first], &input[first..second], &input[second..]];
                let split = decode_pieces(Role::Server, MAX, pieces.into_iter());
                assert_eq!(split, (got.clone(), fault, idle), "{first} {second} of {input:x?}");
            }
        }
        assert_eq!(decode_pieces(Role::Server, MAX, input.chunks(1)), (got, fault, idle), "{input:x?}");
    }
}

#[test]
fn garbage_never_panics_nor_depends_on_its_cuts() {
    let seed = Prng::new().u64(..);
    println!("seed {seed}");
    let mut prng = Prng::with_seed(seed);
    let corpus = corpus();
    for _ in 0..10_000 {
        let mut input = corpus[prng.usize(..corpus.len())].clone();
        for _ in 0..prng.usize(1..5) {
            let at = prng.usize(..input.len());
            match prng.u8(..3) {
                0 => input[at] = prng.u8(..),
                1 => input.insert(at, prng.u8(..)),
                _ => drop(input.remove(at)),
            }
        }
        let role = if prng.u8(..8) == 0 { Role::Client } else { Role::Server };
        let whole = decode_pieces(role, 256, std::iter::once(&input[..]));
        assert_eq!(decode_pieces(role, 256, input.chunks(prng.usize(1..20))), whole, "{input:x?}");
    }
}

#[test]
fn writes_what_it_reads() {
    let mut out = Vec::new();
    write_close_masked(&mut out, 3008, "slow", KEY);
    assert_eq!(decode_all(Role::Server, &out), (vec![Got::Close(Some(3008), "slow".into())], None));
    out.clear();
    // 122 ASCII bytes and a character of two: it does not fit 123 and is left out whole.
    let reason = format!("{}é", "x".repeat(limits::WS_CLOSE_REASON_BYTES_MAX - 1));
    write_close(&mut out, 1000, &reason);
    let expected = "x".repeat(limits::WS_CLOSE_REASON_BYTES_MAX - 1);
    assert_eq!(decode_all(Role::Client, &out), (vec![Got::Close(Some(1000), expected)], None));
    out.clear();
    write_close(&mut out, 1000, &"x".repeat(limits::WS_CLOSE_REASON_BYTES_MAX));
    assert_eq!(out.len(), 2 + limits::WS_CONTROL_BYTES_MAX);
}

#[test]
#[should_panic]
fn an_overlong_control_frame_is_our_bug() {
    write_frame(&mut Vec::new(), Opcode::Pong, &[0; 126]);
}

mod handshake_tests {
    use super::*;

    const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn check(text: &str, protocols: &[&'static str]) -> Result<Option<&'static str>, u16> {
        let (head, _) = parse_head(text.as_bytes()).unwrap().unwrap();
        accept(&head, protocols).map(|handshake| handshake.protocol).map_err(|fault| fault.status)
    }

    #[test]
    fn section_1_3_example() {
        let (head, _) = parse_head(GOOD.as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        accept(&head, &["superchat", "chat"]).unwrap().write(&mut out, &[("Server", b"trunkline")]);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
             Server: trunkline\r\n\r\n"
        );
    }

    #[test]
    fn section_4_2_1_every_check() {
        let with = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            check(&GOOD.replace(from, to), &[])
        };
        assert_eq!(check(GOOD, &[]), Ok(None));
        assert_eq!(with("GET", "POST"), Err(405));
        assert_eq!(with("GET", "get"), Err(405));
        assert_eq!(with("HTTP/1.1", "HTTP/1.0"), Err(400));
        assert_eq!(with("Upgrade: websocket", "Upgrade: h2c, WebSocket"), Ok(None));
        assert_eq!(with("Upgrade: websocket\r\n", ""), Err(426));
        assert_eq!(with("Upgrade: websocket", "Upgrade: h2c"), Err(426));
        assert_eq!(with("Upgrade: websocket", "Upgrade: websockets"), Err(426));
        assert_eq!(with("Connection: Upgrade", "Connection: keep-alive, uPGRADE"), Ok(None));
        assert_eq!(with("Connection: Upgrade\r\n", ""), Err(400));
        assert_eq!(with("Connection: Upgrade", "Connection: keep-alive"), Err(400));
        for version in ["12", "8", "013", "13, 8", ""] {
            assert_eq!(with("Version: 13", &format!("Version: {version}")), Err(426), "{version}");
        }
        assert_eq!(with("Sec-WebSocket-Version: 13\r\n", ""), Err(426));
        assert_eq!(with("Version: 13\r\n", "Version: 13\r\nSec-WebSocket-Version: 13\r\n"), Err(426));
        assert_eq!(with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), Err(400));
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZTEy",
            "dGhlIHNhbXBsZSBub25j!Q==",
            "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
            "=GhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert_eq!(with("dGhlIHNhbXBsZSBub25jZQ==", key), Err(400), "{key}");
        }
        // Unused bits of the last digit set: some clients make their keys up as text.
        assert_eq!(with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="), Ok(None));
        assert_eq!(with("\r\n\r\n", "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), Err(400));
        assert_eq!(with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"), Err(400));
        assert_eq!(with("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(400));
        assert_eq!(with("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"), Ok(None));
    }

    #[test]
    fn section_4_2_2_the_clients_preference_decides() {
        assert_eq!(check(GOOD, &["superchat", "chat"]), Ok(Some("chat")));
        assert_eq!(check(GOOD, &["superchat"]), Ok(Some("superchat")));
        assert_eq!(check(GOOD, &["Chat", "other"]), Ok(None));
    }

    #[test]
    fn section_4_4_a_refusal_names_the_version() {
        let refused = |fault: HandshakeFault| {
            let mut out = Vec::new();
            fault.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let (head, _) = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        let text = refused(accept(&head, &[]).unwrap_err());
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{text}");
        assert!(text.contains("\r\nUpgrade: websocket\r\n"), "{text}");
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{text}");
        let (head, _) = parse_head(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert!(refused(accept(&head, &[]).unwrap_err()).contains("\r\nAllow: GET\r\n"));
    }

    #[test]
    fn section_4_1_both_sides_agree() {
        let key = *b"0123456789abcdef";
        let mut request = Vec::new();
        write_request(&mut request, "a:1", "/x?y", &key, &["p", "q"], &[("Origin", b"http://a")]);
        let (head, len) = parse_head(&request).unwrap().unwrap();
        assert_eq!((len, head.path, head.query), (request.len(), "/x", Some(&b"y"[..])));
        let mut response = Vec::new();
        accept(&head, &["q"]).unwrap().write(&mut response, &[]);
        let answer = |response: &str, protocols: &[&'static str]| {
            let (head, _) = parse_response_head(response.as_bytes()).unwrap().unwrap();
            check_response(&head, &key, protocols)
        };
        let good = String::from_utf8(response).unwrap();
        assert_eq!(answer(&good, &["p", "q"]), Ok(Some("q")));
        assert!(answer(&good, &["p"]).is_err(), "not offered");
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            answer(&good.replace(from, to), &["p", "q"])
        };
        assert_eq!(with("Sec-WebSocket-Protocol: q\r\n", ""), Ok(None));
        for (from, to) in [
            ("101 Switching Protocols", "200 OK"),
            ("Upgrade: websocket\r\n", ""),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Connection: Upgrade", "Connection: close"),
            ("Accept: ", "Accept: a"),
            ("Sec-WebSocket-Accept", "X"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: p\r\n\r\n"),
        ] {
            assert!(with(from, to).is_err(), "{from:?} {to:?}");
        }
        let (head, _) = parse_response_head(good.as_bytes()).unwrap().unwrap();
        assert!(check_response(&head, b"another key 0000", &["q"]).is_err());
    }
}
