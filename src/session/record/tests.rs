//! States of chance: what a record says is what the state machine made of it says again.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::base::budget::Budget;
use crate::base::ids::ClientId;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::proto::wire::Wire;
use crate::record::arbitrary::Arbitrary;
use crate::record::{
    self, ClientRecord, FarewellRecord, Moment, PeerRecord, PeerState, PurposeRecord, TunnelRecord,
    TunnelStageRecord, UnidirectionalRecord, WaitsRecord,
};
use crate::session::state::Session;
use crate::session::tunnel::{Payload, Tunnel, WaitingLimits};
use crate::session::unidirectional::Unidirectional;

/// A participant around a state.
pub(in crate::session) fn peer(state: PeerState) -> PeerRecord {
    PeerRecord {
        number: 1,
        client: ClientId(2),
        state,
        link: None,
        due: None,
        ping_due: None,
        awaits_pong: false,
        listed: true,
        of_user: false,
        commands_paid_until: Moment(0),
        bytes_paid_until: Moment(0),
        connected: Moment(0),
        received_bytes: 3,
        sent_bytes: 4,
    }
}

/// A shard's numbers of channels: given when one is first heard of.
#[derive(Default)]
struct Numbers(HashMap<ChannelName, ChannelIndex>);

impl Numbers {
    fn of(&mut self, name: &ChannelName) -> ChannelIndex {
        // Not from 0 on: a forgotten translation would go unseen.
        let next = self.0.len() as u32 + 100;
        *self.0.entry(name.clone()).or_insert(next)
    }

    fn name(&self, number: ChannelIndex) -> ChannelName {
        self.0.iter().find(|(_, known)| **known == number).expect("a number that was given").0.clone()
    }
}

/// Often such as a client can have.
fn client(prng: &mut Prng) -> ClientRecord {
    let mut record = ClientRecord::arbitrary(prng);
    let wires: Vec<u8> = (1..=18).filter(|number| Wire::of_number(*number).is_some()).collect();
    (record.format, record.phase) = (wires[prng.usize(..wires.len())], prng.u8(1..5));
    tidy(&mut record.subs);
    if let Some(WaitsRecord::Joins(joins)) = &mut record.waits {
        record.phase = 2;
        joins.outstanding = joins.behind_place.as_ref().map_or(9, |joins| joins.len() as u32);
        joins.done.iter_mut().for_each(|done| done.flags &= 0xef);
        joins.behind_place.iter_mut().flatten().for_each(|join| {
            join.flags &= 0xef;
            readable(&mut join.filters);
        });
    }
    if let Some(WaitsRecord::HookCall(call)) = &mut record.waits {
        call.until = Moment(prng.i64(-1_000..1_000));
        // The channel of a subscription, or one that has ended.
        if let PurposeRecord::SubRefresh(channel) = &mut call.purpose {
            *channel = record.subs.first().map(|sub| sub.channel.clone());
        }
        if let PurposeRecord::Subscribe(wanted) = &mut call.purpose {
            wanted.filter = wanted.filter.take().map(|_| FILTER.into());
        }
    }
    record
}

/// As it is written.
const FILTER: &str =
    r#"{"op":"or","nodes":[{"key":"k","cmp":"gte","val":"2"},{"key":"k","cmp":"nin","vals":["a","b"]}]}"#;

/// Filters that are there are such as can be read.
fn readable(filters: &mut Option<FiltersRecord>) {
    for filter in filters.iter_mut().flat_map(|filters| [&mut filters.asked, &mut filters.imposed]).flatten()
    {
        *filter = FILTER.into();
    }
}

fn tidy(subs: &mut Vec<SubRecord>) {
    subs.iter_mut().filter_map(|sub| sub.terms.as_mut()).for_each(|terms| readable(&mut terms.filters));
    subs.sort_by(|a, b| a.channel.cmp(&b.channel));
    subs.dedup_by(|a, b| a.channel == b.channel);
    subs.iter_mut().for_each(|sub| sub.flags &= 0xef);
}

#[test]
fn every_client_comes_back_from_its_record() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..5_000 {
        let record = client(&mut Prng::with_seed(seed));
        let mut numbers = Numbers::default();
        let now = Time(5_000);
        let mut place_of = |sub: &SubRecord| Ok((numbers.of(&sub.channel), 7));
        match Session::from_record(&record, &mut place_of, now) {
            Ok(session) => {
                taken += 1;
                assert_eq!(session.to_record(&|number| numbers.name(number), now), record, "seed {seed}");
                let pending = record.subs.iter().map(|sub| sub.pending.is_some());
                assert!(session.subs().iter().map(|sub| sub.place().is_none()).eq(pending), "seed {seed}");
            }
            // A purpose and a hook call of chance seldom fit.
            Err(fault) => {
                refused += 1;
                assert!(record.waits.is_some(), "seed {seed}: {fault}");
            }
        }
    }
    assert!(taken > 2_500 && refused > 500, "{taken} taken, {refused} refused");
}

#[test]
fn what_no_client_is_is_refused() {
    let good = ClientRecord { waits: None, ..client(&mut Prng::with_seed(3)) };
    let fault = |change: &dyn Fn(&mut ClientRecord)| {
        let mut record = good.clone();
        change(&mut record);
        let mut numbers = Numbers::default();
        Session::from_record(&record, &mut |sub| Ok((numbers.of(&sub.channel), 0)), Time(0)).err()
    };
    let sub = SubRecord { channel: "c".into(), flags: 1, pending: None, terms: None };
    assert_eq!(fault(&|_| {}), None);
    for format in [0, 8, 19, 255] {
        let fault = fault(&|record| record.format = format);
        assert_eq!(fault, Some(RecordFault::Impossible("a client's format")), "{format}");
    }
    assert_eq!(fault(&|record| record.phase = 0), Some(RecordFault::Impossible("a client's phase")));
    assert_eq!(
        fault(&|record| record.subs = vec![sub.clone(), sub.clone()]),
        Some(RecordFault::Impossible("two subscriptions to one channel"))
    );
    assert_eq!(
        fault(&|record| record.subs = vec![SubRecord { flags: 16, ..sub.clone() }]),
        Some(RecordFault::Impossible("a shape without terms"))
    );
}

#[test]
fn every_unidirectional_client_comes_back_from_its_record() {
    let mut taken = 0;
    for seed in 0..3_000 {
        let mut record = UnidirectionalRecord::arbitrary(&mut Prng::with_seed(seed));
        tidy(&mut record.subs);
        // It has no terms of its own but filters.
        for sub in &mut record.subs {
            let filters = sub.terms.take().and_then(|terms| terms.filters);
            sub.terms = filters.map(|filters| TermsRecord {
                chan_info: None,
                expire_at_s: 0,
                renewal: RenewalRecord::Token,
                filters: Some(filters),
            });
        }
        if let Some(asking) = record.work.as_mut().and_then(|work| work.asking.as_mut()) {
            for asked in &mut asking.channels {
                readable(&mut asked.filters);
                asked.joined = record.subs.iter().any(|sub| sub.channel == asked.channel);
                asked
                    .publications
                    .iter_mut()
                    .for_each(|publication| publication.epoch = crate::base::ids::Epoch(1));
            }
        }
        let (mut numbers, budget) = (Numbers::default(), Budget::new("test", 1 << 20));
        let mut place_of = |sub: &SubRecord| Ok((numbers.of(&sub.channel), 7));
        if let Ok(uni) = Unidirectional::from_record(&record, &mut place_of, &budget) {
            taken += 1;
            assert_eq!(uni.to_record(&|number| numbers.name(number)), record, "seed {seed}");
            let kept = record.work.as_ref().and_then(|work| work.unread.as_ref()).map_or(0, Bytes::len);
            assert_eq!(budget.used(), kept as u64, "what is kept is counted");
        }
    }
    assert!(taken > 1_000, "{taken} taken");
}

#[test]
fn every_connection_of_a_tunnel_comes_back_from_its_record() {
    let mut taken = 0;
    for seed in 0..3_000 {
        let mut record = TunnelRecord::arbitrary(&mut Prng::with_seed(seed));
        let budget = Budget::new("test", 1 << 20);
        let text =
            |payload: &mut record::PayloadRecord| payload.text &= std::str::from_utf8(&payload.bytes).is_ok();
        match &mut record.stage {
            TunnelStageRecord::Asking(asking) => {
                asking.accept = Bytes::from_static(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                asking.admission.iter_mut().flat_map(|admission| &mut admission.message).for_each(text);
            }
            TunnelStageRecord::Busy(work) => {
                text(&mut work.under_way);
                work.waiting.iter_mut().for_each(text);
            }
            TunnelStageRecord::Idle => {}
        }
        let Ok(tunnel) = Tunnel::from_record(&record, 3, &budget) else { continue };
        taken += 1;
        assert_eq!(tunnel.place, 3);
        assert_eq!(tunnel.to_record(&record.tunnel, record.farewell.clone()), record, "seed {seed}");
    }
    assert!(taken > 2_000, "{taken} taken");
}

/// The backend gets every message once, in order and under its number, whenever the connection moves.
#[test]
fn a_message_under_way_is_handed_over_again_under_its_number() {
    let budget: Arc<Budget> = Budget::new("test", 1 << 20);
    let limits = WaitingLimits { messages_max: 3, bytes_max: 1000 };
    for seed in 0..200 {
        let mut prng = Prng::with_seed(seed);
        let mut record = TunnelRecord::arbitrary(&mut prng);
        (record.sequence, record.stage) = (0, TunnelStageRecord::Idle);
        let mut tunnel = Tunnel::from_record(&record, 0, &budget).unwrap();
        let (mut said, mut taken, mut under_way) = (0, Vec::new(), None);
        while taken.len() < 20 {
            match prng.u8(..3) {
                0 if said < 20 => {
                    said += 1;
                    let message = Payload { text: true, bytes: Bytes::from(said.to_string()) };
                    under_way = tunnel.handle_message(message).or(under_way);
                    tunnel.take_pause(limits);
                }
                1 => {
                    if let Some((number, message)) = under_way.take() {
                        taken.push((number, message.bytes));
                        tunnel.take_resume(limits);
                        under_way = tunnel.handle_answered();
                    }
                }
                _ => {
                    let farewell = prng.bool().then(|| FarewellRecord { code: 1006, reason: "".into() });
                    let moved = tunnel.to_record("t", farewell);
                    let paused = tunnel.is_paused();
                    tunnel = Tunnel::from_record(&moved, 0, &budget).unwrap();
                    let again = tunnel.under_way().map(|(number, message)| (number, message.clone()));
                    assert_eq!((&again, tunnel.is_paused()), (&under_way, paused), "seed {seed}");
                    under_way = again;
                }
            }
        }
        let expected: Vec<_> = (1..=20_u64).map(|number| (number, Bytes::from(number.to_string()))).collect();
        assert_eq!(taken, expected, "seed {seed}");
    }
}
