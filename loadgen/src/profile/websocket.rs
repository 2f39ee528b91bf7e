//! Plain WebSocket (RFC 6455) with message templates: for any server whose messages are texts.

use super::template::{Filling, Template};
use super::{Audience, Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

/// Texts are templates: see [`Template`].
pub struct PlainWebSocket {
    pub target: Template,
    /// Sent once, when the connection is open.
    pub hello: Option<Template>,
    /// Sent once a channel.
    pub subscribe: Option<Template>,
    /// The connection is ready when this has come, once a channel. `None`: at once.
    pub ready_on: Option<String>,
    /// A request that is answered by a message with the same data.
    pub request: Template,
    pub publish: Option<Template>,
}

impl Profile for PlainWebSocket {
    fn name(&self) -> &'static str {
        "websocket"
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: Vec::new() }
    }

    fn target(&self, client: &Client<'_>) -> String {
        let index = client.audience.channels_of(client.number).next().unwrap_or(0);
        let channel = client.audience.name(index);
        let mut out = Vec::new();
        self.target.fill(Filling { channel: &channel, index, number: client.number, data: b"" }, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said {
        let mut message = Vec::new();
        let filling = Filling { number: client.number, ..Filling::default() };
        if let Some(hello) = &self.hello {
            hello.fill(filling, &mut message);
            out.text(&message);
        }
        if let Some(subscribe) = &self.subscribe {
            for index in client.audience.channels_of(client.number) {
                message.clear();
                let channel = client.audience.name(index);
                subscribe.fill(Filling { channel: &channel, index, ..filling }, &mut message);
                out.text(&message);
            }
        }
        Said { ready: self.ready_on.is_none() || client.audience.per_connection == 0, ..Said::default() }
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], _: &mut Outgoing) -> Result<Said, Cause> {
        let Some(ready_on) = &self.ready_on else { return Ok(Said { others: 1, ..Said::default() }) };
        if memchr::memmem::find(message, ready_on.as_bytes()).is_none() {
            return Ok(Said { others: 1, ..Said::default() });
        }
        *client.step = client.step.saturating_add(1);
        let wanted = if self.subscribe.is_some() { client.audience.per_connection } else { 1 };
        Ok(Said { ready: u32::from(*client.step) == wanted, ..Said::default() })
    }

    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        let mut message = Vec::new();
        let filling = Filling { number: client.number, data: payload, ..Filling::default() };
        self.request.fill(filling, &mut message);
        out.text(&message);
        true
    }

    fn publish(&self, channel: u32, audience: &Audience, payload: &[u8], out: &mut Outgoing) -> bool {
        let Some(publish) = &self.publish else { return false };
        let mut message = Vec::new();
        let name = audience.name(channel);
        let filling = Filling { channel: &name, index: channel, number: 0, data: payload };
        publish.fill(filling, &mut message);
        out.text(&message);
        true
    }
}
