//! An owner whose store does everything later: what leaves when, in which order, and what does not leave at all.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::{Epoch, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Missed, SinceEpoch, Visibility};
use crate::hub::creators::Creator;
use crate::hub::log_store::{Append, LogStore, ReadBack, StoreDone, StoreEntry};
use crate::hub::requests::JoinRequest;
use crate::hub::{ChannelOptions, HubLimits, Namespaces};
use crate::session::JoinTerms;

/// Does what it is asked when the test says so.
#[derive(Clone, Default)]
struct Delayed(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tickets: u64,
    /// Under way, and kept when done.
    appends: Vec<(Ticket, Arc<Publication>)>,
    reads: Vec<(Ticket, Publications)>,
    kept: Publications,
    /// Bound: what a test does.
    done: VecDeque<(Ticket, StoreDone)>,
}

impl LogStore for Delayed {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        let state = &mut *self.0.lock();
        state.tickets += 1;
        state.appends.push((Ticket(state.tickets), Arc::clone(entry.publication)));
        Append::Later(Ticket(state.tickets))
    }

    fn read(&mut self, channel: &str, after: Offset, end: Position, limit: usize) -> ReadBack {
        let state = &mut *self.0.lock();
        let wanted = state.kept.iter().filter(|kept| {
            *kept.channel == *channel
                && kept.position.epoch == end.epoch
                && kept.offset() > after
                && kept.offset() <= end.offset
        });
        let found: Publications = wanted.take(limit).cloned().collect();
        state.tickets += 1;
        state.reads.push((Ticket(state.tickets), found));
        ReadBack::Later(Ticket(state.tickets))
    }

    fn takes_all(&self) -> bool {
        true
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        self.0.lock().done.pop_front()
    }
}

impl Delayed {
    /// The append under way at this place is done.
    fn finish(&self, place: usize, kept: bool) {
        let state = &mut *self.0.lock();
        let (ticket, publication) = state.appends.remove(place);
        if kept {
            state.kept.push(publication);
        }
        state
            .done
            .push_back((ticket, StoreDone::Appended(if kept { Ok(()) } else { Err(ErrorCode::Internal) })));
    }

    fn finish_reads(&self) {
        let state = &mut *self.0.lock();
        let reads = state.reads.drain(..).map(|(ticket, found)| (ticket, StoreDone::Read(found)));
        state.done.extend(reads);
    }
}

const AT: OwnerMoment = OwnerMoment { now: Time(1_000_000), wall_ms: 7 };

/// An owner and what it has said since that was last looked at.
struct Stage {
    owner: ChannelOwner,
    store: Delayed,
    said: Vec<String>,
}

impl Stage {
    fn new() -> Stage {
        let kept = ChannelOptions {
            // Little in memory: the rest is the store's.
            history_size: 2,
            history_ttl: Duration::from_secs(60),
            join_leave: true,
            ..ChannelOptions::default()
        };
        let namespaces = Namespaces::new(kept, [], 255);
        let store = Delayed::default();
        let owned = OwnedChannels::new(Arc::new(namespaces), HubLimits::default(), Prng::with_seed(7));
        let owner = ChannelOwner::new(owned.with_store(Box::new(store.clone())));
        Stage { owner, store, said: Vec::new() }
    }

    fn request(&mut self, request: OwnerRequest) {
        let said = &mut self.said;
        self.owner.handle_request(request, AT, &mut |shard, message| said.push(describe(shard, message)));
    }

    fn publish(&mut self, id: u32, data: &'static str, key: &str) {
        let ask = PublishRequest::new("c".into(), Bytes::from_static(data.as_bytes()));
        let ask = PublishRequest { idempotency_key: Some(key.into()), ..ask };
        self.request(OwnerRequest::Publish { conn: conn(2), id, ask, receipt: false });
    }

    fn join(&mut self, slot: u32, recover: Option<(u64, Epoch)>) {
        let recover =
            recover.map(|(offset, epoch)| Since { offset: Offset(offset), epoch: SinceEpoch::Known(epoch) });
        let ask = JoinRequest {
            channel: "c".into(),
            conn: conn(slot),
            info: ClientInfo { client: slot.to_string(), ..ClientInfo::default() }.into(),
            shown: Visibility { listed: false, announced: true },
            recover,
            device: None,
            by: Creator::Backend,
        };
        let tag = JoinTag { index: 0, terms: JoinTerms::default(), done: None };
        self.request(OwnerRequest::Join { ask, tag });
    }

    fn epoch(&self) -> Epoch {
        self.owner.owned.position("c").expect("it is known").epoch
    }

    /// What has been said since this was last called, the store's news included.
    fn said(&mut self) -> Vec<String> {
        let said = &mut self.said;
        self.owner.handle_stored(AT, &mut |shard, message| said.push(describe(shard, message)));
        std::mem::take(said)
    }
}

fn conn(slot: u32) -> ConnId {
    ConnId::new(ShardId(1), Sock { slot, generation: 0 })
}

fn describe(shard: ShardId, message: FromOwner) -> String {
    assert_eq!(shard, ShardId(1));
    let offsets = |publications: &Publications| {
        publications.iter().map(|entry| entry.offset().0.to_string()).collect::<Vec<_>>().join(" ")
    };
    match message {
        FromOwner::Item(Item::Publication(item)) => {
            format!("item {} {}", item.offset().0, String::from_utf8_lossy(&item.data))
        }
        FromOwner::Item(Item::JoinLeaveEvent(event)) => {
            format!("{} {}", if event.joined { "joined" } else { "left" }, event.info.client)
        }
        FromOwner::Paced(paced) => format!("paced {}", paced.0.offset().0),
        FromOwner::Stands(stands) => format!("stands at {}", stands.1.offset.0),
        FromOwner::Answer(answer) => match *answer {
            OwnerAnswer::Published { id, outcome: Ok(position), .. } => {
                format!("answer {id}: {}", position.offset.0)
            }
            OwnerAnswer::Published { id, outcome: Err(error_code), .. } => {
                format!("answer {id}: {error_code:?}")
            }
            OwnerAnswer::Joined { conn, outcome: Ok((position, missed)), .. } => {
                let missed = match missed {
                    Missed::Given(publications) => format!(" recovered [{}]", offsets(&publications)),
                    Missed::Lost => " lost".to_owned(),
                    Missed::NotAsked => String::new(),
                };
                format!("in {} at {}{missed}", conn.sock().slot, position.offset.0)
            }
            OwnerAnswer::Read { answer: ReadAnswer::Page { publications, position }, .. } => {
                format!("page [{}] of {}", offsets(&publications), position.offset.0)
            }
            other => format!("{other:?}"),
        },
    }
}

#[test]
fn a_publication_leaves_and_is_acknowledged_when_it_is_kept_and_not_before() {
    let mut stage = Stage::new();
    stage.join(1, None);
    assert_eq!(stage.said(), ["in 1 at 0", "joined 1"]);
    stage.publish(10, "a", "");
    stage.publish(11, "b", "");
    assert_eq!(stage.said(), [""; 0]);
    // The second is done first: nobody hears of it before the first.
    stage.store.finish(1, true);
    assert_eq!(stage.said(), [""; 0]);
    stage.join(2, None);
    assert_eq!(stage.said(), ["in 2 at 0", "joined 2"], "what is not kept has not happened");
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 1 a", "answer 10: 1", "item 2 b", "answer 11: 2"]);
    stage.join(3, Some((0, stage.epoch())));
    assert_eq!(stage.said(), ["in 3 at 2 recovered [1 2]", "joined 3"]);
}

#[test]
fn a_repeat_of_what_is_under_way_waits_for_the_first() {
    let mut stage = Stage::new();
    stage.join(1, None);
    stage.said();
    stage.publish(10, "a", "key");
    stage.publish(11, "a", "key");
    stage.publish(12, "b", "");
    assert_eq!(stage.said(), [""; 0]);
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 1 a", "answer 10: 1", "answer 11: 1"]);
    stage.publish(13, "a", "key");
    assert_eq!(stage.said(), ["answer 13: 1"]);
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 2 b", "answer 12: 2"]);
}

#[test]
fn a_version_under_way_holds_back_older_ones() {
    let mut stage = Stage::new();
    stage.join(1, None);
    stage.said();
    let versioned = |stage: &mut Stage, id, version| {
        let ask = PublishRequest::new("c".into(), Bytes::from_static(b"v"));
        let ask = PublishRequest { version, ..ask };
        stage.request(OwnerRequest::Publish { conn: conn(2), id, ask, receipt: false });
    };
    versioned(&mut stage, 10, 5);
    versioned(&mut stage, 11, 4);
    versioned(&mut stage, 12, 6);
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 1 v", "answer 10: 1", "answer 11: 1"]);
    stage.store.finish(0, false);
    assert_eq!(stage.said(), ["answer 12: Internal"]);
    versioned(&mut stage, 13, 6);
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 2 v", "answer 13: 2"], "what was not kept may be tried again");
}

#[test]
fn what_is_not_kept_was_never_published_nor_was_anything_behind_it() {
    let mut stage = Stage::new();
    stage.join(1, None);
    stage.said();
    for (id, data) in [(10, "a"), (11, "b"), (12, "c")] {
        stage.publish(id, data, data);
    }
    stage.store.finish(0, true);
    stage.store.finish(0, false);
    assert_eq!(stage.said(), ["item 1 a", "answer 10: 1", "answer 11: Internal", "answer 12: Internal"]);
    // A late word on the one behind changes nothing, and the offset is free again.
    stage.store.finish(0, true);
    stage.publish(13, "b", "b");
    assert_eq!(stage.said(), [""; 0]);
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 2 b", "answer 13: 2"]);
}

/// A crash between the append and its end: the caller is not told that it is published.
#[test]
fn an_owner_that_ends_acknowledges_nothing() {
    let mut stage = Stage::new();
    let answer = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&answer);
    let reply = ControlReply::new(move |outcome| *kept.lock() = Some(outcome));
    let ask = ControlRequest::Publish(PublishRequest::new("c".into(), Bytes::from_static(b"a")), reply);
    assert!(stage.owner.handle_control_request(ask, AT, &mut |_, _| ()).is_none());
    assert_eq!(*answer.lock(), None);
    stage.store.finish(0, true);
    drop(stage);
    assert_eq!(*answer.lock(), Some(Err(ErrorCode::Internal)));
}

/// Found by simulation, seeds 63 and 6940: the leave of one whose join waited for the disk went out before the join, which
/// stayed; and a join that waited was answered behind a later one. It is answered without what the disk has.
#[test]
fn who_leaves_before_the_join_is_answered_has_joined_before_it_left() {
    let mut stage = Stage::new();
    stage.join(1, None);
    for id in 1..=5 {
        stage.publish(id, "a", "");
        stage.store.finish(0, true);
    }
    stage.said();
    stage.join(2, Some((1, stage.epoch())));
    stage.request(OwnerRequest::Leave { channel: "c".into(), conn: conn(2) });
    assert_eq!(stage.said(), ["in 2 at 5 lost", "joined 2", "left 2"]);
    stage.join(2, Some((1, stage.epoch())));
    stage.join(2, None);
    assert_eq!(stage.said(), ["in 2 at 5 lost", "joined 2", "in 2 at 5"]);
    stage.store.finish_reads();
    assert_eq!(stage.said(), [""; 0]);
    assert!(stage.owner.joining.is_empty() && stage.owner.waiting.is_empty());
}

#[test]
fn what_memory_has_no_more_is_read_from_the_store() {
    let mut stage = Stage::new();
    for id in 1..=5 {
        stage.publish(id, "a", "");
        stage.store.finish(0, true);
    }
    assert_eq!(stage.said().len(), 5);
    let epoch = stage.epoch();
    stage.join(1, Some((1, epoch)));
    assert_eq!(stage.said(), [""; 0], "memory has 4 and 5");
    // Published while the log is read: it comes as an item, before the answer, and is behind the answer's position.
    stage.publish(6, "b", "");
    stage.store.finish(0, true);
    assert_eq!(stage.said(), ["item 6 b", "answer 6: 6"]);
    stage.store.finish_reads();
    assert_eq!(stage.said(), ["in 1 at 5 recovered [2 3 4 5]", "joined 1"]);

    let after = Position { offset: Offset(2), epoch };
    let read = Read { channel: "c".into(), index: 0, number: 1, after, bytes_max: 1 };
    stage.request(OwnerRequest::Read { by: ReadBy::Channel(ShardId(1)), read });
    stage.store.finish_reads();
    assert_eq!(stage.said(), ["page [3] of 6"]);
    stage.store.0.lock().kept.remove(1);
    stage.join(2, Some((1, epoch)));
    stage.store.finish_reads();
    assert_eq!(stage.said(), ["in 2 at 6 lost", "joined 2"], "the store has a hole");
}
