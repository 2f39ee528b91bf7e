//! Items and messages in the frames that carry them.

use crate::base::bytes::Bytes;
use crate::base::ids::EncodingId;
use crate::base::publication::Encoded;
use crate::hub::followed::Item;
use crate::proto::centrifuge::{Format, Push, encode_push};
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::frames;
use crate::proto::websocket::deflate::Deflater;
use crate::proto::websocket::{self, Opcode};
use crate::session::{info_view, view};

/// What carries the messages of a format.
pub(in crate::shard) const fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::Protobuf => Opcode::Binary,
    }
}

/// A push as the frame that carries it.
pub(in crate::shard) fn push_frame(format: Format, channel: &str, push: &Push<'_>) -> Bytes {
    let mut message = Vec::new();
    encode_push(&mut message, format, channel, push);
    let mut frame = Vec::with_capacity(message.len() + websocket::FRAME_HEADER_BYTES_MAX);
    websocket::write_frame(&mut frame, opcode(format), &message);
    frame.into()
}

/// A ping of the protocol as the frame that carries it; the same for everybody.
pub(in crate::shard) fn ping_frame(format: Format) -> &'static [u8] {
    const JSON: &[u8] =
        &[0x80 | opcode(Format::Json) as u8, 2, Format::Json.ping()[0], Format::Json.ping()[1]];
    const PROTOBUF: &[u8] = &[0x80 | opcode(Format::Protobuf) as u8, 1, Format::Protobuf.ping()[0]];
    const _: () = assert!(Format::Json.ping().len() == 2 && Format::Protobuf.ping().len() == 1);
    match format {
        Format::Json => JSON,
        Format::Protobuf => PROTOBUF,
    }
}

/// The frame of an item in an encoding, made by the first delivery that needs it.
pub(in crate::shard) fn encode_item<'i>(
    item: &'i Item,
    encoding: EncodingId,
    deflater: &mut Deflater,
) -> &'i Bytes {
    encoded(
        item.encoded(),
        encoding,
        || {
            let encoding = Encoding::of(encoding);
            match (Format::of(encoding), item) {
                (Some(format), Item::Publication(publication)) => {
                    push_frame(format, &publication.channel, &Push::Publication(view(publication)))
                }
                (Some(format), Item::JoinLeaveEvent(join_leave)) => {
                    let info = info_view(&join_leave.info);
                    let push = if join_leave.joined { Push::Join(info) } else { Push::Leave(info) };
                    push_frame(format, &join_leave.channel, &push)
                }
                (None, Item::Publication(publication)) => frames::encode(encoding, publication),
                // Join and leave events exist in the client protocol only.
                (None, Item::JoinLeaveEvent(_)) => Bytes::new(),
            }
        },
        deflater,
    )
}

/// The frame in an encoding; `frame` makes the one without compression. Compressed once for all shards, by the first that
/// needs it.
pub(in crate::shard) fn encoded<'e>(
    encoded: &'e Encoded,
    encoding: EncodingId,
    frame: impl FnOnce() -> Bytes,
    deflater: &mut Deflater,
) -> &'e Bytes {
    encoded.get_or_encode(encoding, || {
        if !Encoding::is_compressed(encoding) {
            return frame();
        }
        let plain = encoded.get(Encoding::of(encoding).id()).cloned().unwrap_or_else(frame);
        deflater.compress_frame(&plain)
    })
}
