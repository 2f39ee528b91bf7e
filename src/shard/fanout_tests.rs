//! Deliveries in slices: what one tick gives, and to whom.

use super::*;
use crate::shard::core_tests::Stage;

/// How many of the connections have been sent something since this was last called.
fn served(stage: &mut Stage, slots: &[u32]) -> u32 {
    slots.iter().map(|&slot| u32::from(!stage.taken(slot).is_empty())).sum()
}

fn crowd(stage: &mut Stage, channel: &str, count: u32) -> Vec<u32> {
    (0..count).map(|_| stage.subscriber(&[channel])).collect()
}

#[test]
fn a_tick_delivers_so_much_and_the_next_one_goes_on() {
    let mut stage = Stage::new();
    let all = crowd(&mut stage, "a", DELIVERIES_PER_TICK + 10);
    stage.publish("a", "1");
    stage.tick();
    assert_eq!(served(&mut stage, &all), DELIVERIES_PER_TICK);
    assert_eq!(stage.core.timeout(stage.core.env.now, None), Some(std::time::Duration::ZERO));
    // What comes meanwhile is a batch of its own: nobody misses it, nobody gets it twice.
    stage.publish("a", "2");
    stage.tick();
    stage.tick();
    stage.tick();
    let whole: Vec<Vec<u32>> = all.iter().map(|&slot| stage.numbers(slot)).collect();
    let had_one = whole.iter().filter(|numbers| **numbers == [2]).count() as u32;
    let had_none = whole.iter().filter(|numbers| **numbers == [1, 2]).count() as u32;
    assert_eq!((had_one, had_none), (DELIVERIES_PER_TICK, 10));
}

#[test]
fn channels_have_their_turns_in_slices() {
    let mut stage = Stage::new();
    let (first, second) = (crowd(&mut stage, "a", 3 * SLICE), crowd(&mut stage, "b", 3 * SLICE));
    stage.publish("a", "1");
    stage.publish("b", "1");
    stage.tick();
    let half = DELIVERIES_PER_TICK / 2;
    assert_eq!((served(&mut stage, &first), served(&mut stage, &second)), (half, half));
    stage.tick();
    let rest = 3 * SLICE - half;
    assert_eq!((served(&mut stage, &first), served(&mut stage, &second)), (rest, rest));
}

#[test]
fn a_batch_reaches_every_class_in_its_own_frames() {
    let mut stage = Stage::new();
    let clients = [stage.subscriber(&["a"]), stage.subscriber(&["a"])];
    let streams = [stage.get("/sse?channel=a"), stage.upgraded("/ws?channel=a")];
    stage.tick();
    for slot in streams {
        stage.taken(slot);
    }
    stage.publish("a", "1");
    stage.publish("a", "2");
    stage.tick();
    for slot in clients.into_iter().chain(streams) {
        assert_eq!(stage.numbers(slot), [1, 2]);
    }
}

#[test]
fn who_leaves_in_the_middle_of_a_batch_changes_nothing_for_others() {
    let mut stage = Stage::new();
    let all = crowd(&mut stage, "a", DELIVERIES_PER_TICK + 10);
    stage.publish("a", "1");
    stage.tick();
    // One that has had it, and one that has not: the last of the list take their places.
    let (had, waits): (Vec<u32>, Vec<u32>) = all.iter().partition(|&&slot| !stage.taken(slot).is_empty());
    stage.core.give_up(had[0]);
    stage.core.give_up(waits[0]);
    stage.tick();
    assert_eq!((served(&mut stage, &had), served(&mut stage, &waits[1..])), (0, 9));
}

/// What the connection was sent since that was last looked at: of each publication its payload, and whether it is a patch.
fn payloads(stage: &mut Stage, slot: u32) -> Vec<(String, bool)> {
    let taken = stage.taken(slot);
    let pubs = taken.match_indices(r#""pub":"#).map(|(at, mark)| {
        let rest = &taken[at + mark.len()..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde_json::Value>();
        let publication = values.next().unwrap().unwrap();
        let text =
            publication["data"].as_str().map_or_else(|| publication["data"].to_string(), str::to_owned);
        (text, publication["delta"] == true)
    });
    pubs.collect()
}

#[test]
fn a_delta_is_for_those_who_asked_and_had_the_one_before() {
    let mut stage = Stage::with(|options| {
        let rules = options
            .rules
            .map(|rules| crate::session::rules::ChannelRules { allow_delta: true, ..rules.clone() });
        options.rules = std::sync::Arc::new(rules);
    });
    let subscribe = |stage: &mut Stage| {
        let slot = stage.client();
        stage.text(slot, r#"{"id":2,"subscribe":{"channel":"log:a","delta":"fossil"}}"#);
        stage.tick();
        assert!(stage.taken(slot).contains(r#""delta":true"#));
        slot
    };
    let document = |n: u32| format!("{{\"text\":\"{}\",\"n\":{n}}}", "a".repeat(100));
    let mut had = std::collections::BTreeMap::new();
    // Each is what was published, made of what the connection had before.
    let mut check = |stage: &mut Stage, slot: u32, expected: &[(u32, bool)]| {
        let got = payloads(stage, slot);
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for ((payload, is_patch), &(n, patched)) in got.into_iter().zip(expected) {
            assert_eq!(is_patch, patched, "connection {slot}, document {n}");
            let whole = match patched {
                true => {
                    let base: &String = &had[&slot];
                    let made = crate::proto::fossil::apply(base.as_bytes(), payload.as_bytes());
                    String::from_utf8(made.unwrap()).unwrap()
                }
                false => payload,
            };
            assert_eq!(whole, document(n));
            had.insert(slot, whole);
        }
    };
    let publish = |stage: &mut Stage, numbers: std::ops::Range<u32>| {
        for n in numbers {
            stage.publish("log:a", &document(n));
            stage.tick();
        }
    };
    let (first, plain) = (subscribe(&mut stage), stage.subscriber(&["log:a"]));
    publish(&mut stage, 1..2);
    check(&mut stage, first, &[(1, false)]);
    let second = subscribe(&mut stage);
    // Two in one batch.
    stage.publish("log:a", &document(2));
    publish(&mut stage, 3..4);
    check(&mut stage, first, &[(2, true), (3, true)]);
    check(&mut stage, second, &[(2, false), (3, false)]);
    // One whose socket is full: what was on its way stays what it was, what is caught up with is whole.
    stage.block(second);
    publish(&mut stage, 4..7);
    check(&mut stage, first, &[(4, true), (5, true), (6, true)]);
    stage.unblock(second);
    stage.tick();
    publish(&mut stage, 7..9);
    check(&mut stage, second, &[(4, true), (5, false), (6, false), (7, false), (8, true)]);
    let numbers: Vec<bool> = payloads(&mut stage, plain).into_iter().map(|(_, patched)| patched).collect();
    assert_eq!(numbers, [false; 8], "who did not ask gets none");
}
