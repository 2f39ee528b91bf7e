//! The API on the clients' port and on `api_listen`: one request, one answer, wherever it comes in.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::on_both_drivers;
use crate::process::{API_KEY, Daemon};

/// Requests and their statuses. `KEY` stands for the field with a right key.
const TABLE: [(u16, &str); 42] = [
    (200, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (200, "HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (200, "GET /health HTTP/1.0\r\n\r\n"),
    (200, "GET http://a.example/health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (200, "\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (405, "POST /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (404, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"),
    (405, "GET /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n"),
    (200, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n"),
    (200, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 0\r\n\r\n"),
    (200, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 2\r\n\r\n{}"),
    (
        200,
        "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\n\r\n",
    ),
    (400, "POST /api/publish HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 1\r\n\r\n{"),
    (404, "POST /api/nothing HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 2\r\n\r\n{}"),
    (401, "POST /api/info HTTP/1.1\r\nHost: a\r\n\r\n"),
    (401, "POST /api/info HTTP/1.1\r\nHost: a\r\nX-API-Key: no\r\nContent-Length: 2\r\n\r\n{}"),
    (401, "POST /api/info?api_key=no HTTP/1.1\r\nHost: a\r\n\r\n"),
    (401, "POST /api/tunnel/t/tickets HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"),
    (404, "GET /api/events HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n"),
    (404, "POST /api/events HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost : a\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, "GET /health HTTP/1.1\nHost: a\n\n"),
    (400, "GET /he alth HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET  /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    (400, "GET /health HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"),
    (400, "\x16\x03\x01\x02\r\n\r\n"),
    (505, "GET /health HTTP/2.0\r\nHost: a\r\n\r\n"),
    (501, "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (413, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 1048577\r\n\r\n"),
    (413, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n"),
    (400, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    (400, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: +2\r\n\r\n{}"),
    (
        400,
        "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (501, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n0;a\0\r\n\r\n"),
    (
        400,
        "POST /api/info HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n2 \n{}\r\n0\r\n\r\n",
    ),
];

/// The status that one request gets on a fresh connection. With `half`, its sender says at once that no more comes.
fn status(mut stream: TcpStream, request: &str, half: bool) -> u16 {
    stream.write_all(request.as_bytes()).expect("taken");
    if half {
        stream.shutdown(Shutdown::Write).expect("an end");
    }
    let mut line = [0; 12];
    match stream.read_exact(&mut line) {
        Ok(()) => std::str::from_utf8(&line[9..]).ok().and_then(|code| code.parse().ok()).unwrap_or(0),
        Err(_) => 0,
    }
}

on_both_drivers! {
    fn both_ports_give_a_request_the_same_status(driver: Driver) {
        let shared = Daemon::start(driver);
        let apart = Daemon::start_set(driver, &[], &[("API_LISTEN", "127.0.0.1:0")]);
        let key = format!("X-API-Key: {API_KEY}");
        let mut wrong = Vec::new();
        for (expected, request) in TABLE {
            let request = request.replace("KEY", &key);
            for half in [false, true] {
                let seen = (status(shared.connect(), &request, half), status(apart.connect_to_api(), &request, half));
                if seen != (expected, expected) {
                    wrong.push(format!("{seen:?} and not {expected}, half-closed {half}: {request:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "on the clients' port, on api_listen:\n{}", wrong.join("\n"));
    }

    /// An answer that is lost makes its caller publish again, or believe that nothing was published.
    fn callers_that_close_their_sending_side_are_answered_and_heard(driver: Driver) {
        let daemon = Daemon::start_set(driver, &[], &[("API_LISTEN", "127.0.0.1:0")]);
        let body = r#"{"channel":"half","data":1}"#;
        let call = |method: &str, body: &str| {
            let length = body.len();
            format!("POST /api/{method} HTTP/1.1\r\nHost: a\r\nX-API-Key: {API_KEY}\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        for _ in 0..200 {
            assert_eq!(status(daemon.connect_to_api(), &call("publish", body), true), 200);
        }
        let mut stream = daemon.connect_to_api();
        stream.write_all(call("history", r#"{"channel":"half","limit":0}"#).as_bytes()).expect("taken");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(r#""offset":200"#), "{answer}");
    }
}
