//! A connection of a tunnel.

use std::sync::Arc;

use crate::base::budget::{Budget, BudgetHeld};
use crate::proto::websocket::{ACCEPT_LEN, Handshake};
use crate::record::{
    AdmissionRecord, FarewellRecord, PayloadRecord, RecordFault, TunnelAskingRecord, TunnelRecord,
    TunnelStageRecord, TunnelWorkRecord,
};
use crate::session::hook_call::Waiting;
use crate::session::record::copied;
use crate::session::tunnel::{Payload, Tunnel, TunnelAdmission, TunnelAsking, TunnelStage, TunnelWork};

impl Tunnel {
    /// Everything that the connection is. `name`: of its tunnel. `farewell`: of a connection that has gone, the close to
    /// tell.
    pub fn to_record(&self, name: &str, farewell: Option<FarewellRecord>) -> TunnelRecord {
        TunnelRecord {
            tunnel: name.into(),
            undelivered: self.undelivered(),
            user: self.user.clone(),
            opened_at_s: self.opened_at_s,
            sequence: self.sequence(),
            stage: match self.stage() {
                TunnelStage::Asking(asking) => TunnelStageRecord::Asking(TunnelAskingRecord {
                    accept: copied(asking.handshake.accept()),
                    unread: copied(asking.unread.bytes()),
                    admission: asking.admission.as_ref().map(|admission| admission.to_record()),
                }),
                TunnelStage::Open(None) => TunnelStageRecord::Idle,
                TunnelStage::Open(Some(work)) => TunnelStageRecord::Busy(TunnelWorkRecord {
                    under_way: work.under_way.to_record(),
                    waiting: work.waiting().map(Payload::to_record).collect(),
                    paused: self.is_paused(),
                }),
            },
            farewell,
        }
    }

    /// The connection of a record, of the tunnel at `place` of the configuration's list. One that was not let in yet and
    /// has no admission is to be refused for now: its ticket may have been redeemed. A message under way is to be handed
    /// over again, under its number ([`Tunnel::under_way`]).
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no connection is, and when `input` has no room for what it keeps.
    pub fn from_record(
        record: &TunnelRecord,
        place: u16,
        input: &Arc<Budget>,
    ) -> Result<Tunnel, RecordFault> {
        let stage = match &record.stage {
            TunnelStageRecord::Asking(asking) => {
                let accept: [u8; ACCEPT_LEN] =
                    (*asking.accept).try_into().map_err(|_| RecordFault::Impossible("a handshake"))?;
                let is_text = accept.iter().all(u8::is_ascii_graphic);
                if !is_text {
                    return Err(RecordFault::Impossible("a handshake"));
                }
                let mut unread = BudgetHeld::default();
                if !asking.unread.is_empty() {
                    unread
                        .push(input, &asking.unread)
                        .map_err(|_| RecordFault::Impossible("room for input"))?;
                }
                let admission = asking
                    .admission
                    .as_ref()
                    .map(|known| Box::new(TunnelAdmission::from_record(known, place)));
                TunnelStage::Asking(Box::new(TunnelAsking {
                    handshake: Handshake::of_accept(accept),
                    waiting: Waiting::for_good(),
                    unread,
                    admission,
                }))
            }
            TunnelStageRecord::Idle => TunnelStage::Open(None),
            TunnelStageRecord::Busy(work) => {
                let under_way = Payload::from_record(&work.under_way)?;
                let waiting: Result<_, _> = work.waiting.iter().map(Payload::from_record).collect();
                TunnelStage::Open(Some(Box::new(TunnelWork::of(under_way, waiting?, work.paused))))
            }
        };
        // One more is counted for each message: the end of the numbers is not to be met.
        if record.sequence > u64::MAX / 2 {
            return Err(RecordFault::Impossible("a message's number"));
        }
        let (user, opened_at_s) = (record.user.clone(), record.opened_at_s);
        Ok(Tunnel::restored(place, record.undelivered, user, opened_at_s, record.sequence, stage))
    }
}

impl TunnelAdmission {
    fn to_record(&self) -> AdmissionRecord {
        AdmissionRecord {
            user: self.user.clone(),
            subprotocol: self.subprotocol.clone(),
            message: self.message.as_ref().map(Payload::to_record),
        }
    }

    fn from_record(record: &AdmissionRecord, tunnel: u16) -> TunnelAdmission {
        TunnelAdmission {
            tunnel,
            address: None,
            user: record.user.clone(),
            subprotocol: record.subprotocol.clone(),
            message: record.message.as_ref().and_then(|message| Payload::from_record(message).ok()),
        }
    }
}

impl Payload {
    fn to_record(&self) -> PayloadRecord {
        PayloadRecord { text: self.text, bytes: self.bytes.clone() }
    }

    fn from_record(record: &PayloadRecord) -> Result<Payload, RecordFault> {
        if record.text && std::str::from_utf8(&record.bytes).is_err() {
            return Err(RecordFault::Impossible("a text that is none"));
        }
        Ok(Payload { text: record.text, bytes: record.bytes.clone() })
    }
}
