//! The bounds of one shard's hub, each with its unit, its reason, and what happens there.

use std::time::Duration;

use crate::base::deliver_every::DELIVER_EVERY_MS_MAX;

/// How long a repeat of an idempotency key is recognised. Five minutes is what backends of the Centrifuge ecosystem
/// count on.
pub const IDEMPOTENCY_KEY_TTL: Duration = Duration::from_secs(300);

/// How long a channel of a namespace without history outlives its last use. Clients come back within 20 s of a broken
/// connection and positions are re-checked about every 40 s: until then the same offsets and epoch must be found,
/// and after that nobody can still ask for them.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// How long a bulk publication waits at most for a moment without other deliveries before it takes its turn among them:
/// long enough to let a burst pass, short enough that "later" is not "never" on a busy shard.
pub const BULK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Between two looks at a channel whose deliveries are spread. A hundred subscribers over a second are then reached one at a
/// time, ten thousand in fifties, and a shard wakes two hundred times a second at most.
pub const SPREAD_STEP: Duration = Duration::from_millis(5);

/// Payload bytes that one shard holds back for spread, bulk and gathered deliveries. What comes above is delivered at once: a
/// window of an hour must not keep an hour of payloads.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// When a follower asks a channel's owner again for what it is missing: an owner of this node has answered long before, and
/// one that is away is not asked more often by each channel.
pub const READ_AGAIN: Duration = Duration::from_secs(1);

/// Payload bytes of one answer to a follower that is missing something in a channel. What is missing may be a whole log:
/// other channels have their turn between its pages.
pub const READ_BYTES_MAX: usize = 256 * 1024;

/// Appends of one owner that may be under way: the store does not keep up above that, and a publish is refused (111). Ten
/// times what comes in between two writes of a disk at 100,000 publishes a second.
pub const APPENDS_MAX: usize = 16 * 1024;

/// How long a channel without subscribers is kept for an append under way.
pub const APPEND_PATIENCE: Duration = Duration::from_secs(60);

/// Longest window over which deliveries may be spread, milliseconds: an hour. Over longer times a backend publishes to
/// parts of its users by itself, and can change its mind between them.
pub const SPREAD_MS_MAX: u32 = 3_600_000;

/// Longest [`batch_max_delay`](crate::hub::options::ChannelOptions::batch_max_delay): with a second a write already carries
/// hundreds of messages at the rates that it is for, and who waits longer would rather hear less often.
pub const BATCH_DELAY_MAX: Duration = Duration::from_secs(1);

/// Longest [`deliver_every`](crate::hub::options::ChannelOptions::deliver_every): at an hour a client that asks by itself is as
/// well served, and what waits for it is kept by nobody.
pub const DELIVER_EVERY_MAX: Duration = Duration::from_millis(DELIVER_EVERY_MS_MAX as u64);

/// Between two publications of one channel's [`occupancy`](crate::hub::options::ChannelOptions::occupancy): a second is what people
/// see as live, and a crowd that joins within it is one publication.
pub const OCCUPANCY_EVERY: Duration = Duration::from_secs(1);

/// How long the cursors that have moved in one channel wait for each other before the backend hears of them: a crowd that reads a
/// message within it is one event.
pub const ACKED_EVERY: Duration = Duration::from_secs(1);

/// Between two words to the publishers of one channel who has got what they sent.
pub const RECEIPTS_EVERY: Duration = Duration::from_secs(1);

/// Longest [`ack_timeout`](crate::hub::options::ChannelOptions::ack_timeout): who lacks something for longer than a day is asked for.
pub const ACK_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Most keys of one channel that a namespace may allow: all values go out in one message to each new subscriber.
pub const KEYS_MAX: usize = 100_000;

/// Longest key that a namespace may allow, bytes: it goes out with each value.
pub const KEY_BYTES_MAX: usize = 1024;

/// What one [`OwnedChannels`](crate::hub::OwnedChannels) may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Bytes of all logs together: payloads, infos and tags, and what an entry costs besides.
    /// At the bound the oldest entries of the heaviest logs go (see [`crate::hub::owned`]).
    pub history_bytes_max: usize,
    /// Publications in one answer to a history ask. A page, not the log: 300 of the usual payloads fit one reply.
    /// A larger limit is cut to this; the reader goes on from the last offset it got.
    pub history_read_max: usize,
    /// Publications a recovery may return. A client that missed more hears so and loads its state again, which is
    /// cheaper for both than replaying. Over it the recovery is lost.
    pub recovery_publications_max: usize,
    /// Channels remembered, with subscribers or without; each costs about 240 bytes with a short name.
    /// At the bound idle ones are forgotten early, then those without subscribers that only clients have used; when there
    /// is none, asks that need a new channel are refused (106).
    pub channels_max: usize,
    /// Of these, channels that only clients have used: the rest is the backend's. At the bound a client that needs a new
    /// one has it in the place of one without subscribers, of the creator with most; when there is none it is refused (106).
    pub client_channels_max: usize,
    /// Cursors of members of all channels; each costs 32 bytes. At the bound an acknowledgement that needs one more is refused
    /// (106).
    pub cursors_max: usize,
    /// Idempotency keys remembered. At the bound the oldest is forgotten early and counted: a shorter window is better
    /// than a publication refused.
    pub idempotency_keys_max: usize,
    /// Bytes of one idempotency key or version epoch. UUIDs and hex digests are under 130. Longer ones are refused (107).
    pub key_bytes_max: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        HubLimits {
            // A quarter of a million publications of 100 bytes.
            history_bytes_max: 64 << 20,
            history_read_max: 300,
            recovery_publications_max: 300,
            // A channel for each of a shard's million users. About 250 MB when full.
            channels_max: 1 << 20,
            client_channels_max: 1 << 19,
            // 32 MB when full.
            cursors_max: 1 << 20,
            // 200 keyed publications a second for the five minutes; 12 MB with UUIDs.
            idempotency_keys_max: 1 << 16,
            key_bytes_max: 256,
        }
    }
}
