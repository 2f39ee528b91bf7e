//! What happened, summed over all seeds, so that the simulation cannot go quietly toothless.

use std::collections::BTreeMap;

/// Must have happened at least once in a run of [`SEEDS_FOR_COVERAGE`] seeds or more.
const REQUIRED: &[&str] = &[
    // Counted by the shards.
    "deliveries_total",
    "deliveries_late_total",
    "publications_spread_total",
    "publications_bulk_total",
    "windows_cut_total",
    "gaps_total",
    "recoveries_total",
    "recoveries_lost_total",
    "sends_short_total",
    "mail_delayed_total",
    "client_messages_dropped_total",
    "send_no_buffers",
    "peer_reset",
    "accept_full",
    "accept_no_memory",
    "connection_limit",
    "debt_limit",
    "refused_as_full",
    "refused_by_admission",
    "unidirectional_refused_by_admission",
    "admission_compared",
    "network_unauthenticated",
    "network_connects",
    "node_unauthenticated",
    "node_connects",
    "control_plane_busy",
    "frame_protocol",
    "frame_not_utf8",
    "frame_too_big",
    "frame_not_deflate",
    "messages_inflated_total",
    "messages_compressed_total",
    "http_malformed",
    "http_head_timeout",
    "http_idle",
    "disconnect_3005",
    "disconnect_3006",
    "disconnect_3008",
    "disconnect_3010",
    "disconnect_3012",
    "disconnect_3501",
    "disconnect_3502",
    "error_103",
    "error_105",
    "error_106",
    "error_109",
    "error_112",
    // Seen from outside.
    "inbox_full",
    "slot_reused",
    "accept_failed",
    "records_client",
    "records_client_waiting",
    "records_unidirectional",
    "records_requests",
    "records_closing",
    "records_half_frame",
    "records_compressed",
    "records_laggard",
    "records_channel",
    "records_log_entry",
    "records_key",
    "records_member",
    "records_stream_item",
    "records_user_connection",
    "sliced_fanout",
    "gap_told",
    "engine_away",
    "engine_item_lost",
    "engine_item_repeated",
    "engine_read_repeated",
    "engine_stored",
    "latest_skipped",
    "recovered",
    "not_recovered",
    "server_side_recovered",
    "subscribed_by_server",
    "unsubscribed_by_server",
    "subscription_expired",
    "closed_as_slow",
    "shutdown_heard",
    "history_read",
    "presence_compared",
    "head_reached",
    "http_answered",
    "hostile_bytes",
    "flood_answered",
    "sealed_connects",
    "sealed_end_heard",
    "sealed_alert_heard",
    "layer_broken",
    "tls_connects",
    "tls_handshakes_total",
    "tls_handshakes_resumed_total",
    "tls_not_tls",
    "tls_refused_in_handshake",
    "questions_asked_total",
    "questions_denied_total",
    "questions_unavailable_total",
    "questions_dropped_total",
    "hook_call_cancelled",
    "hook_call_never_answered",
    "refresh_asked",
    "sub_refresh_asked",
    "connect_asked_about_longer_than_the_timeout",
    "connect_refused_by_backend",
    "subscribe_refused_by_backend",
    "unidirectional_refused_by_backend",
    "called",
    "unidirectional_ready",
    "unidirectional_message",
    "unidirectional_polled",
    "unidirectional_reset",
    "unidirectional_head_reached",
    // What only some runs have.
    "passed_over",
    "recovered_past_what_is_not_for_it",
    "unidirectional_moved_past_what_is_not_for_it",
    "filter_refused",
    "message_heard",
    "closed_for_bytes",
    "emulated",
    "emulated_for_nobody",
    "emulated_end_heard",
    // As the backend was told.
    "told_connected",
    "told_disconnected",
    "told_subscribed",
    "told_unsubscribed",
    "told_occupied",
    "told_vacated",
    "told_user_online",
    "told_user_offline",
    "told_message",
    "told_loss",
    "told_compared",
];

pub const SEEDS_FOR_COVERAGE: u64 = 2_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn merge(&mut self, other: &Coverage) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().filter(|what| self.0.get(*what).is_none_or(|times| *times == 0)).copied().collect()
    }

    pub fn print(&self) {
        for (what, times) in &self.0 {
            println!("{times:>12}  {what}");
        }
    }
}
