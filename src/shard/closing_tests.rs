//! Ends in two phases: the peer leaves at once, its link when its last bytes have left.

use super::*;
use crate::shard::core_tests::Stage;

/// A subscriber that has not been sent what is in line for it.
fn pending(stage: &mut Stage, slot: u32) -> u32 {
    stage.tick();
    stage.taken(slot);
    stage.block(slot);
    stage.publish_each("a", [1]);
    assert!(stage.pending(slot).expect("a pending").owed_bytes > 0);
    slot
}

fn client(stage: &mut Stage) -> u32 {
    let slot = stage.subscriber(&["a"]);
    pending(stage, slot)
}

fn phase(stage: &Stage, slot: u32) -> Option<Phase> {
    Some(stage.core.links.connections.get(slot)?.link.phase)
}

fn finishes(stage: &mut Stage, slot: u32) -> bool {
    stage.actions.drain(..).any(|action| matches!(action, Action::Finish(at) if at == slot))
}

#[test]
fn a_client_leaves_its_channels_at_once_and_its_link_when_it_has_read() {
    let mut stage = Stage::new();
    let slot = client(&mut stage);
    stage.core.close(slot, Disconnect::FORCE_RECONNECT);
    stage.tick();
    assert_eq!((stage.members(), stage.core.footprint().clients), (0, 0), "nobody is there any more");
    assert_eq!(phase(&stage, slot), Some(Phase::Closing(ClosingEnd::PeersClose)));
    // What is published now is not for it.
    stage.publish_each("a", [2]);
    stage.unblock(slot);
    stage.tick();
    let text = stage.taken(slot);
    assert_eq!(crate::shard::core_tests::numbers_in(&text), [1]);
    assert!(text.ends_with(&*Disconnect::FORCE_RECONNECT.reason), "behind it the Close frame: {text}");
    assert!(stage.is_open(slot), "its own Close frame is awaited");
    stage.frame(slot, 8, &[]);
    stage.tick();
    assert!(!stage.is_open(slot));
}

#[test]
fn a_stream_gets_its_last_note_then_fin_then_the_socket_is_closed() {
    let mut stage = Stage::new();
    let slot = stage.get("/sse?channel=a");
    pending(&mut stage, slot);
    stage.core.close(slot, Disconnect::FORCE_RECONNECT);
    stage.tick();
    assert_eq!(stage.members(), 0);
    assert!(!finishes(&mut stage, slot), "it has not had everything");
    stage.unblock(slot);
    stage.tick();
    stage.tick();
    let text = stage.taken(slot);
    let (before, last) = text.split_once("event: disconnect").expect("a last note");
    assert!(before.contains("data") && last.ends_with("0\r\n\r\n"), "{text}");
    assert!(finishes(&mut stage, slot) && stage.is_open(slot), "FIN, and the peer's is awaited");
    stage.core.handle_ended(slot, SocketEnd::Finished);
    stage.tick();
    assert!(!stage.is_open(slot));
}

#[test]
fn who_does_not_read_its_end_is_cut_off_in_time() {
    let mut stage = Stage::new();
    let slot = client(&mut stage);
    stage.core.close(slot, Disconnect::FORCE_RECONNECT);
    for _ in 0..LINGER.as_millis() + 100 {
        stage.tick();
    }
    assert!(!stage.is_open(slot));
    assert!(stage.actions.iter().any(|action| matches!(action, Action::Reset(at) if *at == slot)));
}

#[test]
fn one_that_is_closed_for_being_slow_is_sent_nothing_more() {
    for target in ["client", "/sse?channel=a", "/ws?channel=a"] {
        let mut stage = Stage::new();
        let slot = match target {
            "client" => client(&mut stage),
            target => {
                let slot = if target.starts_with("/ws") { stage.upgraded(target) } else { stage.get(target) };
                pending(&mut stage, slot)
            }
        };
        stage.core.close(slot, Disconnect::SLOW);
        stage.tick();
        assert!(!stage.is_open(slot) && stage.members() == 0, "{target}");
        assert!(stage.actions.iter().any(|action| matches!(action, Action::Reset(at) if *at == slot)));
        assert_eq!(stage.core.env.stats.counters.connections_closed_total, 1);
    }
}

/// What each kind hears when it is ended before its join is answered, and whether it may come back.
#[test]
fn a_close_while_a_join_is_under_way() {
    let (comes_back, stays_away) = (Disconnect::FORCE_RECONNECT, Disconnect::FORCE_NO_RECONNECT);
    for (target, disconnect, heard) in [
        ("client", &comes_back, "force reconnect"),
        ("client", &stays_away, "force disconnect"),
        ("/sse?channel=a", &comes_back, "event: disconnect"),
        ("/sse?channel=a", &stays_away, "event: disconnect"),
        ("/stream?channel=a", &comes_back, "HTTP/1.1 503"),
        ("/stream?channel=a", &stays_away, "disconnect"),
        ("/ws?channel=a", &comes_back, "HTTP/1.1 503"),
        ("/ws?channel=a", &stays_away, "HTTP/1.1 101"),
        // It has its answer all the same, and no further one.
        ("/poll?channel=a", &comes_back, "Connection: close"),
    ] {
        let mut stage = Stage::new();
        let slot = match target {
            "client" => {
                let slot = stage.client();
                stage.subscribe(slot, "a");
                slot
            }
            target if target.starts_with("/ws") => stage.upgraded(target),
            target => stage.get(target),
        };
        stage.core.close(slot, disconnect.clone());
        stage.tick();
        stage.tick();
        let text = stage.taken(slot);
        assert!(text.contains(heard), "{target}: {text}");
        assert!(!text.contains(r#""subscribe""#), "{target}: {text}");
        let footprint = stage.core.footprint();
        assert_eq!((stage.members(), footprint.local_channels, footprint.clients), (0, 0, 0), "{target}");
    }
}
