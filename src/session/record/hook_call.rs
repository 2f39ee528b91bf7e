//! A hook call under way: what it is for, and what was asked.

use crate::base::ids::ChannelName;
use crate::base::publication::PayloadForm;
use crate::base::shape::Shape;
use crate::base::time::Time;
use crate::record::{
    CallRecord, ConnectCall, ConnectPurpose, HookCallRecord, Moment, PublishCall, PublishPurpose,
    PurposeRecord, RecordFault, RpcCall, SinceRecord, SubscribeCall, SubscribePurpose,
};
use crate::session::hook_call::HookRequest;
use crate::session::record::{NameOf, filter_from_record};
use crate::session::subscription::ChannelIndex;
use crate::session::waits::{About, AwaitedCall, NO_CHANNEL, Wish};

impl AwaitedCall {
    /// `known`: whether the client is subscribed to a channel, and its number so that it has a name.
    pub(super) fn to_record(
        &self,
        name_of: NameOf<'_>,
        known: &dyn Fn(&ChannelIndex) -> bool,
        now: Time,
    ) -> HookCallRecord {
        let purpose = match &self.about {
            About::Connect { id, recover } => PurposeRecord::Connect(ConnectPurpose {
                id: *id,
                recover: recover
                    .iter()
                    .map(|(name, since)| (name.clone(), SinceRecord::of(*since)))
                    .collect(),
            }),
            About::Refresh => PurposeRecord::Refresh,
            About::Subscribe { wish, revoked } => PurposeRecord::Subscribe(SubscribePurpose {
                id: wish.id,
                channel: wish.channel.clone(),
                recover: wish.since.map(SinceRecord::of),
                reject_unrecovered: wish.reject_unrecovered,
                positioned: wish.positioned,
                recoverable: wish.recoverable,
                join_leave: wish.join_leave,
                revoked: *revoked,
                filter: wish.filter.as_ref().map(|filter| filter.to_json().into()),
            }),
            About::SubRefresh { channel } => {
                PurposeRecord::SubRefresh(Some(*channel).filter(known).map(name_of))
            }
            About::Publish { id, channel, data, receipt } => PurposeRecord::Publish(PublishPurpose {
                id: *id,
                channel: channel.clone(),
                data: data.clone(),
                receipt: receipt.clone(),
            }),
            About::Rpc { id } => PurposeRecord::Rpc(*id),
        };
        HookCallRecord {
            number: self.number,
            until: Moment::of(self.until, now),
            purpose,
            hook_call: hook_request_to_record(&self.hook_request),
        }
    }

    /// `find`: the number of a channel that the client is subscribed to.
    pub(super) fn from_record(
        record: &HookCallRecord,
        find: &dyn Fn(&str) -> Option<ChannelIndex>,
        written: Time,
    ) -> Result<AwaitedCall, RecordFault> {
        use {CallRecord as HookCall, PurposeRecord as Purpose};
        let about = match (&record.purpose, &record.hook_call) {
            (Purpose::Connect(ConnectPurpose { id, recover }), HookCall::Connect(_)) => {
                let recover = recover.iter().map(|(name, since)| (name.clone(), since.since())).collect();
                About::Connect { id: *id, recover }
            }
            (Purpose::Refresh, HookCall::Refresh) => About::Refresh,
            (Purpose::Subscribe(wanted), HookCall::Subscribe(_)) => About::Subscribe {
                wish: Wish {
                    id: wanted.id,
                    channel: wanted.channel.clone(),
                    positioned: wanted.positioned,
                    recoverable: wanted.recoverable,
                    join_leave: wanted.join_leave,
                    since: wanted.recover.as_ref().map(SinceRecord::since),
                    reject_unrecovered: wanted.reject_unrecovered,
                    // Asked for again: the client hears that it gets none.
                    shape: Shape::Whole,
                    filter: wanted.filter.as_deref().map(filter_from_record).transpose()?,
                },
                revoked: wanted.revoked,
            },
            (Purpose::SubRefresh(channel), HookCall::SubRefresh(_)) => {
                let channel =
                    channel.as_ref().and_then(|name: &ChannelName| find(name)).unwrap_or(NO_CHANNEL);
                About::SubRefresh { channel }
            }
            (Purpose::Publish(PublishPurpose { id, channel, data, receipt }), HookCall::Publish(_)) => {
                let (channel, data, receipt) = (channel.clone(), data.clone(), receipt.clone());
                About::Publish { id: *id, channel, data, receipt }
            }
            (Purpose::Rpc(id), HookCall::Rpc(_)) => About::Rpc { id: *id },
            _ => return Err(RecordFault::Impossible("a hook call that asks for something else")),
        };
        Ok(AwaitedCall {
            about,
            hook_request: hook_request_from_record(&record.hook_call),
            number: record.number,
            until: record.until.at(written),
            _waiting: None,
        })
    }
}

fn hook_request_to_record(hook_request: &HookRequest) -> CallRecord {
    match hook_request.clone() {
        HookRequest::Connect { data, name, version, channels } => {
            CallRecord::Connect(ConnectCall { data, name, version, channels })
        }
        HookRequest::Refresh => CallRecord::Refresh,
        HookRequest::Subscribe { channel, token, data } => {
            CallRecord::Subscribe(SubscribeCall { channel, token, data })
        }
        HookRequest::SubRefresh { channel } => CallRecord::SubRefresh(channel),
        HookRequest::Publish { channel, data, form } => {
            CallRecord::Publish(PublishCall { channel, data, is_bytes: form == PayloadForm::Bytes })
        }
        HookRequest::Rpc { method, data } => CallRecord::Rpc(RpcCall { method, data }),
    }
}

fn hook_request_from_record(record: &CallRecord) -> HookRequest {
    match record.clone() {
        CallRecord::Connect(ConnectCall { data, name, version, channels }) => {
            HookRequest::Connect { data, name, version, channels }
        }
        CallRecord::Refresh => HookRequest::Refresh,
        CallRecord::Subscribe(SubscribeCall { channel, token, data }) => {
            HookRequest::Subscribe { channel, token, data }
        }
        CallRecord::SubRefresh(channel) => HookRequest::SubRefresh { channel },
        CallRecord::Publish(PublishCall { channel, data, is_bytes }) => {
            let form = if is_bytes { PayloadForm::Bytes } else { PayloadForm::Json };
            HookRequest::Publish { channel, data, form }
        }
        CallRecord::Rpc(RpcCall { method, data }) => HookRequest::Rpc { method, data },
    }
}
