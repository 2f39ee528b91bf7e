//! Who pays when too much input is kept.

use super::*;
use crate::base::budget::Budget;
use crate::driver::SocketEnd;
use crate::proto::websocket::deflate::CompressionOptions;
use crate::session::TURN_COMMANDS_MAX;
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::rules::ChannelRules;
use crate::shard::core_tests::Stage;

const BUDGET: u64 = 1 << 20;

/// The beginning of a request that is kept with about so many bytes.
fn publication(len: usize) -> Vec<u8> {
    let head = "POST /publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
    [head.as_bytes(), &vec![b'1'; len]].concat()
}

fn head(len: usize) -> Vec<u8> {
    format!("GET /health HTTP/1.1\r\nX: {}", "x".repeat(len)).into_bytes()
}

fn stage() -> Stage {
    Stage::with(|options| {
        let permissions = Permissions::default().with(Deed::Publish, Grantee::Client, true);
        let rules = ChannelRules { permissions, ..ChannelRules::default() };
        options.rules = Arc::new(options.namespaces.map(|_| rules.clone()));
        options.http.input = Budget::with_debts("input", BUDGET);
    })
}

fn said(stage: &mut Stage, kind: &str) -> Vec<u32> {
    (0..stage.connections()).filter(|&slot| stage.taken(slot).contains(kind)).collect()
}

/// Those that are answered at once are never under way.
#[test]
fn a_flood_of_refused_commands_gets_its_share_of_each_turn() {
    const COUNT: usize = 700;
    let mut stage = stage();
    let noisy = stage.client();
    stage.taken(noisy);
    let frame: Vec<_> =
        (0..COUNT).map(|id| format!(r#"{{"id":{},"rpc":{{"method":"x"}}}}"#, id + 2)).collect();
    stage.long_text(noisy, &frame.join("\n"));
    let (mut answered, mut turns) = (0, 0);
    while answered < COUNT {
        stage.tick();
        let now = stage.taken(noisy).matches("\"error\"").count();
        assert!(0 < now && now <= usize::from(TURN_COMMANDS_MAX), "{now} in turn {turns}");
        answered += now;
        turns += 1;
    }
    assert_eq!((answered, turns), (COUNT, COUNT.div_ceil(TURN_COMMANDS_MAX.into())));
    // It is read again.
    assert!(
        stage
            .core
            .links
            .connections
            .session(noisy)
            .is_some_and(|session| !session.has_held() && !session.input_paused)
    );
}

/// More commands than one turn takes, in whole frames of ten.
const SAID: u32 = (2 * TURN_COMMANDS_MAX as u32).next_multiple_of(10);

fn says_much(stage: &mut Stage) -> u32 {
    let noisy = stage.client();
    stage.taken(noisy);
    let said: Vec<_> = (0..SAID).map(|n| format!(r#"{{"send":{{"data":{n}}}}}"#)).collect();
    for frame in said.chunks(10) {
        stage.long_text(noisy, &frame.join("\n"));
    }
    assert_eq!(heard(stage), u64::from(TURN_COMMANDS_MAX), "the rest waits for its turn");
    noisy
}

/// One-way messages that were taken up.
fn heard(stage: &Stage) -> u64 {
    stage.core.env.stats.counters.client_messages_dropped_total
}

#[test]
fn who_says_much_and_leaves_has_said_all_of_it() {
    type Leave = fn(&mut Stage, u32);
    let ways: [Leave; 3] = [
        |stage, slot| stage.core.handle_ended(slot, SocketEnd::Finished),
        |stage, slot| stage.core.handle_ended(slot, SocketEnd::Broken(libc::ECONNRESET)),
        |stage, slot| stage.frame(slot, 8, &1000_u16.to_be_bytes()),
    ];
    for leave in ways {
        let mut stage = stage();
        let noisy = says_much(&mut stage);
        leave(&mut stage, noisy);
        assert_eq!(heard(&stage), u64::from(SAID));
        stage.tick();
        assert!(!stage.is_open(noisy));
    }
}

/// What is held may be the end of its client: then its Close frame answers ours.
#[test]
fn a_last_word_that_is_refused_ends_the_connection_once() {
    let mut stage = stage();
    let noisy = says_much(&mut stage);
    stage.text(noisy, r#"{"id":2,"connect":{}}"#);
    stage.frame(noisy, 8, &1000_u16.to_be_bytes());
    assert_eq!(heard(&stage), u64::from(SAID));
    stage.tick();
    let taken = stage.taken(noisy);
    assert!(
        taken.ends_with(&*Disconnect::BAD_REQUEST.reason),
        "our Close frame and nothing behind it: {taken}"
    );
    assert!(!stage.is_open(noisy));
}

#[test]
fn the_largest_pay_before_the_budget_is_used_up() {
    for large in [head(15_000), publication(40_000)] {
        let mut stage = stage();
        let small: Vec<u32> = (0..100).map(|_| stage.connection()).collect();
        for &slot in &small {
            stage.receive(slot, head(100));
        }
        let mut largest = Vec::new();
        while stage.core.env.options.http.input.used() <= BUDGET / 4 * 3 {
            let slot = stage.connection();
            stage.receive(slot, large.clone());
            largest.push(slot);
        }
        assert!(said(&mut stage, "503").is_empty());
        stage.tick();
        let input = Arc::clone(&stage.core.env.options.http.input);
        assert!(input.used() <= BUDGET / 8 * 5, "{}", input.used());
        stage.flush();
        let refused = said(&mut stage, "HTTP/1.1 503");
        assert!(!refused.is_empty() && refused.iter().all(|slot| largest.contains(slot)), "{refused:?}");
        assert!(refused.len() < largest.len(), "no more than it takes");
        // There is room for who comes next, and the small ones may go on.
        let next = stage.connection();
        stage.receive(next, head(100));
        for slot in small.into_iter().chain([next]) {
            stage.receive(slot, b"x".to_vec());
            assert!(stage.core.links.connections.requests(slot).is_some_and(Option::is_some), "{slot}");
        }
    }
}

/// All within one tick, in which nobody can be looked for.
#[test]
fn at_the_bound_it_is_not_who_comes_next() {
    let mut stage = stage();
    let mut large = Vec::new();
    for _ in 0..100 {
        let slot = stage.connection();
        stage.receive(slot, head(15_000));
        large.push(slot);
    }
    // Of those that hold the same, who comes last is refused.
    stage.flush();
    let refused = said(&mut stage, "HTTP/1.1 503");
    assert!(!refused.is_empty() && refused.last() == large.last(), "{refused:?}");
    let input = Arc::clone(&stage.core.env.options.http.input);
    while input.reserve(16).is_ok() {}
    let comes = stage.connection();
    stage.receive(comes, head(200));
    stage.flush();
    let paid = said(&mut stage, "HTTP/1.1 503");
    assert_eq!((paid.len(), large.contains(&paid[0])), (1, true), "one of the large ones");
    assert!(stage.is_open(comes));
    let used = input.used();
    stage.core.give_up(comes);
    stage.tick();
    assert!(input.used() < used, "what the newcomer held was counted");
}

/// Requests behind others, input of clients that are not let in, messages that wait to be inflated.
#[test]
fn whatever_keeps_input_pays() {
    let mut stage = Stage::with(|options| {
        options.http.input = Budget::with_debts("input", BUDGET);
        options.compression = Some(CompressionOptions::default());
        options.message_bytes_max = 1 << 20;
    });
    let poll = stage.get("/poll?channel=a");
    let behind: Vec<u8> = b"GET /poll?channel=a HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10_000);
    stage.receive(poll, behind);
    let client = stage.client();
    let sock = stage.core.sock(client).expect("it is there");
    stage.core.inflate_later(sock, &vec![0; 440_000]);
    assert!(stage.core.env.options.http.input.used() > BUDGET / 4 * 3);
    stage.core.collect_input();
    assert!(stage.core.env.options.http.input.used() <= BUDGET / 8 * 5);
    stage.flush();
    stage.tick();
    let ended = [poll, client]
        .into_iter()
        .filter(|&slot| stage.core.links.connections.get(slot).is_none_or(|at| at.peer.has_left()));
    assert_eq!(ended.count(), 1, "one is enough");
    let faults = stage.core.report().faults;
    assert!(faults.contains(&("http_input_full", 1)), "{faults:?}");
}

#[test]
fn the_list_of_holders_does_not_grow_with_those_that_have_gone() {
    let mut stage = stage();
    for _ in 0..20 {
        let slots: Vec<u32> = (0..100).map(|_| stage.connection()).collect();
        for &slot in &slots {
            stage.receive(slot, head(10));
        }
        for slot in slots {
            stage.core.give_up(slot);
        }
        stage.tick();
    }
    assert!(stage.core.links.holders.all.len() <= 300, "{}", stage.core.links.holders.all.len());
    assert_eq!(stage.core.env.options.http.input.used(), 0);
}
