//! The NATS client protocol: lines and payloads in a stream, over TCP or in WebSocket frames.

use std::io::Write as _;

use memchr::memmem;

use super::{Audience, Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

/// Longest line of the protocol; the server's INFO is the longest there is.
const LINE_BYTES_MAX: usize = 64 * 1024;

pub struct Nats {
    /// `None`: TCP.
    pub path: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
}

impl Profile for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn wire(&self) -> Wire {
        match self.path {
            Some(_) => Wire::WebSocketStream { subprotocols: Vec::new() },
            None => Wire::Tcp,
        }
    }

    fn target(&self, _: &Client<'_>) -> String {
        self.path.clone().unwrap_or_default()
    }

    /// The server speaks first, but takes this before it has: CONNECT, all SUBs, and a PING whose PONG says that they
    /// were taken.
    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said {
        let mut lines = Vec::with_capacity(256);
        let mut options =
            serde_json::json!({ "verbose": false, "pedantic": false, "lang": "loadgen", "version": "1" });
        for (name, value) in [("user", &self.user), ("pass", &self.password), ("auth_token", &self.token)] {
            if let Some(value) = value {
                options[name] = value.as_str().into();
            }
        }
        let _ = write!(lines, "CONNECT {options}\r\n");
        for (index, channel) in client.audience.channels_of(client.number).enumerate() {
            lines.extend_from_slice(b"SUB ");
            client.audience.write_name(channel, &mut lines);
            let _ = write!(lines, " {}\r\n", index + 1);
        }
        if client.audience.channels == 0 {
            let _ = write!(lines, "SUB {} 1\r\n", own_subject(client.number));
        }
        lines.extend_from_slice(b"PING\r\n");
        out.binary(&lines);
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        match verb(message) {
            b"MSG" | b"HMSG" => {}
            b"PING" => {
                said.pings = 1;
                out.binary(b"PONG\r\n");
            }
            b"PONG" => {
                said.ready = *client.step == 0;
                *client.step = 1;
            }
            b"INFO" | b"+OK" => said.others = 1,
            b"-ERR" => return Err(Cause::Protocol("the server answered -ERR")),
            _ => return Err(Cause::Protocol("no operation of NATS")),
        }
        Ok(said)
    }

    fn message_len(&self, _: &Client<'_>, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        let Some(line_end) = memmem::find(bytes, b"\r\n") else {
            return if bytes.len() > LINE_BYTES_MAX { Err(Cause::TooLong) } else { Ok(None) };
        };
        let line = &bytes[..line_end];
        if !matches!(verb(line), b"MSG" | b"HMSG") {
            return Ok(Some(line_end + 2));
        }
        let last = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        let len: usize = std::str::from_utf8(last)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or(Cause::Protocol("MSG without a length"))?;
        let whole = (line_end + 4).checked_add(len).ok_or(Cause::TooLong)?;
        Ok((bytes.len() >= whole).then_some(whole))
    }

    /// To itself: the connection listens to a subject of its own when there are no channels.
    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        out.binary(&publication(own_subject(client.number).as_bytes(), payload));
        true
    }

    fn publish(&self, channel: u32, audience: &Audience, payload: &[u8], out: &mut Outgoing) -> bool {
        out.binary(&publication(audience.name(channel).as_bytes(), payload));
        true
    }
}

fn own_subject(number: u32) -> String {
    format!("loadgen-own.{number}")
}

fn verb(line: &[u8]) -> &[u8] {
    line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default()
}

fn publication(subject: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + subject.len() + 24);
    bytes.extend_from_slice(b"PUB ");
    bytes.extend_from_slice(subject);
    let _ = write!(bytes, " {}\r\n", payload.len());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Nats {
        Nats { path: None, user: Some("u".into()), password: None, token: None }
    }

    #[test]
    fn streams_are_cut_at_messages() {
        let audience = Audience::new(2, 2, "c".into(), false);
        let (mut step, mut positions) = (0, None);
        let mut client =
            Client { number: 0, step: &mut step, positions: &mut positions, audience: &audience };
        let mut out = Outgoing::new();
        out.begin(false);
        let nats = profile();
        nats.open(&mut client, &mut out);
        let said = String::from_utf8(out.bytes().to_vec()).unwrap();
        assert!(said.starts_with("CONNECT {") && said.contains("\"user\":\"u\""));
        assert!(said.ends_with("}\r\nSUB c0 1\r\nSUB c1 2\r\nPING\r\n"), "{said}");
        let stream = b"INFO {}\r\nPONG\r\nMSG c0 1 5\r\nhe\r\no\r\nPING\r\n";
        let mut at = 0;
        let mut ready = 0;
        let mut messages = Vec::new();
        while at < stream.len() {
            let len = nats.message_len(&client, &stream[at..]).unwrap().unwrap();
            for cut in 0..len {
                assert_eq!(nats.message_len(&client, &stream[at..at + cut]), Ok(None));
            }
            let message = &stream[at..at + len];
            ready += u32::from(nats.handle(&mut client, message, &mut out).unwrap().ready);
            messages.push(message);
            at += len;
        }
        assert_eq!((messages.len(), ready), (4, 1));
        assert_eq!(messages[2], b"MSG c0 1 5\r\nhe\r\no\r\n");
        assert!(nats.message_len(&client, b"MSG c0 1 x\r\n").is_err());
        assert!(nats.message_len(&client, b"MSG c0 1 18446744073709551615\r\n").is_err());
        assert!(nats.handle(&mut client, b"-ERR 'x'\r\n", &mut out).is_err());
    }
}
