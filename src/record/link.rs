//! What a peer's connection holds besides its socket.

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Offset};
use crate::record::field::record;

record! {
    pub struct LinkRecord {
        /// Of a frame or message that has come in part.
        decoder: Option<DecoderRecord>,
        /// Encoded bytes that must leave first, in order.
        pending_output: Vec<Bytes>,
        /// Where it stands in channels that it lags in.
        cursors: Vec<CursorRecord>,
        /// Its socket takes nothing now.
        blocked: bool,
        /// It is not read from until its pending output has left.
        read_paused: bool,
        /// Nothing may be given to it before its other channels have answered.
        held: bool,
        /// It has sent its FIN.
        peer_ended: bool,
        ;
        /// What was agreed on of permessage-deflate: 0 nothing, 1 messages of the client may be compressed, 2 those to it
        /// as well.
        deflate: u8 = 0,
        /// Bytes that have come and are not decoded, because the shard has inflated enough for one tick.
        unread: Bytes = Bytes::new(),
    }

    pub struct CursorRecord {
        channel: ChannelName,
        /// Items of the stream that it has not been given.
        behind: u64,
        /// The last publication before these.
        after: Offset,
    }

    /// A WebSocket decoder between two reads.
    pub struct DecoderRecord {
        /// The beginning of a frame's header.
        header: Bytes,
        frame: Option<FrameRecord>,
        /// The message whose frames are coming: whether it is text.
        message_is_text: Option<bool>,
        /// What has come of it, unmasked.
        payload: Bytes,
        /// The beginning of a character at its end.
        partial_character: Bytes,
        /// What has come of the control frame in `frame`.
        control: Bytes,
        ;
        /// The message whose frames are coming is compressed, and so is `payload`.
        compressed: bool = false,
    }

    /// A frame whose payload is coming.
    pub struct FrameRecord {
        opcode: u8,
        fin: bool,
        /// Turned to the next byte of the payload, big-endian.
        key: Option<u32>,
        /// Payload bytes that are still to come.
        left: u64,
        ;
        /// It begins a compressed message.
        compressed: bool = false,
    }
}
