//! Transport connections: their table, their timers, what leaves in this tick, and what is to be done to sockets.

use std::collections::BTreeMap;

use crate::base::fault::Disconnect;
use crate::base::ids::{ListenerId, Sock};
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::proto::websocket::deflate::CompressionOptions;
use crate::shard::addresses::{Addresses, PartialHeaders};
use crate::shard::admitted::AdmittedConnections;
use crate::shard::compression::Compression;
use crate::shard::connections::Connection;
use crate::shard::ends::Ends;
use crate::shard::holders::Holders;
use crate::shard::layers::{Handshakes, Layers};
use crate::shard::options::SeeingOptions;
use crate::shard::outbox::Outbox;
use crate::shard::packing::Packer;
use crate::shard::pings::LatePings;
use crate::shard::seen::SeenTable;
use crate::shard::timers::Wheel;

/// What the core wants done to a socket.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) enum Action {
    ReadStart(u32),
    ReadPause(u32),
    WriteWatch(u32),
    /// Send FIN.
    Finish(u32),
    Close(u32),
    /// Another process serves it.
    GiveUp(u32),
    /// Close, and drop what the peer has not read.
    Reset(u32),
    AcceptEnd,
}

pub(in crate::shard) struct Links {
    pub connections: Slots<Connection>,
    pub wheel: Wheel,
    pub late_pings: LatePings,
    /// Which listener each connection came by, by slot: only where there are several.
    pub came_by: Vec<ListenerId>,
    /// Parts of PROXY headers.
    pub proxied: PartialHeaders,
    /// Of clients.
    pub addresses: Addresses,
    pub seen: SeenTable,
    /// The last ends of connections.
    pub ends: Ends,
    /// Of connections that admission counts.
    pub admitted: AdmittedConnections,
    /// Of sealed connections.
    pub layers: Layers,
    pub handshakes: Handshakes,
    pub outbox: Outbox,
    /// What is to be done to sockets.
    pub actions: Vec<Action>,
    /// Connections whose FIN is due once their last bytes have left.
    pub finishing: Vec<u32>,
    /// Connections whose sends found no kernel memory, or whose logs could not be read, to be tried at the time.
    pub starved: Vec<(Time, u32, u32)>,
    /// Connections of HTTP that may take the next of the requests that they hold.
    pub resuming: Vec<Sock>,
    /// Those whose input is kept until they say more.
    pub holders: Holders,
    /// Compresses answers.
    pub packer: Packer,
    /// Compresses and inflates messages of WebSocket.
    pub compression: Compression,
    /// Connections here that have no seat, because there is none: on their way out.
    pub unseated: u32,
    /// Connections that something is kept for, and how much of it the node's account has.
    pub debtors: BTreeMap<u32, u64>,
    /// When the shard ends: connections that are still to be closed, and why.
    pub closes: Vec<u32>,
    pub closes_with: Disconnect,
    /// Scratch space, empty between uses.
    pub fired: Vec<u32>,
}

impl Links {
    pub fn new(now: Time, compression: Option<CompressionOptions>, seeing: &SeeingOptions) -> Links {
        Links {
            connections: Slots::default(),
            wheel: Wheel::new(now),
            late_pings: LatePings::default(),
            came_by: Vec::new(),
            proxied: PartialHeaders::new(),
            addresses: Addresses::default(),
            seen: SeenTable::new(seeing.ends_max > 0),
            ends: Ends::new(seeing.ends_max),
            admitted: AdmittedConnections::default(),
            layers: Layers::default(),
            handshakes: Handshakes::default(),
            outbox: Outbox::default(),
            actions: Vec::new(),
            finishing: Vec::new(),
            starved: Vec::new(),
            resuming: Vec::new(),
            holders: Holders::default(),
            packer: Packer::default(),
            compression: Compression::new(compression.unwrap_or_default()),
            unseated: 0,
            debtors: BTreeMap::new(),
            closes: Vec::new(),
            closes_with: Disconnect::SHUTDOWN,
            fired: Vec::new(),
        }
    }
}
