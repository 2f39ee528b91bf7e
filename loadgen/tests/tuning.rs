//! The host script, on a made-up host.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tuning/host.sh");

fn host(root: &Path, arguments: &[&str]) -> Output {
    let state = root.join("state/saved");
    Command::new("sh")
        .arg(SCRIPT)
        .arg("--root")
        .arg(root)
        .arg("--state")
        .arg(state)
        .args(["--connections", "100000"])
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_short_is_raised_and_put_back_and_nothing_is_lowered() {
    let root = tempfile::tempdir().unwrap();
    let file = |key: &str| match key.strip_prefix('/') {
        Some(path) => root.path().join(path),
        None => root.path().join("proc/sys").join(key.replace('.', "/")),
    };
    let values = [
        ("fs.file-max", "9223372036854775807\n"),
        ("net.core.somaxconn", "128\n"),
        ("net.ipv4.tcp_mem", "100\t999999999\t300\n"),
        ("net.ipv4.ip_local_port_range", "1024\t60999\n"),
        ("kernel.io_uring_disabled", "2\n"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
    ];
    for (key, value) in values {
        fs::create_dir_all(file(key).parent().unwrap()).unwrap();
        fs::write(file(key), value).unwrap();
    }
    let read = |key: &str| fs::read_to_string(file(key)).unwrap().trim().to_string();

    let checked = host(root.path(), &[]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked).contains("SHORT  net.core.somaxconn = 128, wanted 4096"), "{}", text(&checked));
    assert!(text(&checked).contains("ok     fs.file-max"));
    assert!(!text(&checked).contains("nf_conntrack"), "what the host does not have is not asked for");

    for _ in 0..2 {
        assert_eq!(host(root.path(), &["--apply"]).status.code(), Some(0));
        assert_eq!(read("fs.file-max"), "9223372036854775807");
        assert_eq!(read("net.core.somaxconn"), "4096");
        assert_eq!(read("net.ipv4.tcp_mem"), "100000 999999999 200000");
        assert_eq!(read("net.ipv4.ip_local_port_range"), "1024 65535");
        assert_eq!(read("kernel.io_uring_disabled"), "0");
        assert_eq!(read("/sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
    }
    assert_eq!(host(root.path(), &[]).status.code(), Some(0));

    assert_eq!(host(root.path(), &["--revert"]).status.code(), Some(0));
    assert_eq!(read("net.core.somaxconn"), "128");
    assert_eq!(read("net.ipv4.tcp_mem"), "100 999999999 300");
    assert_eq!(read("/sys/kernel/mm/transparent_hugepage/enabled"), "always");
    assert!(text(&host(root.path(), &["--revert"])).contains("nothing to revert"));
    assert_eq!(host(root.path(), &["--connections", "many"]).status.code(), Some(2));
    assert_eq!(host(root.path(), &["--unknown"]).status.code(), Some(2));
    let listed = text(&host(root.path(), &["--list"]));
    assert!(listed.lines().count() > 10 && listed.lines().all(|line| line.split('\t').count() == 4));
}
