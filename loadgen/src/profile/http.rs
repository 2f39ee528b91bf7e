//! Server-sent events and long-polling: subscribers by GET, a channel in the target's template.

use memchr::memmem;

use super::{Client, Filling, Outgoing, Profile, Said, Template, Wire};
use crate::measure::Cause;

/// Longest line end to a blank one: what SSE allows to stand between two events.
const BLANK_LINES: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];

/// `text/event-stream` (the WHATWG's HTML standard, section 9.2).
pub struct Sse {
    pub target: Template,
    /// The connection is ready when an event with this text has come. `None`: with the response's head.
    pub ready_on: Option<String>,
}

impl Profile for Sse {
    fn name(&self) -> &'static str {
        "sse"
    }

    fn wire(&self) -> Wire {
        Wire::Http
    }

    fn target(&self, client: &Client<'_>) -> String {
        fill(&self.target, client)
    }

    fn open(&self, _: &mut Client<'_>, _: &mut Outgoing) -> Said {
        Said { ready: self.ready_on.is_none(), ..Said::default() }
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], _: &mut Outgoing) -> Result<Said, Cause> {
        let named =
            self.ready_on.as_ref().is_some_and(|text| memmem::find(message, text.as_bytes()).is_some());
        let ready = named && *client.step == 0;
        *client.step |= u16::from(named);
        Ok(Said { ready, others: u32::from(!ready), ..Said::default() })
    }

    fn message_len(&self, _: &Client<'_>, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        // Line ends before an event are taken by themselves, so that nothing is kept for a stream that only opened.
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            return Ok(Some(blank));
        }
        let ends = BLANK_LINES.iter().filter_map(|end| memmem::find(bytes, end).map(|at| at + end.len()));
        Ok(ends.min())
    }

    fn request(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> bool {
        false
    }
}

/// A GET that is answered when there is a message, and then again. Where it goes on is told by `Last-Modified` and
/// `Etag`, as Nchan has it.
pub struct LongPoll {
    pub target: Template,
}

impl Profile for LongPoll {
    fn name(&self) -> &'static str {
        "long-poll"
    }

    fn wire(&self) -> Wire {
        Wire::LongPoll
    }

    fn target(&self, client: &Client<'_>) -> String {
        fill(&self.target, client)
    }

    /// A poll that is sent is all the subscription there is.
    fn open(&self, _: &mut Client<'_>, _: &mut Outgoing) -> Said {
        Said { ready: true, ..Said::default() }
    }

    fn handle(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> Result<Said, Cause> {
        Ok(Said { others: 1, ..Said::default() })
    }

    fn request(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> bool {
        false
    }
}

/// The target of a connection's first channel.
fn fill(template: &Template, client: &Client<'_>) -> String {
    let index = client.audience.channels_of(client.number).next().unwrap_or(0);
    let channel = client.audience.name(index);
    let mut out = Vec::new();
    template.fill(Filling { channel: &channel, index, number: client.number, data: b"" }, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Audience;

    #[test]
    fn events_end_with_a_blank_line_of_any_kind() {
        let sse = Sse { target: Template::new("/{channel}"), ready_on: None };
        let audience = Audience::new(2, 1, "c".into(), false);
        let (mut step, mut positions) = (0, None);
        let client = Client { number: 1, step: &mut step, positions: &mut positions, audience: &audience };
        assert_eq!(sse.target(&client), "/c1");
        let len = |bytes: &[u8]| sse.message_len(&client, bytes).unwrap();
        assert_eq!(len(b"\r\ndata: x\n\n"), Some(2));
        assert_eq!(len(b"data: x\n\ndata: y\n\n"), Some(9));
        assert_eq!(len(b"data: x\r\ndata: y\r\n\r\n"), Some(20));
        assert_eq!(len(b"data: x\ndata"), None);
        assert_eq!(len(b":\r\r"), Some(3));
    }
}
