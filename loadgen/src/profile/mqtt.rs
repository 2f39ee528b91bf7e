//! MQTT 3.1.1 at QoS 0, over TCP or in WebSocket frames. Section numbers are of the OASIS standard.

use super::{Audience, Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
/// With the flags that section 3.8.1 demands.
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// A QoS that a server grants no subscription with (section 3.9.3).
const SUBACK_FAILURE: u8 = 0x80;

pub struct Mqtt {
    /// `None`: TCP.
    pub path: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// Tells client ids of this run from others'.
    pub run: u32,
}

impl Profile for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn wire(&self) -> Wire {
        match self.path {
            Some(_) => Wire::WebSocketStream { subprotocols: vec!["mqtt".into()] },
            None => Wire::Tcp,
        }
    }

    fn target(&self, _: &Client<'_>) -> String {
        self.path.clone().unwrap_or_default()
    }

    /// CONNECT with a clean session and no keep-alive: the connection is held without pings (section 3.1.2.10).
    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said {
        const CLEAN: u8 = 0x02;
        const USER: u8 = 0x80;
        const PASSWORD: u8 = 0x40;
        let flags = CLEAN
            | if self.user.is_some() { USER } else { 0 }
            | if self.user.is_some() && self.password.is_some() { PASSWORD } else { 0 };
        let mut body = Vec::with_capacity(64);
        write_string(&mut body, b"MQTT");
        body.extend_from_slice(&[4, flags, 0, 0]);
        write_string(&mut body, format!("lg{:08x}{:x}", self.run, client.number).as_bytes());
        if let Some(user) = &self.user {
            write_string(&mut body, user.as_bytes());
            if let Some(password) = &self.password {
                write_string(&mut body, password.as_bytes());
            }
        }
        out.binary(&packet(CONNECT, &body));
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        let Some((len, header_len)) = remaining_len(message)? else { return Ok(said) };
        let body = &message[header_len..header_len + len];
        match message[0] & 0xf0 {
            PUBLISH => {}
            CONNACK => {
                match body {
                    [_, 0] => {}
                    [_, code] => return Err(Cause::Refused(u32::from(*code))),
                    _ => return Err(Cause::Protocol("malformed CONNACK")),
                }
                if client.audience.channels > 0 && client.audience.per_connection == 0 {
                    said.ready = true;
                } else {
                    out.binary(&subscribe(client));
                }
            }
            SUBACK => {
                if body.len() < 3 || body[2..].contains(&SUBACK_FAILURE) {
                    return Err(Cause::Refused(u32::from(SUBACK_FAILURE)));
                }
                said.ready = true;
            }
            PINGRESP => said.others = 1,
            PINGREQ => {
                said.pings = 1;
                out.binary(&[PINGRESP, 0]);
            }
            _ => return Err(Cause::Protocol("a packet that no server sends at QoS 0")),
        }
        Ok(said)
    }

    fn message_len(&self, _: &Client<'_>, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        let Some((len, header_len)) = remaining_len(bytes)? else { return Ok(None) };
        Ok((bytes.len() >= header_len + len).then_some(header_len + len))
    }

    /// To itself: the connection listens to a topic of its own when there are no channels.
    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        out.binary(&publication(own_topic(client.number).as_bytes(), payload));
        true
    }

    fn publish(&self, channel: u32, audience: &Audience, payload: &[u8], out: &mut Outgoing) -> bool {
        out.binary(&publication(audience.name(channel).as_bytes(), payload));
        true
    }
}

fn own_topic(number: u32) -> String {
    format!("loadgen-own/{number}")
}

fn subscribe(client: &Client<'_>) -> Vec<u8> {
    let mut body = vec![0, 1];
    for channel in client.audience.channels_of(client.number) {
        write_string(&mut body, client.audience.name(channel).as_bytes());
        body.push(0);
    }
    if client.audience.channels == 0 {
        write_string(&mut body, own_topic(client.number).as_bytes());
        body.push(0);
    }
    packet(SUBSCRIBE, &body)
}

fn publication(topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 2);
    write_string(&mut body, topic);
    body.extend_from_slice(payload);
    packet(PUBLISH, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    loop {
        let digit = (len % 128) as u8;
        len /= 128;
        bytes.push(digit | if len > 0 { 0x80 } else { 0 });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Strings are of our own making and short; a longer one is cut rather than sent with a wrong length.
fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

/// The length after the fixed header, and the header's own (section 2.2.3). `None`: not all of it is there.
fn remaining_len(bytes: &[u8]) -> Result<Option<(usize, usize)>, Cause> {
    let mut len = 0;
    for (index, &byte) in bytes.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((len, index + 2)));
        }
    }
    if bytes.len() >= 5 { Err(Cause::Protocol("malformed remaining length")) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connects_subscribes_and_cuts_packets() {
        let mqtt = Mqtt { path: None, user: None, password: None, run: 7 };
        let audience = Audience::new(3, 1, "c".into(), false);
        let (mut step, mut positions) = (0, None);
        let mut client =
            Client { number: 2, step: &mut step, positions: &mut positions, audience: &audience };
        let mut out = Outgoing::new();
        out.begin(false);
        mqtt.open(&mut client, &mut out);
        assert_eq!(out.bytes(), b"\x10\x17\x00\x04MQTT\x04\x02\x00\x00\x00\x0blg000000072");
        out.begin(false);
        assert!(!mqtt.handle(&mut client, &[0x20, 2, 0, 0], &mut out).unwrap().ready);
        assert_eq!(out.bytes(), b"\x82\x07\x00\x01\x00\x02c2\x00");
        assert!(mqtt.handle(&mut client, &[0x90, 3, 0, 1, 0], &mut out).unwrap().ready);
        assert_eq!(mqtt.handle(&mut client, &[0x20, 2, 0, 5], &mut out), Err(Cause::Refused(5)));
        assert_eq!(mqtt.handle(&mut client, &[0x90, 3, 0, 1, 0x80], &mut out), Err(Cause::Refused(0x80)));
        for len in [0, 1, 127, 128, 16_383, 16_384] {
            let publication = publication(b"t", &vec![b'x'; len]);
            assert_eq!(mqtt.message_len(&client, &publication), Ok(Some(publication.len())));
            assert_eq!(mqtt.message_len(&client, &publication[..publication.len() - 1]), Ok(None));
        }
        assert!(mqtt.message_len(&client, &[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
