//! Cursors against a plain map.

use std::collections::BTreeMap;

use super::*;
use crate::base::prng::Prng;

fn names() -> Names {
    Names::new(RandomState::with_seeds(1, 2, 3, 4))
}

fn at(received: u64, read: u64) -> MemberCursor {
    MemberCursor { received: Offset(received), read: Offset(read) }
}

fn always(_: usize) -> bool {
    true
}

#[test]
fn the_highest_holds_and_read_is_received() {
    let (mut cursors, mut names) = (Cursors::default(), names());
    let mut ack = |device: &str, to| cursors.ack(&"ann".into(), &device.into(), to, always, &mut names);
    let moved = |cursor, read, moved, added| Ok(CursorMoved { cursor, read: Offset(read), moved, added });
    assert_eq!(ack("phone", at(3, 0)), moved(at(3, 0), 0, true, 1));
    assert_eq!(ack("phone", at(0, 5)), moved(at(5, 5), 5, true, 0));
    assert_eq!(ack("phone", at(4, 2)), moved(at(5, 5), 5, false, 0), "late ones do nothing");
    assert_eq!(ack("desktop", at(2, 0)), moved(at(2, 0), 5, true, 1), "what is read is read on every device");
    assert_eq!(cursors.read_of("ann", &names), Some(Offset(5)));
    assert_eq!(cursors.read_of("bob", &names), None);
}

#[test]
fn who_was_made_a_member_has_one_cursor_with_the_first_device() {
    let (mut cursors, mut names) = (Cursors::default(), names());
    let ann = UserName::from("ann");
    assert_eq!(cursors.add(&ann, Offset(7), always, &mut names), Ok(true));
    assert_eq!(cursors.add(&ann, Offset(9), always, &mut names), Ok(false));
    let moved = cursors.ack(&ann, &"phone".into(), at(8, 0), always, &mut names).unwrap();
    assert_eq!((moved.cursor, moved.read, moved.added), (at(8, 7), Offset(7), 0));
    assert_eq!(cursors.len(), 1);
}

#[test]
fn who_invents_devices_keeps_the_nearest_and_what_was_read() {
    let (mut cursors, mut names) = (Cursors::default(), names());
    let ann = UserName::from("ann");
    cursors.ack(&ann, &"old".into(), at(0, 3), always, &mut names).unwrap();
    for number in 0..100_u64 {
        let device = UserName::from(format!("d{number}"));
        cursors.ack(&ann, &device, at(10 + number, 0), always, &mut names).unwrap();
        assert!(cursors.len() <= DEVICES_MAX);
    }
    assert_eq!((cursors.read_of("ann", &names), names.count()), (Some(Offset(3)), 1 + DEVICES_MAX));
    assert_eq!(cursors.remove("ann", &mut names), DEVICES_MAX);
    assert_eq!(names.count(), 0);
}

#[test]
fn skipped_offsets_are_not_unread() {
    let mut cursors = Cursors::default();
    cursors.skipped(Offset(10), 1_000);
    assert_eq!(cursors.between(Offset(4), Offset(1_012)), 8);
    assert_eq!(cursors.between(Offset(10), Offset(1_012)), 2);
    assert_eq!(cursors.between(Offset(1_011), Offset(1_012)), 1);
    assert_eq!(cursors.between(Offset(4), Offset(10)), 6);
    for number in 2..40 {
        cursors.skipped(Offset(number * 2_000), 1_000);
    }
    assert_eq!(cursors.between(Offset(0), Offset(80_000)), 80_000 - 39_000);
}

/// The devices of each user and where they are, as one would write it down.
#[derive(Default)]
struct Plain(BTreeMap<String, BTreeMap<String, MemberCursor>>);

impl Plain {
    fn rows(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn ack(&mut self, user: &str, device: &str, to: MemberCursor, rows_max: usize) -> bool {
        let room = self.rows() < rows_max;
        let devices = self.0.entry(user.to_owned()).or_default();
        let mut begin = MemberCursor::default();
        if !devices.contains_key(device) {
            if let Some(nameless) = devices.remove("") {
                begin = nameless;
            } else if devices.len() >= DEVICES_MAX {
                let farthest = devices.values().map(|cursor| cursor.received).min().unwrap();
                let gone = devices.iter().find(|(_, cursor)| cursor.received == farthest).unwrap().0.clone();
                begin.read = devices.remove(&gone).unwrap().read;
            } else if !room {
                if devices.is_empty() {
                    self.0.remove(user);
                }
                return false;
            }
        }
        let cursor = devices.entry(device.to_owned()).or_insert(begin);
        cursor.read = cursor.read.max(to.read);
        cursor.received = cursor.received.max(to.received).max(cursor.read);
        true
    }
}

#[test]
fn cursors_are_what_a_plain_map_says() {
    let seeds = std::env::var("TRUNKLINE_CURSOR_SEEDS").map_or(300, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut prng = Prng::with_seed(seed);
        let (mut cursors, mut names, mut plain) = (Cursors::default(), names(), Plain::default());
        let rows_max = prng.usize(1..60);
        for step in 0..prng.usize(1..400) {
            let user = format!("u{}", prng.u64(0..12));
            let name = UserName::from(user.as_str());
            match prng.u32(0..20) {
                0 => {
                    let expected = plain.0.remove(&user).map_or(0, |devices| devices.len());
                    assert_eq!(cursors.remove(&user, &mut names), expected, "{seed}:{step}");
                }
                1 => {
                    let at = Offset(prng.u64(0..40).min(step as u64));
                    let is_member = plain.0.contains_key(&user);
                    let full = !is_member && plain.rows() >= rows_max;
                    let added = cursors.add(&name, at, |rows| rows < rows_max, &mut names);
                    assert_eq!(added, if full { Err(CursorsFull) } else { Ok(!is_member) }, "{seed}:{step}");
                    if added == Ok(true) {
                        let cursor = MemberCursor { received: at, read: at };
                        plain.0.insert(user, [(String::new(), cursor)].into());
                    }
                }
                _ => {
                    // Every position once, so that the farthest is one alone.
                    let device = if prng.bool() { String::new() } else { format!("d{}", prng.u64(0..11)) };
                    let to = at(step as u64 + 1, prng.u64(0..40).min(step as u64));
                    let room = |rows: usize| rows < rows_max;
                    let moved = cursors.ack(&name, &device.as_str().into(), to, room, &mut names);
                    assert_eq!(moved.is_ok(), plain.ack(&user, &device, to, rows_max), "{seed}:{step}");
                    if let Ok(moved) = moved {
                        let devices = &plain.0[&user];
                        assert_eq!(moved.cursor, devices[&device], "{seed}:{step}");
                        let read = devices.values().map(|cursor| cursor.read).max();
                        assert_eq!(Some(moved.read), read, "{seed}:{step}");
                    }
                }
            }
            assert_eq!(cursors.len(), plain.rows(), "{seed}:{step}");
        }
        let mut all: Vec<_> = cursors
            .iter(&names)
            .map(|named| (named.user.to_string(), named.device.to_string(), named.cursor))
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let expected: Vec<_> = plain
            .0
            .iter()
            .flat_map(|(user, devices)| {
                devices.iter().map(|(device, at)| (user.clone(), device.clone(), *at))
            })
            .collect();
        assert_eq!(all, expected, "{seed}");
        cursors.clear(&mut names);
        assert_eq!(names.count(), 0, "{seed}");
    }
}
