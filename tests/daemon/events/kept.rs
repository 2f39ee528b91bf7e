//! The log of events in a store: numbers go on over restarts, what was not accepted is sent by the next process, and a kill loses
//! no more than the last moments.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::backend::{Backend, Manner};
use super::{assert_unbroken, await_events, connect, page, send_messages, seq, span, telling};
use crate::on_both_drivers;
use crate::process::{DEADLINE, Daemon, Driver};
use serde_json::Value;

/// By how much numbers go on behind what was read when a process ended without writing everything.
const JUMP: u64 = 1 << 28;

/// Events of the type "message" alone.
fn start(driver: Driver, store: &Path) -> Daemon {
    let store = store.to_str().unwrap();
    let settings = [
        ("EVENTS_TYPES", "message"),
        ("STORE_PATH", store),
        ("STORE_COMPACT_INTERVAL", "1s"),
        ("CLIENT_COMMANDS_PER_SECOND", "0"),
    ];
    Daemon::start_set(driver, &["--shards", "2"], &settings)
}

fn messages(daemon: &Daemon, numbers: std::ops::Range<u64>) -> Vec<Value> {
    let last = numbers.end - 1;
    send_messages(&mut connect(daemon, "").0, numbers);
    await_events(daemon, |events| events.last().is_some_and(|event| event["data"]["n"] == last))
}

fn await_metric(daemon: &Daemon, name: &str, least: u64) {
    let end = Instant::now() + DEADLINE;
    while daemon.metric(name) < least {
        assert!(Instant::now() < end, "{name}is {}", daemon.metric(name));
        thread::sleep(Duration::from_millis(20));
    }
}

on_both_drivers! {
    fn numbers_go_on_after_a_restart(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let mut before: Vec<Value> = Vec::new();
        let mut epoch = Value::Null;
        for round in 0..3 {
            let daemon = start(driver, folder.path());
            let kept = page(&daemon, "?limit=10000");
            assert_eq!(kept["events"].as_array().unwrap(), &before, "round {round}");
            if round > 0 {
                assert_eq!(kept["epoch"], epoch);
            }
            epoch = kept["epoch"].clone();
            before = messages(&daemon, round * 100..round * 100 + 100);
            assert_eq!(assert_unbroken(&before, 1), (round + 1) * 100);
            assert!(daemon.stop().success());
        }
    }

    fn what_was_not_accepted_is_sent_by_the_next_process(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let settings = [("STORE_PATH", path), ("SHUTDOWN_GRACE", "500ms")];
        let mut backend = Backend::start();
        let daemon = telling(driver, &backend, "message", &settings);
        let (mut socket, _) = connect(&daemon, "");
        send_messages(&mut socket, 0..50);
        backend.wait_for("fifty events", |batches| {
            let events: usize = batches.iter().map(|batch| batch.events.len()).sum();
            (events == 50).then_some(())
        });
        await_metric(&daemon, "trunkline_events_accepted_total ", 50);
        backend.set(Manner::Status(503));
        send_messages(&mut socket, 50..80);
        await_events(&daemon, |events| events.len() == 80);
        daemon.stop();
        let before = backend.batches().len();
        backend.kill();
        backend.set(Manner::Accept);
        backend.restart();
        let daemon = telling(driver, &backend, "message", &settings);
        send_messages(&mut connect(&daemon, "").0, 80..90);
        let told: Vec<Value> = backend.wait_for("the rest", |batches| {
            let accepted = batches[before..].iter().filter(|batch| batch.manner == Manner::Accept);
            let events: Vec<Value> = accepted.flat_map(|batch| batch.events.clone()).collect();
            (events.last().map(seq) == Some(90)).then_some(events)
        });
        // The numbers of the process before, and none that were accepted.
        assert_eq!(assert_unbroken(&told, 51), 90);
        // A key is the epoch, the first number and the last.
        let epochs: Vec<String> = backend
            .batches()
            .iter()
            .map(|batch| batch.key.rsplitn(3, '-').last().unwrap_or_default().to_owned())
            .collect();
        assert!(epochs.windows(2).all(|pair| pair[0] == pair[1]), "{epochs:?}");
        daemon.stop();
    }

    /// Killed again and again: what was there for a moment is there, in its order, and no number is given twice.
    fn a_kill_loses_the_last_moments_and_no_number_comes_twice(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let (mut settled, mut given): (Vec<Value>, u64) = (Vec::new(), 0);
        for round in 0..3_u64 {
            let daemon = start(driver, folder.path());
            let kept = await_events(&daemon, |_| true);
            // All that had settled, then perhaps some of what came last, then one gap up to above all that was ever given.
            assert_eq!(kept.iter().filter(|event| settled.contains(event)).count(), settled.len());
            let last = assert_unbroken(&kept, 1);
            assert!(last >= given, "numbers go on above {given}, not from {last} on");
            if round > 0 {
                let (from, to) = span(kept.last().unwrap());
                assert_eq!(kept.last().unwrap()["type"], "gap");
                assert!(to - from < JUMP && to - from > JUMP / 2, "{from} to {to}");
            }
            settled = messages(&daemon, round * 1000..round * 1000 + 300);
            if round == 1 {
                // Everything is written once more: it may not be lost with what is removed.
                await_metric(&daemon, "trunkline_store_compactions_total ", 1);
            }
            // "async" promises 100 ms, with a disk that is not busy.
            thread::sleep(Duration::from_secs(1));
            given = seq(messages(&daemon, round * 1000 + 300..round * 1000 + 600).last().unwrap());
            kill_process(daemon.pid(), Signal::KILL).unwrap();
            drop(daemon);
        }
    }
}
