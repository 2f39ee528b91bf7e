//! The opening handshake, both sides (RFC 6455 section 4).

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use crate::proto::http1::{
    BodyLength, HttpVersion, RequestHead, ResponseHead, problem, write_fields, write_response,
};

/// Section 1.3: tells an answer of a WebSocket server from one that anybody else could have given.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Base64 of 16 bytes.
const KEY_LEN: usize = 24;
/// Base64 of a SHA-1 sum.
pub const ACCEPT_LEN: usize = 28;

/// RFC 4648 section 3.5 leaves it open whether the unused bits of the last digit must be zero. Keys are made up by
/// some clients as 22 random digits and "==", and nothing here depends on what they decode to.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A client's handshake that has passed every check. Whether its origin, path and credentials are welcome is the
/// caller's to decide before [`Handshake::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'p> {
    accept: [u8; ACCEPT_LEN],
    /// What was chosen of the offered subprotocols.
    pub protocol: Option<&'p str>,
}

/// A handshake that is refused: the HTTP answer to give. The connection may be used for another request only if it
/// was well formed HTTP, which is so whenever this is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeFault {
    /// 400, 405 or 426.
    pub status: u16,
    pub reason: &'static str,
}

impl HandshakeFault {
    const fn bad_request(reason: &'static str) -> HandshakeFault {
        HandshakeFault { status: 400, reason }
    }

    /// Appends the whole answer, with the fields that its status demands: 426 names the protocol and the version that
    /// are spoken here (RFC 6455 section 4.4, RFC 9110 section 15.5.22), 405 the method (RFC 9110 section 15.5.6).
    /// `Connection: close` is among them, as refused clients have nothing more to ask.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_with(out, &[]);
    }

    /// As [`HandshakeFault::write`], with further fields.
    pub fn write_with(&self, out: &mut Vec<u8>, further: &[(&str, &[u8])]) {
        let kind: (&str, &[u8]) = ("Content-Type", b"application/problem+json");
        let fields: &[(&str, &[u8])] = match self.status {
            405 => &[("Allow", b"GET"), ("Connection", b"close"), kind],
            426 => &[
                ("Upgrade", b"websocket"),
                ("Connection", b"Upgrade, close"),
                ("Sec-WebSocket-Version", b"13"),
                kind,
            ],
            _ => &[("Connection", b"close"), kind],
        };
        let fields = [fields, further].concat();
        write_response(out, self.status, &fields, problem(self.status, self.reason).as_bytes());
    }
}

impl std::fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.reason)
    }
}

impl std::error::Error for HandshakeFault {}

/// Checks a client's handshake (section 4.2.1). `protocols` are the subprotocols spoken here; the first one the client
/// lists among them is chosen, as its list is ordered by preference. Extensions are never accepted.
///
/// # Errors
/// 405 for another method than GET; 426 without an upgrade to WebSocket and for another version than 13; 400 for
/// everything else.
pub fn accept<'p>(head: &RequestHead<'_>, protocols: &[&'p str]) -> Result<Handshake<'p>, HandshakeFault> {
    let fields = head.fields();
    if head.method != "GET" {
        return Err(HandshakeFault { status: 405, reason: "a WebSocket handshake is a GET" });
    }
    if head.version != HttpVersion::Http11 {
        return Err(HandshakeFault::bad_request("a WebSocket handshake needs HTTP/1.1"));
    }
    // The head's parser has seen to the Host; frames after a body could be taken for the body or the reverse.
    if !matches!(head.body_length(), BodyLength::None | BodyLength::Length(0)) {
        return Err(HandshakeFault::bad_request("a WebSocket handshake has no body"));
    }
    if !fields.has_token("Upgrade", "websocket") {
        return Err(HandshakeFault { status: 426, reason: "only WebSocket is served here" });
    }
    if !fields.has_token("Connection", "upgrade") {
        return Err(HandshakeFault::bad_request("Connection does not name Upgrade"));
    }
    if fields.only("Sec-WebSocket-Version") != Some(b"13") {
        return Err(HandshakeFault { status: 426, reason: "only WebSocket version 13 is spoken" });
    }
    let key = fields
        .only("Sec-WebSocket-Key")
        .filter(|key| is_key(key))
        .ok_or(HandshakeFault::bad_request("Sec-WebSocket-Key is not one key of 16 bytes"))?;

    let protocol = fields
        .tokens("Sec-WebSocket-Protocol")
        .find_map(|offered| protocols.iter().find(|ours| ours.as_bytes() == offered));
    Ok(Handshake { accept: accept_key(key), protocol: protocol.copied() })
}

impl Handshake<'_> {
    /// The handshake whose answer proves itself by `accept`.
    pub fn of_accept(accept: [u8; ACCEPT_LEN]) -> Handshake<'static> {
        Handshake { accept, protocol: None }
    }

    /// `Sec-WebSocket-Accept` of the answer.
    pub fn accept(&self) -> &[u8; ACCEPT_LEN] {
        &self.accept
    }

    /// Appends the 101 that opens the connection (section 4.2.2), with `fields` of the caller's. Frames may follow it
    /// in the same buffer.
    pub fn write(&self, out: &mut Vec<u8>, fields: &[(&str, &[u8])]) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        write_fields(out, &[("Sec-WebSocket-Accept", &self.accept)]);
        if let Some(protocol) = self.protocol {
            write_fields(out, &[("Sec-WebSocket-Protocol", protocol.as_bytes())]);
        }
        write_fields(out, fields);
        out.extend_from_slice(b"\r\n");
    }
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` as it stands in the request (section 4.2.2 item 5.4).
pub fn accept_key(key: &[u8]) -> [u8; ACCEPT_LEN] {
    let sum = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_LEN];
    let written = STANDARD.encode_slice(sum, &mut accept);
    debug_assert_eq!(written.ok(), Some(ACCEPT_LEN));
    accept
}

/// Appends a client's handshake (section 4.1). `host` is the Host field, `target` a path with its query, `key` 16
/// random bytes. Panics as [`write_head`](crate::proto::http1::write_head) on values that cannot stand in a head.
pub fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    target: &str,
    key: &[u8; 16],
    protocols: &[&str],
    fields: &[(&str, &[u8])],
) {
    assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target:?}");
    out.extend_from_slice(b"GET ");
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(
        out,
        &[
            ("Host", host.as_bytes()),
            ("Upgrade", b"websocket"),
            ("Connection", b"Upgrade"),
            ("Sec-WebSocket-Version", b"13"),
            ("Sec-WebSocket-Key", &encode_key(key)),
        ],
    );
    if !protocols.is_empty() {
        write_fields(out, &[("Sec-WebSocket-Protocol", protocols.join(", ").as_bytes())]);
    }
    write_fields(out, fields);
    out.extend_from_slice(b"\r\n");
}

/// As [`check_upgrade`], when no extension was offered: none must be used.
///
/// # Errors
/// The same, and an extension.
pub fn check_response<'p>(
    head: &ResponseHead<'_>,
    key: &[u8; 16],
    protocols: &[&'p str],
) -> Result<Option<&'p str>, &'static str> {
    let chosen = check_upgrade(head, key, protocols)?;
    if head.fields.tokens("Sec-WebSocket-Extensions").next().is_some() {
        return Err("the server uses an extension that was not offered");
    }
    Ok(chosen)
}

/// Checks a server's answer to [`write_request`] with the same `key` and `protocols` (section 4.1), but for its
/// extensions, and returns the subprotocol it chose.
///
/// # Errors
/// What is wrong with it. For another status than 101 the server has refused; the status says why.
pub fn check_upgrade<'p>(
    head: &ResponseHead<'_>,
    key: &[u8; 16],
    protocols: &[&'p str],
) -> Result<Option<&'p str>, &'static str> {
    let fields = &head.fields;
    if head.status != 101 {
        return Err("the server did not switch protocols");
    }
    if !fields.only("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err("the server did not upgrade to WebSocket");
    }
    if !fields.has_token("Connection", "upgrade") {
        return Err("Connection does not name Upgrade");
    }
    if fields.only("Sec-WebSocket-Accept") != Some(&accept_key(&encode_key(key))) {
        return Err("Sec-WebSocket-Accept does not fit the key");
    }
    let mut chosen = fields.all("Sec-WebSocket-Protocol");
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(None),
        (Some(chosen), None) => protocols
            .iter()
            .find(|ours| ours.as_bytes() == chosen)
            .map(|ours| Some(*ours))
            .ok_or("the server chose a subprotocol that was not offered"),
        (Some(_), Some(_)) => Err("the server chose more than one subprotocol"),
    }
}

fn encode_key(key: &[u8; 16]) -> [u8; KEY_LEN] {
    let mut encoded = [0; KEY_LEN];
    let written = STANDARD.encode_slice(key, &mut encoded);
    debug_assert_eq!(written.ok(), Some(KEY_LEN));
    encoded
}

fn is_key(key: &[u8]) -> bool {
    // 24 digits hold up to 18 bytes.
    let mut decoded = [0; 18];
    key.len() == KEY_LEN && LENIENT.decode_slice(key, &mut decoded) == Ok(16)
}
