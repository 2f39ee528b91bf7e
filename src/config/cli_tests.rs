use std::time::Duration;

use super::*;

fn act(arguments: &[&str], environment: &[(&str, &str)]) -> CliAction {
    let arguments = ["trunkline"].iter().chain(arguments).map(OsString::from);
    interpret(arguments, environment.iter().map(|(name, value)| (name.into(), value.into())), 0)
}

fn printed(action: CliAction) -> (String, u8) {
    match action {
        CliAction::Print { text, code } => (text, code),
        CliAction::Serve(start) | CliAction::Doctor(start, _) => panic!("serves with {:?}", start.config),
        CliAction::Token(task) => panic!("makes {:?}", task.job),
        CliAction::Order(task) => panic!("orders {:?}", task.order),
        CliAction::Look(task) => panic!("looks {:?}", task.look),
        CliAction::Init(task) => panic!("writes {task:?}"),
        CliAction::Store(task) => panic!("looks into {task:?}"),
        CliAction::Upgrade(task) => panic!("upgrades {task:?}"),
    }
}

fn served(action: CliAction) -> Config {
    match action {
        CliAction::Serve(start) => start.config,
        CliAction::Doctor(..) => panic!("examines"),
        CliAction::Print { text, code } => panic!("exits {code}: {text}"),
        CliAction::Token(task) => panic!("makes {:?}", task.job),
        CliAction::Order(task) => panic!("orders {:?}", task.order),
        CliAction::Look(task) => panic!("looks {:?}", task.look),
        CliAction::Init(task) => panic!("writes {task:?}"),
        CliAction::Store(task) => panic!("looks into {task:?}"),
        CliAction::Upgrade(task) => panic!("upgrades {task:?}"),
    }
}

#[test]
fn variables_of_another_server_do_not_start_an_open_node() {
    let foreign = ("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", "secret");
    let (text, code) = printed(act(&[], &[foreign]));
    assert_eq!(code, 2);
    assert!(
        text.contains(foreign.0) && text.contains("TRUNKLINE_") && text.contains("--centrifugo FILE"),
        "{text}"
    );
    // Beside a configuration of ours they may stay.
    assert!(!served(act(&[], &[foreign, ("TRUNKLINE_API_KEY", "a key of sixteen")])).is_development());
    assert!(served(act(&[], &[])).is_development());
}

#[test]
fn centrifugo_s_configuration_is_served_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let name = path.to_str().unwrap();
    fs::write(&path, "{\"client\": {\"channel_limit\": 7},\n\"admin\": {\"enabled\": true}}").unwrap();
    let variables = [
        ("CENTRIFUGO_HTTP_API_KEY", "key of the api, long"),
        ("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", "secret of tokens, long"),
    ];
    let line = ["--centrifugo", name, "--port", "9001", "--driver", "mio"];
    let CliAction::Serve(start) = act(&line, &variables) else { panic!("does not serve") };
    assert_eq!(start.config.client.channels_max, 7);
    assert_eq!(start.config.listen.addresses().next().unwrap().to_string(), "[::]:9001");
    assert_eq!(start.config.driver, crate::config::DriverChoice::Mio, "our flags hold beside it");
    assert!(start.warnings[0].contains("config.json:2: admin.enabled is ignored"), "{:?}", start.warnings);

    let (text, code) = printed(act(&["import", "centrifugo", name, "-p", "9001"], &variables));
    assert_eq!(code, 0);
    assert!(text.contains("listen = \"[::]:9001\"  # flag --port: port\n"), "{text}");
    assert!(!text.contains("does not start"), "{text}");
    let (text, _) = printed(act(&["import", "centrifugo", name], &[]));
    assert!(text.contains("# does not start as it is: listen: (from http_server.port)"), "{text}");

    // Faults are of their file.
    fs::write(&path, "{\"client\": {\n\"ping_interval\": \"1500ms\"}, \"broker\": \"redis\"}").unwrap();
    let (text, code) = printed(act(&["--centrifugo", name], &variables));
    assert_eq!(code, 2);
    assert!(text.contains("config.json:2: broker: has no counterpart"), "{text}");
    let allowed = ["--centrifugo", name, "--allow-missing", "broker"];
    let (text, code) = printed(act(&allowed, &variables));
    assert_eq!(code, 2);
    assert!(
        text.contains("config.json:2: client.ping_interval: (from client.ping_interval): must be"),
        "{text}"
    );
    assert_eq!(printed(act(&["--centrifugo", name, "--config", name], &variables)).1, 2);
    assert_eq!(printed(act(&["--centrifugo", "/nonexistent.json"], &variables)).1, 2);
    assert_eq!(printed(act(&["--centrifugo", name, "--port"], &variables)).1, 2);
}

fn job(arguments: &[&str]) -> TokenJob {
    match act(arguments, &[]) {
        CliAction::Token(task) => task.job,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_are_made_of_what_the_command_line_says() {
    let made = job(&[
        "gentoken",
        "-u",
        "42",
        "--ttl",
        "1h",
        "-s",
        "a",
        "--channel=b",
        "--info",
        "{}",
        "-d",
        "phone",
    ]);
    let expected = TokenJob::Connection {
        user: "42".into(),
        device: Some("phone".into()),
        ttl: Duration::from_secs(3600),
        channels: vec!["a".into(), "b".into()],
        info: Some("{}".into()),
        meta: None,
    };
    assert_eq!(made, expected);
    let made = job(&["gensubtoken", "-u", "42", "-s", "news"]);
    let ttl = Duration::from_secs(7 * 24 * 3600);
    let expected = TokenJob::Subscription { user: "42".into(), channel: "news".into(), ttl, info: None };
    assert_eq!(made, expected);
    assert_eq!(job(&["checktoken", " x "]), TokenJob::Check { token: "x".into() });
    for wrong in [
        &["gensubtoken", "-u", "42"][..],
        &["gentoken", "--ttl", "soon"],
        &["gentoken", "--info", "{"],
        &["gentoken", "--meta", "nothing"],
        &["gentoken", "--device", ""],
        &["checktoken"],
        &["checktoken", "x", "--config", "/nonexistent.toml"],
    ] {
        assert_eq!(printed(act(wrong, &[])).1, 2, "{wrong:?}");
    }
}

#[test]
fn flags_reach_their_settings() {
    let config = served(act(
        &[
            "--listen",
            "127.0.0.1:0",
            "--api-listen=127.0.0.1:1",
            "--driver",
            "mio",
            "--shards",
            "3",
            "--echo",
        ],
        &[("TRUNKLINE_LISTEN", "127.0.0.1:7"), ("TRUNKLINE_LOG_FORMAT", "json"), ("HOME", "/")],
    ));
    let listen = |config: &Config| config.listen.addresses().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(listen(&config), ["127.0.0.1:0"]);
    assert_eq!(config.api_listen.unwrap().port(), 1);
    assert_eq!((config.driver, config.shards, config.echo), (crate::config::DriverChoice::Mio, 3, true));
    assert_eq!(config.log.format, crate::telemetry::LogFormat::Json);
    let config = served(act(&["--api-key", "-k-", "--log", "json", "--log-level", "debug"], &[]));
    assert_eq!(config.api.key.unwrap().reveal(), "-k-");
    assert_eq!(config.log.level, crate::telemetry::LogLevel::Debug);
    assert!(served(act(&[], &[])).is_development());
    let several = ["127.0.0.1:1", "[::1]:1", "unix:/a.sock"];
    let [one, two, three] = several;
    assert_eq!(listen(&served(act(&["--listen", one, "--listen", two, "--listen", three], &[]))), several);
    let variable = ("TRUNKLINE_LISTEN", &*several.join(","));
    assert_eq!(listen(&served(act(&[], &[variable]))), several);
    assert_eq!(printed(act(&["--shards", "1", "--shards", "2"], &[])).1, 2, "no list");
}

#[test]
fn exit_codes_tell_help_usage_and_configuration_apart() {
    let (help, code) = printed(act(&["--help"], &[]));
    assert_eq!(code, 0);
    for mentioned in ["--api-key", "TRUNKLINE_API_KEY", "[key: api.key", "check", "config"] {
        assert!(help.contains(mentioned), "{mentioned} is missing in {help}");
    }
    assert_eq!(printed(act(&["--version"], &[])).1, 0);
    assert_eq!(printed(act(&["--sharks", "3"], &[])).1, 2);
    assert_eq!(printed(act(&["--shards", "many"], &[])).1, 2);
    assert_eq!(printed(act(&["--config", "/nonexistent.toml"], &[])).1, 2);
    assert_eq!(printed(act(&[], &[("TRUNKLINE_CONFIG", "/nonexistent.toml")])).1, 2);
    assert_eq!(printed(act(&["check"], &[])).1, 2);
}

#[test]
fn the_doctor_takes_what_serving_takes() {
    let action = act(&["doctor", "--connections", "500000", "--shards", "3", "--root", "/r"], &[]);
    let CliAction::Doctor(start, diagnosis) = action else { panic!("{action:?}") };
    assert_eq!(start.config.shards, 3);
    assert_eq!(diagnosis, Diagnosis { connections: Some(500_000), root: "/r".into() });
    assert_eq!(printed(act(&["doctor", "--connections", "0"], &[])).1, 2);
    assert_eq!(printed(act(&["doctor", "--config", "/nonexistent.toml"], &[])).1, 2);
}

#[test]
fn an_upgrade_needs_no_configuration_of_its_own() {
    let upgrade = |arguments: &[&str]| match act(&[&["upgrade"], arguments].concat(), &[]) {
        CliAction::Upgrade(task) => Ok(task),
        other => Err(printed(other).1),
    };
    let plain = UpgradeTask { pid: None, binary: None, config: None, timeout: Duration::from_secs(30) };
    assert_eq!(upgrade(&[]), Ok(plain));
    let all = ["--binary", "/b", "--config", "/c", "--timeout", "1500ms", "--pid", "7"];
    let expected = UpgradeTask {
        pid: Some(7),
        binary: Some("/b".into()),
        config: Some("/c".into()),
        timeout: Duration::from_millis(1500),
    };
    assert_eq!(upgrade(&all), Ok(expected));
    for wrong in [["--timeout", "soon"], ["--timeout", "0s"], ["--pid", "0"], ["--pid", "me"]] {
        assert_eq!(upgrade(&wrong), Err(2), "{wrong:?}");
    }
}

#[test]
fn check_says_ok_or_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let name = path.to_str().unwrap();
    fs::write(&path, document::documented(&Config::default())).unwrap();
    assert_eq!(printed(act(&["check", name], &[])), (format!("clients  127.0.0.1:8000\n{name}: ok\n"), 0));
    let served = served(act(&["--config", name], &[]));
    assert_eq!(served, Config::default(), "the documented file is what it says: the defaults");
    fs::write(&path, "[client]\n\nping_intervall = \"5s\"\n").unwrap();
    let (text, code) = printed(act(&["check", name], &[]));
    let expected =
        format!("error: {name}:3: client.ping_intervall: unknown key; did you mean client.ping_interval?\n");
    assert_eq!((text, code), (expected, 1));
    assert_eq!(printed(act(&["--config", name], &[])).1, 2);
    fs::write(&path, "[client]\nallowed_origins = [\"null\", \"https://a.example/app\"]\n").unwrap();
    let (text, code) = printed(act(&["check", name], &[]));
    let reason = "\"https://a.example/app\" has a path: an origin ends with its host or port";
    assert_eq!((text, code), (format!("error: {name}:2: client.allowed_origins: {reason}\n"), 1));
    assert_eq!(printed(act(&["check", "/nonexistent.toml"], &[])).1, 1);
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(printed(act(&["check", name], &[])).1, 1);
}

#[test]
fn config_prints_what_parses() {
    let (text, code) = printed(act(&["config"], &[]));
    assert_eq!(code, 0);
    assert!(text.contains("# How often a silent client is pinged.\nping_interval = \"25s\"\n"), "{text}");
}
