//! A store on disk: what was acknowledged is there after the process was killed, and who may open the directory.
//!
//! `TRUNKLINE_KILLS` says how often the process is killed (default 30).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_drivers;
use crate::process::{API_KEY, Daemon, Driver};

pub const TABLES: &str = "
[[namespace]]
name = \"sync\"
history_size = 100000
history_ttl = \"1h\"
durable = \"sync\"

[[namespace]]
name = \"loose\"
history_size = 100000
history_ttl = \"1h\"
durable = \"async\"
";

pub fn start(driver: Driver, store: &Path, shards: &str) -> Daemon {
    let path = store.to_str().unwrap();
    Daemon::start_written(driver, &["--shards", shards, "--store-path", path], &[], TABLES)
}

pub fn call(daemon: &Daemon, method: &str, body: &Value) -> Option<(u16, Value)> {
    let url = format!("http://{}/api/{method}", daemon.addresses()[0]);
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let agent: ureq::Agent = config.timeout_global(Some(Duration::from_secs(30))).build().into();
    let mut response = agent.post(&url).header("X-API-Key", API_KEY).send(body.to_string()).ok()?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().ok()?;
    Some((status, serde_json::from_str(&text).ok()?))
}

pub fn publish(daemon: &Daemon, channel: &str, data: &Value) -> Option<(u64, String)> {
    let (_, answer) = call(daemon, "publish", &json!({ "channel": channel, "data": data }))?;
    let result = &answer["result"];
    Some((result["offset"].as_u64()?, result["epoch"].as_str()?.to_owned()))
}

/// Everything in the log, with its epoch.
pub fn history(daemon: &Daemon, channel: &str) -> (BTreeMap<u64, Value>, String) {
    let (mut found, mut since) = (BTreeMap::new(), None);
    loop {
        let mut body = json!({ "channel": channel, "limit": 300 });
        if let Some(since) = &since {
            body["since"] = Value::clone(since);
        }
        let (_, answer) = call(daemon, "history", &body).expect("the node answers");
        let result = &answer["result"];
        let epoch = result["epoch"].as_str().unwrap_or_default().to_owned();
        let page = result["publications"].as_array().cloned().unwrap_or_default();
        let Some(last) = page.last() else { return (found, epoch) };
        since = Some(json!({ "offset": last["offset"], "epoch": epoch }));
        for publication in page {
            found.insert(publication["offset"].as_u64().expect("an offset"), publication["data"].clone());
        }
    }
}

on_both_drivers! {
    /// Killed again and again while many publish: all that was acknowledged is there, once, under its offset, in one epoch;
    /// also with other numbers of shards. An offset of an "async" channel is never given twice.
    fn what_was_acknowledged_survives_kill_9(driver: Driver) {
        let kills: u32 = std::env::var("TRUNKLINE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let (mut kept, mut loose) = (BTreeMap::new(), BTreeMap::new());
        let mut epoch = None;
        for round in 0..kills / 2 {
            let daemon = start(driver, &store, ["2", "1", "3"][round as usize % 3]);
            let over = AtomicBool::new(false);
            let publishers = thread::scope(|scope| {
                let publisher = |number: u32| {
                    let (daemon, over) = (&daemon, &over);
                    move || {
                        let (mut sync, mut loose, mut count) = (Vec::new(), Vec::new(), 0);
                        while !over.load(Ordering::Relaxed) {
                            count += 1;
                            let data = json!(format!("{round}-{number}-{count}"));
                            if let Some(taken) = publish(daemon, "sync:log", &data) {
                                sync.push((taken, data));
                            }
                            if let Some((offset, _)) = publish(daemon, "loose:log", &json!(count)) {
                                loose.push(offset);
                            }
                        }
                        (sync, loose)
                    }
                };
                let publishers: Vec<_> = (0..8).map(|number| scope.spawn(publisher(number))).collect();
                thread::sleep(Duration::from_millis(60));
                assert!(
                    rustix::process::kill_process(daemon.pid(), rustix::process::Signal::KILL).is_ok()
                );
                over.store(true, Ordering::Relaxed);
                publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>()
            });
            drop(daemon);
            for (sync, offsets) in publishers {
                for ((offset, of), data) in sync {
                    assert_eq!(*epoch.get_or_insert_with(|| of.clone()), of, "one epoch");
                    assert_eq!(kept.insert(offset, data), None, "offset {offset} twice");
                }
                for offset in offsets {
                    assert_eq!(loose.insert(offset, round), None, "offset {offset} twice");
                }
            }
        }
        assert!(!kept.is_empty() && !loose.is_empty());
        let daemon = start(driver, &store, "2");
        let (found, of) = history(&daemon, "sync:log");
        assert_eq!(Some(of), epoch);
        for (offset, data) in &kept {
            assert_eq!(found.get(offset), Some(data), "offset {offset}");
        }
        let after = publish(&daemon, "loose:log", &json!(0)).expect("it is taken").0;
        assert!(after > *loose.last_key_value().unwrap().0, "offsets go on above what was given");
    }

    /// A shutdown loses nothing and jumps nowhere; idempotency keys and versions are known afterwards.
    fn a_restart_goes_on_where_it_was(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let daemon = start(driver, folder.path(), "2");
        for channel in ["sync:c", "loose:c"] {
            for number in 1..=5 {
                assert_eq!(publish(&daemon, channel, &json!(number)).unwrap().0, number);
            }
            let keyed = json!({"channel": channel, "data": 6, "idempotency_key": "k", "version": 9});
            assert_eq!(call(&daemon, "publish", &keyed).unwrap().1["result"]["offset"], 6);
        }
        let before = ["sync:c", "loose:c"].map(|channel| history(&daemon, channel));
        daemon.stop();
        let daemon = start(driver, folder.path(), "3");
        assert_eq!(["sync:c", "loose:c"].map(|channel| history(&daemon, channel)), before);
        for channel in ["sync:c", "loose:c"] {
            let keyed = json!({"channel": channel, "data": 7, "idempotency_key": "k"});
            assert_eq!(call(&daemon, "publish", &keyed).unwrap().1["result"]["offset"], 6, "the key is known");
            let old = json!({"channel": channel, "data": 7, "version": 9});
            assert_eq!(call(&daemon, "publish", &old).unwrap().1["result"]["offset"], 6, "the version is known");
            assert_eq!(publish(&daemon, channel, &json!(7)).unwrap().0, 7);
        }
        daemon.stop();
        let store = |job: &str| {
            let command = Command::new(env!("CARGO_BIN_EXE_trunkline"))
                .args(["store", job])
                .arg(folder.path())
                .output()
                .unwrap();
            (command.status.code(), String::from_utf8(command.stdout).unwrap())
        };
        let (code, text) = store("check");
        assert!(code == Some(0) && text.contains(": ok: "), "{text}");
        let (code, text) = store("export");
        assert_eq!((code, text.lines().count()), (Some(0), 14), "{text}");
        let (code, text) = store("stats");
        assert!(code == Some(0) && text.contains("sync:c"), "{text}");
    }
}

/// The second process on one directory does not start, nor does one on something else's.
#[test]
fn a_directory_is_one_node_s() {
    let folder = tempfile::tempdir().unwrap();
    let _daemon = start(Driver::Mio, folder.path(), "1");
    let refused = |path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .args(["--listen", "127.0.0.1:0", "--driver", "mio", "--shards", "1", "--store-path"])
            .arg(path)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(folder.path());
    assert!(text.contains("another process has it open"), "{text}");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letters.txt"), "mine").unwrap();
    let text = refused(other.path());
    assert!(text.contains("letters.txt"), "{text}");
}
