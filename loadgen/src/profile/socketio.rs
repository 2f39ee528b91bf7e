//! Socket.IO (protocol 5) over Engine.IO (protocol 4), in WebSocket frames and without a long-polling start, to a server
//! whose rooms are joined by the event `subscribe` with an acknowledgement. Packet types are of the protocols' documents
//! (`socket.io-protocol` and `engine.io-protocol`, "Packet encoding").

use super::{Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

/// Engine.IO: its first packet, with the intervals of pings.
const OPEN: u8 = b'0';
const CLOSE: u8 = b'1';
const PING: u8 = b'2';
const PONG: &[u8] = b"3";
const MESSAGE: u8 = b'4';
/// A packet that says nothing: the end of a poll.
const NOOP: u8 = b'6';

/// Socket.IO, inside of a message: to the main namespace.
const CONNECT: u8 = b'0';
const DISCONNECT: u8 = b'1';
const EVENT: u8 = b'2';
const ACK: u8 = b'3';
const CONNECT_ERROR: u8 = b'4';

pub struct SocketIo {
    /// Without its query: `/socket.io/`.
    pub path: String,
}

impl Profile for SocketIo {
    fn name(&self) -> &'static str {
        "socketio"
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: Vec::new() }
    }

    fn target(&self, _: &Client<'_>) -> String {
        format!("{}?EIO=4&transport=websocket", self.path)
    }

    /// The server speaks first.
    fn open(&self, _: &mut Client<'_>, _: &mut Outgoing) -> Said {
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        match message {
            [OPEN, ..] => out.text(&[MESSAGE, CONNECT]),
            [PING, ..] => {
                said.pings = 1;
                out.text(PONG);
            }
            [MESSAGE, CONNECT, ..] => {
                if client.audience.per_connection == 0 {
                    said.ready = true;
                } else {
                    out.text(&subscribe(client));
                }
            }
            [MESSAGE, ACK, ..] => said.ready = true,
            [MESSAGE, EVENT, ..] => {}
            [MESSAGE, CONNECT_ERROR, ..] => return Err(Cause::Refused(u32::from(CONNECT_ERROR - b'0'))),
            [MESSAGE, DISCONNECT, ..] | [CLOSE, ..] => return Err(Cause::Protocol("the server disconnects")),
            [NOOP, ..] => said.others = 1,
            _ => return Err(Cause::Protocol("a packet that no server sends")),
        }
        Ok(said)
    }

    fn request(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> bool {
        false
    }
}

/// `420["subscribe",["c0","c1"]]`: an event that is to be acknowledged with the number 0.
fn subscribe(client: &Client<'_>) -> Vec<u8> {
    let names = client.audience.channels_of(client.number).map(|channel| client.audience.name(channel));
    let names: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    format!("420[\"subscribe\",[{}]]", names.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Audience;
    use trunkline::proto::websocket::{Decoder, Message, Role};

    fn text(out: &mut Outgoing) -> String {
        let mut bytes = out.bytes().to_vec();
        out.begin(true);
        match Decoder::new(Role::Server, 1 << 20).decode(&mut bytes) {
            Ok((_, Some(Message::Text(text)))) => text.to_string(),
            _ => String::new(),
        }
    }

    #[test]
    fn connects_subscribes_and_answers_pings() {
        let profile = SocketIo { path: "/socket.io/".into() };
        let audience = Audience::new(3, 2, "c".into(), false);
        let (mut step, mut positions) = (0, None);
        let mut client =
            Client { number: 1, step: &mut step, positions: &mut positions, audience: &audience };
        let mut out = Outgoing::new();
        out.begin(true);
        assert_eq!(profile.target(&client), "/socket.io/?EIO=4&transport=websocket");
        let mut hear = |message: &str| {
            let said = profile.handle(&mut client, message.as_bytes(), &mut out);
            (said, text(&mut out))
        };
        let nothing = Said::default();
        let ready = Said { ready: true, ..nothing };
        assert_eq!(hear(r#"0{"sid":"a","upgrades":[],"pingInterval":25000}"#), (Ok(nothing), "40".into()));
        let (said, subscribes) = hear(r#"40{"sid":"b"}"#);
        assert_eq!((said, &*subscribes), (Ok(nothing), r#"420["subscribe",["c2","c0"]]"#));
        assert_eq!(hear("430[]"), (Ok(ready), String::new()));
        assert_eq!(hear("2"), (Ok(Said { pings: 1, ..nothing }), "3".into()));
        assert_eq!(hear(r#"42["c1",{"n":1}]"#), (Ok(nothing), String::new()));
        assert_eq!(hear(r#"44{"message":"no"}"#).0, Err(Cause::Refused(4)));
        for end in ["41", "1", "9", ""] {
            assert!(hear(end).0.is_err(), "{end}");
        }
    }
}
