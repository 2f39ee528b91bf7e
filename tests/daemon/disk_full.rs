//! A disk that takes no more, and one that fails: what publishers hear, what goes on, and what is there after a restart.
//!
//! No room: the kernel refuses that a file of the process grows (RLIMIT_FSIZE, EFBIG), which needs no rights and no file system of
//! its own; a full one (ENOSPC) goes the same way from there. A failing disk: `fdatasync` of the C library is replaced by one that
//! gives EIO while a file is there.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};

use crate::durable::{TABLES, call, history, publish, start};
use crate::on_both_drivers;
use crate::process::{DEADLINE, Daemon, Driver};

/// No file of the daemon may grow above so many bytes.
fn limit_files(daemon: &Daemon, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(daemon.pid()), Resource::Fsize, limit).expect("a process of this user");
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "gave up waiting: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn answer(daemon: &Daemon, channel: &str, data: &Value) -> (u16, String) {
    let (status, answer) =
        call(daemon, "publish", &json!({ "channel": channel, "data": data })).expect("it answers");
    (status, answer.to_string())
}

fn kill(daemon: Daemon) {
    kill_process(daemon.pid(), Signal::KILL).expect("it runs");
    drop(daemon);
}

on_both_drivers! {
    /// "sync" is refused with the reason and "async" goes on in memory, both are said; with room again everything is kept, also
    /// what came meanwhile.
    fn a_full_disk_refuses_sync_and_is_caught_up_with(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let daemon = start(driver, folder.path(), "2");
        for number in 1..=3 {
            assert_eq!(publish(&daemon, "sync:c", &json!(number)).unwrap().0, number);
            assert_eq!(publish(&daemon, "loose:c", &json!(number)).unwrap().0, number);
        }
        until("what is loose is on disk", || daemon.metric("trunkline_store_records_total ") >= 7);
        limit_files(&daemon, Some(0));
        // Its offset is not given away: nobody has seen it.
        let (status, text) = answer(&daemon, "sync:c", &json!("refused"));
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("the store is full"), "{text}");
        daemon.wait_for_log("store: full: ");
        assert_eq!(daemon.metric("trunkline_store_health "), 1);
        for number in 4..=6 {
            assert_eq!(answer(&daemon, "sync:c", &json!("refused")).0, 503);
            assert_eq!(publish(&daemon, "loose:c", &json!(number)).unwrap().0, number, "in memory");
        }
        daemon.wait_for_log("are in memory alone");
        assert!(daemon.metric("trunkline_store_memory_only_total ") >= 3);
        assert!(daemon.metric("trunkline_store_refused_total ") >= 3);
        assert_eq!(history(&daemon, "loose:c").0.len(), 6);
        assert_eq!(history(&daemon, "sync:c").0.len(), 3);

        limit_files(&daemon, None);
        daemon.wait_for_log("there is room again");
        assert_eq!(daemon.metric("trunkline_store_health "), 0);
        assert_eq!(publish(&daemon, "sync:c", &json!(4)).unwrap().0, 4);
        // What came meanwhile is written by the copy of everything.
        until("a copy", || daemon.metric("trunkline_store_compactions_total ") >= 1);
        let before = ["sync:c", "loose:c"].map(|channel| history(&daemon, channel));
        assert_eq!([before[0].0.len(), before[1].0.len()], [4, 6]);
        kill(daemon);
        let daemon = start(driver, folder.path(), "2");
        assert_eq!(["sync:c", "loose:c"].map(|channel| history(&daemon, channel)), before);
    }
}

/// `fdatasync` that gives EIO while `trip` is there.
fn failing_sync(folder: &Path, trip: &Path) -> String {
    let source = folder.join("sync.c");
    let text = format!(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <unistd.h>\n\
         int fdatasync(int fd) {{\n\
           if (access(\"{}\", F_OK) == 0) {{ errno = EIO; return -1; }}\n\
           return ((int (*)(int)) dlsym(RTLD_NEXT, \"fdatasync\"))(fd);\n}}\n",
        trip.display()
    );
    std::fs::write(&source, text).unwrap();
    let library = folder.join("sync.so");
    // What links the tests themselves.
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(made.expect("a C compiler").success());
    library.to_str().unwrap().to_owned()
}

/// After a failed sync nobody knows what is on disk: nothing more is taken until a restart, which finds all that was acknowledged.
#[test]
fn a_sync_that_fails_makes_the_store_read_only_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, trip) = (folder.path().join("store"), folder.path().join("trip"));
    let line = format!("LD_PRELOAD={} exec \"$0\" \"$@\"", failing_sync(folder.path(), &trip));
    let path = store.to_str().unwrap();
    let daemon = Daemon::start_by(&line, Driver::Mio, &["--shards", "2", "--store-path", path], TABLES);
    for number in 1..=3 {
        assert_eq!(publish(&daemon, "sync:c", &json!(number)).unwrap().0, number);
    }
    std::fs::write(&trip, "").unwrap();
    let (status, text) = answer(&daemon, "sync:c", &json!("unknown"));
    assert_eq!(status, 503, "{text}");
    daemon.wait_for_log("it is read-only until a restart");
    assert_eq!(daemon.metric("trunkline_store_health "), 3);
    // That the disk answers again changes nothing.
    std::fs::remove_file(&trip).unwrap();
    let (status, text) = answer(&daemon, "sync:c", &json!("refused"));
    assert_eq!(status, 503);
    assert!(text.contains("read-only until a restart"), "{text}");
    assert_eq!(publish(&daemon, "loose:c", &json!(1)).unwrap().0, 1, "in memory");
    assert_eq!(history(&daemon, "sync:c").0.len(), 3);
    daemon.stop();
    let daemon = start(Driver::Mio, &store, "1");
    let (found, _) = history(&daemon, "sync:c");
    for number in 1..=3 {
        assert_eq!(found.get(&number), Some(&json!(number)));
    }
    // Of the one whose sync has failed either is right.
    assert!(found.len() <= 4, "{found:?}");
    let next = publish(&daemon, "sync:c", &json!("after")).unwrap().0;
    assert_eq!(next, found.len() as u64 + 1);
}
