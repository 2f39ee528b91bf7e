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
