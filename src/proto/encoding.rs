//! The forms in which an item of a channel is framed for its subscribers.
//!
//! The list is here and nowhere else: `base` and `hub` carry [`EncodingId`]s without knowing what they stand for. A new
//! protocol adds its line here.

use crate::base::ids::EncodingId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Centrifuge JSON in one WebSocket text message.
    CentrifugeJson = 0,
    /// An event of an event stream (HTML, section 9.2), in chunks of HTTP/1.1: unidirectional clients by blocks get it
    /// at once.
    Sse = 1,
    /// A line of JSON in chunks of HTTP/1.1.
    JsonLines = 2,
    /// A script element in an endless page.
    Iframe = 3,
    /// An envelope of JSON in one WebSocket text message.
    WebSocketJson = 4,
    /// The payload alone in one WebSocket text message.
    WebSocketBare = 5,
    /// An element of a poll's answer.
    Poll = 6,
    /// Centrifuge Protobuf in one WebSocket binary message.
    CentrifugeProtobuf = 7,
    /// As [`Encoding::Sse`], for HTTP/1.0, which knows no chunks.
    SsePlain = 8,
    /// A line of Centrifuge JSON in the body of a response. What the rest carries: see [`crate::proto::wire`].
    CentrifugeStream = 9,
    /// Centrifuge Protobuf in the body of a response.
    CentrifugeProtobufStream = 10,
    /// An event of Centrifuge JSON.
    CentrifugeSse = 11,
    /// A bare push of Centrifuge JSON in one WebSocket text message.
    UniWebSocket = 12,
    /// The same as a line, in chunks of HTTP/1.1.
    UniStream = 13,
    /// The same without chunks.
    UniStreamPlain = 14,
    /// The same as an event, in chunks of HTTP/1.1.
    UniSse = 15,
    /// The same without chunks.
    UniSsePlain = 16,
}

/// Of an [`EncodingId`].
const COMPRESSED: u8 = 1 << 7;
/// In a shape that is chained: written from the publication before.
const PATCHED: u8 = 1 << 6;
/// For the same: the whole payload.
const WHOLE: u8 = 1 << 5;
const FLAGS: u8 = COMPRESSED | PATCHED | WHOLE;
const _: () = assert!(Encoding::ALL.len() <= WHOLE as usize);

impl Encoding {
    pub const ALL: [Encoding; 17] = [
        Encoding::CentrifugeJson,
        Encoding::Sse,
        Encoding::JsonLines,
        Encoding::Iframe,
        Encoding::WebSocketJson,
        Encoding::WebSocketBare,
        Encoding::Poll,
        Encoding::CentrifugeProtobuf,
        Encoding::SsePlain,
        Encoding::CentrifugeStream,
        Encoding::CentrifugeProtobufStream,
        Encoding::CentrifugeSse,
        Encoding::UniWebSocket,
        Encoding::UniStream,
        Encoding::UniStreamPlain,
        Encoding::UniSse,
        Encoding::UniSsePlain,
    ];

    pub const fn id(self) -> EncodingId {
        EncodingId(self as u8)
    }

    /// The same in compressed frames (RFC 7692), where that makes them shorter.
    pub const fn compressed_id(self) -> EncodingId {
        assert!(self.is_websocket());
        EncodingId(self as u8 | COMPRESSED)
    }

    pub const fn is_websocket(self) -> bool {
        matches!(
            self,
            Encoding::CentrifugeJson
                | Encoding::CentrifugeProtobuf
                | Encoding::WebSocketJson
                | Encoding::WebSocketBare
                | Encoding::UniWebSocket
        )
    }

    pub fn is_compressed(id: EncodingId) -> bool {
        id.0 & COMPRESSED != 0
    }

    /// The same without compression.
    pub fn plain(id: EncodingId) -> EncodingId {
        EncodingId(id.0 & !COMPRESSED)
    }

    /// The same in a shape that is chained, as a patch of the publication before or as a whole.
    pub fn chained(id: EncodingId, patched: bool) -> EncodingId {
        EncodingId(id.0 | if patched { PATCHED } else { WHOLE })
    }

    /// The encoding that was registered under `id`, compressed or not, in any shape.
    ///
    /// # Panics
    /// On an id that [`Encoding::id`] never gave: ids do not come from peers.
    pub fn of(id: EncodingId) -> Encoding {
        Encoding::ALL[usize::from(id.0 & !FLAGS)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_found_by_its_id() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::of(encoding.id()), encoding);
            assert!(!Encoding::is_compressed(encoding.id()));
            let chained = [false, true].map(|patched| Encoding::chained(encoding.id(), patched));
            assert!(chained[0] != chained[1] && !chained.contains(&encoding.id()));
            assert!(chained.iter().all(|id| Encoding::of(*id) == encoding && Encoding::plain(*id) == *id));
            if encoding.is_websocket() {
                assert_eq!(Encoding::of(encoding.compressed_id()), encoding);
                assert!(Encoding::is_compressed(encoding.compressed_id()));
            }
        }
    }
}
