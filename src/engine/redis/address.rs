//! Where Redis is, as a URL says it.
//!
//! ```text
//!  redis://[[user]:password@]host:port[/db]                      one server; rediss: with TLS
//!  redis+sentinel://host:port?sentinel_master_name=NAME[&addr=host:port...][&sentinel_user=U&sentinel_password=P]
//!  redis+cluster://host:port[?addr=host:port...]                   rediss+cluster and rediss+sentinel: with TLS
//! ```

use url::Url;

/// One server, or what acts as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub kind: AddressKind,
    pub tls: bool,
    pub nodes: Vec<(String, u16)>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub db: i64,
}

#[derive(Clone, PartialEq, Eq)]
pub enum AddressKind {
    Single,
    Cluster,
    Sentinel { master: String, user: Option<String>, password: Option<String> },
}

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Address {
    /// # Errors
    /// What is wrong with the URL, without its password.
    pub fn parse(text: &str) -> Result<Address, String> {
        let full = if text.contains("://") { text.to_owned() } else { format!("redis://{text}") };
        let url = Url::parse(&full).map_err(|error| format!("is no URL: {error}"))?;
        let (tls, plain) = match url.scheme().strip_prefix("rediss") {
            Some(rest) => (true, rest),
            None => (false, url.scheme().strip_prefix("redis").unwrap_or("?")),
        };
        let given = |key: &str| {
            let found = url.query_pairs().find(|(name, _)| name == key);
            found.map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
        };
        let (kind, port) = match plain {
            "" => (AddressKind::Single, PORT),
            "+cluster" => (AddressKind::Cluster, PORT),
            "+sentinel" => {
                let master =
                    given("sentinel_master_name").ok_or("names no master: add ?sentinel_master_name=NAME")?;
                let (user, password) = (given("sentinel_user"), given("sentinel_password"));
                (AddressKind::Sentinel { master, user, password }, SENTINEL_PORT)
            }
            _ => {
                return Err(
                    "must begin with redis://, rediss://, redis+sentinel:// or redis+cluster://".into()
                );
            }
        };
        for (name, _) in url.query_pairs() {
            let known = match kind {
                AddressKind::Single => false,
                AddressKind::Cluster => name == "addr",
                AddressKind::Sentinel { .. } => {
                    ["addr", "sentinel_master_name", "sentinel_user", "sentinel_password"].contains(&&*name)
                }
            };
            if !known {
                return Err(format!("has a parameter that it cannot have: {name}"));
            }
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
        let mut nodes = vec![(host.trim_matches(['[', ']']).to_owned(), url.port().unwrap_or(port))];
        for (_, node) in url.query_pairs().filter(|(name, _)| name == "addr") {
            let (host, of_node) = node.rsplit_once(':').ok_or_else(|| format!("addr={node} has no port"))?;
            let of_node = of_node.parse().map_err(|_| format!("addr={node} has no port"))?;
            nodes.push((host.trim_matches(['[', ']']).to_owned(), of_node));
        }
        let db = match url.path().trim_start_matches('/') {
            "" => 0,
            db => db.parse().map_err(|_| format!("/{db} is no number of a database"))?,
        };
        if db != 0 && kind == AddressKind::Cluster {
            return Err("names a database, and a cluster has only one".into());
        }
        let decoded = |text: &str| {
            let bytes: Vec<u8> = percent(text);
            String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
        };
        let user = decoded(url.username());
        let password = url.password().and_then(decoded);
        Ok(Address { kind, tls, nodes, user, password, db })
    }

    pub fn is_cluster(&self) -> bool {
        self.kind == AddressKind::Cluster
    }
}

/// The bytes of a text with `%41` for `A` (RFC 3986, section 2.1).
pub fn percent(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// Without what is secret.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = if self.tls { "s" } else { "" };
        let kind = match &self.kind {
            AddressKind::Single => "",
            AddressKind::Cluster => "+cluster",
            AddressKind::Sentinel { .. } => "+sentinel",
        };
        let nodes: Vec<String> = self.nodes.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "redis{tls}{kind}://{}", nodes.join(","))?;
        match &self.kind {
            AddressKind::Sentinel { master, .. } => write!(f, " (master {master})"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_stands_there_and_keeps_its_secrets() {
        let plain = Address::parse("10.0.0.1:6380").unwrap();
        assert_eq!(plain.to_string(), "redis://10.0.0.1:6380");
        let full = Address::parse("rediss://ann:hunt%3Aer@[::1]/3").unwrap();
        assert_eq!((full.user.as_deref(), full.password.as_deref()), (Some("ann"), Some("hunt:er")));
        assert_eq!((full.tls, full.db, full.nodes[0].1), (true, 3, 6379));
        assert!(!format!("{full} {full:?}").contains("hunt"));
        let sentinel =
            Address::parse("redis+sentinel://:pw@a:1?sentinel_master_name=m&addr=b:2&sentinel_password=x")
                .unwrap();
        assert_eq!(sentinel.to_string(), "redis+sentinel://a:1,b:2 (master m)");
        assert_eq!((sentinel.user, sentinel.password.as_deref()), (None, Some("pw")));
        let cluster = Address::parse("redis+cluster://a:1?addr=b:2&addr=[::1]:3").unwrap();
        assert!(cluster.is_cluster());
        assert_eq!(cluster.nodes[2], ("::1".to_owned(), 3));
        for (wrong, why) in [
            ("http://a", "must begin with"),
            ("redis+sentinel://a", "names no master"),
            ("redis://a/x", "no number"),
            ("redis+cluster://a/1", "only one"),
            ("redis://a?x=1", "cannot have: x"),
            ("redis+cluster://a?addr=b", "has no port"),
        ] {
            let problem = Address::parse(wrong).unwrap_err();
            assert!(problem.contains(why), "{wrong}: {problem}");
        }
    }
}
