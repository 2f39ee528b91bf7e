//! Who may do what in a channel: by its namespace, by its name, by a token.
//!
//! A *user-limited* channel says in its name whom it is for: `chat#ann,bob` is for the users `ann` and `bob` alone, who
//! need no token and of whom no hook is asked. Its namespace must have `allow_user_limited_channels`; elsewhere a `#` is
//! a character like any other.
//!
//! A *private* channel's name begins with the configured prefix: whatever its namespace allows, a subscription needs a
//! token. An *anonymous* client is one without a user: what a namespace lets clients do counts for it where the namespace
//! says so as well, whoever let it in. What the server itself subscribes a client to (by token, hook or API) is its own decision
//! and not held to this.

use std::sync::Arc;

use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::filter::{Filter, Filters};
use crate::base::ids::{ChannelName, Offset};
use crate::base::publication::{PayloadForm, Since, SinceEpoch, Visibility};
use crate::base::rewind::Rewind;
use crate::proto::centrifuge::Format;
use crate::session::context::{
    Admitted, Context, Effect, Failure, Rights, SessionEnvironment, SubscribeEffect,
};
use crate::session::hook_call::Granted;
use crate::session::identity::Renewal;
use crate::session::permissions::{Deed, Grantee};
use crate::session::subscription::Sub;
use crate::session::token::{ConnectClaims, Flaw, Overrides, SubscribeClaims, TokenFault};
use crate::session::waits::Wish;

/// Begins the users of a channel's name.
const USERS: char = '#';
/// Stands between them.
const USER_SEPARATOR: char = ',';

/// What `user` (empty: nobody known) may do in the channel.
///
/// # Errors
/// As [`SessionEnvironment::rights`].
pub fn of_user(environment: &dyn SessionEnvironment, channel: &str, user: &str) -> Result<Rights, ErrorCode> {
    Ok(of(environment.rights(channel)?, channel, user))
}

/// What is left of a namespace's rights for `user` in the channel.
fn of(mut rights: Rights, channel: &str, user: &str) -> Rights {
    if user.is_empty() {
        rights.permissions = rights.permissions.of_anonymous();
    }
    if rights.misnamed {
        // As a name that leaves the user out: neither a token nor a hook helps.
        rights.listed = Some(false);
        rights.subscribe_hook = false;
        // Whom the server itself has subscribed is a subscriber, with all that clients may.
        rights.permissions = rights.permissions.for_subscribers_alone();
        return rights;
    }
    if rights.private {
        // Who may not subscribe may not look in from outside.
        rights.permissions = rights.permissions.for_subscribers_alone();
        rights.subscribe_hook = false;
    }
    let users = channel.rsplit_once(USERS).map(|(_, users)| users).filter(|_| rights.user_limited);
    let Some(users) = users else { return rights };
    let listed = !user.is_empty() && users.split(USER_SEPARATOR).any(|known| known == user);
    rights.listed = Some(listed);
    rights.subscribe_hook = false;
    if !listed {
        rights.permissions = rights.permissions.without_clients();
    } else if !rights.private {
        rights.permissions.set(Deed::Subscribe, Grantee::Client, true);
    }
    rights
}

/// Whether publications of the form can be written for clients of the format. JSON has no place for other bytes.
///
/// # Errors
/// 3506, at once and not at the first publication that cannot be written: by then others would be missed.
pub fn reads(format: Format, form: PayloadForm) -> Result<(), Disconnect> {
    match (form, format) {
        (PayloadForm::Bytes, Format::Json) => Err(Disconnect::INAPPROPRIATE_PROTOCOL),
        (PayloadForm::Json, _) | (PayloadForm::Bytes, Format::Protobuf) => Ok(()),
    }
}

/// Server-side subscriptions of a client that connects: the given ones, the user's personal channel and its inbox.
pub(super) fn with_personal(
    mut subs: Vec<(ChannelName, Granted)>,
    user: Option<&str>,
    environment: &dyn SessionEnvironment,
) -> Vec<(ChannelName, Granted)> {
    for own in user.map(|user| own_channels(user, environment)).into_iter().flatten().flatten() {
        if subs.iter().all(|(channel, _)| *channel != own) {
            subs.push((own, Granted::default()));
        }
    }
    subs
}

/// What every connection of a user is subscribed to.
pub(super) fn own_channels(user: &str, environment: &dyn SessionEnvironment) -> [Option<ChannelName>; 2] {
    [environment.personal_channel(user), environment.inbox(user)]
}

/// A claim of the application's own name is none of ours, unless devices are told apart.
pub(super) fn fit_device(
    environment: &dyn SessionEnvironment,
    claims: &ConnectClaims,
) -> Result<(), TokenFault> {
    if claims.device_unfit && environment.tells_devices_apart() { Err(Flaw::Device.into()) } else { Ok(()) }
}

/// Who connects, by the token.
pub(super) fn admit(token: &str, cx: &mut Context<'_>) -> Result<Admitted, Failure> {
    if token.is_empty() {
        return match cx.environment.allows_anonymous() {
            true => Ok(Admitted::default()),
            false => Err(Disconnect::BAD_REQUEST.into()),
        };
    }
    let Some(verifier) = cx.environment.verifier() else { return Err(Disconnect::INVALID_TOKEN.into()) };
    let claims = verifier.verify_connect(token, cx.unix_s);
    let claims = claims.and_then(|claims| {
        not_revoked(cx.environment, claims.id.as_deref(), &claims.user, claims.issued_at_s, cx.unix_s)?;
        fit_device(cx.environment, &claims)?;
        Ok(claims)
    });
    let claims = claims.map_err(|fault| refused_connection(fault, cx))?;
    Ok(Admitted {
        token_id: claims.id,
        device: claims.device,
        user: (!claims.user.is_empty()).then(|| claims.user.as_str().into()),
        conn_info: claims.info,
        meta: claims.meta,
        expire_at_s: claims.expire_at_s.unwrap_or(0),
        renewal: Renewal::Token,
        subs: claims
            .subs
            .into_iter()
            .map(|(channel, grant)| (channel.into(), Granted { grant, expire_at_s: 0 }))
            .collect(),
        data: None,
    })
}

/// A connection of `user` that expires at `expire_at_s` (0: never) goes on, by the token.
pub(super) fn refresh(
    token: &str,
    user: &str,
    expire_at_s: u64,
    cx: &mut Context<'_>,
) -> Result<ConnectClaims, Failure> {
    let Some(verifier) = cx.environment.verifier() else { return Err(ErrorCode::NotAvailable.into()) };
    let claims = verifier.verify_refresh(token, cx.unix_s, expire_at_s);
    let claims = claims.and_then(|claims| match claims.user == user {
        true => Ok(claims),
        false => Err(Flaw::OtherUser.into()),
    });
    let claims = claims.and_then(|claims| {
        not_revoked(cx.environment, claims.id.as_deref(), &claims.user, claims.issued_at_s, cx.unix_s)?;
        Ok(claims)
    });
    claims.map_err(|fault| {
        cx.effects.push(Effect::TokenRefused(fault));
        fault.of_refresh().into()
    })
}

/// What the token grants of a subscription of `user` to the channel. `renews`: one goes on that expires then (0: never);
/// otherwise it begins.
pub(super) fn subscription(
    token: &str,
    channel: &str,
    user: &str,
    renews: Option<u64>,
    cx: &mut Context<'_>,
) -> Result<Granted, TokenFault> {
    let Some(verifier) = cx.environment.verifier() else { return Err(Flaw::NoKey.into()) };
    let claims = match renews {
        None => verifier.verify_subscribe(token, cx.unix_s),
        Some(expire_at_s) => verifier.verify_sub_refresh(token, cx.unix_s, expire_at_s),
    };
    let claims =
        claims.and_then(|claims| is_for(&claims, channel, user, &cx.client.to_string()).map(|()| claims));
    let claims = claims.and_then(|claims| {
        not_revoked(cx.environment, claims.id.as_deref(), &claims.user, claims.issued_at_s, cx.unix_s)?;
        Ok(claims)
    });
    let claims = claims.inspect_err(|fault| cx.effects.push(Effect::TokenRefused(*fault)))?;
    Ok(Granted { grant: claims.grant, expire_at_s: claims.expire_at_s.unwrap_or(0) })
}

/// # Errors
/// [`Flaw::Revoked`]: the token is taken no more.
pub fn not_revoked(
    environment: &dyn SessionEnvironment,
    id: Option<&str>,
    user: &str,
    issued_at_s: Option<u64>,
    unix_s: u64,
) -> Result<(), TokenFault> {
    match environment.blocks().is_some_and(|blocks| blocks.refuses_token(id, user, issued_at_s, unix_s)) {
        true => Err(Flaw::Revoked.into()),
        false => Ok(()),
    }
}

/// Whether the user (empty: nobody known) is not let in, or not any more.
pub fn is_blocked(environment: &dyn SessionEnvironment, user: &str, unix_s: u64) -> bool {
    environment.blocks().is_some_and(|blocks| blocks.refuses_user(user, unix_s))
}

/// Whether a subscription token that holds is one for this subscription.
fn is_for(claims: &SubscribeClaims, channel: &str, user: &str, client: &str) -> Result<(), TokenFault> {
    if claims.channel != channel {
        return Err(Flaw::OtherChannel.into());
    }
    if claims.user != user {
        return Err(Flaw::OtherUser.into());
    }
    if !claims.client.is_empty() && claims.client != client {
        return Err(Flaw::OtherClient.into());
    }
    Ok(())
}

fn refused_connection(fault: TokenFault, cx: &mut Context<'_>) -> Failure {
    cx.effects.push(Effect::TokenRefused(fault));
    fault.of_connection().into()
}

/// The namespace's options as a token changes them for one subscription.
pub fn overridden(mut rights: Rights, overrides: &Overrides) -> Rights {
    let change = |right: &mut bool, to: Option<bool>| *right = to.unwrap_or(*right);
    // Where the namespace keeps none there is no list to be in.
    rights.keeps_presence &= overrides.presence.unwrap_or(true);
    change(&mut rights.join_leave, overrides.join_leave);
    // Who is not to be seen is not told of either, unless that is wanted.
    change(&mut rights.announced, overrides.join_leave.or(overrides.presence.filter(|presence| !presence)));
    change(&mut rights.force_push_join_leave, overrides.force_push_join_leave);
    change(&mut rights.force_positioning, overrides.force_positioning);
    change(&mut rights.force_recovery, overrides.force_recovery);
    rights
}

/// How a subscription is made: what the client asks for, as far as its rights go.
pub fn sub_flags(rights: &Rights, positioned: bool, recoverable: bool, join_leave: bool) -> u32 {
    let recoverable = rights.keeps_history && (recoverable && rights.recovery || rights.force_recovery);
    let positioned = positioned && rights.positioning || rights.force_positioning || recoverable;
    let join_leaves = rights.join_leave && (join_leave || rights.force_push_join_leave);
    let mut flags = flags_of(rights.visibility());
    for (set, flag) in
        [(recoverable, Sub::RECOVERABLE), (positioned, Sub::POSITIONED), (join_leaves, Sub::NOTICES)]
    {
        flags |= if set { flag } else { 0 };
    }
    flags
}

/// Asks the channel's owner, once it is clear that the client may.
pub(super) fn subscribe_to(
    wish: Wish,
    rights: Rights,
    granted: Granted,
    renewal: Renewal,
    cx: &mut Context<'_>,
) {
    let rights = overridden(rights, &granted.grant.overrides);
    let mut flags = sub_flags(&rights, wish.positioned, wish.recoverable, wish.join_leave);
    flags = Sub::with_shape(flags, rights.shapes.grant(wish.shape));
    cx.effects.push(Effect::Subscribe(SubscribeEffect {
        id: wish.id,
        channel: wish.channel,
        flags,
        since: wish
            .since
            .filter(|_| flags & Sub::RECOVERABLE != 0)
            .or_else(|| newest(&rights, granted.grant.rewind, cx.unix_s)),
        reject_unrecovered: wish.reject_unrecovered,
        chan_info: granted.grant.info,
        expire_at_s: granted.expire_at_s,
        renewal,
        data: granted.grant.data,
        filters: filters(wish.filter, granted.grant.filter),
        deliver_every: granted.grant.deliver_every,
    }));
}

/// What a subscription is filtered by: what the client has asked for, and what it was granted with.
pub fn filters(asked: Option<Filter>, imposed: Option<Filter>) -> Option<Arc<Filters>> {
    Some(Filters { asked, imposed }).filter(|filters| !filters.is_none()).map(Arc::new)
}

/// From where a new subscriber gets what was published before it, if it does: as it was granted, else as the namespace says.
pub(super) fn newest(rights: &Rights, granted: Option<Rewind>, unix_s: u64) -> Option<Since> {
    if !rights.keeps_history {
        return None;
    }
    match granted.or(rights.rewind) {
        Some(rewind) => rewind.since(unix_s),
        None => rights.gets_newest.then_some(Since { offset: Offset(0), epoch: SinceEpoch::Any }),
    }
}

/// The flags of a subscription that others see so.
pub fn flags_of(Visibility { listed, announced }: Visibility) -> u32 {
    (if listed { Sub::LISTED } else { 0 }) | (if announced { Sub::ANNOUNCED } else { 0 })
}

/// How others see the subscriber whose subscription has these flags.
pub fn visibility(flags: u32) -> Visibility {
    Visibility { listed: flags & Sub::LISTED != 0, announced: flags & Sub::ANNOUNCED != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::context::WantedHooks;
    use crate::session::permissions::Permissions;
    use crate::session::subscription::ChannelIndex;
    use crate::session::token::Verifier;

    /// Everything is allowed; `limited` says whether names count. Channels that begin with `$` are private, and those
    /// that begin with `known` are closed to the anonymous.
    struct Everything {
        limited: bool,
    }

    impl SessionEnvironment for Everything {
        fn rights(&self, channel: &str) -> Result<Rights, ErrorCode> {
            if channel.is_empty() {
                return Err(ErrorCode::BadRequest);
            }
            let permissions = match channel.starts_with("known") {
                true => [Deed::Subscribe, Deed::Publish, Deed::ReadHistory, Deed::ReadPresence]
                    .into_iter()
                    .fold(Permissions::ALL, |all, deed| all.with(deed, Grantee::Anonymous, false)),
                false => Permissions::ALL,
            };
            Ok(Rights {
                private: channel.starts_with('$'),
                permissions,
                user_limited: self.limited,
                subscribe_hook: true,
                publish_hook: true,
                ..Rights::default()
            })
        }

        fn find(&self, _: &str) -> Option<ChannelIndex> {
            None
        }

        fn verifier(&self) -> Option<&Verifier> {
            None
        }

        fn allows_anonymous(&self) -> bool {
            true
        }

        fn limits_users(&self) -> bool {
            false
        }

        fn channels_max(&self) -> usize {
            1
        }

        fn name(&self, _: ChannelIndex) -> ChannelName {
            unreachable!("there is no channel")
        }

        fn hooks(&self) -> WantedHooks {
            WantedHooks::default()
        }

        fn emulated_headers(&self) -> &[Box<str>] {
            &[]
        }

        fn personal_channel(&self, user: &str) -> Option<ChannelName> {
            self.limited.then(|| format!("#{user}").into())
        }
    }

    #[test]
    fn a_name_that_the_namespace_does_not_allow_is_nobody_s_by_asking() {
        let mut rights = Everything { limited: true }.rights("chat#ann").unwrap();
        rights.misnamed = true;
        for user in ["ann", "bob", ""] {
            let rights = of(rights, "chat#ann", user);
            assert!(!rights.may(Deed::Subscribe, false) && !rights.reads_token() && !rights.subscribe_hook);
            assert!(!rights.may(Deed::ReadHistory, false) && !rights.may(Deed::Publish, false));
            assert!(!rights.asks_about_publishing(false), "{user}");
        }
        // Whom the server subscribed is a subscriber all the same, also where only clients' rights are configured.
        assert!(of(rights, "chat#ann", "bob").may(Deed::ReadHistory, true));
        rights.permissions = Permissions::default().with(Deed::Publish, Grantee::Client, true);
        let rights = of(rights, "chat", "bob");
        assert!(rights.may(Deed::Publish, true) && !rights.may(Deed::Publish, false));
    }

    fn listed(channel: &str, user: &str) -> Option<bool> {
        of_user(&Everything { limited: true }, channel, user).unwrap().listed
    }

    #[test]
    fn the_name_lists_its_users_behind_the_last_mark() {
        for (channel, user, expected) in [
            ("news", "ann", None),
            ("news#ann", "ann", Some(true)),
            ("ns:news#ann,bob", "bob", Some(true)),
            ("ns:news#ann,bob", "bo", Some(false)),
            ("ns:news#ann,bob", "ann,bob", Some(false)),
            ("news#ann#bob", "bob", Some(true)),
            ("news#ann#bob", "ann", Some(false)),
            ("news#ann", "", Some(false)),
            ("news#", "", Some(false)),
            ("news#,", "", Some(false)),
            ("#ann", "ann", Some(true)),
            ("#ann", "Ann", Some(false)),
        ] {
            assert_eq!(listed(channel, user), expected, "{channel} for {user:?}");
        }
    }

    #[test]
    fn a_stranger_may_nothing_that_needs_no_subscription() {
        let of = |user| of_user(&Everything { limited: true }, "news#ann", user).unwrap();
        let stranger = of("bob");
        assert_eq!(may(&stranger, false), [false; 4]);
        assert_eq!(may(&stranger, true)[1..], [true; 3], "whom the server subscribes is a subscriber");
        let ann = of("ann");
        assert!(
            !ann.subscribe_hook && ann.publish_hook,
            "nobody is asked whether who is listed may subscribe"
        );
        assert!(!stranger.subscribe_hook && !stranger.asks_about_publishing(false), "nor about who is not");
        assert!(
            stranger.asks_about_publishing(true),
            "but about what a subscriber says, however it became one"
        );
        assert_eq!(may(&ann, false), [true; 4]);
        let unlimited = of_user(&Everything { limited: false }, "news#ann", "bob").unwrap();
        assert!(may(&unlimited, false)[0] && unlimited.listed.is_none(), "elsewhere the mark means nothing");
        assert_eq!(
            of_user(&Everything { limited: true }, "", "ann").map(|rights| rights.listed),
            Err(ErrorCode::BadRequest)
        );
    }

    const DEEDS: [Deed; 4] = [Deed::Subscribe, Deed::Publish, Deed::ReadHistory, Deed::ReadPresence];

    /// Each of [`DEEDS`], from outside or as a subscriber.
    fn may(rights: &Rights, subscribed: bool) -> [bool; 4] {
        DEEDS.map(|deed| rights.may(deed, subscribed))
    }

    /// The same of a channel, from outside and as a subscriber.
    fn allowed(channel: &str, user: &str) -> [[bool; 4]; 2] {
        let rights = of_user(&Everything { limited: false }, channel, user).unwrap();
        [may(&rights, false), may(&rights, true)]
    }

    #[test]
    fn what_clients_may_counts_for_those_without_a_user_where_the_namespace_says_so() {
        let (all, nothing) = ([[true; 4]; 2], [[false; 4]; 2]);
        assert_eq!([allowed("open", "ann"), allowed("open", "")], [all; 2]);
        assert_eq!((allowed("known", "ann"), allowed("known", "")), (all, nothing));
        // Each of the four for itself.
        for deed in DEEDS {
            let mut rights = Everything { limited: false }.rights("known").unwrap();
            rights.permissions.set(deed, Grantee::Anonymous, true);
            let rights = of(rights, "known", "");
            let only = DEEDS.map(|other| other == deed);
            assert_eq!([may(&rights, false), may(&rights, true)], [only; 2], "{deed:?}");
        }
        // The backend's word counts for everybody.
        assert!(of_user(&Everything { limited: false }, "known", "").unwrap().subscribe_hook);
    }

    #[test]
    fn a_private_channel_needs_a_token_whatever_else_is_allowed() {
        for user in ["ann", ""] {
            let subscriber = [false, true, true, true];
            assert_eq!(allowed("$secret", user), [[false; 4], subscriber], "{user:?}");
        }
        let of = |channel, user| of_user(&Everything { limited: true }, channel, user).unwrap();
        assert!(!of("$secret", "ann").subscribe_hook, "a hook is no token");
        let listed = of("$secret#ann", "ann");
        assert!(!listed.may(Deed::Subscribe, false) && listed.reads_token(), "nor is a name");
        assert!(!of("$secret#ann", "bob").reads_token(), "a token is no name");
        assert!(of("news", "bob").reads_token() && !of("news#ann", "ann").reads_token());
    }

    #[test]
    fn a_subscription_is_shown_as_its_grant_says() {
        let seen = Visibility { listed: true, announced: true };
        let shown = |namespace: Visibility, presence, join_leave| {
            let rights = Rights {
                keeps_presence: namespace.listed,
                join_leave: namespace.announced,
                announced: namespace.announced,
                ..Rights::default()
            };
            let overrides = Overrides { presence, join_leave, ..Overrides::default() };
            let rights = overridden(rights, &overrides);
            let shown = visibility(sub_flags(&rights, true, true, true));
            assert_eq!(shown, rights.visibility());
            (shown.listed, shown.announced)
        };
        let nobody = Visibility::default();
        assert_eq!([shown(seen, None, None), shown(nobody, None, None)], [(true, true), (false, false)]);
        assert_eq!(shown(seen, Some(false), None), (false, false), "who is hidden is not announced");
        assert_eq!(shown(seen, Some(false), Some(true)), (false, true));
        assert_eq!(shown(seen, Some(true), Some(false)), (true, false));
        assert_eq!(shown(nobody, None, Some(true)), (false, true));
        assert_eq!(shown(nobody, Some(true), None), (false, false), "there is no list to be in");
        // Who is hidden hears of others as ever.
        let rights = Rights { keeps_presence: true, join_leave: true, announced: true, ..Rights::default() };
        let hidden = overridden(rights, &Overrides { presence: Some(false), ..Overrides::default() });
        assert_ne!(sub_flags(&hidden, false, false, true) & Sub::NOTICES, 0);
    }

    #[test]
    fn the_personal_channel_is_added_once_and_to_nobody_without_a_name() {
        let on = Everything { limited: true };
        let names = |subs: Vec<(ChannelName, Granted)>| -> Vec<String> {
            subs.into_iter().map(|(channel, _)| channel.to_string()).collect()
        };
        let given = |names: &[&str]| -> Vec<(ChannelName, Granted)> {
            names.iter().map(|name| ((*name).into(), Granted::default())).collect()
        };
        assert_eq!(names(with_personal(given(&["a"]), Some("ann"), &on)), ["a", "#ann"]);
        assert_eq!(names(with_personal(given(&["#ann"]), Some("ann"), &on)), ["#ann"]);
        assert_eq!(names(with_personal(given(&["a"]), None, &on)), ["a"]);
        assert_eq!(names(with_personal(given(&["a"]), Some("ann"), &Everything { limited: false })), ["a"]);
    }
}
