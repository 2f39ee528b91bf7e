//! The bounds of an engine, each with its unit, its reason, and what happens there.

use std::time::Duration;

/// Tasks that one server may have waiting: at 20,000 publishes a second more than three seconds of them. Above it a publish or a
/// read is refused (111), what keeps presence and subscriptions is not.
pub const TASKS_MAX: usize = 64 * 1024;

/// Tasks of one batch, and bytes they bring along: one write to the server, and its answers in one read.
pub const BATCH_TASKS_MAX: usize = 256;
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Channels of one subscribe command: the server answers each, and serves others between two commands.
pub const SUBSCRIBE_MAX: usize = 512;

/// Messages for one shard that wait for room in its inbox. Above it what followers can read again is dropped, and what is
/// delivered at most once.
pub const POSTS_WAITING_MAX: usize = 32 * 1024;

/// The newest publications of a channel that are kept here, for those who lag and those who come back: what a second of a busy
/// channel brings, or a reconnect of all its subscribers needs. Entries, and bytes of payload.
pub const TAIL_ITEMS_MAX: usize = 512;
pub const TAIL_BYTES_MAX: usize = 256 * 1024;
/// The same of all channels. Above it a channel that gets a publication keeps that one only.
pub const TAILS_BYTES_MAX: usize = 64 << 20;

/// Publications that are read at once to fill a hole: what is missing may be a whole log.
pub const READ_ITEMS_MAX: usize = 512;

/// Channels whose position is being checked at a time: after an outage all of them are, and clients come first.
pub const CHECKS_MAX: usize = 64;

/// How long a channel may hear nothing before its position is checked: what other nodes of the field take.
pub const CHECK_AFTER: Duration = Duration::from_secs(40);

/// How long a member of a channel is present without being named again, and how often it is: three times within it, less what
/// a round takes. Nodes that share channels must agree on the first.
pub const PRESENCE_TTL_S: u64 = 60;
pub const PRESENCE_EVERY: Duration = Duration::from_secs(27);

/// How often a node says that it is there, and how long the others believe it.
pub const NODE_EVERY: Duration = Duration::from_secs(3);
pub const NODE_TTL: Duration = Duration::from_secs(10);

/// Commands of clients of other nodes that are not answered: those of a second of a fleet whose load balancer spreads requests.
/// Above it they are refused (429).
pub const EMULATIONS_MAX: usize = 4096;
/// How long their node may take. Then there is no such session (404): it is gone.
pub const EMULATION_PATIENCE: Duration = Duration::from_secs(5);

/// Messages of servers that wait while another process takes over: more than a second of a busy node.
pub const CUT_MESSAGES_MAX: usize = 64 * 1024;

/// How often the keeper looks what time brings.
pub const TICK: Duration = Duration::from_millis(500);

/// Between two tries at a shard whose inbox is full.
pub const POST_RETRY: Duration = Duration::from_millis(1);

/// Between two tries to connect: short at first, for a server that is started again, then so that a server that comes back is
/// not met by all nodes in one moment.
pub const RECONNECT_MIN: Duration = Duration::from_millis(100);
pub const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// How long a server may be silent before it is asked whether it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long an idempotency key is known: what backends of this field count on.
pub const KEY_TTL_S: u64 = 300;
/// Longest key or version epoch, in bytes, as without an engine.
pub const KEY_BYTES_MAX: usize = 256;
