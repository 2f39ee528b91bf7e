//! Where devices go on that come back to a channel, against a map of what each has received.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tests::{NOW, owner, publish, request};
use super::*;
use crate::base::ids::ConnId;
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Visibility};
use crate::hub::requests::{JoinRequest, Joined, Recovery};

const USERS: [&str; 2] = ["ann", "bob"];
const DEVICES: [&str; 4] = ["", "phone", "desktop", "tablet"];
/// As many as the log of the tests' channel keeps.
const KEPT: u64 = 2000;
/// As many as one recovery gives.
const RECOVERED_MAX: u64 = 300;

fn join(owned: &mut OwnedChannels, number: u32, user: &str, device: &str) -> Joined {
    let conn = ConnId::from_bits(u64::from(number));
    let ask = JoinRequest {
        channel: "c".into(),
        conn,
        info: Arc::new(ClientInfo { user: user.into(), client: number.to_string(), ..ClientInfo::default() }),
        shown: Visibility::default(),
        recover: None,
        device: Some(Box::new(device.into())),
        by: Creator::Backend,
    };
    let joined = owned.join(ask, NOW).expect("there is room");
    owned.leave("c", conn, NOW);
    joined
}

fn offsets(recovery: Option<Recovery>) -> Option<Vec<u64>> {
    match recovery.expect("a place is always known") {
        Recovery::Recovered(publications) => {
            Some(publications.iter().map(|publication| publication.offset().0).collect())
        }
        Recovery::Lost => None,
        other => panic!("{other:?}"),
    }
}

/// What each device has received, by user and name.
#[derive(Default)]
struct Naive(BTreeMap<(&'static str, &'static str), u64>);

impl Naive {
    fn ack(&mut self, user: &'static str, device: &'static str, to: u64) {
        let nameless = match device {
            "" => None,
            _ if self.0.contains_key(&(user, device)) => None,
            _ => self.0.remove(&(user, "")),
        };
        let at = self.0.entry((user, device)).or_default();
        *at = to.max(*at).max(nameless.unwrap_or(0));
    }

    fn received(&self, user: &'static str, device: &'static str) -> Option<u64> {
        match device {
            "" => self.0.iter().filter(|((of, _), _)| *of == user).map(|(_, at)| *at).max(),
            _ => self.0.get(&(user, device)).or_else(|| self.0.get(&(user, ""))).copied(),
        }
    }
}

#[test]
fn each_device_gets_what_it_lacks_and_hears_when_that_is_gone() {
    for seed in 0..300 {
        let mut prng = Prng::with_seed(seed);
        let (mut owned, mut naive) = (owner(None), Naive::default());
        let mut top = 0;
        for step in 0..60 {
            let (user, device) = (USERS[prng.usize(..2)], DEVICES[prng.usize(..4)]);
            match prng.u8(..8) {
                0..=2 => {
                    let count = if prng.u8(..12) == 0 { 350 } else { prng.usize(1..5) };
                    top = publish(&mut owned, "c", count).offset.0;
                }
                3..=4 if top > 0 => {
                    let to = prng.u64(1..=top);
                    owned.ack(&request("c", user, device, &[(to, AckKind::Received)]), NOW);
                    naive.ack(user, device, to);
                }
                _ => {
                    let joined = join(&mut owned, step, user, device);
                    let since = joined.since.expect("a place is always known");
                    let told = offsets(joined.recovery);
                    let oldest = top.saturating_sub(KEPT);
                    match naive.received(user, device) {
                        Some(received) => {
                            assert_eq!((since.offset.0, since.is_rewind()), (received, false), "seed {seed}");
                            let is_there = received >= oldest && top - received <= RECOVERED_MAX;
                            let lacks = is_there.then(|| (received + 1..=top).collect());
                            assert_eq!(told, lacks, "seed {seed}: {user} {device}");
                        }
                        None => {
                            assert!(since.is_rewind(), "seed {seed}");
                            let first = oldest.max(top.saturating_sub(RECOVERED_MAX)) + 1;
                            assert_eq!(told, Some((first..=top).collect()), "seed {seed}: {user} {device}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_log_that_began_again_is_new_to_every_device() {
    let mut owned = owner(None);
    publish(&mut owned, "c", 3);
    owned.ack(&request("c", "ann", "phone", &[(3, AckKind::Read)]), NOW);
    assert_eq!(offsets(join(&mut owned, 1, "ann", "phone").recovery), Some(vec![]));
    // The members stay where the log is forgotten by the process that had it.
    let slot = owned.slot_named("c").expect("it is known");
    owned.cursors.get_mut(&slot).expect("it has cursors").restart();
    assert_eq!(offsets(join(&mut owned, 2, "ann", "phone").recovery), Some(vec![1, 2, 3]));
}
