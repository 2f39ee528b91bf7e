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
        /// The place of the listener that it came by.
        listener: u8 = 0,
        /// Where its socket comes from, and whom the proxy behind it speaks for.
        address: Option<String> = None,
        claimed: Option<String> = None,
        /// Bytes that were sealed and not taken: they leave before all else.
        sealed: Vec<Bytes> = Vec::new(),
        /// What it is sealed with.
        layer: Option<LayerRecord> = None,
        /// It counts in its network: 1 as one that has not shown who it is, 2 as one that has.
        admitted: u8 = 0,
        paces: Vec<PaceRecord> = Vec::new(),
    }

    /// A TLS connection behind its handshake.
    pub struct LayerRecord {
        sends: TrafficKeyRecord,
        receives: TrafficKeyRecord,
        /// To be sent before anything else.
        first: Bytes,
        /// What has come of a record.
        partial: Bytes,
        empty_records: u8,
        update_due: bool,
        alert_due: Option<u8>,
        deaf: bool,
        ended: bool,
        /// The certificate that the client has shown.
        certificate: Option<CertificateRecord>,
    }

    pub struct CertificateRecord {
        subject: Box<str>,
        fingerprint: Bytes,
    }

    /// The key of one direction.
    pub struct TrafficKeyRecord {
        /// 2 or 3: TLS 1.2 or 1.3.
        version: u8,
        /// 1 AES-128-GCM, 2 AES-256-GCM, 3 ChaCha20-Poly1305.
        cipher: u8,
        secret: Bytes,
        key: Bytes,
        iv: Bytes,
        sequence: u64,
    }

    /// Of a channel that it is given something of less often than others.
    pub struct PaceRecord {
        channel: ChannelName,
        every_ms: u32,
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
