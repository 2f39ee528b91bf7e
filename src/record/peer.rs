//! Records of participants: clients, unidirectional clients, connections of tunnels.
//!
//! Channels and tunnels are named, never numbered: numbers are those of one process, or of one shard.

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, ClientId, Epoch, Offset, Position, UserName};
use crate::base::publication::{Since, SinceEpoch};
use crate::record::channel::PublicationRecord;
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::{choice, record};
use crate::record::link::LinkRecord;
use crate::record::moment::Moment;

record! {
    /// One participant, with its connection if it has one.
    pub struct PeerRecord {
        /// What other records name it by.
        number: u64,
        client: ClientId,
        state: PeerState,
        link: Option<LinkRecord>,
        /// When its next time comes, whatever it is for.
        due: Option<Moment>,
        /// When the next ping is due, or the pong to the last one.
        ping_due: Option<Moment>,
        awaits_pong: bool,
        /// It counts as a client.
        listed: bool,
        /// Its user's owner knows it.
        of_user: bool,
        /// Until when the commands that it has sent are paid for.
        commands_paid_until: Moment,
        /// The same of bytes.
        bytes_paid_until: Moment,
        connected: Moment,
        received_bytes: u64,
        sent_bytes: u64,
    }

    /// Speaks HTTP, and no request is under way.
    pub struct RequestsRecord {
        /// The beginning of a head.
        unread: Bytes,
    }

    /// A client of the Centrifuge protocol.
    pub struct ClientRecord {
        /// 1 JSON, 2 Protobuf over WebSocket; others by [`crate::proto::wire::Wire::number`].
        format: u8,
        /// 1 fresh, 2 connecting, 3 connected, 4 refused.
        phase: u8,
        ping_outstanding: bool,
        /// Weight of commands that owners of channels have not answered.
        under_way: u16,
        input_paused: bool,
        resumes: bool,
        /// The token that the upgrade showed.
        shown: Option<Box<str>>,
        identity: Option<IdentityRecord>,
        headers: Option<Vec<HeaderRecord>>,
        subs: Vec<SubRecord>,
        /// Commands that wait, in order.
        held: Option<Vec<Bytes>>,
        waits: Option<WaitsRecord>,
    }

    pub struct IdentityRecord {
        user: Option<UserName>,
        conn_info: Option<Bytes>,
        meta: Option<Bytes>,
        /// Unix seconds; 0 never.
        expire_at_s: u64,
        renewal: RenewalRecord,
        ;
        /// The tag that it named when it connected.
        origin: Option<Box<str>> = None,
        /// `jti` of its token.
        token_id: Option<Box<str>> = None,
        /// What tells the device from others of the user.
        device: Option<UserName> = None,
    }

    pub struct HeaderRecord {
        name: Box<str>,
        value: Bytes,
    }

    pub struct SubRecord {
        channel: ChannelName,
        /// Bits of [`crate::session::Sub`], from 1 on.
        flags: u8,
        /// The channel's owner has not answered the join of this number.
        pending: Option<u32>,
        terms: Option<TermsRecord>,
    }

    /// What is known of a subscription beyond its flags.
    pub struct TermsRecord {
        chan_info: Option<Bytes>,
        /// Unix seconds; 0 never.
        expire_at_s: u64,
        renewal: RenewalRecord,
        ;
        filters: Option<FiltersRecord> = None,
    }

    /// Filters by tags, as JSON.
    pub struct FiltersRecord {
        asked: Option<Box<str>>,
        imposed: Option<Box<str>>,
    }

    /// A connect whose server-side subscriptions are not all answered.
    pub struct ConnectRecord {
        id: u32,
        outstanding: u32,
        done: Vec<SubscribedRecord>,
        data: Option<Bytes>,
        /// What to subscribe to when the user's owner has granted a place.
        behind_place: Option<Vec<JoinRecord>>,
    }

    pub struct SubscribedRecord {
        channel: ChannelName,
        flags: u8,
        position: Position,
        recovery: Option<RecoveryRecord>,
        expire_at_s: u64,
        data: Option<Bytes>,
        ;
        /// It has not missed what it gets: see [`Since::is_rewind`].
        rewound: bool = false,
        /// JSON: where its user stands.
        cursors: Option<Bytes> = None,
    }

    pub struct RecoveryRecord {
        /// Where the client was.
        asked: Offset,
        /// What it missed; nothing when that is lost.
        publications: Option<Vec<PublicationRecord>>,
    }

    /// A join that the owner of the channel has not been asked for yet.
    pub struct JoinRecord {
        id: u32,
        channel: ChannelName,
        flags: u8,
        since: Option<SinceRecord>,
        reject_unrecovered: bool,
        chan_info: Option<Bytes>,
        expire_at_s: u64,
        renewal: RenewalRecord,
        data: Option<Bytes>,
        ;
        filters: Option<FiltersRecord> = None,
        deliver_every_ms: u32 = 0,
    }

    pub struct SinceRecord {
        offset: Offset,
        epoch: SinceEpochRecord,
    }

    pub struct NewestRecord {
        count: u32,
        from_ms: u64,
    }

    /// A hook call whose response has not come.
    pub struct HookCallRecord {
        number: u32,
        /// When it counts as unanswered.
        until: Moment,
        purpose: PurposeRecord,
        hook_call: CallRecord,
    }

    pub struct ConnectPurpose {
        id: u32,
        recover: Vec<(ChannelName, SinceRecord)>,
    }

    pub struct SubscribePurpose {
        id: u32,
        channel: ChannelName,
        recover: Option<SinceRecord>,
        reject_unrecovered: bool,
        positioned: bool,
        recoverable: bool,
        join_leave: bool,
        /// The server has ended the subscription before it began.
        revoked: bool,
        ;
        /// JSON.
        filter: Option<Box<str>> = None,
    }

    pub struct PublishPurpose {
        id: u32,
        channel: ChannelName,
        data: Bytes,
        ;
        /// The client's own name of what it wants a receipt for.
        receipt: Option<Box<str>> = None,
    }

    pub struct ConnectCall {
        data: Option<Bytes>,
        name: Box<str>,
        version: Box<str>,
        channels: Vec<ChannelName>,
    }

    pub struct SubscribeCall {
        channel: ChannelName,
        token: Box<str>,
        data: Option<Bytes>,
    }

    pub struct PublishCall {
        channel: ChannelName,
        data: Bytes,
        ;
        /// Its namespace has any bytes, and not JSON alone.
        is_bytes: bool = false,
    }

    pub struct RpcCall {
        method: Box<str>,
        data: Option<Bytes>,
    }

    /// A client without the client protocol: a stream, a poll, a read or a publication by HTTP.
    pub struct UnidirectionalRecord {
        mode: ModeRecord,
        chunked: bool,
        /// Number of its first join or read.
        id: u32,
        identity: Option<IdentityRecord>,
        subs: Vec<SubRecord>,
        work: Option<WorkRecord>,
    }

    /// What the answer of a request needs until it is given.
    pub struct WorkRecord {
        reply: ReplyRecord,
        asking: Option<AskingRecord>,
        /// Input that came behind the request.
        unread: Option<Bytes>,
    }

    pub struct ReplyRecord {
        origin: Option<Box<str>>,
        keep_alive: bool,
        http10: bool,
        head_only: bool,
        gzip: bool,
        not_modified: bool,
        limit: u16,
        events: bool,
    }

    pub struct AskingRecord {
        channels: Vec<AskedChannelRecord>,
        outstanding: u32,
        awaits_place: bool,
        opening: Bytes,
        hold_ms: u32,
        if_none_match: Option<Box<str>>,
        reverse: bool,
    }

    pub struct AskedChannelRecord {
        channel: ChannelName,
        /// A join has been asked for.
        joined: bool,
        since: Option<Position>,
        recoverable: bool,
        top: Option<Position>,
        publications: Vec<PublicationRecord>,
        lost: bool,
        chan_info: Option<Bytes>,
        /// How others see the subscriber, as in [`crate::record::MemberRecord`].
        listed: bool,
        announced: bool,
        ;
        filters: Option<FiltersRecord> = None,
        rewind: Option<SinceRecord> = None,
        deliver_every_ms: u32 = 0,
    }

    /// A connection of a tunnel.
    pub struct TunnelRecord {
        /// As the configuration calls it.
        tunnel: Box<str>,
        undelivered: u32,
        user: Option<UserName>,
        opened_at_s: u64,
        /// Messages handed over so far.
        sequence: u64,
        stage: TunnelStageRecord,
        /// It has gone while the backend had a message of it: the close to tell when that is answered.
        farewell: Option<FarewellRecord>,
    }

    /// The backend has not said whether the client may connect, or the client has no place yet.
    pub struct TunnelAskingRecord {
        /// `Sec-WebSocket-Accept` of the handshake.
        accept: Bytes,
        unread: Bytes,
        admission: Option<AdmissionRecord>,
    }

    pub struct AdmissionRecord {
        user: Option<UserName>,
        subprotocol: Option<Box<str>>,
        message: Option<PayloadRecord>,
    }

    pub struct TunnelWorkRecord {
        /// The message that the backend has not answered: number `sequence`, and that again when it is handed over again.
        under_way: PayloadRecord,
        waiting: Vec<PayloadRecord>,
        /// The client is not read from.
        paused: bool,
    }

    pub struct PayloadRecord {
        text: bool,
        bytes: Bytes,
    }

    pub struct FarewellRecord {
        code: u16,
        reason: Box<str>,
    }
}

choice! {
    pub enum PeerState {
        1 => Client(ClientRecord),
        2 => Unidirectional(UnidirectionalRecord),
        3 => Tunnel(TunnelRecord),
        4 => Requests(RequestsRecord),
        5 => Echo,
        /// It has left: the Close frame of the other side is awaited.
        6 => ClosingPeersClose,
        /// Our FIN follows what is pending, then the other side's is awaited.
        7 => ClosingFin,
        /// It is over behind what is pending.
        8 => ClosingBoth,
    }

    pub enum RenewalRecord {
        /// The client shows another token.
        1 => Token,
        /// The backend is asked, at this time (unix seconds; the largest: never).
        2 => Hook(u64),
    }

    pub enum SinceEpochRecord {
        1 => Any,
        2 => Known(Epoch),
        3 => Foreign,
        4 => Newest(NewestRecord),
    }

    pub enum WaitsRecord {
        1 => Joins(ConnectRecord),
        2 => HookCall(HookCallRecord),
    }

    /// What a hook call is for, with all that is needed to go on.
    pub enum PurposeRecord {
        1 => Connect(ConnectPurpose),
        2 => Refresh,
        3 => Subscribe(SubscribePurpose),
        /// Of this channel, unless the subscription has ended.
        4 => SubRefresh(Option<ChannelName>),
        5 => Publish(PublishPurpose),
        /// Of the command with this id.
        6 => Rpc(u32),
    }

    /// What a hook is asked, so that it can be asked again.
    pub enum CallRecord {
        1 => Connect(ConnectCall),
        2 => Refresh,
        3 => Subscribe(SubscribeCall),
        4 => SubRefresh(ChannelName),
        5 => Publish(PublishCall),
        6 => Rpc(RpcCall),
    }

    pub enum ModeRecord {
        /// In the encoding of this number ([`crate::proto::encoding::Encoding`]).
        1 => Stream(u8),
        2 => Poll,
        3 => History,
        4 => Publish,
    }

    pub enum TunnelStageRecord {
        1 => Asking(TunnelAskingRecord),
        2 => Idle,
        3 => Busy(TunnelWorkRecord),
    }
}

impl SinceRecord {
    pub fn of(since: Since) -> SinceRecord {
        let epoch = match since.epoch {
            SinceEpoch::Any => SinceEpochRecord::Any,
            SinceEpoch::Known(epoch) => SinceEpochRecord::Known(epoch),
            SinceEpoch::Foreign => SinceEpochRecord::Foreign,
            SinceEpoch::Newest { count, from_ms } => {
                SinceEpochRecord::Newest(NewestRecord { count, from_ms })
            }
        };
        SinceRecord { offset: since.offset, epoch }
    }

    pub fn since(&self) -> Since {
        let epoch = match &self.epoch {
            SinceEpochRecord::Any => SinceEpoch::Any,
            SinceEpochRecord::Known(epoch) => SinceEpoch::Known(*epoch),
            SinceEpochRecord::Foreign => SinceEpoch::Foreign,
            SinceEpochRecord::Newest(newest) => {
                SinceEpoch::Newest { count: newest.count, from_ms: newest.from_ms }
            }
        };
        Since { offset: self.offset, epoch }
    }
}

impl PeerState {
    /// What it is subscribed to, or will be.
    pub fn subs(&self) -> &[SubRecord] {
        match self {
            PeerState::Client(client) => &client.subs,
            PeerState::Unidirectional(uni) => &uni.subs,
            _ => &[],
        }
    }

    /// The answer of a channel's owner is on its way, from outside of this node.
    pub fn awaits_join(&self) -> bool {
        self.subs().iter().any(|sub| sub.pending.is_some())
    }

    /// What the backend of a tunnel that has gone still has to hear.
    pub fn farewell(&self) -> Option<(&TunnelRecord, &FarewellRecord)> {
        match self {
            PeerState::Tunnel(tunnel) => Some((tunnel, tunnel.farewell.as_ref()?)),
            _ => None,
        }
    }

    pub fn user(&self) -> Option<&UserName> {
        match self {
            PeerState::Client(client) => client.identity.as_ref()?.user.as_ref(),
            PeerState::Unidirectional(uni) => uni.identity.as_ref()?.user.as_ref(),
            PeerState::Tunnel(tunnel) => match &tunnel.stage {
                TunnelStageRecord::Asking(asking) => asking.admission.as_ref()?.user.as_ref(),
                _ => tunnel.user.as_ref(),
            },
            _ => None,
        }
    }
}

impl Record for PeerRecord {
    const KIND: RecordKind = RecordKind::Peer;
}
