//! One-shot answers: the bodies of polls, history reads and publishing.

use crate::base::bytes::Bytes;
use crate::base::ids::{Offset, Position};
use crate::base::publication::Publication;
use crate::proto::centrifuge::write;
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::frames;

/// Builds `{"messages":[…],"position":"…","reset":[…]}`.
#[derive(Debug)]
pub struct BatchBody {
    out: Vec<u8>,
    messages: usize,
}

impl Default for BatchBody {
    fn default() -> Self {
        BatchBody { out: b"{\"messages\":[".to_vec(), messages: 0 }
    }
}

impl BatchBody {
    /// Adds a message, from the frame that all polls share.
    pub fn push(&mut self, publication: &Publication) {
        let element = publication
            .encoded
            .get_or_encode(Encoding::Poll.id(), || frames::encode(Encoding::Poll, publication));
        if self.messages > 0 {
            self.out.push(b',');
        }
        self.out.extend_from_slice(element);
        self.messages += 1;
    }

    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Ends the body. `reset` are the channels whose messages since the asked position are no longer kept.
    pub fn finish(mut self, position: &[u8], reset: &[&str]) -> Vec<u8> {
        self.out.extend_from_slice(b"],\"position\":\"");
        self.out.extend_from_slice(position);
        self.out.push(b'"');
        if !reset.is_empty() {
            self.out.extend_from_slice(b",\"reset\":[");
            for (at, channel) in reset.iter().enumerate() {
                if at > 0 {
                    self.out.push(b',');
                }
                write::string(&mut self.out, channel);
            }
            self.out.push(b']');
        }
        self.out.extend_from_slice(b"}\n");
        self.out
    }
}

/// The answer to a publication; `text` is its position as [`super::position`] writes it.
pub fn published(position: Position, text: &[u8]) -> Bytes {
    let mut out = b"{\"position\":\"".to_vec();
    out.extend_from_slice(text);
    out.push(b'"');
    if position.offset != Offset(0) {
        out.extend_from_slice(b",\"offset\":");
        write::number(&mut out, position.offset.0);
    }
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Whether one of the tags of `If-None-Match` is `tag`, which stands without quotes (RFC 9110 section 13.1.2: weak
/// comparison).
pub fn matches_tag(if_none_match: &str, tag: &str) -> bool {
    tags(if_none_match).any(|listed| listed == tag)
}

/// The tags of `If-None-Match`, without quotes and weakness. None of ours has a comma.
pub fn tags(if_none_match: &str) -> impl Iterator<Item = &str> {
    if_none_match.split(',').filter_map(|listed| {
        let listed = listed.trim();
        listed.strip_prefix("W/").unwrap_or(listed).strip_prefix('"')?.strip_suffix('"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        assert!(matches_tag("\"a\", W/\"b\"", "a") && matches_tag("\"a\",W/\"b\"", "b"));
        for other in ["", "a", "*", "\"ab\"", "\"", "W/a"] {
            assert!(!matches_tag(other, "a"), "{other}");
        }
    }

    #[test]
    fn an_empty_batch_is_whole() {
        assert_eq!(BatchBody::default().finish(b"P", &[]), b"{\"messages\":[],\"position\":\"P\"}\n");
        let body = BatchBody::default().finish(b"P", &["a\"", "b"]);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["reset"], serde_json::json!(["a\"", "b"]));
    }
}
