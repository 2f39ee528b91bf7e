//! What a channel keeps and shows, by its namespace. What clients may do there is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::publication::{Contents, PayloadForm};
use crate::base::time::Time;
use crate::hub::log_store::Durable;

/// What happens to a subscriber whose cursor has fallen off the log's tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GapPolicy {
    /// The client gets "insufficient state" and resubscribes from a position it can know.
    #[default]
    Tell,
    /// The client skips to the newest publication: right for values, wrong for messages.
    Latest,
    /// The connection is closed as slow (3008).
    Close,
}

/// What a client that was away gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// Everything that it missed, or the word that it cannot.
    #[default]
    Stream,
    /// The newest publication alone: each holds the whole state.
    Cache,
}

/// Who is one member of a channel to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresenceBy {
    /// Every connection.
    #[default]
    Client,
    /// A user, with any number of connections. Of the anonymous, every connection.
    User,
}

/// What the log of a channel keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelKind {
    /// Publications one after the other.
    #[default]
    Stream,
    /// The newest publication of each key.
    Value,
}

/// What subscribers are given of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// All of it.
    #[default]
    Publication,
    /// That there is one, and its position. See [`crate::hub::notice`].
    Notice,
    /// The same, with the next ping of each connection.
    NoticeWithPing,
}

/// What the channels of one namespace need: their logs, rosters and subscribers' lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    pub kind: ChannelKind,
    /// Keys that a value channel may have a value of. At the bound a publication of another key is refused (106).
    pub keys_max: usize,
    /// Bytes of a key. Longer ones are refused (107).
    pub key_bytes_max: usize,
    /// Publications kept for recovery and history; 0 keeps none.
    pub history_size: usize,
    /// How long each is kept; zero keeps none.
    pub history_ttl: Duration,
    /// How long an empty, unused channel remembers its offset and epoch.
    pub history_meta_ttl: Duration,
    pub presence: bool,
    pub join_leave: bool,
    pub presence_by: PresenceBy,
    /// How long after it a leave is said, if whoever left is not back by then.
    pub leave_delay: Duration,
    /// Joins and leaves that are said in one channel; 0: any number.
    pub join_leave_per_second: u32,
    /// Most members of a channel whose joins and leaves are said; 0: any number.
    pub join_leave_members_max: u32,
    /// The value channel that hears how many are subscribed, by the channel's name as key.
    pub occupancy: Option<String>,
    pub gap: GapPolicy,
    pub recovery_mode: RecoveryMode,
    pub payload: PayloadForm,
    pub durable: Durable,
    /// How long after the start of a batch the next one begins at the earliest; zero does not wait.
    pub batch_max_delay: Duration,
    pub deliver: Deliver,
    /// A subscriber gets what has come at most once in this time; zero: at once.
    pub deliver_every: Duration,
    /// Members have cursors, which their acknowledgements move.
    pub cursors: bool,
    /// Most of one channel. At the bound an acknowledgement that needs one more is refused (106).
    pub cursors_max: usize,
    /// Who becomes a subscriber hears with it where its user stands.
    pub cursors_in_data: bool,
    /// How long members have to acknowledge a publication before the backend hears who has not; zero: it does not.
    pub ack_timeout: Duration,
    /// Clients that publish hear how many have got it.
    pub receipts: bool,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions {
            kind: ChannelKind::Stream,
            // A page of quotes. A new subscriber gets all values in one message.
            keys_max: 1_000,
            // Long enough for two UUIDs.
            key_bytes_max: 128,
            history_size: 0,
            history_ttl: Duration::ZERO,
            history_meta_ttl: Duration::from_secs(30 * 24 * 3600),
            presence: false,
            join_leave: false,
            presence_by: PresenceBy::Client,
            leave_delay: Duration::ZERO,
            join_leave_per_second: 0,
            join_leave_members_max: 0,
            occupancy: None,
            gap: GapPolicy::Tell,
            recovery_mode: RecoveryMode::Stream,
            payload: PayloadForm::Json,
            durable: Durable::No,
            batch_max_delay: Duration::ZERO,
            deliver: Deliver::Publication,
            deliver_every: Duration::ZERO,
            cursors: false,
            // A group of thousands with several devices each.
            cursors_max: 10_000,
            cursors_in_data: false,
            ack_timeout: Duration::ZERO,
            receipts: false,
        }
    }
}

impl ChannelOptions {
    /// Makes the payload what is kept and delivered, if it is one of the namespace's form.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`]: bytes, where subscribers read JSON.
    pub fn admit(&self, payload: &mut Bytes, contents: Contents) -> Result<(), ErrorCode> {
        match (self.payload, contents) {
            (PayloadForm::Bytes, _) | (PayloadForm::Json, Contents::Line) => {}
            (PayloadForm::Json, Contents::Json) => *payload = one_line(payload),
            (PayloadForm::Json, Contents::Bytes) => return Err(ErrorCode::BadRequest),
        }
        Ok(())
    }

    /// Joins and leaves are not simply said when they happen.
    pub fn paces_events(&self) -> bool {
        self.presence_by == PresenceBy::User
            || !self.leave_delay.is_zero()
            || self.join_leave_per_second > 0
            || self.join_leave_members_max > 0
    }

    pub fn keeps_history(&self) -> bool {
        self.is_value() || self.history_size > 0 && !self.history_ttl.is_zero()
    }

    /// Something follows from a publication when it is acknowledged, or is not.
    pub fn watches(&self) -> bool {
        self.cursors && (self.receipts || !self.ack_timeout.is_zero())
    }

    /// Publications need not be JSON.
    pub fn is_of_bytes(&self) -> bool {
        self.payload == PayloadForm::Bytes
    }

    pub fn is_value(&self) -> bool {
        self.kind == ChannelKind::Value
    }

    pub fn is_notice(&self) -> bool {
        self.deliver != Deliver::Publication
    }

    /// Of what waits for a delivery, a newer publication replaces an older one: of its key, or the only one.
    pub fn conflates(&self) -> bool {
        self.is_value() || self.is_notice()
    }

    /// Values stay until they are removed.
    pub fn keeps_for_ever(&self) -> bool {
        self.is_value() && self.history_ttl.is_zero()
    }

    /// When a publication of `now` is over.
    pub fn expires(&self, now: Time) -> Time {
        if self.keeps_for_ever() { Time::NEVER } else { now + self.history_ttl }
    }

    /// How long after the start of a batch the next one begins at the earliest.
    pub fn gathers(&self) -> Duration {
        self.batch_max_delay.max(self.deliver_every)
    }
}

/// Line feeds separate messages on the wire of those who read JSON, so a payload may hold none. In checked JSON they stand
/// between tokens only, where a blank means the same.
pub fn one_line(json: &[u8]) -> Bytes {
    let blank = |byte: &u8| if is_break(byte) { b' ' } else { *byte };
    json.iter().map(blank).collect::<Vec<u8>>().into()
}

pub fn is_break(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// All namespaces of a node. A channel's namespace is what stands before the first `:` of its name, the private prefix
/// apart; a name without one belongs to the default namespace.
#[derive(Clone, Debug)]
pub struct Namespaces<O = ChannelOptions> {
    default: Arc<O>,
    named: BTreeMap<Box<str>, Arc<O>>,
    name_bytes_max: usize,
    /// Begins the names of private channels; empty: no channel is private.
    private_prefix: Box<str>,
}

impl<O> Namespaces<O> {
    pub fn new(
        default: O,
        named: impl IntoIterator<Item = (String, O)>,
        name_bytes_max: usize,
    ) -> Namespaces<O> {
        Namespaces {
            default: Arc::new(default),
            named: named.into_iter().map(|(name, options)| (name.into(), Arc::new(options))).collect(),
            name_bytes_max,
            private_prefix: Box::default(),
        }
    }

    /// Channels whose name begins with `prefix` are private.
    pub fn with_private_prefix(mut self, prefix: &str) -> Namespaces<O> {
        self.private_prefix = prefix.into();
        self
    }

    /// The same namespaces with other options.
    pub fn map<P>(&self, mut f: impl FnMut(&O) -> P) -> Namespaces<P> {
        Namespaces {
            default: Arc::new(f(&self.default)),
            named: self.named.iter().map(|(name, options)| (name.clone(), Arc::new(f(options)))).collect(),
            name_bytes_max: self.name_bytes_max,
            private_prefix: self.private_prefix.clone(),
        }
    }

    pub fn is_private(&self, name: &str) -> bool {
        !self.private_prefix.is_empty() && name.starts_with(&*self.private_prefix)
    }

    /// What stands behind the private prefix and the namespace in a channel's name.
    pub fn behind_namespace<'n>(&self, name: &'n str) -> &'n str {
        let name = name.strip_prefix(&*self.private_prefix).unwrap_or(name);
        name.split_once(':').map_or(name, |(_, rest)| rest)
    }

    pub fn private_prefix(&self) -> &str {
        &self.private_prefix
    }

    pub fn default_options(&self) -> &O {
        &self.default
    }

    pub fn named(&self) -> impl Iterator<Item = (&str, &O)> {
        self.named.iter().map(|(name, options)| (&**name, &**options))
    }

    /// The options of every namespace, the default one included.
    pub fn all(&self) -> impl Iterator<Item = &O> {
        std::iter::once(&*self.default).chain(self.named.values().map(|options| &**options))
    }

    /// The options of the channel `name`.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a name that is empty, too long, or has control characters;
    /// [`ErrorCode::UnknownChannel`] for a namespace that is not configured.
    pub fn resolve(&self, name: &str) -> Result<&Arc<O>, ErrorCode> {
        if name.is_empty() || name.len() > self.name_bytes_max || name.bytes().any(|b| b < 0x20 || b == 0x7f)
        {
            return Err(ErrorCode::BadRequest);
        }
        let name = name.strip_prefix(&*self.private_prefix).unwrap_or(name);
        match name.split_once(':') {
            None => Ok(&self.default),
            Some((namespace, _)) => self.named.get(namespace).ok_or(ErrorCode::UnknownChannel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_of_its_namespaces_form() {
        let of = |payload| ChannelOptions { payload, ..ChannelOptions::default() };
        let (json, bytes) = (of(PayloadForm::Json), of(PayloadForm::Bytes));
        let admitted = |options: &ChannelOptions, mut payload: Bytes, contents| {
            options.admit(&mut payload, contents).map(|()| payload)
        };
        let lines = Bytes::from_static(b"{\r\n\"a\":\n\"\\n\"}");
        assert_eq!(
            admitted(&json, lines.clone(), Contents::Json),
            Ok(Bytes::from_static(b"{  \"a\": \"\\n\"}"))
        );
        assert_eq!(
            admitted(&bytes, lines.clone(), Contents::Json),
            Ok(lines.clone()),
            "bytes stay what they are"
        );
        for options in [&json, &bytes] {
            let line = admitted(options, Bytes::from_static(b"[1]"), Contents::Line);
            assert_eq!(line, Ok(Bytes::from_static(b"[1]")));
        }
        let other = Bytes::from_static(b"\xff\n");
        assert_eq!(admitted(&json, other.clone(), Contents::Bytes), Err(ErrorCode::BadRequest));
        assert_eq!(admitted(&bytes, other.clone(), Contents::Bytes), Ok(other));
    }
}
