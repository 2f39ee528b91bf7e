//! The Centrifuge client protocol in JSON over WebSocket: objects joined by newlines.

use std::io::Write as _;

use memchr::memmem;
use serde::Deserialize;

use super::{Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

/// Ids of commands: 1 connects, 2 and up subscribe, this one is every request's.
const REQUEST_ID: u32 = 1 << 20;
const CONNECT_ID: u32 = 1;

pub struct Centrifuge {
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// A connection token (JWT), for servers that let nobody in without.
    pub token: Option<String>,
    /// The command a request is, as `"rpc":{"method":"echo","data":{data}}`.
    pub request: super::Template,
}

/// As much of a reply as is looked at.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u32,
    error: Option<ReplyError>,
    #[serde(borrow)]
    subscribe: Option<Subscribed<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: u32,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    #[serde(default)]
    offset: u64,
    #[serde(default, borrow)]
    epoch: std::borrow::Cow<'a, str>,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    was_recovering: bool,
    #[serde(default)]
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default, borrow)]
    channel: std::borrow::Cow<'a, str>,
    #[serde(rename = "pub")]
    publication: Option<Publication>,
    disconnect: Option<ReplyError>,
    unsubscribe: Option<ReplyError>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default)]
    offset: u64,
}

impl Profile for Centrifuge {
    fn name(&self) -> &'static str {
        "centrifuge-json"
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: vec!["centrifuge-json".into()] }
    }

    fn target(&self, _: &Client<'_>) -> String {
        self.path.clone()
    }

    fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Connect and all subscribes in one frame, as the JavaScript SDK sends them.
    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said {
        let mut commands = Vec::with_capacity(128);
        match &self.token {
            Some(token) => {
                let _ = write!(
                    commands,
                    r#"{{"id":{CONNECT_ID},"connect":{{"token":"{token}","name":"loadgen"}}}}"#
                );
            }
            None => {
                let _ = write!(commands, r#"{{"id":{CONNECT_ID},"connect":{{"name":"loadgen"}}}}"#);
            }
        }
        let audience = client.audience;
        for (index, channel) in audience.channels_of(client.number).enumerate() {
            let _ = write!(commands, "\n{{\"id\":{},\"subscribe\":{{\"channel\":\"", index + 2);
            audience.write_name(channel, &mut commands);
            commands.push(b'"');
            if audience.recover {
                commands.extend_from_slice(br#","positioned":true,"recoverable":true"#);
                if let Some(offset) = client.positions.as_ref().and_then(|positions| positions.get(index)) {
                    let epoch = audience.epoch(channel);
                    let _ = write!(commands, r#","recover":true,"offset":{offset},"epoch":"{epoch}""#);
                }
            }
            commands.extend_from_slice(b"}}");
        }
        out.text(&commands);
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        for line in message.split(|&byte| byte == b'\n') {
            if line == b"{}" {
                said.pings += 1;
                out.text(b"{}");
            } else if line.starts_with(br#"{"push":{"channel""#)
                && memmem::find(line, br#""pub":{"#).is_some()
            {
                // Nearly all there is. Its mark is found by the caller.
                if client.audience.recover {
                    self.take_position(client, line)?;
                }
            } else if !line.is_empty() {
                self.handle_reply(client, line, &mut said)?;
            }
        }
        Ok(said)
    }

    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        let mut command = Vec::with_capacity(payload.len() + 64);
        let _ = write!(command, r#"{{"id":{REQUEST_ID},"#);
        let filling = super::template::Filling { number: client.number, data: payload, ..Default::default() };
        self.request.fill(filling, &mut command);
        command.push(b'}');
        out.text(&command);
        true
    }
}

impl Centrifuge {
    fn handle_reply(&self, client: &mut Client<'_>, line: &[u8], said: &mut Said) -> Result<(), Cause> {
        let reply: Reply<'_> = serde_json::from_slice(line)
            .map_err(|_| Cause::Protocol("a reply that is no JSON of this protocol"))?;
        if let Some(push) = reply.push {
            if let Some(farewell) = push.disconnect.or(push.unsubscribe) {
                return Err(Cause::ClosedByServer(u16::try_from(farewell.code).unwrap_or(u16::MAX)));
            }
            if push.publication.is_some() {
                return if client.audience.recover { self.take_position(client, line) } else { Ok(()) };
            }
            // Joins, leaves, messages.
            said.others += 1;
            return Ok(());
        }
        if reply.id == REQUEST_ID {
            said.replies += 1;
            said.reply_error = reply.error.map(|error| error.code);
            return Ok(());
        }
        if let Some(error) = reply.error {
            return Err(Cause::Refused(error.code));
        }
        if let Some(subscribed) = reply.subscribe {
            self.take_subscribed(client, reply.id, &subscribed, said);
        }
        *client.step = client.step.saturating_add(1);
        said.ready |= u32::from(*client.step) == client.audience.per_connection + 1;
        Ok(())
    }

    fn take_subscribed(
        &self,
        client: &mut Client<'_>,
        id: u32,
        subscribed: &Subscribed<'_>,
        said: &mut Said,
    ) {
        if subscribed.was_recovering {
            said.recovered += u32::from(subscribed.recovered);
            said.unrecovered += u32::from(!subscribed.recovered);
        }
        if !client.audience.recover || id < 2 {
            return;
        }
        let index = (id - 2) as usize;
        if let Some(channel) = client.audience.channels_of(client.number).nth(index) {
            client.audience.set_epoch(channel, &subscribed.epoch);
            let last = subscribed.publications.last().map_or(subscribed.offset, |last| last.offset);
            set_position(client, index, last);
        }
    }

    fn take_position(&self, client: &mut Client<'_>, line: &[u8]) -> Result<(), Cause> {
        let reply: Reply<'_> = serde_json::from_slice(line)
            .map_err(|_| Cause::Protocol("a push that is no JSON of this protocol"))?;
        if let Some(push) = reply.push
            && let Some(publication) = push.publication
            && let Some(channel) = client.audience.number_of(&push.channel)
            && let Some(index) = client.audience.index_of(client.number, channel)
        {
            set_position(client, index, publication.offset);
        }
        Ok(())
    }
}

fn set_position(client: &mut Client<'_>, index: usize, offset: u64) {
    let count = client.audience.per_connection as usize;
    let positions = client.positions.get_or_insert_with(|| vec![0; count].into_boxed_slice());
    if let Some(position) = positions.get_mut(index) {
        *position = offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Audience, Template};

    fn profile() -> Centrifuge {
        let request = Template::new(r#""rpc":{"method":"echo","data":{data}}"#);
        Centrifuge { path: "/connection/websocket".into(), headers: Vec::new(), token: None, request }
    }

    struct Rig {
        audience: Audience,
        step: u16,
        positions: Option<Box<[u64]>>,
        out: Outgoing,
    }

    impl Rig {
        fn new(recover: bool) -> Rig {
            let audience = Audience::new(10, 2, "c".into(), recover);
            Rig { audience, step: 0, positions: None, out: Outgoing::new() }
        }

        fn client(&mut self) -> (Client<'_>, &mut Outgoing) {
            self.out.begin(false);
            let Rig { audience, step, positions, out } = self;
            (Client { number: 1, step, positions, audience }, out)
        }

        fn hear(&mut self, message: &str) -> Result<Said, Cause> {
            let (mut client, out) = self.client();
            profile().handle(&mut client, message.as_bytes(), out)
        }
    }

    #[test]
    fn is_ready_when_everything_is_answered() {
        let mut rig = Rig::new(false);
        let (mut client, out) = rig.client();
        profile().open(&mut client, out);
        let said = std::str::from_utf8(rig.out.bytes()).unwrap();
        let expected = "{\"id\":1,\"connect\":{\"name\":\"loadgen\"}}\n\
                        {\"id\":2,\"subscribe\":{\"channel\":\"c2\"}}\n{\"id\":3,\"subscribe\":{\"channel\":\"c3\"}}";
        assert_eq!(said, expected);
        assert!(
            !rig.hear("{\"id\":1,\"connect\":{\"ping\":25}}\n{\"id\":2,\"subscribe\":{}}").unwrap().ready
        );
        assert!(rig.hear(r#"{"id":3,"subscribe":{}}"#).unwrap().ready);
        assert_eq!(rig.hear("{}").unwrap().pings, 1);
        assert_eq!(rig.out.bytes(), b"{}");
    }

    #[test]
    fn refusals_farewells_and_garbage_have_causes() {
        let mut rig = Rig::new(false);
        assert_eq!(rig.hear(r#"{"id":1,"error":{"code":101,"message":"x"}}"#), Err(Cause::Refused(101)));
        let farewell = r#"{"push":{"disconnect":{"code":3008,"reason":"slow"}}}"#;
        assert_eq!(rig.hear(farewell), Err(Cause::ClosedByServer(3008)));
        assert!(matches!(rig.hear("hello"), Err(Cause::Protocol(_))));
        assert!(matches!(rig.hear("{\"id\":\"x\"}"), Err(Cause::Protocol(_))));
        let reply = rig.hear(r#"{"id":1048576,"error":{"code":108,"message":"x"}}"#).unwrap();
        assert_eq!((reply.replies, reply.reply_error), (1, Some(108)));
    }

    #[test]
    fn positions_are_kept_and_asked_for() {
        let mut rig = Rig::new(true);
        rig.hear(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"ab","offset":7}}"#).unwrap();
        rig.hear(r#"{"push":{"channel":"c3","pub":{"data":{},"offset":4}}}"#).unwrap();
        assert_eq!(rig.positions.as_deref(), Some(&[7, 4][..]));
        let (mut client, out) = rig.client();
        profile().open(&mut client, out);
        let said = String::from_utf8(rig.out.bytes().to_vec()).unwrap();
        assert!(said.contains(
            r#""channel":"c2","positioned":true,"recoverable":true,"recover":true,"offset":7,"epoch":"ab""#
        ));
        let recovered = r#"{"id":2,"subscribe":{"recovered":true,"was_recovering":true,"offset":7,
            "publications":[{"data":{},"offset":8},{"data":{},"offset":9}]}}"#;
        assert_eq!(rig.hear(&recovered.replace('\n', " ")).unwrap().recovered, 1);
        assert_eq!(rig.positions.as_deref(), Some(&[9, 4][..]));
    }
}
