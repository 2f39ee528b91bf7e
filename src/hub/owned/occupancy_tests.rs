//! Random joins, leaves, pauses and upgrades against a count: the last one that was published is the right one, and no channel
//! publishes more often than it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::ids::{ConnId, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Visibility, key_of, removes};
use crate::hub::creators::Creator;
use crate::hub::requests::JoinRequest;
use crate::hub::{ChannelOptions, HubLimits, Namespaces};

const ROOMS: [&str; 3] = ["a", "b", "c"];

fn owned(presence: bool) -> OwnedChannels {
    let options =
        ChannelOptions { presence, occupancy: Some("lobby:rooms".to_owned()), ..ChannelOptions::default() };
    let namespaces = Namespaces::new(options, [], 255);
    OwnedChannels::new(Arc::new(namespaces), HubLimits::default(), Prng::with_seed(7))
}

fn conn(slot: u32) -> ConnId {
    ConnId::new(ShardId(0), Sock { slot, generation: 1 })
}

fn join(owned: &mut OwnedChannels, room: &str, slot: u32, now: Time) {
    let info = ClientInfo { user: format!("u{}", slot % 2).as_str().into(), ..ClientInfo::default() };
    let shown = Visibility { listed: true, announced: false };
    let ask = JoinRequest {
        channel: room.into(),
        conn: conn(slot),
        info: info.into(),
        shown,
        recover: None,
        device: None,
        by: Creator::Backend,
    };
    owned.join(ask, now).expect("there is room");
}

/// The lobby as its subscribers see it, and when each room was last said.
#[derive(Default)]
struct Lobby {
    values: BTreeMap<String, String>,
    said: BTreeMap<String, Time>,
    count: usize,
}

impl Lobby {
    fn hear(&mut self, owned: &mut OwnedChannels, now: Time) {
        while let Some(ask) = owned.take_occupancy(now) {
            assert!(&*ask.channel == "lobby:rooms" && ask.keyed);
            self.count += 1;
            let room = key_of(&ask.tags).to_owned();
            if removes(&ask.tags) {
                assert!(self.values.remove(&room).is_some(), "{room} had a count");
                self.said.remove(&room);
                continue;
            }
            if let Some(at) = self.said.insert(room.clone(), now) {
                assert!(now >= at + OCCUPANCY_EVERY, "{room} was said just now");
            }
            let text = String::from_utf8(ask.data.to_vec()).expect("it is JSON");
            assert_ne!(self.values.insert(room, text.clone()), Some(text), "said twice");
        }
    }
}

/// What a process after this one has of the channels and their members.
fn upgraded(owned: &OwnedChannels, presence: bool, now: Time) -> OwnedChannels {
    let mut next = self::owned(presence);
    for name in owned.names().cloned().collect::<Vec<_>>() {
        next.restore(&owned.to_record(&name, now).expect("it is known"), now).expect("it fits");
        owned.members_parts(&name, now, |part| {
            next.restore_members(part, &|bits| Some(ConnId::from_bits(bits)), now)
                .expect("the channel is here");
        });
    }
    next.finish_restoring().expect("there is room");
    next
}

#[test]
fn the_last_count_is_the_right_one() {
    for seed in 0..200 {
        let mut prng = Prng::with_seed(seed);
        let presence = seed % 2 == 0;
        let (mut owned, mut lobby) = (owned(presence), Lobby::default());
        let mut here: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        let mut now = Time::from_millis(1_000);
        for _ in 0..200 {
            let room = ROOMS[prng.usize(..3)];
            let slot = prng.u32(..6);
            let members = here.entry(room).or_default();
            match members.contains(&slot) {
                true => {
                    members.remove(&slot);
                    owned.leave(room, conn(slot), now);
                }
                false => {
                    members.insert(slot);
                    join(&mut owned, room, slot, now);
                }
            }
            if prng.u8(..30) == 0 {
                // What a turn would have taken.
                lobby.hear(&mut owned, now);
                owned = upgraded(&owned, presence, now);
                lobby.said.clear();
            }
            if prng.bool() {
                lobby.hear(&mut owned, now);
            }
            // Now and then so long that empty rooms are forgotten.
            now = now + Duration::from_millis(if prng.u8(..40) == 0 { 70_000 } else { prng.u64(..700) });
            while owned.sweep(now, 10) {}
        }
        while let Some(next) = owned.next_occupancy() {
            now = now.max(next);
            lobby.hear(&mut owned, now);
        }
        let truth = here.iter().filter(|(_, members)| !members.is_empty()).map(|(room, members)| {
            let users = members.iter().map(|slot| slot % 2).collect::<BTreeSet<_>>().len();
            let clients = members.len();
            let value = match presence {
                true => format!("{{\"num_clients\":{clients},\"num_users\":{users}}}"),
                false => format!("{{\"num_clients\":{clients}}}"),
            };
            ((*room).to_owned(), value)
        });
        assert_eq!(lobby.values, truth.collect(), "seed {seed}");
    }
}

#[test]
fn a_crowd_is_one_publication_a_second() {
    let (mut owned, mut lobby) = (owned(false), Lobby::default());
    let mut now = Time::from_millis(1_000);
    for slot in 0..10_000 {
        join(&mut owned, "a", slot, now);
        lobby.hear(&mut owned, now);
        now = now + Duration::from_micros(200);
    }
    assert_eq!((lobby.count, &*lobby.values["a"]), (2, "{\"num_clients\":5001}"));
    now = owned.next_occupancy().expect("the rest");
    lobby.hear(&mut owned, now);
    assert_eq!((lobby.count, &*lobby.values["a"]), (3, "{\"num_clients\":10000}"));
    assert_eq!(owned.next_occupancy(), None);
    // Back where it was before it could be said.
    owned.leave("a", conn(1), now);
    join(&mut owned, "a", 1, now);
    now = owned.next_occupancy().expect("something changed");
    lobby.hear(&mut owned, now);
    assert_eq!((lobby.count, owned.next_occupancy()), (3, None));
}

#[test]
fn counts_move_with_the_option() {
    let (mut owned, mut lobby) = (owned(false), Lobby::default());
    let now = Time::from_millis(1_000);
    join(&mut owned, "a", 1, now);
    lobby.hear(&mut owned, now);
    assert_eq!(lobby.values.len(), 1);
    for (to, heard) in [
        (Some("other:rooms"), vec![(true, "lobby:rooms"), (false, "other:rooms")]),
        (None, vec![(true, "other:rooms")]),
    ] {
        let options = ChannelOptions { occupancy: to.map(str::to_owned), ..ChannelOptions::default() };
        owned.exchange_options(Arc::new(Namespaces::new(options, [], 255)), HubLimits::default());
        while owned.retake_options(1) {}
        let said = std::iter::from_fn(|| owned.take_occupancy(now));
        let said: Vec<_> = said.map(|ask| (removes(&ask.tags), ask.channel.to_string())).collect();
        let heard: Vec<_> = heard.into_iter().map(|(removed, to)| (removed, to.to_owned())).collect();
        assert_eq!(said, heard);
    }
    assert_eq!(owned.next_occupancy(), None);
}
