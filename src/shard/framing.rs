//! Items and messages in the frames that carry them.

use crate::base::bytes::Bytes;
use crate::base::ids::EncodingId;
use crate::base::publication::Encoded;
use crate::hub::followed::Item;
use crate::proto::centrifuge::Push;
use crate::proto::centrifuge::reply::PublicationRef;
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::frames;
use crate::proto::websocket::deflate::Deflater;
use crate::proto::wire::Wire;
use crate::session::delta::{patch_of, payload_of};
use crate::session::{info_view, view};

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
            match (Wire::of(encoding), item) {
                (Some(wire), Item::Publication(publication)) => {
                    wire.push(&publication.channel, &Push::Publication(view(publication)))
                }
                (Some(wire), Item::JoinLeaveEvent(join_leave)) => {
                    let info = info_view(&join_leave.info);
                    let push = if join_leave.joined { Push::Join(info) } else { Push::Leave(info) };
                    wire.push(&join_leave.channel, &push)
                }
                (None, Item::Publication(publication)) => frames::encode(encoding, publication),
                // Join and leave events exist in the client protocol only.
                (None, Item::JoinLeaveEvent(_)) => Bytes::new(),
            }
        },
        deflater,
    )
}

/// The frame of an item for a subscriber whose shape is chained and that had `base`, or nothing that is known. A patch is
/// cached for the base that it was made of, which is the same for all.
pub(in crate::shard) fn encode_chained<'i>(
    item: &'i Item,
    encoding: EncodingId,
    base: Option<&Bytes>,
    deflater: &mut Deflater,
) -> &'i Bytes {
    let (Some(wire), Item::Publication(publication)) = (Wire::of(Encoding::of(encoding)), item) else {
        return encode_item(item, encoding, deflater);
    };
    let base = base.filter(|base| patch_of(publication, base).is_some());
    let frame = || {
        let (data, patched) = payload_of(publication, base, wire.format);
        let publication_ref = PublicationRef { data: &data, patched, ..view(publication) };
        wire.push(&publication.channel, &Push::Publication(publication_ref))
    };
    encoded(item.encoded(), Encoding::chained(encoding, base.is_some()), frame, deflater)
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
        let plain = encoded.get(Encoding::plain(encoding)).cloned().unwrap_or_else(frame);
        deflater.compress_frame(&plain)
    })
}
