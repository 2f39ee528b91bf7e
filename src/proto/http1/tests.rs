use super::*;
use crate::base::limits;
use crate::base::prng::Prng;

fn parse(text: &str) -> Result<RequestHead<'_>, HttpFault> {
    let (head, len) = parse_head(text.as_bytes())?.expect("complete");
    assert_eq!(len, text.len());
    Ok(head)
}

fn status_of(text: &str) -> u16 {
    match parse_head(text.as_bytes()) {
        Err(fault) => fault.status,
        Ok(Some((head, _))) => panic!("taken: {head:?}"),
        Ok(None) => panic!("wants more: {text:?}"),
    }
}

#[test]
fn reads_a_browsers_handshake() {
    let text = "GET /connection/websocket?cf_ws_frame_ping_pong=true HTTP/1.1\r\nHost: example.com:8000\r\n\
                Connection: keep-alive, Upgrade\r\nUPGRADE: websocket\r\nX-Empty:\r\nX-Space: \t a b\t \r\n\
                X-Obs: \u{e9}\r\nX-Two: a,, b\r\nx-two:  c \r\n\r\n";
    let head = parse(text).unwrap();
    assert_eq!((head.method, head.version), ("GET", HttpVersion::Http11));
    assert_eq!((head.path, head.query), ("/connection/websocket", Some(&b"cf_ws_frame_ping_pong=true"[..])));
    assert_eq!(head.host(), Some("example.com:8000"));
    assert_eq!(head.header("upgrade"), Some(&b"websocket"[..]));
    assert_eq!(head.header("X-Empty"), Some(&b""[..]));
    assert_eq!(head.header("X-Space"), Some(&b"a b"[..]));
    assert_eq!(head.header_str("X-Obs"), Some("\u{e9}"));
    assert_eq!(head.header("X-Missing"), None);
    assert_eq!(head.header_tokens("X-Two").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    assert_eq!(head.fields().only("X-Two"), None);
    assert_eq!(head.headers().count(), 8);
    assert_eq!(head.headers().next(), Some(("Host", &b"example.com:8000"[..])));
    assert!(head.fields().has_token("connection", "upgrade") && head.keep_alive());
    assert_eq!(head.body_length(), BodyLength::None);
}

#[test]
fn leaves_what_follows_the_head() {
    let first = "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!("{first}\r\nGET /b HTTP/1.1\r\n");
    let (head, len) = parse_head(text.as_bytes()).unwrap().unwrap();
    assert_eq!((head.path, len), ("/", first.len()));
}

#[test]
fn targets_of_rfc_9112_section_3_2() {
    let get = |target: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: field\r\n\r\n");
        let head = parse(&text).map_err(|fault| fault.status)?;
        Ok((
            head.path.to_string(),
            head.query.map(|query| escaped(query).into_owned()),
            head.host().map(str::to_string),
        ))
    };
    let ok = |path: &str, query: Option<&str>, host: &str| {
        Ok((path.to_string(), query.map(str::to_string), Some(host.to_string())))
    };
    assert_eq!(get("/"), ok("/", None, "field"));
    assert_eq!(get("/a?"), ok("/a", Some(""), "field"));
    assert_eq!(get("/a?b?c"), ok("/a", Some("b?c"), "field"));
    assert_eq!(get("//a"), ok("//a", None, "field"));
    assert_eq!(get("http://h:1/a?b"), ok("/a", Some("b"), "h:1"));
    assert_eq!(get("HTTPS://h"), ok("/", None, "h"));
    assert_eq!(get("http://h?q"), ok("/", Some("q"), "h"));
    let refused = [
        "*",
        "*?",
        "a",
        "ftp://h/",
        "http:///a",
        "http://u@h/",
        "/a#b",
        "/\u{e9}",
        "/\x7f",
        "/?\x7f",
        "?a",
        "",
    ];
    for refused in refused {
        assert_eq!(get(refused), Err(400), "{refused:?}");
    }
    assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().path, "*");
    assert_eq!(status_of("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
}

/// Pages and proxies write their parameters as they are; the http crate and backends get them escaped.
#[test]
fn a_query_may_hold_what_is_not_ascii() {
    for (query, readable) in [
        (&b"utm=caf\xe9"[..], "utm=caf%E9"),
        ("utm=café&a=%20".as_bytes(), "utm=caf%C3%A9&a=%20"),
        (b"\x80\xff=%", "%80%FF=%"),
        (b"q=<b>", "q=%3Cb%3E"),
        (b"a={\"b\":1}", "a={%22b%22:1}"),
    ] {
        let text = [b"GET /a?", query, b" HTTP/1.1\r\nHost: b\r\n\r\n"].concat();
        let (head, len) = parse_head(&text).unwrap().unwrap();
        assert_eq!((len, head.path, head.query), (text.len(), "/a", Some(query)));
        assert_eq!(escaped(query), readable);
        assert_eq!(request_parts(&head).unwrap().uri.query(), Some(readable));
    }
    for refused in [&b"/caf\xe9"[..], b"/a\x80?b", b"http://h\xe9/", b"\xe9", b"/?\x1f", b"/?a#\xe9"] {
        let text = [b"GET ", refused, b" HTTP/1.1\r\nHost: b\r\n\r\n"].concat();
        assert_eq!(parse_head(&text).unwrap_err().status, 400, "{refused:?}");
    }
}

#[test]
fn versions_of_rfc_9110_section_2_5() {
    let get = |version: &str| match parse_head(format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()) {
        Ok(head) => Ok(head.unwrap().0.version),
        Err(fault) => Err(fault.status),
    };
    assert_eq!(get("HTTP/1.1"), Ok(HttpVersion::Http11));
    assert_eq!(get("HTTP/1.0"), Ok(HttpVersion::Http10));
    assert_eq!(get("HTTP/1.2"), Ok(HttpVersion::Http11));
    for other in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.1"] {
        assert_eq!(get(other), Err(505), "{other}");
    }
    for malformed in
        ["http/1.1", "HTTP/1", "HTTP/1.", "HTTP/1.11", "HTTP/11", "HTTP/1,1", "HTTPS/1.1", "", " HTTP/1.1"]
    {
        assert_eq!(get(malformed), Err(400), "{malformed:?}");
    }
    assert_eq!(status_of("PRI * HTTP/2.0\r\n\r\n"), 505);
}

#[test]
fn malformed_heads_are_refused() {
    for text in [
        // Request line.
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        // Line ends.
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
        // Fields.
        "GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc: d\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n",
        // Host.
        "GET / HTTP/1.1\r\nX: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: []\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:8x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a]\r\n\r\n",
        "GET http://a:8x/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(status_of(text), 400, "{text:?}");
    }
    assert_eq!(parse("GET / HTTP/1.1\r\nHost:\r\n\r\n").unwrap().host(), Some(""));
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap().host(), None);
    for host in
        ["a:", "a:0", "a:65535", ":80", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b.c~%41:80", "[v1.a:b]"]
    {
        assert_eq!(parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap().host(), Some(host));
    }
}

#[test]
fn every_request_smuggling_shape_is_refused() {
    let length = |version: &str, fields: &str| {
        let text = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        parse(&text).map(|head| head.body_length()).map_err(|fault| fault.status)
    };
    assert_eq!(length("1.1", ""), Ok(BodyLength::None));
    assert_eq!(length("1.1", "Content-Length: 0\r\n"), Ok(BodyLength::Length(0)));
    assert_eq!(length("1.0", "Content-Length: 007 \r\n"), Ok(BodyLength::Length(7)));
    assert_eq!(length("1.1", "Content-Length: 18446744073709551615\r\n"), Ok(BodyLength::Length(u64::MAX)));
    assert_eq!(length("1.1", "Transfer-Encoding: Chunked\r\n"), Ok(BodyLength::Chunked));
    for bad in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\ncontent-length: 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
    ] {
        assert_eq!(length("1.1", bad), Err(400), "{bad:?}");
    }
    assert_eq!(length("1.0", "Transfer-Encoding: chunked\r\n"), Err(400));
    assert_eq!(length("1.1", "Transfer-Encoding: gzip, chunked\r\n"), Err(501));
    assert_eq!(length("1.1", "Transfer-Encoding: foo\r\nTransfer-Encoding: chunked\r\n"), Err(501));
}

#[test]
fn keep_alive_and_expectation() {
    let get = |version: &str, fields: &str| {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let head = parse(&text).unwrap();
        (head.keep_alive(), head.expects_continue())
    };
    assert_eq!(get("1.1", "Expect: 100-Continue\r\n"), (true, true));
    assert_eq!(get("1.0", "Expect: 100-continue\r\n"), (false, false));
    assert_eq!(get("1.1", "Connection: x, Close\r\n"), (false, false));
    assert_eq!(get("1.0", "Connection: Keep-Alive\r\n"), (true, false));
    assert_eq!(get("1.0", "Connection: keep-alive\r\nConnection: close\r\n"), (false, false));
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let sized = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(len - start.len() - 4))
    };
    assert!(parse(&sized(limits::HTTP_HEAD_BYTES_MAX)).is_ok());
    let over = sized(limits::HTTP_HEAD_BYTES_MAX + 1);
    assert_eq!(status_of(&over), 431);
    // Refused at the bound, with or without an end in sight.
    assert_eq!(status_of(&over[..limits::HTTP_HEAD_BYTES_MAX]), 431);
    assert!(parse_head(&over.as_bytes()[..limits::HTTP_HEAD_BYTES_MAX - 1]).unwrap().is_none());
    assert_eq!(status_of(&"\r\n".repeat(limits::HTTP_HEAD_BYTES_MAX / 2)), 431);

    let many = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X:\r\n".repeat(fields - 1));
    assert_eq!(parse(&many(limits::HTTP_HEADERS_MAX)).unwrap().headers().count(), limits::HTTP_HEADERS_MAX);
    assert_eq!(status_of(&many(limits::HTTP_HEADERS_MAX + 1)), 431);
}

/// A TLS client on a plain port sends a ClientHello and waits: it must not be left waiting for a line end.
#[test]
fn what_cannot_become_a_request_is_refused_at_its_first_byte() {
    for first in [&b"\x16\x03\x01\x02\x00"[..], b"\0", b"\r\n\xff", b"(", b" "] {
        assert_eq!(parse_head(first).unwrap_err().status, 400, "{first:?}");
    }
}

const HEADS: [&str; 7] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\n\r\nPOST /api/publish?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX:  y\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n",
    "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
];

#[test]
fn a_head_split_anywhere_reads_as_in_one_piece() {
    for text in HEADS {
        let bytes = text.as_bytes();
        let whole = parse_head(bytes).map(|head| format!("{head:?}"));
        for cut in 0..bytes.len() {
            match parse_head(&bytes[..cut]) {
                Ok(None) => {}
                Err(early) => assert_eq!(whole, Err(early), "{text:?} cut {cut}"),
                Ok(Some(head)) => panic!("complete at {cut}: {head:?}"),
            }
            // Resumed after the cut, the scan comes to the same end.
            let mut scan = HeadScan::default();
            let resumed = scan.find_end(&bytes[..cut]).and_then(|_| scan.find_end(bytes));
            assert_eq!(resumed, HeadScan::default().find_end(bytes), "{text:?} cut {cut}");
        }
        let mut scan = HeadScan::default();
        let last = (0..=bytes.len()).map(|len| scan.find_end(&bytes[..len])).find(|end| *end != Ok(None));
        assert_eq!(last, Some(HeadScan::default().find_end(bytes)), "{text:?}");
    }
}

#[test]
fn response_heads() {
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nrest";
    let (head, len) = parse_response_head(text).unwrap().unwrap();
    assert_eq!((head.status, head.version, len), (101, HttpVersion::Http11, text.len() - 4));
    assert_eq!(head.fields.get("upgrade"), Some(&b"websocket"[..]));
    assert_eq!(parse_response_head(b"HTTP/1.0 204\r\n\r\n").unwrap().unwrap().0.status, 204);
    assert!(parse_response_head(b"HTTP/1.1 200 OK\r\n").unwrap().is_none());
    for malformed in [
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 99 X\r\n\r\n",
        "HTTP/1.1 1000\r\n\r\n",
        "HTTP/1.1 20x OK\r\n\r\n",
        "\r\n\r\n200 \r\n\r\n",
    ] {
        assert!(parse_response_head(malformed.as_bytes()).is_err(), "{malformed:?}");
    }
}

/// Feeds `input` in pieces of `step` bytes: the data, and what is left after the body.
fn read_body(mut decoder: BodyDecoder, input: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, u16> {
    let mut data = Vec::new();
    let mut at = 0;
    for piece in input.chunks(step) {
        let mut rest = piece;
        while !decoder.is_done() && !rest.is_empty() {
            let piece = decoder.decode(rest).map_err(|fault| fault.status)?;
            data.extend_from_slice(piece.data);
            assert!(piece.consumed > 0);
            rest = &rest[piece.consumed..];
            at += piece.consumed;
        }
    }
    Ok(decoder.is_done().then_some((data, input.len() - at)))
}

#[test]
fn bodies_split_anywhere_read_as_in_one_piece() {
    let chunked = |text: &str| {
        let whole =
            read_body(BodyDecoder::new(BodyLength::Chunked, 100).unwrap(), text.as_bytes(), text.len());
        for step in 1..text.len() {
            let split = read_body(BodyDecoder::new(BodyLength::Chunked, 100).unwrap(), text.as_bytes(), step);
            assert_eq!(split, whole, "{text:?} by {step}");
        }
        whole
    };
    let data = |data: &str, left: usize| Ok(Some((data.as_bytes().to_vec(), left)));
    assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\nnext"), data("hello", 4));
    assert_eq!(chunked("0\r\n\r\n"), data("", 0));
    assert_eq!(chunked("5;a=b;c=\"d\"\r\nhello\r\n0006\r\n world\r\n00\r\n\r\n"), data("hello world", 0));
    assert_eq!(chunked("a \t;x\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n!"), data("0123456789", 1));
    assert_eq!(chunked("1 ; a = b ;c\t=\t\"d;\\\"\te\" ;f\r\nx\r\n0\r\n\r\n"), data("x", 0));
    assert_eq!(chunked("1;a=\"\"\r\nx\r\n0;last\r\nX:\r\n\r\n"), data("x", 0));
    assert_eq!(chunked("5\r\nhello\r\n0\r\n"), Ok(None));
    assert_eq!(chunked("5\r\nhel"), Ok(None));
    for bad in [
        "\r\n",
        "g\r\n",
        ";a\r\n",
        " 5\r\n",
        "5 \r\nhello\r\n",
        "5 5\r\n",
        "0x5\r\nhello",
        "+5\r\nhello",
        "5\nhello",
        "5\rxhello",
        "5;a\nb\r\nhello",
        "5;a\0\r\nhello",
        "5;\r\nhello",
        "5; \r\nhello",
        "5;a \r\nhello",
        "5;a=\r\nhello",
        "5;a=b \r\nhello",
        "5;;a\r\nhello",
        "5;=b\r\nhello",
        "5;a=b=c\r\nhello",
        "5;a b\r\nhello",
        "5;a/b\r\nhello",
        "5;a=\"b\r\nhello",
        "5;a=\"b\\\r\nhello",
        "5;a=\"b\"c\r\nhello",
        "5;a=\"b\0\"\r\nhello",
        "5;\u{e9}\r\nhello",
        "5\r\nhello0\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n",
        "00000000000000005\r\nhello",
        "0\r\n x\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\0\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
        "0\r\nX: y\r\nGET / HTTP/1.1\r\n\r\n",
        "0\r\n\rx",
    ] {
        assert_eq!(chunked(bad), Err(400), "{bad:?}");
    }
    let known = BodyDecoder::new(BodyLength::Length(5), 5).unwrap();
    for step in 1..8 {
        assert_eq!(read_body(known, b"hello!!", step), data("hello", 2), "by {step}");
    }
    assert_eq!(read_body(known, b"hell", 4), Ok(None));
    assert!(BodyDecoder::new(BodyLength::None, 0).unwrap().is_done());
    assert!(BodyDecoder::new(BodyLength::Length(0), 0).unwrap().is_done());
}

#[test]
fn bodies_are_bounded() {
    assert_eq!(BodyDecoder::new(BodyLength::Length(6), 5).unwrap_err().status, 413);
    let chunked = |max, text: &str| {
        read_body(BodyDecoder::new(BodyLength::Chunked, max).unwrap(), text.as_bytes(), text.len())
    };
    assert_eq!(chunked(5, "5\r\nhello\r\n0\r\n\r\n"), Ok(Some((b"hello".to_vec(), 0))));
    assert_eq!(chunked(5, "6\r\n"), Err(413));
    assert_eq!(chunked(5, "5\r\nhello\r\n1\r\n"), Err(413));
    assert_eq!(chunked(u64::MAX, "ffffffffffffffff\r\n"), Ok(None));
    assert_eq!(chunked(5, "ffffffffffffffff\r\n"), Err(413));
    assert_eq!(chunked(5, &format!("1;{}\r\n", "x".repeat(CHUNK_EXTRA_BYTES_MAX as usize))), Err(431));
    assert_eq!(
        chunked(1 << 20, &"1;xxxxxxx\r\na\r\n".repeat(1 + CHUNK_EXTRA_BYTES_MAX as usize / 8)),
        Err(431)
    );
    assert_eq!(
        chunked(5, &format!("0\r\n{}", "X: y\r\n".repeat(CHUNK_EXTRA_BYTES_MAX as usize / 4))),
        Ok(None)
    );
    assert_eq!(
        chunked(5, &format!("0\r\n{}", "X: y\r\n".repeat(1 + CHUNK_EXTRA_BYTES_MAX as usize / 4))),
        Err(431)
    );
}

#[test]
fn writes_responses() {
    let mut out = Vec::new();
    write_response(&mut out, 200, &[("Content-Type", b"application/json")], b"{}");
    assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    out.clear();
    write_head(&mut out, 204, &[], Body::None);
    write_head(&mut out, 299, &[], Body::UntilClose);
    write_head(&mut out, 200, &[], Body::Chunked);
    write_chunk(&mut out, b"hello");
    write_chunk(&mut out, b"");
    write_chunk(&mut out, &[b'x'; 0x1a0]);
    write_last_chunk(&mut out);
    let text = String::from_utf8(out).unwrap();
    let chunks = text
        .strip_prefix(
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 299 \r\nConnection: close\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let decoder = BodyDecoder::new(BodyLength::Chunked, 1000).unwrap();
    assert!(chunks.starts_with("5\r\nhello\r\n1a0\r\nx"));
    assert_eq!(read_body(decoder, chunks.as_bytes(), 1000).unwrap().unwrap().0.len(), 5 + 0x1a0);

    let mut out = Vec::new();
    HttpFault { status: 431, reason: "request head too large" }.write(&mut out);
    let (head, len) = parse_response_head(&out).unwrap().unwrap();
    assert_eq!((head.status, head.fields.get("Content-Type")), (431, Some(&b"application/problem+json"[..])));
    let problem: serde_json::Value = serde_json::from_slice(&out[len..]).unwrap();
    assert_eq!((&problem["status"], &problem["detail"]), (&431.into(), &"request head too large".into()));
}

#[test]
fn chunk_headers_at_their_borders() {
    for len in [1, 15, 16, 255, 256, 65_535, 65_536, usize::MAX] {
        let (header, header_len) = chunk_header(len);
        assert_eq!(&header[..header_len], format!("{len:x}\r\n").as_bytes());
    }
}

#[test]
#[should_panic(expected = "field value")]
fn a_response_cannot_be_split_by_a_value() {
    write_head(&mut Vec::new(), 200, &[("X", b"a\r\nSet-Cookie: b")], Body::None);
}

/// Golden times from the `date` tool of the operating system.
#[test]
fn dates() {
    for (unix_s, expected) in [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ] {
        assert_eq!(std::str::from_utf8(&http_date(unix_s)), Ok(expected));
    }
}

#[test]
fn garbage_never_panics_and_is_consumed_in_order() {
    let seed = Prng::new().u64(..);
    println!("seed {seed}");
    let mut prng = Prng::with_seed(seed);
    for _ in 0..20_000 {
        let mut bytes = HEADS[prng.usize(..HEADS.len())].as_bytes().to_vec();
        bytes.extend_from_slice(b"5;x\r\nhello\r\n0\r\nX: y\r\n\r\n");
        for _ in 0..prng.usize(1..6) {
            let at = prng.usize(..bytes.len());
            match prng.u8(..3) {
                0 => bytes[at] = prng.u8(..),
                1 => bytes.insert(at, *prng.choice(b"\r\n :,;\0\t0").unwrap()),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(Some((head, len))) = parse_head(&bytes) {
            assert!(len <= bytes.len());
            assert!(head.headers().all(|(name, value)| is_token(name.as_bytes()) && is_field_value(value)));
        }
        let _ = parse_response_head(&bytes);
        let body = prng.usize(..bytes.len());
        let decoder = BodyDecoder::new(BodyLength::Chunked, 100).unwrap();
        let _ = read_body(decoder, &bytes[body..], prng.usize(1..10));
    }
}
