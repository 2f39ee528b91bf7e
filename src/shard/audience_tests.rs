//! Publications that are kept from somebody: on their way, in what is caught up with, recovered and read.

use std::sync::Arc;

use crate::base::except::Except;
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::rules::ChannelRules;
use crate::shard::core::Core;
use crate::shard::core_tests::Stage;

/// Publishes a number that is kept from those whom `except` names.
fn publish_except(stage: &mut Stage, channel: &str, number: u32, except: Except) {
    stage.publish_as(channel, &number.to_string(), |ask| ask.except = Some(Arc::new(except)));
}

/// Clients may publish and read logs, and get deltas.
fn stage(change: impl Fn(&mut ChannelRules)) -> Stage {
    Stage::with(|options| {
        options.channels_max = 64;
        let permissions = [Deed::Subscribe, Deed::Publish, Deed::ReadHistory]
            .into_iter()
            .fold(Permissions::default(), |all, deed| all.with(deed, Grantee::Client, true));
        options.rules = Arc::new(options.rules.map(|rules| {
            let mut rules =
                ChannelRules { permissions, allow_delta: true, allow_tags_filter: true, ..rules.clone() };
            change(&mut rules);
            rules
        }));
    })
}

fn origin(tag: &str) -> Except {
    Except { origin: Some(tag.into()), ..Except::default() }
}

fn client_of(core: &Core, slot: u32) -> Except {
    Except::client(core.client_id(slot))
}

/// A subscriber of the client protocol whose URL names a tag.
fn tagged(stage: &mut Stage, channel: &str, tag: &str, subscribe: &str) -> u32 {
    let slot = stage.connection();
    stage.upgrade(slot, &format!("/connection/websocket?origin={tag}"));
    stage.text(slot, r#"{"id":1,"connect":{}}"#);
    stage.tick();
    stage.text(slot, &format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"{subscribe}}}}}"#));
    stage.tick();
    stage.taken(slot);
    slot
}

#[test]
fn a_publication_reaches_all_but_the_one_that_it_names() {
    let mut stage = stage(|_| ());
    let plain: Vec<u32> = (0..3).map(|_| stage.subscriber(&["a"])).collect();
    let tab = tagged(&mut stage, "a", "tab", "");
    let streams = ["/sse?channel=a", "/sse?channel=a&origin=tab", "/sse?channel=a&channel=b&origin=tab"]
        .map(|target| stage.get(target));
    let socket = stage.upgraded("/ws?channel=a&origin=tab");
    stage.tick();
    let everybody: Vec<u32> = plain.iter().copied().chain([tab]).chain(streams).chain([socket]).collect();
    everybody.iter().for_each(|&slot| drop(stage.taken(slot)));

    publish_except(&mut stage, "a", 1, origin("tab"));
    stage.tick();
    let named = client_of(&stage.core, plain[1]);
    publish_except(&mut stage, "a", 2, named);
    stage.tick();
    // In one batch with one for all.
    stage.publish("a", "3");
    publish_except(&mut stage, "a", 4, origin("tab"));
    publish_except(&mut stage, "a", 5, origin("nobody"));
    stage.tick();
    for &slot in &everybody {
        let expected: &[u32] = match slot {
            slot if slot == plain[1] => &[1, 3, 4, 5],
            slot if slot == plain[0] || slot == plain[2] || slot == streams[0] => &[1, 2, 3, 4, 5],
            _ => &[2, 3, 5],
        };
        assert_eq!(stage.numbers(slot), expected, "connection {slot} of {everybody:?}");
    }
}

#[test]
fn what_is_kept_from_a_client_is_not_in_what_it_catches_up_with_recovers_or_reads() {
    let mut stage = stage(|_| ());
    let recoverable = r#","recoverable":true"#;
    let (tab, other) =
        (tagged(&mut stage, "log:a", "tab", recoverable), tagged(&mut stage, "log:a", "other", recoverable));
    // Caught up with from the stream of the shard.
    stage.block(tab);
    stage.publish("log:a", "1");
    stage.tick();
    publish_except(&mut stage, "log:a", 2, origin("tab"));
    stage.tick();
    stage.publish("log:a", "3");
    stage.tick();
    stage.unblock(tab);
    stage.tick();
    stage.tick();
    assert_eq!((stage.numbers(tab), stage.numbers(other)), (vec![1, 3], vec![1, 2, 3]));
    // Recovered: by the same, with another tag, and when nothing is left.
    let epoch = stage.epoch("log:a");
    for (tag, offset, expected) in [("tab", 1, vec![3]), ("other", 1, vec![2, 3]), ("tab", 0, vec![1, 3])] {
        let slot = stage.connection();
        stage.upgrade(slot, &format!("/connection/websocket?origin={tag}"));
        stage.text(slot, r#"{"id":1,"connect":{}}"#);
        stage.tick();
        stage.taken(slot);
        stage.text(slot, &format!(
            r#"{{"id":2,"subscribe":{{"channel":"log:a","recoverable":true,"recover":true,"offset":{offset},"epoch":"{epoch}"}}}}"#
        ));
        stage.tick();
        let answer = stage.taken(slot);
        assert!(answer.contains(r#""recovered":true"#), "{answer}");
        assert_eq!(crate::shard::core_tests::numbers_in(&answer), expected);
    }
    publish_except(&mut stage, "log:a", 4, origin("tab"));
    stage.tick();
    let late = stage.connection();
    stage.upgrade(late, "/connection/websocket?origin=tab");
    stage.text(late, r#"{"id":1,"connect":{}}"#);
    stage.tick();
    stage.taken(late);
    stage.text(
        late,
        &format!(
            r#"{{"id":2,"subscribe":{{"channel":"log:a","recoverable":true,"recover":true,"offset":3,"epoch":"{epoch}"}}}}"#
        ),
    );
    stage.tick();
    let answer = stage.taken(late);
    assert!(answer.contains(r#""recovered":true"#) && answer.contains(r#""offset":4"#), "{answer}");
    assert!(!answer.contains("publications"), "and stands behind what it does not get: {answer}");
}

#[test]
fn a_poll_stands_behind_what_is_kept_from_it() {
    let mut stage = stage(|_| ());
    let (tab, other) = (stage.get("/poll?channel=log:a&origin=tab"), stage.get("/poll?channel=log:a"));
    stage.tick();
    publish_except(&mut stage, "log:a", 1, origin("tab"));
    stage.tick();
    assert_eq!(stage.numbers(other), [1]);
    assert_eq!(stage.taken(tab), "", "it is held");
    stage.publish("log:a", "2");
    stage.tick();
    assert_eq!(stage.numbers(tab), [2]);
    // From a position before both; and from one behind which nothing is for it.
    let epoch = stage.epoch("log:a");
    let position = |offset: u64| {
        let mut text = Vec::new();
        let position = crate::base::ids::Position {
            offset: crate::base::ids::Offset(offset),
            epoch: epoch.parse().unwrap(),
        };
        crate::proto::unidirectional::position::write_position(&mut text, [("log:a", position)]);
        String::from_utf8(text).unwrap()
    };
    let back = stage.get(&format!("/poll?channel=log:a&origin=tab&position={}", position(0)));
    stage.tick();
    assert_eq!(stage.numbers(back), [2]);
    publish_except(&mut stage, "log:a", 3, origin("tab"));
    stage.tick();
    let behind = stage.get(&format!("/poll?channel=log:a&origin=tab&wait=0&position={}", position(2)));
    stage.tick();
    let answer = stage.taken(behind);
    assert!(answer.contains(&position(3)), "{answer}");
    let read = stage.get("/history?channel=log:a&origin=tab");
    stage.tick();
    let answer = stage.taken(read);
    assert_eq!(crate::shard::core_tests::numbers_in(&answer), [2]);
    assert!(answer.contains(&position(3)), "{answer}");
}

#[test]
fn a_delta_is_of_what_the_client_had_and_not_of_what_was_kept_from_it() {
    let mut stage = stage(|_| ());
    let delta = r#","delta":"fossil""#;
    let (tab, other) =
        (tagged(&mut stage, "log:a", "tab", delta), tagged(&mut stage, "log:a", "other", delta));
    let document = |n: u32| format!("{{\"text\":\"{}\",\"n\":{n}}}", "a".repeat(100));
    let deltas = |text: &str| text.matches(r#""delta":true"#).count();
    for n in 1..=2 {
        stage.publish("log:a", &document(n));
        stage.tick();
    }
    assert_eq!([tab, other].map(|slot| deltas(&stage.taken(slot))), [1, 1]);
    stage.publish_as("log:a", &document(3), |ask| ask.except = Some(Arc::new(origin("tab"))));
    stage.tick();
    assert_eq!((stage.taken(tab).as_str(), deltas(&stage.taken(other))), ("", 1));
    stage.publish("log:a", &document(4));
    stage.tick();
    let whole = stage.taken(tab);
    assert!(deltas(&whole) == 0 && whole.contains(&"a".repeat(100)), "{whole}");
    assert_eq!(deltas(&stage.taken(other)), 1);
    stage.publish("log:a", &document(5));
    stage.tick();
    assert_eq!([tab, other].map(|slot| deltas(&stage.taken(slot))), [1, 1], "and in step again");
}

#[test]
fn a_client_does_not_get_its_own_where_the_namespace_says_so() {
    for excludes in [true, false] {
        let mut stage = stage(|rules| rules.exclude_publisher = excludes);
        let (one, other) = (stage.subscriber(&["a"]), stage.subscriber(&["a"]));
        stage.text(one, r#"{"id":3,"publish":{"channel":"a","data":7}}"#);
        stage.tick();
        stage.tick();
        let own = if excludes { vec![] } else { vec![7] };
        assert_eq!((stage.numbers(one), stage.numbers(other)), (own, vec![7]));
    }
}

/// Publishes a number with the tag `k`.
fn publish_tagged(stage: &mut Stage, channel: &str, number: u32, tag: u32) {
    stage.publish_as(channel, &number.to_string(), |ask| ask.tags = vec![("k".into(), tag.to_string())]);
}

/// What a subscribe command asks for beside the channel: publications whose tag `k` is the number.
fn tagged_with(value: u32) -> String {
    format!(r#","tf":{{"key":"k","cmp":"eq","val":"{value}"}}"#)
}

#[test]
fn a_subscriber_gets_what_its_filter_matches_and_others_get_all() {
    let mut stage = stage(|_| ());
    let plain = stage.subscriber(&["a"]);
    let [one, same, two] = [1, 1, 2].map(|value| tagged(&mut stage, "a", "", &tagged_with(value)));
    let tf = "%7B%22key%22:%22k%22,%22cmp%22:%22eq%22,%22val%22:%221%22%7D";
    let streams = [format!("/sse?channel=a&tf={tf}"), format!("/sse?channel=a&channel=b&tf={tf}")]
        .map(|target| stage.get(&target));
    let socket = stage.upgraded(&format!("/ws?channel=a&tf={tf}"));
    stage.tick();
    for slot in streams.into_iter().chain([socket]) {
        assert!(stage.taken(slot).contains("ready"));
    }
    for (number, tag) in [(10, 1), (11, 2), (12, 3)] {
        publish_tagged(&mut stage, "a", number, tag);
        stage.tick();
    }
    // In one batch, with one that names somebody.
    publish_tagged(&mut stage, "a", 13, 2);
    publish_tagged(&mut stage, "a", 14, 1);
    stage.publish_as("a", "15", |ask| {
        ask.tags = vec![("k".into(), "1".into())];
        ask.except = Some(Arc::new(origin("nobody")));
    });
    stage.publish("a", "16");
    stage.tick();
    assert_eq!(stage.numbers(plain), [10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(stage.numbers(two), [11, 13]);
    for slot in [one, same, socket].into_iter().chain(streams) {
        assert_eq!(stage.numbers(slot), [10, 14, 15], "connection {slot}");
    }
}

/// Sixty filters are more than have numbers, and with those of another encoding there are more classes than numbers.
#[test]
fn any_number_of_filters_is_served_also_when_their_clients_change() {
    let mut stage = stage(|_| ());
    let mut clients: Vec<(u32, u32)> = Vec::new();
    for round in 0..3 {
        for value in 0..60 {
            let delta = if value % 2 == 0 { r#","delta":"fossil""# } else { "" };
            let slot = tagged(&mut stage, "a", "", &format!("{}{delta}", tagged_with(value)));
            clients.push((slot, value));
        }
        for number in 0..60 {
            publish_tagged(&mut stage, "a", 100 + number, number);
        }
        stage.tick();
        stage.tick();
        publish_tagged(&mut stage, "a", 7, 7);
        stage.tick();
        for (slot, value) in &clients {
            let taken = stage.taken(*slot);
            // Deltas have their payloads in strings.
            let numbers = crate::shard::core_tests::numbers_in(&taken.replace(r#""data":""#, r#""data":"#));
            let expected = if *value == 7 { vec![107, 7] } else { vec![100 + value] };
            assert_eq!(numbers, expected, "round {round}, filter {value}");
        }
        // Two of three leave, in any order.
        let leave: Vec<(u32, u32)> =
            clients.iter().copied().filter(|(slot, _)| (slot + round) % 3 != 0).collect();
        clients.retain(|known| !leave.contains(known));
        leave.iter().for_each(|(slot, _)| stage.core.give_up(*slot));
        stage.tick();
        clients.iter().for_each(|(slot, _)| stage.core.give_up(*slot));
        clients.clear();
        stage.tick();
    }
    assert_eq!(stage.core.footprint().local_channels, 0);
}

#[test]
fn what_is_filtered_is_not_in_what_is_caught_up_with_or_recovered_and_positions_move_over_it() {
    let mut stage = stage(|_| ());
    let one = tagged(&mut stage, "log:a", "", &format!(r#","recoverable":true{}"#, tagged_with(1)));
    stage.block(one);
    for (number, tag) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        publish_tagged(&mut stage, "log:a", number, tag);
        stage.tick();
    }
    stage.unblock(one);
    stage.tick();
    stage.tick();
    assert_eq!(stage.numbers(one), [1, 3]);
    // From the log as well: the stream of the shard does not reach back.
    stage.block(one);
    for number in 5..15 {
        publish_tagged(&mut stage, "log:a", number, number % 2);
        stage.tick();
    }
    stage.unblock(one);
    for _ in 0..4 {
        stage.tick();
    }
    assert_eq!(stage.numbers(one), [5, 7, 9, 11, 13]);
    let epoch = stage.epoch("log:a");
    let tf = "%7B%22key%22:%22k%22,%22cmp%22:%22eq%22,%22val%22:%221%22%7D";
    let mut position = Vec::new();
    let at = |offset| crate::base::ids::Position {
        offset: crate::base::ids::Offset(offset),
        epoch: epoch.parse().unwrap(),
    };
    crate::proto::unidirectional::position::write_position(&mut position, [("log:a", at(12))]);
    let position = String::from_utf8(position).unwrap();
    let poll = stage.get(&format!("/poll?channel=log:a&tf={tf}&position={position}"));
    stage.tick();
    assert_eq!(stage.numbers(poll), [13]);
    // Nothing of what a client missed is for it: it stands at the end.
    let slot = stage.client();
    let command = format!(
        r#"{{"id":2,"subscribe":{{"channel":"log:a","recoverable":true,"recover":true,"offset":13,"epoch":"{epoch}""#
    );
    stage.long_text(slot, &format!("{command}{}}}}}", tagged_with(1)));
    stage.tick();
    let answer = stage.taken(slot);
    assert!(answer.contains(r#""recovered":true"#) && answer.contains(r#""offset":14"#), "{answer}");
}

#[test]
fn a_delta_is_of_the_last_publication_that_the_filter_let_through() {
    let mut stage = stage(|_| ());
    let delta = r#","delta":"fossil""#;
    let filtered = [1, 2].map(|tag| tagged(&mut stage, "log:a", "", &format!("{delta}{}", tagged_with(tag))));
    let whole = tagged(&mut stage, "log:a", "", delta);
    let document = |n: u32| format!("{{\"text\":\"{}\",\"n\":{n}}}", "a".repeat(100));
    let mut had: std::collections::BTreeMap<u32, String> = std::collections::BTreeMap::new();
    let mut patches = 0;
    for n in 1..=24 {
        let tag = 1 + n / 2 % 2;
        stage.publish_as("log:a", &document(n), |ask| ask.tags = vec![("k".into(), tag.to_string())]);
        stage.tick();
        for (slot, gets) in [(filtered[0], tag == 1), (filtered[1], tag == 2), (whole, true)] {
            let taken = stage.taken(slot);
            if !gets {
                assert_eq!(taken, "");
                continue;
            }
            let at = taken.find(r#""pub":"#).unwrap() + 6;
            let mut values =
                serde_json::Deserializer::from_str(&taken[at..]).into_iter::<serde_json::Value>();
            let publication = values.next().unwrap().unwrap();
            let payload = publication["data"].as_str().unwrap();
            let made = match publication["delta"] == true {
                true => {
                    patches += 1;
                    let made = crate::proto::fossil::apply(had[&slot].as_bytes(), payload.as_bytes());
                    String::from_utf8(made.unwrap()).unwrap()
                }
                false => payload.to_owned(),
            };
            assert_eq!(made, document(n), "connection {slot}");
            had.insert(slot, made);
        }
    }
    assert!(patches >= 23, "{patches}");
}

#[test]
fn a_filter_that_is_none_or_is_not_allowed_is_refused() {
    for (allowed, filter, code) in [
        (false, r#"{"key":"k","cmp":"ex"}"#, 107),
        (true, r#"{"op":"xor"}"#, 107),
        (true, r#"{"key":"k","cmp":"is"}"#, 107),
        (true, "[]", 107),
    ] {
        let mut stage = stage(|rules| rules.allow_tags_filter = allowed);
        let slot = stage.client();
        stage.text(slot, &format!(r#"{{"id":2,"subscribe":{{"channel":"a","tf":{filter}}}}}"#));
        stage.tick();
        let answer = stage.taken(slot);
        assert!(answer.contains(&format!(r#""error":{{"code":{code}"#)), "{filter}: {answer}");
        let refused = stage.get("/sse?channel=a&tf=%7B%7D");
        stage.tick();
        assert!(stage.taken(refused).starts_with("HTTP/1.1 400"));
    }
}
