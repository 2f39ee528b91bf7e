//! The log: events by number, as their JSON, the oldest of them given up for room.

use std::collections::VecDeque;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::event::{Event, Farewell, What, Who};
use crate::control::certificate::Certificate;
use crate::record::{EventEntry, EventsPart, EventsRecord, PART_BYTES, RecordFault};

/// Of an entry beside its JSON, in bytes: its place and the allocator's part.
const ENTRY_BYTES: usize = 48;

/// The newest events of this run, up to a number of bytes.
pub struct EventLog {
    /// Bound: `log_bytes_max`; the oldest go first.
    entries: VecDeque<LoggedEvent>,
    bytes: usize,
    bytes_max: usize,
    /// The newest number given.
    last: u64,
    /// The newest number that has fallen off.
    fallen: u64,
}

struct LoggedEvent {
    /// A gap's is the last that it stands for.
    seq: u64,
    json: Box<[u8]>,
}

/// An event as the backend sees it.
#[derive(Serialize, Default)]
struct ToldEvents<'e> {
    seq: u64,
    time_ms: u64,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate<'e>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objective: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acks: Option<Vec<ToldAck<'e>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Vec<ToldUnacked<'e>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<usize>,
}

#[derive(Serialize)]
struct ToldAck<'e> {
    user: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    device: &'e str,
    received: u64,
    read: u64,
}

#[derive(Serialize)]
struct ToldUnacked<'e> {
    user: &'e str,
    received: u64,
    devices: Vec<&'e str>,
    elsewhere: bool,
}

impl EventLog {
    pub fn new(bytes_max: usize) -> EventLog {
        EventLog { entries: VecDeque::new(), bytes: 0, bytes_max, last: 0, fallen: 0 }
    }

    /// Gives the event its number. A loss takes as many as were lost.
    pub fn push(&mut self, event: &Event) {
        let from = self.last + 1;
        self.last = match event.what {
            What::Lost(count) => self.last + count,
            _ => from,
        };
        let json = encode(event, from, self.last);
        self.keep(LoggedEvent { seq: self.last, json: json.into() });
    }

    /// Entries after `after`, as much as a part may be long; `None` when there are none.
    pub fn part(&self, after: u64) -> Option<EventsPart> {
        let at = self.entries.partition_point(|entry| entry.seq <= after);
        let (mut bytes, mut entries) = (0, Vec::new());
        for LoggedEvent { seq, json } in self.entries.range(at..) {
            if bytes > PART_BYTES {
                break;
            }
            bytes += json.len() + ENTRY_BYTES;
            entries.push(EventEntry { seq: *seq, json: Bytes::copy_from_slice(json) });
        }
        (!entries.is_empty()).then_some(EventsPart { entries })
    }

    /// The log of a record and its parts, in order. What has no room here falls off.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for numbers that do not rise to the last one given, and entries that are no JSON.
    pub fn restore(
        bytes_max: usize,
        record: &EventsRecord,
        parts: impl IntoIterator<Item = EventsPart>,
    ) -> Result<EventLog, RecordFault> {
        let mut log = EventLog { fallen: record.fallen, ..EventLog::new(bytes_max) };
        let mut newest = record.fallen;
        for EventEntry { seq, json } in parts.into_iter().flat_map(|part| part.entries) {
            let is_json = serde_json::from_slice::<&RawValue>(&json).is_ok();
            if seq <= newest || !is_json {
                return Err(RecordFault::Impossible("an event"));
            }
            newest = seq;
            log.keep(LoggedEvent { seq, json: (&*json).into() });
        }
        // One more is counted for each event: the end of the numbers is not to be met.
        if newest != record.last || record.accepted > record.last || record.last > u64::MAX / 2 {
            return Err(RecordFault::Impossible("the number of an event"));
        }
        log.last = record.last;
        Ok(log)
    }

    fn keep(&mut self, entry: LoggedEvent) {
        self.bytes += entry.json.len() + ENTRY_BYTES;
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.json.len() + ENTRY_BYTES;
            self.fallen = oldest.seq;
        }
    }

    /// The newest number that has fallen off.
    pub fn fallen(&self) -> u64 {
        self.fallen
    }

    /// The oldest number that is here; above [`EventLog::last`] when none is.
    pub fn first(&self) -> u64 {
        self.fallen + 1
    }

    /// The newest number given; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes what comes after `after`, with commas between: at most `limit` events, none after `bytes_max` bytes are
    /// reached. What has fallen off is one gap, of the time `now_ms`. Gives the number of the last one written.
    pub fn write(
        &self,
        after: u64,
        limit: usize,
        bytes_max: usize,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Option<u64> {
        let begin = out.len();
        let mut last = None;
        let mut room = limit;
        if after < self.fallen && room > 0 {
            let gap = Event { time_ms: now_ms, what: What::Lost(self.fallen - after) };
            out.extend_from_slice(&encode(&gap, after + 1, self.fallen));
            last = Some(self.fallen);
            room -= 1;
        }
        let at = self.entries.partition_point(|entry| entry.seq <= after);
        for entry in self.entries.range(at..).take(room) {
            if out.len() - begin >= bytes_max {
                break;
            }
            if last.is_some() {
                out.push(b',');
            }
            out.extend_from_slice(&entry.json);
            last = Some(entry.seq);
        }
        last
    }
}

fn encode(event: &Event, from: u64, to: u64) -> Vec<u8> {
    let kind = event.what.kind().map_or("gap", |kind| kind.name());
    let mut told = ToldEvents { seq: to, time_ms: event.time_ms, r#type: kind, ..ToldEvents::default() };
    match &event.what {
        What::Connected(who, certificate) => {
            told.of(who);
            told.address = who.address;
            told.certificate = certificate.as_deref().map(Certificate::of);
        }
        What::Disconnected(who, farewell) => {
            let Farewell { code, reason, duration_ms, received_bytes, sent_bytes } = &**farewell;
            told.of(who);
            told.address = who.address;
            (told.code, told.reason) = (Some(*code), Some(&**reason));
            told.duration_ms = Some(*duration_ms);
            (told.received_bytes, told.sent_bytes) = (Some(*received_bytes), Some(*sent_bytes));
        }
        What::Subscribed(who, channel) => {
            told.of(who);
            told.channel = Some(channel);
        }
        What::Unsubscribed(who, channel, why) => {
            told.of(who);
            told.channel = Some(channel);
            (told.code, told.reason) = (Some(why.code()), Some(why.reason()));
        }
        What::Occupied(channel) | What::Vacated(channel) => told.channel = Some(channel),
        What::UserOnline(user) | What::UserOffline(user) => told.user = Some(user),
        What::Acked(event) => {
            (told.channel, told.epoch) = (Some(&*event.channel), Some(event.epoch.to_string()));
            let acks = event.acks.iter().map(|ack| ToldAck {
                user: &ack.user,
                device: &ack.device,
                received: ack.received.0,
                read: ack.read.0,
            });
            told.acks = Some(acks.collect());
        }
        What::Unacked(event) => {
            (told.channel, told.epoch) = (Some(&*event.channel), Some(event.epoch.to_string()));
            (told.from, told.to, told.total) = (Some(event.from.0), Some(event.to.0), Some(event.total));
            let users = event.users.iter().map(|user| ToldUnacked {
                user: &user.user,
                received: user.received.0,
                devices: user.devices.iter().map(|device| &**device).collect(),
                elsewhere: user.elsewhere,
            });
            told.users = Some(users.collect());
        }
        What::Message(who, data) => {
            told.of(who);
            // The edge has checked it: what is no JSON here would be a bug of ours, and not worth a batch.
            told.data = Some(serde_json::from_slice(data).unwrap_or(RawValue::NULL));
        }
        What::ObjectiveMissed(missed) => {
            told.objective = Some(&missed.objective);
            (told.stage, told.shard, told.p99_us) = (Some(missed.stage), missed.shard, Some(missed.p99_us));
        }
        What::Lost(count) => (told.from, told.to, told.count) = (Some(from), Some(to), Some(*count)),
    }
    serde_json::to_vec(&told).expect("numbers, texts and JSON can be written")
}

impl<'e> ToldEvents<'e> {
    fn of(&mut self, who: &'e Who) {
        self.client = Some(who.client.to_string());
        self.user = Some(&who.user);
        self.transport = Some(who.transport);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::certificate::ClientCertificate;
    use crate::base::event::{AckedEvent, DeviceAck, Farewell, ObjectiveMissed, UnackedEvent, UnackedUser};
    use crate::base::fault::Unsubscribed;
    use crate::base::ids::{ChannelName, ClientId, Epoch, Offset};
    use std::sync::Arc;

    fn who() -> Who {
        Who {
            client: ClientId(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd),
            user: "ann \"x\"".into(),
            transport: "sse",
            address: None,
        }
    }

    fn event(what: What) -> Event {
        Event { time_ms: 7, what }
    }

    fn occupied(channel: &str) -> Event {
        event(What::Occupied(channel.into()))
    }

    fn read(log: &EventLog, after: u64, limit: usize) -> (Vec<Value>, Option<u64>) {
        let mut out = b"[".to_vec();
        let last = log.write(after, limit, 1 << 20, 99, &mut out);
        out.push(b']');
        (serde_json::from_slice(&out).expect("JSON"), last)
    }

    fn seqs(events: &[Value]) -> Vec<u64> {
        events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect()
    }

    #[test]
    fn each_event_has_its_fields_and_no_others() {
        let mut log = EventLog::new(1 << 20);
        let farewell = Farewell {
            code: 3012,
            reason: "no pong".into(),
            duration_ms: 5,
            received_bytes: 6,
            sent_bytes: 70_000_000_000,
        };
        for what in [
            What::Connected(who(), None),
            What::Subscribed(who(), "chat:1".into()),
            What::Unsubscribed(who(), "chat:1".into(), Unsubscribed::Disconnected),
            What::Disconnected(who(), Box::new(farewell)),
            What::Occupied("a\n".into()),
            What::Vacated("a".into()),
            What::Message(who(), Bytes::from_static(br#"{"n": 1.0}"#)),
            What::Lost(3),
        ] {
            log.push(&event(what));
        }
        let client = "01234567-89ab-4cde-8f01-23456789abcd";
        let of = |mut body: Value| {
            let fields = json!({"time_ms": 7, "client": client, "user": "ann \"x\"", "transport": "sse"});
            body.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
            body
        };
        let (events, last) = read(&log, 0, 100);
        assert_eq!(
            events,
            [
                of(json!({"seq": 1, "type": "connected"})),
                of(json!({"seq": 2, "type": "subscribed", "channel": "chat:1"})),
                of(json!({"seq": 3, "type": "unsubscribed", "channel": "chat:1",
                    "code": 1, "reason": "disconnected"})),
                of(json!({"seq": 4, "type": "disconnected", "code": 3012, "reason": "no pong",
                    "duration_ms": 5, "received_bytes": 6, "sent_bytes": 70_000_000_000u64})),
                json!({"seq": 5, "time_ms": 7, "type": "occupied", "channel": "a\n"}),
                json!({"seq": 6, "time_ms": 7, "type": "vacated", "channel": "a"}),
                of(json!({"seq": 7, "type": "message", "data": {"n": 1.0}})),
                json!({"seq": 10, "time_ms": 7, "type": "gap", "from": 8, "to": 10, "count": 3}),
            ]
        );
        assert_eq!(last, Some(10));
        log.push(&occupied("next"));
        assert_eq!(log.last(), 11, "a loss has taken its numbers");
        let missed = ObjectiveMissed {
            objective: "fast".into(),
            stage: "last_write",
            shard: Some(1),
            p99_us: 500_000,
        };
        let mut own = EventLog::new(1 << 20);
        own.push(&event(What::ObjectiveMissed(Box::new(missed))));
        let told = json!({"seq": 1, "time_ms": 7, "type": "objective_missed", "objective": "fast", "stage": "last_write",
            "shard": 1, "p99_us": 500_000});
        assert_eq!(read(&own, 0, 100).0, [told]);
        own.push(&event(What::UserOnline("ann".into())));
        own.push(&event(What::UserOffline("ann".into())));
        let told = ["user_online", "user_offline"];
        let told = [0, 1].map(|at| json!({"seq": at + 2, "time_ms": 7, "type": told[at], "user": "ann"}));
        assert_eq!(read(&own, 1, 100).0, told);
        let text = String::from_utf8_lossy(&log.entries[6].json).into_owned();
        assert!(text.contains(r#""data":{"n": 1.0}"#), "data stays as it was sent: {text}");
    }

    #[test]
    fn who_connects_is_told_with_its_certificate_and_address() {
        let mut log = EventLog::new(1 << 20);
        let certificate = ClientCertificate { subject: "CN=a \"b\"".into(), fingerprint: [0xab; 32] };
        let who = Who { address: Some([192, 0, 2, 7].into()), ..who() };
        log.push(&event(What::Connected(who, Some(Arc::new(certificate)))));
        let (events, _) = read(&log, 0, 100);
        assert_eq!(
            events[0]["certificate"],
            json!({"subject": "CN=a \"b\"", "fingerprint": "ab".repeat(32)})
        );
        assert_eq!(events[0]["address"], "192.0.2.7");
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let mut log = EventLog::new(1 << 20);
        assert_eq!((read(&log, 0, 10), log.first(), log.last()), ((Vec::new(), None), 1, 0));
        for number in 0..25 {
            log.push(&occupied(&number.to_string()));
        }
        let (mut after, mut seen) = (0, Vec::new());
        while let (events, Some(last)) = read(&log, after, 10) {
            assert!(events.len() <= 10);
            seen.extend(seqs(&events));
            after = last;
        }
        assert_eq!(seen, (1..=25).collect::<Vec<_>>());
        // By bytes as well, and one at least.
        let mut out = Vec::new();
        assert_eq!(log.write(3, 10, 1, 0, &mut out), Some(4));
        assert_eq!(read(&log, 1000, 10), (Vec::new(), None), "ahead of everything");
    }

    #[test]
    fn what_falls_off_is_a_gap_at_the_head() {
        let one = encode(&occupied("0"), 1, 1).len() + ENTRY_BYTES;
        // Room for three with numbers of two digits.
        let mut log = EventLog::new(3 * (one + 1));
        for number in 10..20 {
            log.push(&occupied(&(number % 10).to_string()));
        }
        assert_eq!((log.first(), log.last(), log.entries.len()), (8, 10, 3));
        let (events, last) = read(&log, 2, 10);
        assert_eq!(
            events[0],
            json!({"seq": 7, "time_ms": 99, "type": "gap", "from": 3, "to": 7, "count": 5})
        );
        assert_eq!((seqs(&events), last), (vec![7, 8, 9, 10], Some(10)));
        // The gap alone, and then on from it: nothing twice, nothing left out.
        assert_eq!(read(&log, 2, 1).1, Some(7));
        assert_eq!(seqs(&read(&log, 7, 10).0), [8, 9, 10]);
        assert_eq!(seqs(&read(&log, 9, 10).0), [10]);
    }

    #[test]
    fn what_members_have_and_lack_is_listed() {
        let ack = |user: &str, device: &str| DeviceAck {
            user: user.into(),
            device: device.into(),
            received: Offset(9),
            read: Offset(7),
        };
        let (channel, epoch) = (ChannelName::from("g"), Epoch(3));
        let acked =
            AckedEvent { channel: channel.clone(), epoch, acks: vec![ack("ann", "phone"), ack("bob", "")] };
        let (user, devices) = ("ann".into(), vec!["phone".into()]);
        let users = vec![UnackedUser { user, received: Offset(5), devices, elsewhere: true }];
        let unacked = UnackedEvent { channel, epoch, from: Offset(6), to: Offset(9), users, total: 12 };
        let mut log = EventLog::new(1 << 20);
        log.push(&event(What::Acked(Box::new(acked))));
        log.push(&event(What::Unacked(Box::new(unacked))));
        let epoch = epoch.to_string();
        assert_eq!(
            read(&log, 0, 9).0,
            [
                json!({"seq": 1, "time_ms": 7, "type": "acked", "channel": "g", "epoch": epoch, "acks": [
                    {"user": "ann", "device": "phone", "received": 9, "read": 7},
                    {"user": "bob", "received": 9, "read": 7}]}),
                json!({"seq": 2, "time_ms": 7, "type": "unacked", "channel": "g", "epoch": epoch, "from": 6, "to": 9,
                    "users": [{"user": "ann", "received": 5, "devices": ["phone"], "elsewhere": true}], "total": 12}),
            ]
        );
    }

    fn record_of(log: &EventLog) -> (EventsRecord, Vec<EventsPart>) {
        let (mut parts, mut after) = (Vec::new(), 0);
        while let Some(part) = log.part(after) {
            after = part.entries.last().map_or(after, |last| last.seq);
            parts.push(part);
        }
        let (last, fallen) = (log.last(), log.fallen());
        (EventsRecord { epoch: "e".into(), last, fallen, accepted: 0 }, parts)
    }

    #[test]
    fn a_log_goes_on_from_its_record_with_the_same_numbers() {
        for (events, bytes_max) in [(0, 1 << 20), (3, 1 << 20), (5_000, 8 << 20), (5_000, 64 << 10)] {
            let mut log = EventLog::new(bytes_max);
            for number in 0..events {
                log.push(&occupied(&number.to_string()));
                if number % 7 == 0 {
                    log.push(&event(What::Lost(number + 1)));
                }
            }
            let (record, parts) = record_of(&log);
            assert!(events < 5_000 || bytes_max < 1 << 20 || parts.len() > 1, "it takes several parts");
            let mut bytes = Vec::new();
            parts.iter().for_each(|part| crate::record::write(part, &mut bytes).unwrap());
            let (mut rest, mut read_back) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let (unread, behind) = crate::record::next(rest).unwrap();
                read_back.push(unread.read::<EventsPart>().unwrap());
                rest = behind;
            }
            let mut restored = EventLog::restore(bytes_max, &record, read_back).unwrap();
            for log in [&mut log, &mut restored] {
                log.push(&occupied("next"));
            }
            assert_eq!(read(&restored, 0, usize::MAX), read(&log, 0, usize::MAX));
            assert_eq!(
                (restored.first(), restored.last(), restored.bytes()),
                (log.first(), log.last(), log.bytes())
            );
            // With less room the oldest fall off, as always.
            let small = EventLog::restore(1_000, &record, parts).unwrap();
            assert!(small.bytes() <= 1_000 && small.last() == record.last);
        }
    }

    #[test]
    fn numbers_that_no_log_has_are_refused() {
        let mut log = EventLog::new(1 << 20);
        (0..4).for_each(|number| log.push(&occupied(&number.to_string())));
        let (record, parts) = record_of(&log);
        let refused = |change: &dyn Fn(&mut EventsRecord, &mut EventsPart)| {
            let (mut record, mut part) = (record.clone(), parts[0].clone());
            change(&mut record, &mut part);
            EventLog::restore(1 << 20, &record, [part]).is_err()
        };
        assert!(!refused(&|_, _| {}));
        assert!(refused(&|_, part| part.entries.swap(1, 2)));
        assert!(refused(&|_, part| part.entries[1].json = Bytes::from_static(b"{")));
        assert!(refused(&|record, _| record.last += 1));
        assert!(refused(&|record, _| record.accepted = 5));
        assert!(refused(&|record, _| record.fallen = 1));
        assert!(refused(&|record, part| {
            record.last = u64::MAX;
            part.entries[3].seq = u64::MAX;
        }));
    }

    #[test]
    fn an_event_larger_than_the_log_is_a_gap_and_the_log_stays_in_its_bound() {
        let mut log = EventLog::new(1000);
        log.push(&event(What::Message(who(), vec![b'1'; 2000].into())));
        assert_eq!((log.bytes(), log.first(), log.last()), (0, 2, 1));
        assert_eq!(seqs(&read(&log, 0, 10).0), [1]);
        for number in 0..1000 {
            log.push(&occupied(&number.to_string()));
            assert!(log.bytes() <= 1000);
        }
        assert_eq!(seqs(&read(&log, 0, 1000).0).last(), Some(&1001));
    }
}
