//! Every fixed bound, with its unit and its reason. What an operator may change is in the configuration instead.

use std::time::Duration;

/// Longest HTTP request head, in bytes. nginx allows 8 KiB a line; browsers with cookies stay under 16 KiB.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a request head: bounds the parse of a head made of tiny fields.
pub const HTTP_HEADERS_MAX: usize = 100;
/// The least that a request's body must bring in each stretch of the connect timeout, in bytes a second. Slow mobile
/// networks bring more; a byte now and then only occupies memory.
pub const HTTP_BODY_BYTES_PER_SECOND_MIN: u64 = 1024;
/// Payload of a WebSocket control frame (RFC 6455 section 5.5).
pub const WS_CONTROL_BYTES_MAX: usize = 125;
/// Reason text in a Close frame: the control payload less the code (RFC 6455 section 5.5.1).
pub const WS_CLOSE_REASON_BYTES_MAX: usize = WS_CONTROL_BYTES_MAX - 2;
/// Longest message the echo endpoint takes: the largest that conformance suites send.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most commands in one frame of the client protocol. The SDK batches a reconnect's subscribes into one frame.
pub const COMMANDS_PER_FRAME_MAX: usize = 1024;
/// Longest token that is looked at, in bytes. Browsers and proxies cut headers at this size, so backends keep their
/// tokens below it; what is longer is not worth its hash.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// One receive buffer lent for the length of one read.
pub const RECV_BUFFER_BYTES: usize = 16 * 1024;
/// Receive buffers a shard: what one tick can read before the ring must be refilled (1 MiB a shard).
pub const RECV_BUFFERS: u16 = 64;
/// Places where a node listens: each costs a descriptor of every shard. More would be the work of a proxy.
pub const LISTENERS_MAX: usize = 16;
/// Sockets that one shard accepts from: those of its listeners, and after an upgrade those of the shards that it follows.
pub const LISTENING_SOCKETS_MAX: usize = 64 * LISTENERS_MAX;
/// Connections beyond the bound that one shard waits for until they have read their refusal: enough for those who come in
/// one second, and 128 sockets of the kernel at most. More are closed behind the answer.
pub const REFUSED_CONNECTIONS_MAX: u32 = 128;
/// TLS handshakes of one shard that are not finished. Each may hold 8 KiB, at worst a few times
/// [`HANDSHAKE_BYTES_MAX`](crate::layer::tls::HANDSHAKE_BYTES_MAX). A connection beyond is closed at once.
pub const UNFINISHED_HANDSHAKES_MAX: usize = 4096;
/// Payload bytes that a shard may have taken in and not yet delivered; above, it lets its inbox fill.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages of connections that have gone, held by one shard until the backend has them, in bytes. What goes beyond
/// it is dropped, and the close says how many messages that were: clients that come, speak and go against a silent
/// backend must not fill the memory.
pub const PARTED_BYTES_MAX: usize = 16 << 20;
/// Longest time over which clients are sent away, and longest delay before it. A deployment takes less than a day.
pub const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Users that are blocked and tokens that are revoked, together: about 20 MB. More are refused (106).
pub const BLOCKS_MAX: usize = 100_000;
/// Longest name of such a user or token, in bytes.
pub const BLOCK_NAME_BYTES_MAX: usize = 256;

const _: () = assert!(HTTP_HEAD_BYTES_MAX <= RECV_BUFFER_BYTES, "a whole head fits one read");
const _: () = assert!(RECV_BUFFERS.is_power_of_two(), "a provided buffer ring has a power of two entries");
