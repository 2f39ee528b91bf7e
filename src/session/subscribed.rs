//! A subscription, a publication and a client as replies and pushes tell them.

use crate::base::bytes::Bytes;
use crate::base::ids::{Offset, Position};
use crate::base::publication::{ClientInfo, Publication, Publications};
use crate::base::shape::Shape;
use crate::proto::centrifuge::Format;
use crate::proto::centrifuge::reply::{
    ClientInfoRef, Lifetime, PublicationRef, Push, SubscribePush, SubscribeResult,
};
use crate::session::context::Context;
use crate::session::cursors_in_data::with_cursors;
use crate::session::delta::payload_of;
use crate::session::subscription::Sub;

/// A subscription as its reply tells it.
pub(super) struct Subscribed {
    pub(super) flags: u32,
    pub(super) position: Position,
    /// `Some` when a recovery was asked: the request's offset and what was missed, or `None` where it was lost.
    pub(super) recovery: Option<(Offset, Option<Publications>)>,
    /// It was no recovery: a new subscriber gets what was published last.
    pub(super) rewound: bool,
    /// As the client gets it.
    pub(super) expire_at_s: u64,
    pub(super) data: Option<Bytes>,
    /// What goes out of publications.
    pub(super) shape: Shape,
    /// JSON: where its user stands, for `data` of the reply that it goes out with.
    pub(super) cursors: Option<Bytes>,
}

impl Subscribed {
    /// The subscription has a reply of its own.
    pub(super) fn put_cursors(&mut self) {
        if let Some(cursors) = self.cursors.take()
            && let Some(data) = with_cursors(self.data.as_deref(), &cursors, 0)
        {
            self.data = Some(data);
        }
    }

    pub(super) fn views(&self) -> Vec<PublicationRef<'_>> {
        match &self.recovery {
            Some((_, Some(publications))) => {
                publications.iter().map(|publication| view(publication)).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn with_result(&self, unix_s: u64, format: Format, then: impl FnOnce(SubscribeResult<'_>)) {
        let views = self.views();
        let Some((_, Some(publications))) = self.recovery.as_ref().filter(|_| self.shape.is_chained()) else {
            return then(self.result(&views, unix_s));
        };
        // Each is what changes in the one before; the first is whole.
        let mut base = None;
        let payloads: Vec<_> = publications
            .iter()
            .map(|publication| payload_of(publication, base.replace(&publication.data), format))
            .collect();
        let views: Vec<_> = views
            .into_iter()
            .zip(&payloads)
            .map(|(view, (data, patched))| PublicationRef { data, patched: *patched, ..view })
            .collect();
        then(self.result(&views, unix_s));
    }

    pub(super) fn result<'a>(&'a self, views: &'a [PublicationRef<'a>], unix_s: u64) -> SubscribeResult<'a> {
        let positioned = self.flags & (Sub::POSITIONED | Sub::RECOVERABLE) != 0;
        let offset = match &self.recovery {
            // The client counts on from where it was; the list brings it to the top, unless nothing of it is for the client.
            Some((asked, Some(publications))) if !publications.is_empty() => *asked,
            _ => self.position.offset,
        };
        SubscribeResult {
            lifetime: lifetime(self.expire_at_s, unix_s),
            recoverable: self.flags & Sub::RECOVERABLE != 0,
            epoch: positioned.then_some(self.position.epoch),
            publications: views,
            // SDKs hand on what comes with the answer to a connect when it is said to be recovered.
            recovered: self.recovery.as_ref().is_some_and(|(_, publications)| {
                publications.as_ref().is_some_and(|list| !self.rewound || !list.is_empty())
            }),
            offset: if positioned { offset } else { Offset(0) },
            positioned,
            data: self.data.as_deref(),
            was_recovering: self.recovery.is_some() && !self.rewound,
            shape: self.shape,
        }
    }

    pub(super) fn push(&self, name: &str, cx: &mut Context<'_>) {
        let views = self.views();
        let result = self.result(&views, cx.unix_s);
        cx.push(
            name,
            &Push::Subscribe(SubscribePush {
                recoverable: result.recoverable,
                epoch: result.epoch,
                offset: result.offset,
                positioned: result.positioned,
                data: result.data,
            }),
        );
        for publication in views {
            cx.push(name, &Push::Publication(publication));
        }
    }
}

/// A publication as the codec wants it.
pub fn view(publication: &Publication) -> PublicationRef<'_> {
    PublicationRef {
        data: &publication.data,
        offset: publication.offset(),
        info: publication.info.as_ref().map(info_view),
        tags: &publication.tags,
        patched: false,
        time_ms: 0,
    }
}

/// A client's info as the codec wants it.
pub fn info_view(info: &ClientInfo) -> ClientInfoRef<'_> {
    ClientInfoRef {
        user: &info.user,
        client: &info.client,
        conn_info: info.conn_info.as_deref(),
        chan_info: info.chan_info.as_deref(),
    }
}

/// Seconds left until `expire_at_s`, at least one so that a client asks again rather than never.
pub(super) fn lifetime(expire_at_s: u64, unix_s: u64) -> Lifetime {
    match expire_at_s {
        0 => Lifetime { expires: false, ttl_s: 0 },
        at => Lifetime {
            expires: true,
            ttl_s: u32::try_from(at.saturating_sub(unix_s)).unwrap_or(u32::MAX).max(1),
        },
    }
}
