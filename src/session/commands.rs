//! What each command of a client does.

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::ids::{ChannelName, Offset};
use crate::base::publication::{PayloadForm, Since, SinceEpoch};
use crate::base::shape::Shape;
use crate::proto::centrifuge::Commands;
use crate::proto::centrifuge::command::{self, Command, Data, Method};
use crate::proto::centrifuge::reply::{ErrorRef, RefreshResult, Reply};
use crate::session::builtin;
use crate::session::context::{Admitted, Context, Effect, Failure, Rights, SubscribeEffect};
use crate::session::hook_call::{Granted, HookRequest};
use crate::session::identity::{Identity, Renewal};
use crate::session::permissions::Deed;
use crate::session::rights::{self, filters, overridden, sub_flags, subscribe_to};
use crate::session::state::{Session, SessionPhase, SubExtra};
use crate::session::subscribed::lifetime;
use crate::session::subscription::Sub;
use crate::session::token::{ConnectClaims, TokenFault};
use crate::session::waits::{About, Connecting, Waits, Wish};

/// How far [`Session::handle_commands`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandProgress {
    /// There are effects to carry out before the rest of the frame.
    More,
    Done,
    /// The rest of the frame is held.
    Held,
}

impl Session {
    /// The commands of one frame, up to the first that has effects: those must be carried out before the next command
    /// is looked at, so that commands of one frame see each other's. `resumed`: they were held before.
    ///
    /// # Errors
    /// The connection is to be closed with this; what was written to `cx.out` before still goes out.
    pub fn handle_commands(
        &mut self,
        commands: &mut Commands<'_>,
        resumed: bool,
        cx: &mut Context<'_>,
    ) -> Result<CommandProgress, Disconnect> {
        loop {
            // What came later does not overtake what is held.
            if self.is_waiting() || self.is_full() || self.has_held() && !resumed || cx.turn == 0 {
                self.hold(commands, resumed)?;
                return Ok(CommandProgress::Held);
            }
            let before = commands.clone();
            let Some(command) = commands.next() else { return Ok(CommandProgress::Done) };
            let command = command.map_err(|fault| fault.disconnect())?;
            cx.turn -= 1;
            if self.must_wait(&command.method, cx) {
                *commands = before;
                self.hold(commands, resumed)?;
                return Ok(CommandProgress::Held);
            }
            let id = command.id;
            if is_limited(&command.method) && self.phase == SessionPhase::Connected && !cx.admit(id) {
                return Ok(CommandProgress::More);
            }
            match self.handle_command(command, cx) {
                Ok(()) => {}
                Err(Failure::Refuse(error_code)) if self.wire.carrier.is_unidirectional() => {
                    cx.effects.push(Effect::Refused(error_code));
                    return Err(self.turned_away(&error_code.into()));
                }
                Err(Failure::Refuse(error_code)) => cx.refuse(id, error_code),
                Err(Failure::Close(disconnect)) => return Err(disconnect),
            }
            if !cx.effects.is_empty() {
                return Ok(CommandProgress::More);
            }
        }
    }

    /// Whether a command can only be looked at later.
    fn must_wait(&self, method: &Method<'_>, cx: &Context<'_>) -> bool {
        if self.phase != SessionPhase::Connected {
            return false;
        }
        match method {
            // The answer is made when it can leave.
            Method::History(_) | Method::Presence { .. } => cx.blocked,
            Method::Subscribe(subscribe) => {
                cx.blocked
                    && (subscribe.recover
                        || !subscribe.token.is_empty()
                        || cx
                            .environment
                            .rights(&subscribe.channel)
                            .is_ok_and(|rights| rights.rewind.is_some()))
            }
            // Its subscribe is answered first.
            Method::Unsubscribe { channel } => cx
                .environment
                .find(channel)
                .and_then(|index| self.sub(index))
                .is_some_and(|sub| sub.place().is_none()),
            _ => false,
        }
    }

    fn handle_command(&mut self, command: Command<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        let id = command.id;
        if let Method::Connect(connect) = command.method {
            return self.handle_connect(id, *connect, cx).inspect_err(|_| self.phase = SessionPhase::Refused);
        }
        match self.phase {
            SessionPhase::Fresh => return Err(Disconnect::BAD_REQUEST.into()),
            SessionPhase::Refused => return Ok(()),
            SessionPhase::Connecting | SessionPhase::Connected => {}
        }
        match command.method {
            Method::Connect(_) => unreachable!("taken above"),
            Method::Subscribe(subscribe) => self.handle_subscribe(id, *subscribe, cx),
            Method::Unsubscribe { channel } => {
                if channel.is_empty() {
                    return Err(Disconnect::BAD_REQUEST.into());
                }
                if let Some(sub) = cx.environment.find(&channel).and_then(|index| self.sub(index)) {
                    cx.effects.push(Effect::Unsubscribe { channel: sub.channel(), why: None });
                }
                cx.reply(id, &Reply::Unsubscribe);
                Ok(())
            }
            Method::Publish(publish) => {
                let (rights, subscribed) = self.rights(&publish.channel, cx)?;
                if publish.kind != 0 {
                    return Err(ErrorCode::BadRequest.into());
                }
                let Some(data) = publish.data else { return Err(Disconnect::BAD_REQUEST.into()) };
                let form = rights.payload;
                let data = match form {
                    PayloadForm::Json => data.as_json().ok_or(ErrorCode::BadRequest)?.as_bytes(),
                    PayloadForm::Bytes => data.as_bytes(),
                };
                let (channel, data) = (ChannelName::from(publish.channel), Bytes::copy_from_slice(data));
                self.publish(id, channel, data, (&rights, subscribed), None, cx)
            }
            Method::History(history) => {
                let (rights, subscribed) = self.rights(&history.channel, cx)?;
                if !rights.keeps_history {
                    return Err(ErrorCode::NotAvailable.into());
                }
                if self.is_filtered_by_server(&history.channel, cx) {
                    // A read is of the whole log: it would show what the subscription is not to have.
                    return Err(ErrorCode::PermissionDenied.into());
                }
                if !rights.may(Deed::ReadHistory, subscribed) {
                    return Err(ErrorCode::PermissionDenied.into());
                }
                rights::reads(cx.out.format(), rights.payload)?;
                cx.effects.push(Effect::History {
                    id,
                    channel: history.channel.into(),
                    limit: usize::try_from(history.limit).ok(),
                    since: history.since.map(|since| position(since.offset, &since.epoch)),
                    reverse: history.reverse,
                });
                Ok(())
            }
            Method::Presence { channel } => {
                let channel = self.presence_of(&channel, cx)?;
                cx.effects.push(Effect::Presence { id, channel });
                Ok(())
            }
            Method::PresenceStats { channel } => {
                let channel = self.presence_of(&channel, cx)?;
                cx.effects.push(Effect::PresenceStats { id, channel });
                Ok(())
            }
            Method::Rpc { method, data } => {
                if let Some(name) = method.strip_prefix(builtin::PREFIX) {
                    return self.handle_builtin(id, name, data, cx);
                }
                if !cx.environment.answers_calls(&method) {
                    return Err(ErrorCode::NotAvailable.into());
                }
                self.ask(About::Rpc { id }, HookRequest::Rpc { method: method.into(), data: copy(data) }, cx);
                Ok(())
            }
            // It has no reply that could carry a refusal: an error without an id reads as a ping to the SDK.
            Method::Send { data } => {
                let data = copy(data).unwrap_or(Bytes::from_static(b"null"));
                cx.effects.push(Effect::Message { data });
                Ok(())
            }
            Method::Refresh { token } => self.handle_refresh(id, &token, cx),
            Method::SubRefresh { channel, token } => self.handle_sub_refresh(id, &channel, &token, cx),
            Method::Ping => {
                cx.reply(id, &Reply::Ping);
                Ok(())
            }
            Method::Pong => Ok(self.handle_pong()?),
            Method::Unknown => Err(ErrorCode::MethodNotFound.into()),
            // As for `Send`, which is what it was: counted, and not answered.
            Method::NotJson if id == 0 => {
                cx.effects.push(Effect::Refused(ErrorCode::BadRequest));
                Ok(())
            }
            Method::NotJson => Err(ErrorCode::BadRequest.into()),
        }
    }

    fn handle_connect(
        &mut self,
        id: u32,
        mut connect: command::Connect<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if !matches!(self.phase, SessionPhase::Fresh | SessionPhase::Refused) || id == 0 {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        self.take_emulated(connect.headers.take(), cx.environment.emulated_headers())?;
        let since = |channel: &str| {
            let since = connect.since(channel).filter(|since| since.recover)?;
            Some(position(since.offset, &since.epoch))
        };
        let token = match &*connect.token {
            "" => self.shown().unwrap_or(""),
            own => own,
        };
        if token.is_empty() && cx.environment.hooks().connect {
            let names = connect.subs.iter().map(|(channel, _)| ChannelName::from(channel.as_ref()));
            let recover = names.clone().filter_map(|name| Some((name.clone(), since(&name)?))).collect();
            let hook_request = HookRequest::Connect {
                data: copy(connect.data),
                name: connect.name.as_ref().into(),
                version: connect.version.as_ref().into(),
                channels: names.collect(),
            };
            self.phase = SessionPhase::Connecting;
            self.ask(About::Connect { id, recover }, hook_request, cx);
            return Ok(());
        }
        let admitted = rights::admit(token, cx)?;
        self.begin(id, admitted, since, cx)
    }

    /// The client is let in: it is connected once its server-side subscriptions are.
    pub(super) fn begin(
        &mut self,
        id: u32,
        admitted: Admitted,
        since: impl Fn(&str) -> Option<Since>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if rights::is_blocked(cx.environment, admitted.user.as_deref().unwrap_or(""), cx.unix_s) {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        self.forget_shown();
        let subscribes = server_side(admitted.subs, admitted.user.as_deref(), admitted.renewal, since, cx)?;
        let identity = Identity {
            user: admitted.user,
            conn_info: admitted.conn_info,
            meta: admitted.meta.map(Box::new),
            expire_at_s: admitted.expire_at_s,
            renewal: admitted.renewal,
            origin: self.identity.take().and_then(|known| known.origin),
            device: admitted.device.map(|device| Box::new(device.into())),
            token_id: admitted.token_id.map(|id| Box::new(id.into())),
            shared: None,
        };
        self.identity = (identity != Identity::default()).then(|| Box::new(identity));
        let awaits_place = cx.environment.limits_users() && self.user().is_some();
        if subscribes.is_empty() && !awaits_place {
            self.reply_connected(id, &[], admitted.data.as_deref(), cx);
            return Ok(());
        }
        self.phase = SessionPhase::Connecting;
        let outstanding = subscribes.len() as u32;
        let mut connecting =
            Connecting { id, outstanding, done: Vec::new(), data: admitted.data, behind_place: None };
        if awaits_place {
            connecting.behind_place = Some(subscribes);
            cx.effects.push(Effect::TakePlace);
        } else {
            cx.effects.extend(subscribes.into_iter().map(Effect::Subscribe));
        }
        self.extras_mut().waits = Some(Box::new(Waits::Joins(connecting)));
        Ok(())
    }

    fn handle_subscribe(
        &mut self,
        id: u32,
        mut subscribe: command::Subscribe<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        /// The client would rather be refused than subscribe without what it missed.
        const REJECT_UNRECOVERED: i64 = 2;
        if subscribe.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if subscribe.kind != 0 {
            // Granted as another kind, it would be another subscription than the one asked for.
            return Err(ErrorCode::BadRequest.into());
        }
        let filter = subscribe.filter.take().transpose().map_err(|_| ErrorCode::BadRequest)?;
        let rejects = subscribe.flag & REJECT_UNRECOVERED != 0;
        let wish = Wish {
            id,
            channel: subscribe.channel.as_ref().into(),
            positioned: subscribe.positioned,
            // An SDK that loads its state by itself says no more than that it wants to recover, or be refused.
            recoverable: subscribe.recoverable || subscribe.recover && rejects,
            join_leave: subscribe.join_leave,
            since: subscribe.recover.then(|| position(subscribe.offset, &subscribe.epoch)),
            reject_unrecovered: rejects,
            shape: Shape::named(&subscribe.shape),
            filter: filter.map(|filter| *filter),
        };
        let rights = self.may_begin(&wish.channel, cx)?;
        rights::reads(cx.out.format(), rights.payload)?;
        if wish.filter.is_some() && !rights.tags_filter {
            return Err(ErrorCode::BadRequest.into());
        }
        if rights.reads_token() && !subscribe.token.is_empty() {
            let user = self.user().map_or("", |user| user);
            let granted = rights::subscription(&subscribe.token, &subscribe.channel, user, None, cx);
            let granted = granted.map_err(TokenFault::of_subscription)?;
            subscribe_to(wish, rights, granted, Renewal::Token, cx);
            return Ok(());
        }
        if rights.subscribe_hook {
            let hook_request = HookRequest::Subscribe {
                channel: wish.channel.clone(),
                token: Box::default(),
                data: copy(subscribe.data),
            };
            self.ask(About::Subscribe { wish, revoked: false }, hook_request, cx);
            return Ok(());
        }
        if !rights.may(Deed::Subscribe, false) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        subscribe_to(wish, rights, Granted::default(), Renewal::Token, cx);
        Ok(())
    }

    /// What the channel's namespace allows, if the client could subscribe to it now.
    pub(super) fn may_begin(&self, channel: &str, cx: &Context<'_>) -> Result<Rights, ErrorCode> {
        let user = self.user().map_or("", |user| user);
        if rights::is_blocked(cx.environment, user, cx.unix_s) {
            return Err(ErrorCode::PermissionDenied);
        }
        let rights = rights::of_user(cx.environment, channel, user)?;
        if cx.environment.find(channel).is_some_and(|index| self.sub(index).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if self.subs.len() >= cx.environment.channels_max() {
            return Err(ErrorCode::LimitExceeded);
        }
        Ok(rights)
    }

    fn handle_refresh(&mut self, id: u32, token: &str, cx: &mut Context<'_>) -> Result<(), Failure> {
        if cx.environment.verifier().is_none() {
            return Err(ErrorCode::NotAvailable.into());
        }
        if token.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let user = self.user().cloned();
        if rights::is_blocked(cx.environment, user.as_deref().unwrap_or(""), cx.unix_s) {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        let claims = rights::refresh(token, user.as_deref().unwrap_or(""), self.expire_at_s(), cx)?;
        let ConnectClaims { expire_at_s, info, meta, subs, id: token_id, .. } = claims;
        let expire_at_s = expire_at_s.unwrap_or(0);
        let subs =
            subs.into_iter().map(|(name, grant)| (name.into(), Granted { grant, expire_at_s: 0 })).collect();
        let subs = server_side(subs, user.as_deref(), Renewal::Token, |_| None, cx)?;
        self.regrant(subs, cx)?;
        let identity = self.identity.get_or_insert_default();
        if identity.conn_info != info {
            cx.effects.push(Effect::InfoChanged { channel: None });
        }
        identity.expire_at_s = expire_at_s;
        (identity.conn_info, identity.meta) = (info, meta.map(Box::new));
        identity.token_id = token_id.map(|id| Box::new(id.into()));
        identity.renewal = Renewal::Token;
        cx.effects.push(Effect::ExpiryChanged);
        let client = cx.client.to_string();
        let lifetime = lifetime(expire_at_s, cx.unix_s);
        cx.reply(id, &Reply::Refresh(RefreshResult { client: &client, version: cx.version, lifetime }));
        Ok(())
    }

    /// Another token grants `subs` in place of what the one before it did: what it leaves out ends, what is new begins.
    /// A subscription that the client or the API made stays as it is.
    fn regrant(&mut self, subs: Vec<SubscribeEffect>, cx: &mut Context<'_>) -> Result<(), Failure> {
        /// What a token decides of a subscription.
        const DECIDED: u32 = Sub::BY_TOKEN
            | Sub::SERVER_SIDE
            | Sub::POSITIONED
            | Sub::RECOVERABLE
            | Sub::NOTICES
            | Sub::LISTED
            | Sub::ANNOUNCED;
        let mut ended = Vec::new();
        let mut kept = Vec::new();
        for sub in self.subs.iter().filter(|sub| sub.is(Sub::BY_TOKEN)) {
            let name = cx.environment.name(sub.channel());
            match subs
                .iter()
                .find(|granted| granted.channel == name && sub.flags() & DECIDED == granted.flags)
                .filter(|granted| self.filters(sub.channel()) == granted.filters.as_ref())
            {
                Some(granted) => {
                    kept.push((sub.channel(), granted.chan_info.clone(), granted.filters.clone()));
                }
                None => ended.push(sub.channel()),
            }
        }
        let begins = |granted: &SubscribeEffect| {
            let known = cx.environment.find(&granted.channel).filter(|index| self.sub(*index).is_some());
            known.is_none_or(|index| ended.contains(&index))
        };
        let begun: Vec<SubscribeEffect> = subs.into_iter().filter(begins).collect();
        if self.subs.len() - ended.len() + begun.len() > cx.environment.channels_max() {
            // Together with what the client chose: it comes back, and the token's have their places before those.
            return Err(Disconnect::FORCE_RECONNECT.into());
        }
        let why = Some(Unsubscribed::Server);
        cx.effects.extend(ended.into_iter().map(|channel| Effect::Unsubscribe { channel, why }));
        cx.effects.extend(begun.into_iter().map(Effect::Subscribe));
        for (channel, chan_info, filters) in kept {
            if self.extra(channel).and_then(|extra| extra.chan_info.as_ref()) == chan_info.as_ref() {
                continue;
            }
            let extras = self.extras_mut();
            extras.subs.retain(|extra| extra.channel != channel);
            extras.subs.push(SubExtra {
                channel,
                chan_info,
                expire_at_s: 0,
                renewal: Renewal::Token,
                shape: Shape::Whole,
                filters,
            });
            cx.effects.push(Effect::InfoChanged { channel: Some(channel) });
        }
        Ok(())
    }

    fn handle_sub_refresh(
        &mut self,
        id: u32,
        channel: &str,
        token: &str,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if cx.environment.verifier().is_none() {
            return Err(ErrorCode::NotAvailable.into());
        }
        if channel.is_empty() || token.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let sub = cx
            .environment
            .find(channel)
            .and_then(|index| self.sub(index))
            .ok_or(ErrorCode::PermissionDenied)?;
        let user = self.user().map_or("", |user| user);
        let expire_at_s = self.extra(sub.channel()).map_or(0, |extra| extra.expire_at_s);
        let granted = match rights::subscription(token, channel, user, Some(expire_at_s), cx) {
            Ok(granted) => granted,
            Err(fault @ (TokenFault::Expired | TokenFault::Over)) => {
                return self.sub_ended(id, sub, fault, cx);
            }
            Err(fault) => return Err(fault.of_subscription().into()),
        };
        let Granted { grant, expire_at_s } = granted;
        let known = self.extra(sub.channel()).and_then(|extra| extra.chan_info.as_ref());
        if known != grant.info.as_ref() {
            cx.effects.push(Effect::InfoChanged { channel: Some(sub.channel()) });
        }
        let shape = self.shape(sub.channel());
        let known = self.filters(sub.channel()).cloned();
        if sub.is(Sub::SERVER_SIDE) && grant.filter != known.as_ref().and_then(|known| known.imposed.clone())
        {
            // The client cannot subscribe again by itself.
            return Err(Disconnect::FORCE_RECONNECT.into());
        }
        if grant.filter.is_some() && grant.filter != known.as_ref().and_then(|known| known.imposed.clone()) {
            // Who subscribes again has the filter from the beginning, and nothing of what it had by the one before is lost.
            let why = Some(Unsubscribed::StateInvalidated);
            cx.effects.push(Effect::Unsubscribe { channel: sub.channel(), why });
        }
        let extras = self.extras_mut();
        extras.subs.retain(|extra| extra.channel != sub.channel());
        extras.subs.push(SubExtra {
            channel: sub.channel(),
            chan_info: grant.info,
            expire_at_s,
            renewal: Renewal::Token,
            shape,
            filters: known,
        });
        cx.effects.push(Effect::ExpiryChanged);
        cx.reply(id, &Reply::SubRefresh(lifetime(expire_at_s, cx.unix_s)));
        Ok(())
    }

    /// The token that was to make a subscription last longer has expired. After an error that is not temporary an SDK
    /// gives the subscription up for good; after its end by 2501 it subscribes again, with another token.
    fn sub_ended(
        &mut self,
        id: u32,
        sub: Sub,
        fault: TokenFault,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if sub.is(Sub::SERVER_SIDE) {
            // The client cannot subscribe by itself: it comes back, and the server decides again.
            return Err(Disconnect::SUBSCRIPTION_EXPIRED.into());
        }
        let error_code = fault.of_subscription();
        cx.reply(id, &Reply::Error(ErrorRef { temporary: true, ..error_code.into() }));
        cx.effects.push(Effect::Refused(error_code));
        cx.effects.push(Effect::Unsubscribe { channel: sub.channel(), why: Some(Unsubscribed::Expired) });
        Ok(())
    }

    /// # Errors
    /// 3501 for a pong to no ping.
    pub(super) fn handle_pong(&mut self) -> Result<(), Disconnect> {
        match std::mem::take(&mut self.ping_outstanding) {
            true => Ok(()),
            false => Err(Disconnect::BAD_REQUEST),
        }
    }

    /// What the client may do with the channel, and whether it is subscribed.
    pub(super) fn rights(&self, channel: &str, cx: &Context<'_>) -> Result<(Rights, bool), Failure> {
        if channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let rights = rights::of_user(cx.environment, channel, self.user().map_or("", |user| user))?;
        // A subscription that is still being asked for counts: its channel's owner hears of it first.
        let subscribed = cx.environment.find(channel).is_some_and(|index| self.sub(index).is_some());
        Ok((rights, subscribed))
    }

    /// The client's subscription to the channel has a filter that is not its own choice.
    fn is_filtered_by_server(&self, channel: &str, cx: &Context<'_>) -> bool {
        let filters = cx.environment.find(channel).and_then(|index| self.filters(index));
        filters.is_some_and(|filters| filters.imposed.is_some())
    }

    /// Publishes, or asks the backend first. `receipt`: see [`Effect::Publish`].
    pub(super) fn publish(
        &mut self,
        id: u32,
        channel: ChannelName,
        data: Bytes,
        (rights, subscribed): (&Rights, bool),
        receipt: Option<Box<str>>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let form = rights.payload;
        if rights.asks_about_publishing(subscribed) {
            let hook_request = HookRequest::Publish { channel: channel.clone(), data: data.clone(), form };
            self.ask(About::Publish { id, channel, data, receipt }, hook_request, cx);
            return Ok(());
        }
        if !rights.may(Deed::Publish, subscribed) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let echoes = rights.publisher_gets_own;
        cx.effects.push(Effect::Publish { id, channel, data, form, changes: None, echoes, receipt });
        Ok(())
    }

    fn presence_of(&self, channel: &str, cx: &Context<'_>) -> Result<ChannelName, Failure> {
        let (rights, subscribed) = self.rights(channel, cx)?;
        if !rights.keeps_presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        if !rights.may(Deed::ReadPresence, subscribed) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        Ok(channel.into())
    }
}

/// The server-side subscriptions of a client: those of its token or hook, and its user's personal channel.
fn server_side(
    granted: Vec<(ChannelName, Granted)>,
    user: Option<&str>,
    renewal: Renewal,
    since: impl Fn(&str) -> Option<Since>,
    cx: &Context<'_>,
) -> Result<Vec<SubscribeEffect>, Failure> {
    let granted_by = if renewal == Renewal::Token { Sub::BY_TOKEN } else { 0 };
    let mut subscribes = Vec::new();
    for (channel, Granted { grant, expire_at_s }) in rights::with_personal(granted, user, cx.environment) {
        let rights = overridden(cx.environment.rights(&channel)?, &grant.overrides);
        rights::reads(cx.out.format(), rights.payload)?;
        if subscribes.len() == cx.environment.channels_max() {
            return Err(Disconnect::CHANNEL_LIMIT.into());
        }
        let flags = Sub::SERVER_SIDE | sub_flags(&rights, true, true, true);
        let since = since(&channel)
            .filter(|_| flags & Sub::RECOVERABLE != 0)
            .or_else(|| rights::newest(&rights, grant.rewind, cx.unix_s));
        subscribes.push(SubscribeEffect {
            id: 0,
            channel,
            flags: flags | granted_by,
            since,
            reject_unrecovered: false,
            chan_info: grant.info,
            expire_at_s,
            renewal: Renewal::by_hook(expire_at_s, rights.sub_refresh_hook),
            data: grant.data,
            filters: filters(None, grant.filter),
            deliver_every: grant.deliver_every,
        });
    }
    Ok(subscribes)
}

/// Whether a command counts against the limit of commands in a time: all that cause work for others. Not those that keep
/// a connection alive or end something.
fn is_limited(method: &Method<'_>) -> bool {
    !matches!(method, Method::Connect(_) | Method::Ping | Method::Pong | Method::Unsubscribe { .. })
}

/// A payload of the peer's, JSON by now, for as long as the backend takes.
fn copy(data: Option<Data<'_>>) -> Option<Bytes> {
    data.and_then(Data::as_json).map(|json| Bytes::copy_from_slice(json.as_bytes()))
}

fn position(offset: u64, epoch: &str) -> Since {
    Since { offset: Offset(offset), epoch: SinceEpoch::from_wire(epoch) }
}
