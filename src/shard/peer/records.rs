//! A peer as a record, and of one.

use std::sync::Arc;

use crate::base::budget::Budget;
use crate::base::bytes::Bytes;
use crate::base::ids::ChannelName;
use crate::base::time::Time;
use crate::hub::followed::ChannelIndex;
use crate::record::{PeerState, RecordFault, RequestsRecord, TunnelRecord};
use crate::session::tunnel::Tunnel;
use crate::session::unidirectional::Unidirectional;
use crate::session::{PlaceOf, Session};
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::peer::{Kind, Peer};
use crate::shard::requests::Http;

impl Peer {
    /// Everything that it is; `None` for one that has left, and while a request is under way.
    pub fn to_record(
        &self,
        name_of: &dyn Fn(ChannelIndex) -> ChannelName,
        tunnel_name: &dyn Fn(u16) -> Box<str>,
        now: Time,
    ) -> Option<PeerState> {
        Some(match &self.kind {
            // Its request is under way.
            Kind::Client(session) if session.awaits_opening() => return None,
            Kind::Client(session) => PeerState::Client(session.to_record(name_of, now)),
            Kind::Unidirectional(uni) => PeerState::Unidirectional(uni.to_record(name_of)),
            Kind::Tunnel(tunnel) => PeerState::Tunnel(tunnel.to_record(&tunnel_name(tunnel.place), None)),
            Kind::Http(None) => PeerState::Requests(RequestsRecord { unread: Bytes::new() }),
            Kind::Http(Some(http)) if http.is_waiting() => {
                PeerState::Requests(RequestsRecord { unread: Bytes::copy_from_slice(http.unread.bytes()) })
            }
            Kind::Echo => PeerState::Echo,
            Kind::Http(Some(_)) | Kind::Nobody => return None,
        })
    }

    /// Becomes what another process has written. `tunnel`: makes a tunnel of its record.
    ///
    /// # Errors
    /// What of the record cannot be in this process.
    pub fn restore(
        &mut self,
        state: &PeerState,
        place_of: PlaceOf<'_>,
        tunnel: impl FnOnce(&TunnelRecord) -> Result<Tunnel, RecordFault>,
        input: &Arc<Budget>,
        now: Time,
    ) -> Result<(), RecordFault> {
        self.kind = match state {
            PeerState::Client(client) => Kind::Client(Session::from_record(client, place_of, now)?),
            PeerState::Unidirectional(uni) => {
                Kind::Unidirectional(Unidirectional::from_record(uni, place_of, input)?)
            }
            PeerState::Tunnel(record) => Kind::Tunnel(Box::new(tunnel(record)?)),
            PeerState::Requests(requests) if requests.unread.is_empty() => Kind::Http(None),
            PeerState::Requests(requests) => {
                let mut http = Box::<Http>::default();
                let kept = http.unread.push(input, &requests.unread);
                kept.map_err(|_| RecordFault::Impossible("room for input"))?;
                Kind::Http(Some(http))
            }
            PeerState::Echo => Kind::Echo,
            PeerState::ClosingPeersClose | PeerState::ClosingFin | PeerState::ClosingBoth => Kind::Nobody,
        };
        Ok(())
    }
}

impl ClosingEnd {
    /// A connection whose peer has left, and that ends so.
    pub fn to_record(self) -> PeerState {
        match self {
            ClosingEnd::PeersClose => PeerState::ClosingPeersClose,
            ClosingEnd::Fin => PeerState::ClosingFin,
            ClosingEnd::Both => PeerState::ClosingBoth,
        }
    }
}

impl Phase {
    /// That of a connection whose peer was in this state.
    pub fn of_record(state: &PeerState) -> Phase {
        match state {
            PeerState::ClosingPeersClose => Phase::Closing(ClosingEnd::PeersClose),
            PeerState::ClosingFin => Phase::Closing(ClosingEnd::Fin),
            PeerState::ClosingBoth => Phase::Closing(ClosingEnd::Both),
            _ => Phase::Open,
        }
    }
}
