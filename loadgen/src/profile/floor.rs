//! The floor server's own protocol: an upgrade to one channel, and nothing else.

use super::{Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

pub struct Floor;

impl Profile for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: Vec::new() }
    }

    fn target(&self, client: &Client<'_>) -> String {
        // Every channel in the path: the floor keeps one list of sockets for each.
        let channels: Vec<String> =
            client.audience.channels_of(client.number).map(|channel| channel.to_string()).collect();
        format!("/floor?c={}", channels.join(","))
    }

    fn open(&self, _: &mut Client<'_>, _: &mut Outgoing) -> Said {
        Said { ready: true, ..Said::default() }
    }

    fn handle(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> Result<Said, Cause> {
        Ok(Said { others: 1, ..Said::default() })
    }

    fn request(&self, _: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        out.text(payload);
        true
    }
}
