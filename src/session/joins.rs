//! What answers of channel owners do, and the end of a connect that waited for them.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::filter::Filters;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Missed, Publications, Since};
use crate::hub::cursors::UserCursors;
use crate::proto::centrifuge::reply::{ConnectResult, ErrorRef, Reply};
use crate::proto::wire::Carrier;
use crate::session::context::{Context, Effect};
use crate::session::cursors_in_data::{cursors_of_all, standing};
use crate::session::state::{Session, SessionPhase};
use crate::session::subscribed::Subscribed;
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::waits::{Connecting, Waits};

/// Where the log stands, and what was missed of it.
pub type JoinOutcome = Result<(Position, Missed), ErrorCode>;

/// What was asked of a channel's owner, as it comes back with the answer.
#[derive(Debug, Default)]
pub struct JoinTerms {
    /// As given to [`Session::join_asked`].
    pub number: u32,
    /// As in the [`SubscribeEffect`](crate::session::context::SubscribeEffect), like all that follows.
    pub id: u32,
    pub flags: u32,
    pub reject_unrecovered: bool,
    pub data: Option<Bytes>,
    /// What the subscription is filtered by: the outcome has nothing else when the session gets it.
    pub filters: Option<Arc<Filters>>,
    /// How often it is given something, where that is slower than its channel: for the shard.
    pub deliver_every: DeliverEvery,
}

/// A join as the channel's owner answered it.
#[derive(Debug)]
pub struct JoinAnswer {
    pub terms: JoinTerms,
    /// From where it recovers: as it was asked, or where the owner knows that it was.
    pub since: Option<Since>,
    pub outcome: JoinOutcome,
    /// Where its user stands, if it is to hear of that.
    pub cursors: Option<Box<UserCursors>>,
}

/// What the shard does with a join's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum JoinVerdict {
    /// Add the connection to the channel's subscribers, then say where it stands there ([`Session::set_place`]).
    Subscribe { join_leaves: bool },
    /// The owner refused; nothing to undo.
    Refused,
    /// It is not wanted any more, and the owner knows.
    Ignore,
    /// It is of no use: the owner must hear that the connection left.
    Leave,
}

impl Session {
    /// The client has the place that [`Effect::TakePlace`] asked for.
    pub fn handle_placed(&mut self, cx: &mut Context<'_>) {
        let Some(Waits::Joins(connecting)) = self.waits_mut() else { return };
        let Some(subscribes) = connecting.behind_place.take() else { return };
        if subscribes.is_empty() {
            return self.finish_connecting(cx);
        }
        cx.effects.extend(subscribes.into_iter().map(Effect::Subscribe));
    }

    /// A join of this session has been answered.
    pub fn handle_joined(
        &mut self,
        channel: ChannelIndex,
        name: &ChannelName,
        answer: JoinAnswer,
        cx: &mut Context<'_>,
    ) -> Result<JoinVerdict, Disconnect> {
        let wanted = self.sub(channel).is_some_and(|sub| sub.awaits(answer.terms.number));
        let server_side = answer.terms.flags & Sub::SERVER_SIDE != 0;
        let (position, missed) = match answer.outcome {
            Ok(outcome) => outcome,
            Err(error_code) => {
                if wanted {
                    self.remove(channel);
                }
                // Every channel that the node may remember is in use: no fault of the client, who is to try again.
                let is_full = error_code == ErrorCode::LimitExceeded;
                if !server_side && is_full {
                    let error = ErrorRef { temporary: true, ..error_code.into() };
                    cx.reply(answer.terms.id, &Reply::Error(error));
                    cx.effects.push(Effect::Refused(error_code));
                } else if !server_side {
                    cx.refuse(answer.terms.id, error_code);
                } else if wanted
                    && is_full
                    && (!self.is_connected() || answer.terms.flags & Sub::BY_TOKEN != 0)
                {
                    // Let in without, or refreshed without, it would miss what it relies on and never learn of it.
                    return Err(Disconnect::SERVER_ERROR);
                } else if wanted {
                    self.server_side_answered(None, cx)?;
                }
                return Ok(JoinVerdict::Refused);
            }
        };
        if answer.terms.reject_unrecovered && matches!(missed, Missed::Lost) {
            cx.refuse(answer.terms.id, ErrorCode::UnrecoverablePosition);
            return Ok(match wanted {
                true => {
                    self.remove(channel);
                    JoinVerdict::Leave
                }
                false => JoinVerdict::Ignore,
            });
        }
        let rewound = answer.since.is_some_and(|since| since.is_rewind());
        let asked = |publications: &Publications| match &**publications {
            // Its first publication follows this.
            [first, ..] if rewound => Offset(first.offset().0.saturating_sub(1)),
            _ => answer.since.map_or(Offset(0), |since| since.offset),
        };
        let recovery = match missed {
            Missed::NotAsked => None,
            Missed::Lost => Some((asked(&Vec::new()), None)),
            Missed::Given(publications) => Some((asked(&publications), Some(publications))),
        };
        let cursors = answer.cursors.map(|cursors| standing(position, &cursors));
        let mut subscribed = Subscribed {
            flags: answer.terms.flags,
            position,
            recovery,
            rewound,
            expire_at_s: self.extra(channel).map_or(0, |extra| extra.renewal.shown_expiry(extra.expire_at_s)),
            data: answer.terms.data,
            shape: Sub::shape_of(answer.terms.flags),
            cursors,
        };
        if !server_side {
            // An unsubscribed one is answered as well: its command gets the reply that it would have got in time.
            let format = cx.out.format();
            subscribed.put_cursors();
            subscribed.with_result(cx.unix_s, format, |result| {
                cx.reply(answer.terms.id, &Reply::Subscribe(result))
            });
        } else if wanted {
            self.server_side_answered(Some((name.clone(), subscribed)), cx)?;
        }
        Ok(match wanted {
            true => JoinVerdict::Subscribe { join_leaves: answer.terms.flags & Sub::NOTICES != 0 },
            false => JoinVerdict::Ignore,
        })
    }

    fn server_side_answered(
        &mut self,
        subscribed: Option<(ChannelName, Subscribed)>,
        cx: &mut Context<'_>,
    ) -> Result<(), Disconnect> {
        let Some(Waits::Joins(connecting)) = self.waits_mut() else {
            // Subscribed by the server API in the middle of a connection's life.
            if let Some((name, mut subscribed)) = subscribed {
                subscribed.put_cursors();
                subscribed.push(&name, cx);
            }
            return Ok(());
        };
        connecting.outstanding -= 1;
        connecting.done.extend(subscribed);
        if connecting.outstanding == 0 {
            self.finish_connecting(cx);
        }
        Ok(())
    }

    /// Nothing is waited for any more.
    pub(super) fn finish_connecting(&mut self, cx: &mut Context<'_>) {
        let Some(Waits::Joins(Connecting { id, done, data, .. })) = self.stop_waiting() else { return };
        self.reply_connected(id, &done, data.as_deref(), cx);
        self.go_on(cx);
    }

    pub(super) fn reply_connected(
        &mut self,
        id: u32,
        done: &[(ChannelName, Subscribed)],
        data: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) {
        self.phase = SessionPhase::Connected;
        let known = done.iter().filter_map(|(name, subscribed)| Some((name, subscribed.cursors.as_ref()?)));
        let with_cursors = cursors_of_all(data, known);
        let data = with_cursors.as_deref().or(data);
        let lifetime = self.told_lifetime(cx.unix_s);
        let client = cx.client.to_string();
        let views: Vec<_> = done.iter().map(|(_, subscribed)| subscribed.views()).collect();
        let subs: Vec<_> = done
            .iter()
            .zip(&views)
            .map(|((name, subscribed), views)| (&**name, subscribed.result(views, cx.unix_s)))
            .collect();
        let session = cx.emulation.map(|emulation| emulation.session.to_string());
        // A client that is pinged by its library, or answers no ping, is not to do so.
        let ping_s = if cx.carrier == Carrier::WebSocketPings { 0 } else { cx.ping_s };
        let pong = ping_s > 0 && !cx.carrier.is_unidirectional();
        let node = cx.emulation.map_or("", |emulation| emulation.node);
        cx.reply(
            id,
            &Reply::Connect(ConnectResult {
                client: &client,
                version: cx.version,
                lifetime,
                data,
                subs: &subs,
                ping_s,
                pong,
                session: session.as_deref().unwrap_or_default(),
                node,
            }),
        );
        cx.effects.push(Effect::Connected);
    }
}
