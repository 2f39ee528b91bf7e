//! The files that a configuration names.

use std::path::{Path, PathBuf};

use crate::config::sections::Config;
use crate::config::table::{Key, Section};

impl Config {
    /// Every file that the configuration names, but for the store.
    pub fn named_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for part in self.parts() {
            collect(part.section, &mut files);
        }
        for list in self.lists() {
            for (_, section) in list.entries.all() {
                collect(section, &mut files);
            }
        }
        files
    }
}

fn collect(section: &dyn Section, files: &mut Vec<PathBuf>) {
    for key in section.keys().iter().filter(|key| is_file(key)) {
        let value = section.get(key.name).and_then(|value| toml::from_str(&format!("it = {value}")).ok());
        if let Some(path) = value.as_ref().and_then(|table: &toml::Table| table["it"].as_str()) {
            files.push(Path::new(path).to_owned());
        }
    }
}

/// A key whose example is a path. That of the store is the only folder.
fn is_file(key: &Key) -> bool {
    key.name != "path" && key.example.is_some_and(|example| example.starts_with("\"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::TlsCertificate;

    #[test]
    fn files_of_sections_and_lists_are_found_and_the_store_is_none() {
        let mut config = Config::default();
        config.tls.cert = Some("/c/chain.pem".into());
        config.api.key_file = Some("secrets/key \"1\"".into());
        config.store.path = Some("/var/lib/x".into());
        let mut other = TlsCertificate::default();
        other.options.key = Some("/d/other.key".into());
        config.tls.certificate.push(other);
        let files: Vec<String> = config.named_files().iter().map(|file| file.display().to_string()).collect();
        assert_eq!(files, ["/c/chain.pem", "secrets/key \"1\"", "/d/other.key"]);
    }

    /// A key for a file that this does not know would be one that a reload cannot read.
    #[test]
    fn every_key_that_reads_like_a_file_is_one() {
        let config = Config::default();
        let names = |section: &dyn Section| section.keys().to_vec();
        let sections = config.parts().into_iter().map(|part| names(part.section));
        let lists = config.lists().into_iter().map(|list| names(&*list.entries.defaults()));
        let keys: Vec<Key> = sections.chain(lists).flatten().collect();
        let by_name = keys.iter().filter(|key| key.name.ends_with("_file") || matches!(key.name, "cert"));
        for key in by_name {
            assert!(is_file(key), "{}", key.name);
        }
        assert!(keys.iter().filter(|key| is_file(key)).count() >= 15);
    }
}
