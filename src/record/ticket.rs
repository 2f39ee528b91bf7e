//! Records of tickets for tunnels.

use crate::base::bytes::Bytes;
use crate::base::ids::UserName;
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::record;
use crate::record::moment::Moment;

record! {
    /// Tickets that were made and not shown yet, in no order.
    pub struct TicketsPart {
        tickets: Vec<TicketRecord>,
    }

    pub struct TicketRecord {
        /// Sixteen bytes.
        key: Bytes,
        /// As the configuration calls it.
        tunnel: Box<str>,
        expires: Moment,
        user: UserName,
        /// JSON for the backend.
        data: Option<Box<str>>,
    }
}

impl Record for TicketsPart {
    const KIND: RecordKind = RecordKind::Tickets;
}
