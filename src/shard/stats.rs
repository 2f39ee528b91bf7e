//! What one shard counts: plain integers, written by it alone.

use crate::base::admission::Refusal;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::histogram::Histogram;
use crate::base::time::Time;
use crate::layer::Fault as LayerFault;
use crate::session::token::TokenFault;
use crate::shard::control_request::ShardStats;

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident),+ $(,)?) => {
        /// Everything that only grows.
        #[derive(Clone, Debug, Default)]
        pub struct Counters { $($(#[doc = $help])+ pub $name: u64),+ }

        impl Counters {
            /// Metric name, help and value of each.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+), self.$name)),+]
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted_total,
    /// Connections gone, for whatever reason.
    connections_closed_total,
    /// Clients whose connect command was answered.
    clients_connected_total,
    /// TLS handshakes that ended well.
    tls_handshakes_total,
    /// Of these, those that went on from a ticket of an earlier connection.
    tls_handshakes_resumed_total,
    /// Parts of TLS handshakes that waited for their turn.
    tls_handshakes_delayed_total,
    /// Requests of HTTP handed to the control plane.
    http_requests_total,
    /// Requests of unidirectional clients without the client protocol, whatever they came to.
    reader_requests_total,
    /// Streams opened: events, lines, pages, plain WebSocket.
    streams_opened_total,
    /// Polls that found nothing and were held.
    polls_held_total,
    /// Polls answered.
    polls_answered_total,
    /// Reads of history over HTTP answered.
    history_reads_total,
    /// Streams of HTTP opened by clients of the Centrifuge protocol.
    client_streams_opened_total,
    /// Requests that brought commands of such clients.
    emulations_total,
    /// Of these, requests that were refused: no such session, no commands, too many.
    emulations_refused_total,
    /// Upgrades to WebSocket.
    websocket_upgrades_total,
    /// Messages received over WebSocket.
    messages_received_total,
    /// Messages that were received compressed.
    messages_inflated_total,
    /// Bytes of these after they were inflated.
    inflated_bytes_total,
    /// How often a client was not read from because the shard had inflated enough for one turn.
    inflating_paused_total,
    /// Requests that claimed an address in a field that only trusted proxies may set: it was not read.
    address_claims_ignored_total,
    /// Messages compressed: a publication once, whatever the number of its subscribers.
    messages_compressed_total,
    /// Bytes of messages before they were compressed.
    compressed_in_bytes_total,
    /// Bytes of the same after it.
    compressed_out_bytes_total,
    /// Upgrades to WebSocket that agreed on compression.
    websocket_compressed_total,
    /// Bytes received.
    received_bytes_total,
    /// Bytes handed to the kernel.
    sent_bytes_total,
    /// Writes handed to the kernel.
    sends_total,
    /// Writes that the kernel did not take whole.
    sends_short_total,
    /// Publications appended to logs whose owner is here.
    publications_total,
    /// Publications, joins and leaves queued for a subscriber.
    deliveries_total,
    /// Items delivered late, from a cursor.
    deliveries_late_total,
    /// Publications whose deliveries were spread over a window.
    publications_spread_total,
    /// Publications that waited behind all others.
    publications_bulk_total,
    /// Joins and leaves of paced namespaces that nobody was told of.
    join_leave_unsaid_total,
    /// Acknowledgements of members that were taken.
    acks_total,
    /// Of these, those that moved a cursor.
    cursors_moved_total,
    /// Acknowledgements of members that were refused.
    acks_refused_total,
    /// Counts of subscribers that the channel which is for them did not take.
    occupancy_refused_total,
    /// Times that deliveries held back for a spread or bulk publication were let go early.
    windows_cut_total,
    /// Publications of value channels that a newer one of their key replaced before a shard delivered them.
    values_replaced_total,
    /// Messages to users handed to a connection.
    user_messages_total,
    /// Messages to users who have published, about who has got it.
    receipts_pushed_total,
    /// Commands refused because the connection or its user sent too many.
    commands_limited_total,
    /// How often a client was not read from because its commands waited to be answered.
    inputs_paused_total,
    /// Publications of clients refused because the channel had too many.
    publications_limited_total,
    /// Pings sent.
    pings_sent_total,
    /// Subscriptions made.
    subscriptions_total,
    /// Recoveries that gave every missed publication.
    recoveries_total,
    /// Recoveries that could not.
    recoveries_lost_total,
    /// Subscribers that fell off a log's tail.
    gaps_total,
    /// Hook calls made to the backend.
    questions_asked_total,
    /// Hook calls that the backend answered with an error or the end of the connection.
    questions_denied_total,
    /// Hook calls that came to no answer: the backend is down, slow or protected from more.
    questions_unavailable_total,
    /// Answers to hook calls that were not awaited any more.
    questions_dropped_total,
    /// One-way client messages dropped because the backend is not told of them.
    client_messages_dropped_total,
    /// Connections of tunnels that their backend let in.
    tunnels_opened_total,
    /// Messages of clients for the backend of a tunnel.
    tunnel_messages_received_total,
    /// Messages of backends for clients of a tunnel.
    tunnel_messages_sent_total,
    /// Messages of clients that the backend of a tunnel did not take.
    tunnel_messages_undelivered_total,
    /// How often a client of a tunnel was not read from because its backend did not keep up.
    tunnel_pauses_total,
    /// Events handed over for the backend.
    events_told_total,
    /// Events for the backend that found no room; it is told how many.
    events_lost_total,
    /// Messages that waited because another shard's inbox was full.
    mail_delayed_total,
    /// Turns of the loop.
    ticks_total,
    /// Completions for a connection that was gone.
    stale_completions_total,
}

/// Why something was refused, closed or dropped. One counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    HttpMalformed,
    HttpHeadTooLarge,
    HttpBodyTooLarge,
    HttpHeadTimeout,
    HttpBodyTimeout,
    HttpIdle,
    HttpInputFull,
    HttpUnread,
    HandshakeRefused,
    OriginRefused,
    ControlPlaneBusy,
    FrameProtocol,
    HandshakeTimeout,
    HandshakeAborted,
    HandshakesFull,
    TlsOnPlainPort,
    ProxyStranger,
    ProxyHeaderMissing,
    ProxyHeaderMalformed,
    ProxyHeaderTimeout,
    FrameNotUtf8,
    FrameTooBig,
    FrameNotDeflate,
    AcceptFull,
    AcceptNoMemory,
    AcceptOther,
    ConnectionLimit,
    NetworkConnections,
    NetworkUnauthenticated,
    NetworkConnects,
    NodeUnauthenticated,
    NodeConnects,
    NodeBusy,
    NodeDraining,
    DebtLimit,
    PeerReset,
    PeerTimeout,
    SendNoBuffers,
    InboxFull,
    TunnelRefused,
    TunnelUnavailable,
    TunnelFailed,
    TunnelCloseUntold,
}

impl Cause {
    const ALL: [(Cause, &'static str); 43] = [
        (Cause::HttpMalformed, "http_malformed"),
        (Cause::HttpHeadTooLarge, "http_head_too_large"),
        (Cause::HttpBodyTooLarge, "http_body_too_large"),
        (Cause::HttpHeadTimeout, "http_head_timeout"),
        (Cause::HttpBodyTimeout, "http_body_timeout"),
        (Cause::HttpIdle, "http_idle"),
        (Cause::HttpInputFull, "http_input_full"),
        (Cause::HttpUnread, "http_answer_unread"),
        (Cause::HandshakeRefused, "handshake_refused"),
        (Cause::OriginRefused, "origin_refused"),
        (Cause::ControlPlaneBusy, "control_plane_busy"),
        (Cause::FrameProtocol, "frame_protocol"),
        (Cause::HandshakeTimeout, "tls_handshake_timeout"),
        (Cause::HandshakeAborted, "tls_handshake_aborted"),
        (Cause::HandshakesFull, "tls_handshakes_full"),
        (Cause::TlsOnPlainPort, "tls_on_plain_port"),
        (Cause::ProxyStranger, "proxy_stranger"),
        (Cause::ProxyHeaderMissing, "proxy_header_missing"),
        (Cause::ProxyHeaderMalformed, "proxy_header_malformed"),
        (Cause::ProxyHeaderTimeout, "proxy_header_timeout"),
        (Cause::FrameNotUtf8, "frame_not_utf8"),
        (Cause::FrameTooBig, "frame_too_big"),
        (Cause::FrameNotDeflate, "frame_not_deflate"),
        (Cause::AcceptFull, "accept_full"),
        (Cause::AcceptNoMemory, "accept_no_memory"),
        (Cause::AcceptOther, "accept_other"),
        (Cause::ConnectionLimit, "connection_limit"),
        (Cause::NetworkConnections, "network_connections"),
        (Cause::NetworkUnauthenticated, "network_unauthenticated"),
        (Cause::NetworkConnects, "network_connects"),
        (Cause::NodeUnauthenticated, "node_unauthenticated"),
        (Cause::NodeConnects, "node_connects"),
        (Cause::NodeBusy, "node_busy"),
        (Cause::NodeDraining, "node_draining"),
        (Cause::DebtLimit, "debt_limit"),
        (Cause::PeerReset, "peer_reset"),
        (Cause::PeerTimeout, "peer_timeout"),
        (Cause::SendNoBuffers, "send_no_buffers"),
        (Cause::InboxFull, "inbox_full"),
        (Cause::TunnelRefused, "tunnel_refused"),
        (Cause::TunnelUnavailable, "tunnel_unavailable"),
        (Cause::TunnelFailed, "tunnel_failed"),
        (Cause::TunnelCloseUntold, "tunnel_close_untold"),
    ];
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Cause {
        match refusal {
            Refusal::NodeConnections => Cause::ConnectionLimit,
            Refusal::NetworkConnections => Cause::NetworkConnections,
            Refusal::NetworkUnauthenticated => Cause::NetworkUnauthenticated,
            Refusal::NetworkConnects => Cause::NetworkConnects,
            Refusal::NodeUnauthenticated => Cause::NodeUnauthenticated,
            Refusal::NodeConnects => Cause::NodeConnects,
            Refusal::NodeBusy => Cause::NodeBusy,
            Refusal::NodeDraining => Cause::NodeDraining,
        }
    }
}

/// The names under which disconnect codes are counted.
const DISCONNECTS: [(u16, &str); 25] = [
    (3000, "disconnect_3000"),
    (3001, "disconnect_3001"),
    (3004, "disconnect_3004"),
    (3005, "disconnect_3005"),
    (3006, "disconnect_3006"),
    (3008, "disconnect_3008"),
    (3009, "disconnect_3009"),
    (3010, "disconnect_3010"),
    (3011, "disconnect_3011"),
    (3012, "disconnect_3012"),
    (3013, "disconnect_3013"),
    (3014, "disconnect_3014"),
    (3500, "disconnect_3500"),
    (3501, "disconnect_3501"),
    (3502, "disconnect_3502"),
    (3503, "disconnect_3503"),
    (3504, "disconnect_3504"),
    (3505, "disconnect_3505"),
    (3506, "disconnect_3506"),
    (3507, "disconnect_3507"),
    (3508, "disconnect_3508"),
    (3509, "disconnect_3509"),
    (3510, "disconnect_3510"),
    (4000, "disconnect_4000_4999"),
    (5000, "disconnect_other"),
];

const REFUSALS: [(ErrorCode, &str); 15] = [
    (ErrorCode::Internal, "error_100"),
    (ErrorCode::Unauthorized, "error_101"),
    (ErrorCode::UnknownChannel, "error_102"),
    (ErrorCode::PermissionDenied, "error_103"),
    (ErrorCode::MethodNotFound, "error_104"),
    (ErrorCode::AlreadySubscribed, "error_105"),
    (ErrorCode::LimitExceeded, "error_106"),
    (ErrorCode::BadRequest, "error_107"),
    (ErrorCode::NotAvailable, "error_108"),
    (ErrorCode::TokenExpired, "error_109"),
    (ErrorCode::Expired, "error_110"),
    (ErrorCode::TooManyRequests, "error_111"),
    (ErrorCode::UnrecoverablePosition, "error_112"),
    (ErrorCode::Conflict, "error_113"),
    (ErrorCode::Unavailable, "error_unavailable"),
];

/// By cause.
#[derive(Clone, Debug)]
struct FaultCounts([u64; Cause::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> FaultCounts {
        FaultCounts([0; Cause::ALL.len()])
    }
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub counters: Counters,
    /// How long clients took to answer pings.
    pub pings: Histogram,
    /// How long turns of the loop took, without the time waited in.
    pub turns: Histogram,
    /// From hook calls to their answers.
    pub hook_calls: Histogram,
    /// How long connections lagged until they had caught up or were closed.
    pub lags: Histogram,
    faults: FaultCounts,
    layers: [u64; LayerFault::ALL.len()],
    disconnects: [u64; DISCONNECTS.len()],
    error_codes: [u64; REFUSALS.len()],
    tokens: [u64; TokenFault::ALL.len()],
}

impl Stats {
    pub fn fault(&mut self, cause: Cause) {
        self.faults.0[cause as usize] += 1;
    }

    /// A connection lags no longer. One that only joined in the middle of a delivery has no `since`.
    pub fn lagged(&mut self, since: Time, now: Time) {
        if since != Time::ZERO {
            self.lags.record(now.since(since));
        }
    }

    pub fn layer_fault(&mut self, fault: LayerFault) {
        self.layers[fault as usize] += 1;
    }

    pub fn disconnect(&mut self, disconnect: &Disconnect) {
        let known = DISCONNECTS.iter().position(|(code, _)| match *code {
            4000 => (4000..5000).contains(&disconnect.code),
            5000 => true,
            code => code == disconnect.code,
        });
        self.disconnects[known.expect("the last one takes every code")] += 1;
    }

    pub fn error_code(&mut self, error_code: ErrorCode) {
        let at =
            REFUSALS.iter().position(|(known, _)| *known == error_code).expect("every refusal is listed");
        self.error_codes[at] += 1;
    }

    pub fn token(&mut self, fault: TokenFault) {
        let at = TokenFault::ALL.iter().position(|known| *known == fault).expect("every fault is listed");
        self.tokens[at] += 1;
    }

    /// Adds the counters to a report whose gauges are set.
    pub fn report(&self, into: &mut ShardStats) {
        into.counters = self.counters.list();
        let faults = Cause::ALL.iter().map(|&(cause, name)| (name, self.faults.0[cause as usize]));
        let disconnects = DISCONNECTS.iter().zip(&self.disconnects).map(|((_, name), count)| (*name, *count));
        let error_codes = REFUSALS.iter().zip(&self.error_codes).map(|((_, name), count)| (*name, *count));
        let tokens = TokenFault::ALL.iter().zip(&self.tokens).map(|(fault, count)| (fault.cause(), *count));
        let layers = LayerFault::ALL.iter().zip(&self.layers).map(|(fault, count)| (fault.name(), *count));
        into.faults = faults.chain(layers).chain(disconnects).chain(error_codes).chain(tokens).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_stands_at_its_own_place() {
        for (place, (cause, _)) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, place);
        }
    }

    #[test]
    fn codes_are_counted_under_their_own_name() {
        let mut stats = Stats::default();
        stats.disconnect(&Disconnect::SLOW);
        stats.disconnect(&Disconnect { code: 4321, reason: "mine".into() });
        stats.disconnect(&Disconnect { code: 1, reason: "odd".into() });
        stats.error_code(ErrorCode::Conflict);
        let mut report = ShardStats::default();
        stats.report(&mut report);
        for name in ["disconnect_3008", "disconnect_4000_4999", "disconnect_other", "error_113"] {
            assert!(report.faults.contains(&(name, 1)), "{name}");
        }
    }
}
