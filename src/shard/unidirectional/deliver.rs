//! Delivery to unidirectional clients whose frames are not the shared ones, and where such a unidirectional client
//! stands.

use smallvec::SmallVec;

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Position};
use crate::base::publication::Publication;
use crate::base::shape::Shape;
use crate::hub::followed::{ChannelIndex, FollowedChannels, Item};
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::frames;
use crate::proto::unidirectional::position::write_position;
use crate::proto::websocket::deflate::Deflater;
use crate::shard::connections::Connection;
use crate::shard::core::Core;
use crate::shard::framing::{encode_chained, encode_item};
use crate::shard::outbox::Outbox;

/// Puts the frame of one item in line for a connection, as its peer must have it; gives the frame's bytes. In a
/// shape that is chained, this one is whole.
#[allow(clippy::too_many_arguments, reason = "parts of the shard that are borrowed apart")]
pub fn append_item(
    outbox: &mut Outbox,
    followed: &FollowedChannels,
    slot: u32,
    connection: &mut Connection,
    channel: ChannelIndex,
    shape: Shape,
    item: &Item,
    deflater: &mut Deflater,
) -> usize {
    let Some(encoding) = connection.encoding() else { return 0 };
    let shared = match shape.is_chained() {
        true => encode_chained(item, encoding, None, deflater),
        false => encode_item(item, encoding, deflater),
    };
    if let Some(uni) = connection.peer.uni()
        && let Item::Publication(publication) = item
        && uni.has_own_frames(uni.subs().len())
    {
        let position = || position_text(followed, connection, Some((channel, publication.position)));
        for part in own_frame(Encoding::of(encoding), uni.chunked, publication, shared, position) {
            let frame = outbox.frame(part);
            outbox.append(slot, &mut connection.link.chain, frame);
        }
        return shared.len();
    }
    let frame = outbox.frame(shared.clone());
    outbox.append(slot, &mut connection.link.chain, frame);
    shared.len()
}

impl Core {
    /// Sends one item that was missed, as its peer must have it.
    pub fn send_late(&mut self, slot: u32, channel: ChannelIndex, item: Item) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let Some(encoding) = connection.encoding() else { return };
        let shape = self.place_of(slot, channel).map_or(Shape::Whole, |(class, _)| class.shape);
        let Some(connection) = self.links.connections.get(slot) else { return };
        let deflater = &mut self.links.compression.deflater;
        let shared = match shape.is_chained() {
            true => encode_chained(&item, encoding, None, deflater).clone(),
            false => encode_item(&item, encoding, deflater).clone(),
        };
        match (connection.peer.uni(), &item) {
            (Some(uni), Item::Publication(publication)) if uni.has_own_frames(uni.subs().len()) => {
                let position = || {
                    position_text(&self.delivery.followed, connection, Some((channel, publication.position)))
                };
                for part in own_frame(Encoding::of(encoding), uni.chunked, publication, &shared, position) {
                    self.send(slot, part);
                }
            }
            _ => self.send(slot, shared),
        }
    }
}

/// A publication's frame behind a head with the unidirectional client's own position, or without chunks.
pub fn own_frame(
    kind: Encoding,
    chunked: bool,
    publication: &Publication,
    shared: &Bytes,
    position: impl FnOnce() -> Vec<u8>,
) -> SmallVec<[Bytes; 2]> {
    let mut parts = SmallVec::new();
    if frames::has_head(kind, publication) {
        let tail = frames::tail(kind, shared);
        let mut head = Vec::new();
        frames::write_own_head(&mut head, kind, &position(), tail.len());
        parts.push(Bytes::from(head));
        parts.push(tail);
    } else {
        parts.push(shared.clone());
    }
    if kind == Encoding::JsonLines && !chunked {
        for part in &mut parts {
            *part = frames::without_chunks(part).into();
        }
    }
    parts
}

/// The position of a unidirectional client that stands in each channel where the list says.
pub fn text_of(stand: &[(ChannelName, Position)]) -> Vec<u8> {
    let mut text = Vec::new();
    write_position(&mut text, stand.iter().map(|(name, position)| (&**name, *position)));
    text
}

/// Where the connection's unidirectional client stands in all of its channels, with `here` for the one that it is being
/// given.
///
/// A caught-up unidirectional client stores no position: it stands where its channels' lists have been brought.
pub fn position_text(
    followed: &FollowedChannels,
    connection: &Connection,
    here: Option<(ChannelIndex, Position)>,
) -> Vec<u8> {
    let mut text = Vec::new();
    let Some(uni) = connection.peer.uni() else { return text };
    let stands = uni.subs().iter().filter_map(|sub| {
        let (index, place) = (sub.channel(), sub.place()?);
        let channel = followed.get(index);
        if let Some((at, position)) = here
            && at == index
        {
            return Some((&*channel.name, position));
        }
        let cursor = connection.link.pending.as_ref().and_then(|pending| pending.cursor_in(index));
        let cursor = cursor.unwrap_or_else(|| channel.stream().cursor(channel.cursor_of(place)));
        Some((&*channel.name, Position { offset: cursor.after, epoch: channel.top()?.epoch }))
    });
    write_position(&mut text, stands);
    text
}
