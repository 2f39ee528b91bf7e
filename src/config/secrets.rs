//! Keys and secrets: those that stand in files of their own, and those that are too short to keep strangers out.

use std::fs::File;
use std::io::Read as _;

use crate::config::fault::{Fault, SettingOrigin};
use crate::config::file::Origins;
use crate::config::sections::{Config, TokenSettings};
use crate::config::value::Secret;

/// Shortest key or secret of a node that strangers reach, in bytes: 128 bits where each is random. What is shorter can
/// be guessed from one token, without asking the node.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest file of a secret, in bytes. A longer one is some other file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Puts what the files hold where the configuration would have it.
pub fn read_files(config: &mut Config, origins: &Origins) -> Vec<Fault> {
    let client = &mut config.client;
    let files = [
        ("api.key", &config.api.key_file, &mut config.api.key),
        ("engine.password", &config.engine.password_file, &mut config.engine.password),
        ("client.token.hmac_secret", &client.token.hmac_secret_file, &mut client.token.hmac_secret),
        (
            "client.subscription_token.hmac_secret",
            &client.subscription_token.hmac_secret_file,
            &mut client.subscription_token.hmac_secret,
        ),
    ];
    let mut faults = Vec::new();
    for (key, file, secret) in files {
        let Some(file) = file else { continue };
        let read = match secret {
            Some(_) => Err(format!("{key} is set as well: only one of them can hold")),
            None => read(file),
        };
        match read {
            Ok(text) => *secret = Some(Secret::new(text)),
            Err(problem) => {
                let key = format!("{key}_file");
                let origin = origins.get(&key).cloned().unwrap_or(SettingOrigin::Default);
                faults.push(Fault { key, origin, problem });
            }
        }
    }
    faults
}

fn read(path: &str) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("{path} cannot be read: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{path} is longer than {FILE_BYTES_MAX} bytes"));
    }
    let text = text.trim_end_matches(['\r', '\n']);
    match text {
        "" => Err(format!("{path} is empty")),
        text => Ok(text.to_string()),
    }
}

fn weak_further(token: &TokenSettings) -> bool {
    token.further_secrets().flatten().any(|(secret, _)| secret.len() < SECRET_BYTES_MIN)
}

/// The keys whose secrets are shorter than [`SECRET_BYTES_MIN`].
pub fn weak(config: &Config) -> Vec<&'static str> {
    let is_weak = |secret: &Secret| secret.reveal().len() < SECRET_BYTES_MIN;
    let client = &config.client;
    let all = [
        ("api.key", config.api.key.iter().any(is_weak)),
        ("api.keys", config.api.keys.iter().any(is_weak)),
        ("client.token.hmac_secret", client.token.hmac_secret.iter().any(is_weak)),
        ("client.subscription_token.hmac_secret", client.subscription_token.hmac_secret.iter().any(is_weak)),
        ("client.token.hmac_secrets", weak_further(&client.token)),
        ("client.subscription_token.hmac_secrets", weak_further(&client.subscription_token)),
        ("events.secret", config.events.secret.iter().any(is_weak)),
    ];
    all.into_iter().filter(|(_, weak)| *weak).map(|(key, _)| key).collect()
}

/// What is unwise about secrets on a node that only this machine reaches.
pub fn warnings(config: &Config, origins: &Origins) -> Vec<String> {
    let weak = weak(config).into_iter().map(|key| {
        format!("{key} is shorter than {SECRET_BYTES_MIN} bytes: behind a proxy, strangers can guess it")
    });
    let shown = matches!(origins.get("api.key"), Some(SettingOrigin::Flag(_))).then(|| {
        "--api-key shows the key to every user of this machine: use TRUNKLINE_API_KEY or --api-key-file"
            .to_string()
    });
    weak.chain(shown).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::load::{Sources, load};

    fn sources(file: &str, flags: &[(&str, &str)]) -> Sources {
        let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        Sources {
            file: Some(("t.toml".to_string(), file.to_string())),
            flags: flags.iter().map(own).collect(),
            ..Sources::default()
        }
    }

    fn refused(file: &str, flags: &[(&str, &str)]) -> String {
        let faults = load(&sources(file, flags)).expect_err("should be refused");
        faults.iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn a_secret_can_stand_in_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_string()
        };
        let (key, secret) = (path("key", "the key of the api\n"), path("secret", "the secret of tokens"));
        let file = format!(
            "[api]\nkey_file = {key:?}\n[client.token]\nhmac_secret_file = {secret:?}\n\
             [client.subscription_token]\nhmac_secret_file = {secret:?}\n"
        );
        let config = load(&sources(&file, &[("listen", "0.0.0.0:1")])).unwrap().config;
        assert_eq!(config.api.key.unwrap().reveal(), "the key of the api");
        assert_eq!(config.client.token.hmac_secret.unwrap().reveal(), "the secret of tokens");
        assert_eq!(config.client.subscription_token.hmac_secret.unwrap().reveal(), "the secret of tokens");
        // With nothing else configured it is a configuration all the same.
        let flag = Sources { file: None, ..sources("", &[("api.key_file", &key)]) };
        assert!(!load(&flag).unwrap().config.is_development());

        let empty = path("empty", "\n");
        let both = refused(&format!("[api]\nkey = \"k\"\nkey_file = {key:?}\n"), &[]);
        assert!(both.contains("api.key_file") && both.contains("api.key is set as well"), "{both}");
        for (wrong, why) in [(empty.as_str(), "is empty"), ("/no/such/file", "cannot be read")] {
            let refused = refused(&format!("[client.token]\nhmac_secret_file = {wrong:?}\n"), &[]);
            assert!(refused.contains("client.token.hmac_secret_file") && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn strangers_must_not_be_able_to_guess() {
        let long = "0123456789abcdef";
        let file = |key: &str, keys: &str, secret: &str, other: &str| {
            format!(
                "[api]\nkey = {key:?}\nkeys = [{keys:?}]\n[client.token]\nhmac_secret = {secret:?}\n\
                 [client.subscription_token]\nhmac_secret = {other:?}\n[events]\nsecret = {other:?}\n"
            )
        };
        let exposed = [("listen", "0.0.0.0:1")];
        assert!(load(&sources(&file(long, long, long, long), &exposed)).is_ok());
        let all = refused(&file("a", "b", &long[1..], "d"), &exposed);
        let names = [
            "api.key:",
            "api.keys:",
            "client.token.hmac_secret:",
            "client.subscription_token.hmac_secret:",
            "events.secret:",
        ];
        for name in names {
            assert!(all.contains(name), "{name} {all}");
        }
        assert_eq!(all.lines().count(), names.len());
        // One that only this machine reaches says so and starts; its API may be what strangers reach.
        let loaded = load(&sources(&file("a", "b", "c", "d"), &[])).unwrap();
        assert_eq!(loaded.warnings.len(), names.len(), "{:?}", loaded.warnings);
        assert!(refused(&file("a", long, long, long), &[("api_listen", "10.0.0.1:1")]).contains("api.key:"));
    }

    #[test]
    fn a_key_on_the_command_line_is_warned_about() {
        let loaded = load(&sources("", &[("api.key", "0123456789abcdef")])).unwrap();
        assert!(
            loaded.warnings.iter().any(|warning| warning.contains("--api-key-file")),
            "{:?}",
            loaded.warnings
        );
        assert!(load(&sources("[api]\nkey = \"0123456789abcdef\"\n", &[])).unwrap().warnings.is_empty());
    }
}
