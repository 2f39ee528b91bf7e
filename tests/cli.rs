//! The command line as a stranger meets it: what is printed where, and the exit codes.

use std::fs;
use std::process::{Command, Output};

/// Runs the binary with nothing in its environment but `environment`. Only for commands that end by themselves.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let help = run(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for flag in [
        "--config",
        "--listen",
        "--api-listen",
        "--api-key",
        "--driver",
        "--shards",
        "--echo",
        "--log",
        "--log-level",
    ] {
        assert!(out(&help).contains(flag), "{flag} is missing in {}", out(&help));
    }
    let version = run(&["--version"], &[]);
    assert_eq!(out(&version), format!("trunkline {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_config_prints_is_a_configuration_that_checks() {
    let printed = run(&["config"], &[]);
    assert_eq!(printed.status.code(), Some(0));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trunkline.toml");
    fs::write(&path, &printed.stdout).expect("a file");
    let name = path.to_str().expect("UTF-8");
    let checked = run(&["check", name], &[]);
    assert_eq!(
        (checked.status.code(), out(&checked)),
        (Some(0), format!("clients  127.0.0.1:8000\n{name}: ok\n")),
        "{}",
        err(&checked)
    );
}

#[test]
fn check_names_the_key_and_line_and_exits_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.toml");
    fs::write(&path, "listen = \"127.0.0.1:0\"\n[client]\nping_intervall = \"25s\"\npong_timeout = 8\n")
        .expect("a file");
    let name = path.to_str().expect("UTF-8");
    let checked = run(&["check", name], &[]);
    assert_eq!((checked.status.code(), out(&checked).as_str()), (Some(1), ""));
    let text = err(&checked);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            format!(
                "error: {name}:3: client.ping_intervall: unknown key; did you mean client.ping_interval?"
            ),
            format!(
                "error: {name}:4: client.pong_timeout: 8 is not a duration: write it like \"300ms\", \"25s\", \"5m\" or \"24h\""
            ),
        ]
    );
}

#[test]
fn strangers_need_credentials_and_the_refusal_says_which() {
    let refused = run(&["--listen", "0.0.0.0:0"], &[]);
    assert_eq!(refused.status.code(), Some(2));
    for name in ["api.key", "TRUNKLINE_API_KEY", "--api-key", "TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET"] {
        assert!(err(&refused).contains(name), "{name} is missing in {}", err(&refused));
    }
    let half = run(&["--listen", "0.0.0.0:0", "--api-key", "secret-key-of-the-cli-test"], &[]);
    assert_eq!(half.status.code(), Some(2));
    assert!(
        err(&half).contains("client.token.hmac_secret") && !err(&half).contains("secret-key"),
        "{}",
        err(&half)
    );
}

#[test]
fn faults_of_the_command_line_and_environment_exit_2() {
    assert_eq!(run(&["--sharks", "3"], &[]).status.code(), Some(2));
    assert_eq!(run(&["--config", "/nonexistent/trunkline.toml"], &[]).status.code(), Some(2));
    let wrong = run(&[], &[("TRUNKLINE_CLIENT_PING_INTERVAL", "fast")]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        err(&wrong).starts_with(
            "error: environment variable TRUNKLINE_CLIENT_PING_INTERVAL: client.ping_interval: "
        ),
        "{}",
        err(&wrong)
    );
}

/// The doctor's figures of the kernel are those of `tuning/host.sh`, on a host made up of files.
#[test]
fn the_doctor_names_what_is_short_and_what_it_costs() {
    let root = tempfile::tempdir().unwrap();
    let set = |key: &str, value: &str| {
        let path = root.path().join("proc/sys").join(key.replace('.', "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    };
    set("net.core.somaxconn", "128\n");
    set("kernel.io_uring_disabled", "0\n");
    let examine = |connections: &str| {
        let root = root.path().to_str().unwrap();
        let path = std::env::var("PATH").unwrap();
        run(
            &["doctor", "--listen", "127.0.0.1:0", "--connections", connections, "--root", root],
            &[("PATH", &path)],
        )
    };
    let ill = examine("100");
    assert_eq!(ill.status.code(), Some(1), "{}", err(&ill));
    let said = out(&ill);
    assert!(said.starts_with("For 100 connections:\n"), "{said}");
    assert!(
        said.contains("SHORT  net.core.somaxconn = 128, wanted 4096\n       the daemon asks for"),
        "{said}"
    );
    assert!(said.contains("ok     kernel.io_uring_disabled = 0\n"), "{said}");
    assert!(said.contains("ok     RLIMIT_NOFILE = "), "{said}");
    assert!(said.contains("memory plan: at most"), "{said}");
    assert!(said.contains(" cpus: one is away for "), "{said}");

    set("net.core.somaxconn", "4096\n");
    let well = examine("100");
    assert!(!out(&well).contains("net.core.somaxconn = 128"), "{}", out(&well));
    let many = examine("4000000000");
    assert_eq!(many.status.code(), Some(1));
    assert!(out(&many).contains("SHORT  RLIMIT_NOFILE = "), "{}", out(&many));
    assert_eq!(run(&["doctor", "--connections", "0"], &[]).status.code(), Some(2));
}

#[test]
fn init_writes_a_configuration_of_its_own_that_checks() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trunkline.toml");
    let name = path.to_str().expect("UTF-8");
    let written = run(&["init", "--output", name, "--listen", "0.0.0.0:8000"], &[]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    let text = fs::read_to_string(&path).expect("a file");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    // It would serve strangers: its secrets are long enough for that.
    let checked = run(&["check", name], &[]);
    assert_eq!(checked.status.code(), Some(0), "{}", err(&checked));
    assert!(out(&checked).contains("clients  0.0.0.0:8000\nAPI      127.0.0.1:9000\n"), "{}", out(&checked));
    let again = run(&["init", "--output", name], &[]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&path).expect("a file"), text, "what is there stays");
    // No two are alike.
    let secrets = |text: &str| -> Vec<String> {
        let lines =
            text.lines().filter(|line| line.starts_with("key = ") || line.starts_with("hmac_secret = "));
        lines.map(str::to_string).collect()
    };
    let other = out(&run(&["init"], &[]));
    assert_eq!((secrets(&text).len(), secrets(&other).len()), (2, 2));
    assert!(secrets(&text).iter().all(|secret| !other.contains(secret)));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let bash = out(&run(&["completions", "bash"], &[]));
    let page = out(&run(&["man"], &[]));
    for command in ["why", "connections", "doctor", "upgrade", "init"] {
        assert!(bash.contains(command) && page.contains(command), "{command}");
        assert!(
            out(&run(&["man", command], &[])).contains(&format!(".TH trunkline-{command} 1")),
            "{command}"
        );
    }
    assert_eq!(run(&["man", "nothing"], &[]).status.code(), Some(2));
}
