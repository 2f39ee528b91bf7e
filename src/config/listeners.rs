//! How listeners are written: the addresses of `listen`, permission bits, trusted networks.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;

use crate::base::address::ListenAddress;
use crate::base::limits::LISTENERS_MAX;
use crate::base::trusted::Trusted;
use crate::config::value::{Given, Setting, quote};

/// The addresses of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners(Vec<ListenAddress>);

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))
    }
}

impl From<SocketAddr> for Listeners {
    fn from(address: SocketAddr) -> Listeners {
        Listeners(vec![ListenAddress::Tcp(address)])
    }
}

impl Deref for Listeners {
    type Target = [ListenAddress];

    fn deref(&self) -> &[ListenAddress] {
        &self.0
    }
}

impl Listeners {
    /// Every listener is a table's.
    pub fn none() -> Listeners {
        Listeners(Vec::new())
    }

    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.0.iter()
    }
}

impl Setting for Listeners {
    const KIND: &'static str = "an address and port or a unix socket, or a list of them";
    const LIST: bool = true;

    /// The environment writes a list with commas, a flag is repeated.
    fn read(given: &Given) -> Result<Listeners, String> {
        let texts: Vec<&str> = match given {
            Given::Text(text) => vec![text],
            Given::Loose(text) => text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
            Given::List(items) => {
                let mut texts = Vec::new();
                for item in items {
                    match item {
                        Given::Text(text) => texts.push(text.as_str()),
                        other => {
                            return Err(other.expected("an address and port or a unix socket, in quotes"));
                        }
                    }
                }
                texts
            }
            other => return Err(other.expected(Self::KIND)),
        };
        if texts.len() > LISTENERS_MAX {
            return Err(format!("must be at most {LISTENERS_MAX} addresses"));
        }
        let address = |text: &&str| {
            ListenAddress::parse(text).map_err(|right| Given::Text(text.to_string()).expected(right))
        };
        texts.iter().map(address).collect::<Result<_, _>>().map(Listeners)
    }

    fn write(&self) -> Option<String> {
        let texts: Vec<String> = self.addresses().map(|address| quote(&address.to_string())).collect();
        Some(match &texts[..] {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        })
    }
}

impl Setting for ListenAddress {
    const KIND: &'static str = "an address and port or a unix socket";

    fn read(given: &Given) -> Result<ListenAddress, String> {
        let text = match given {
            Given::Text(text) | Given::Loose(text) => text.as_str(),
            _ => "",
        };
        ListenAddress::parse(text).map_err(|right| given.expected(right))
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for Trusted {
    const KIND: &'static str = "a network";

    fn read(given: &Given) -> Result<Trusted, String> {
        let text = match given {
            Given::Text(text) | Given::Loose(text) => text.trim(),
            _ => "",
        };
        Trusted::parse(text).ok_or_else(|| {
            given.expected(
                "a network: write it like \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\" or \"unix:\"",
            )
        })
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// Permission bits of a file, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Setting for FileMode {
    const KIND: &'static str = "permission bits in octal";

    /// A text only: the number 660 would be another mode.
    fn read(given: &Given) -> Result<FileMode, String> {
        let text = match given {
            Given::Text(text) | Given::Loose(text) => text.trim(),
            _ => "",
        };
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777);
        bits.map(FileMode)
            .ok_or_else(|| given.expected("permission bits: write them in octal, like \"660\" or \"666\""))
    }

    fn write(&self) -> Option<String> {
        Some(quote(&format!("{:03o}", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: Given) -> Result<Vec<String>, String> {
        Listeners::read(&given).map(|all| all.addresses().map(ToString::to_string).collect())
    }

    fn text(text: &str) -> Given {
        Given::Text(text.to_string())
    }

    #[test]
    fn one_or_several_are_read_and_written_back() {
        let three = ["0.0.0.0:8000", "[::]:8000", "unix:/run/trunkline/client.sock"];
        let list = Given::List(three.map(text).into());
        assert_eq!(read(text("localhost:1")).unwrap(), ["127.0.0.1:1"]);
        assert_eq!(read(list.clone()).unwrap(), three);
        assert_eq!(read(Given::Loose(format!("{} , {},{},", three[0], three[1], three[2]))).unwrap(), three);
        let written = Listeners::read(&list).unwrap().write().unwrap();
        assert_eq!(written, "[\"0.0.0.0:8000\", \"[::]:8000\", \"unix:/run/trunkline/client.sock\"]");
        assert_eq!(Listeners::default().write().unwrap(), "\"127.0.0.1:8000\"");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_right() {
        let refused = |given| read(given).unwrap_err();
        assert!(refused(text("8000")).contains("\"8000\" is not an address and port or a unix socket"));
        assert!(refused(text("unix:run/a.sock")).contains("from the root"));
        assert!(refused(Given::List(vec![text("[::]:1"), text("x")])).contains("\"x\" is not"));
        assert!(refused(Given::List(vec![Given::Integer(8000)])).contains("in quotes"));
        let many = (0..17).map(|port| text(&format!("127.0.0.1:{port}"))).collect();
        assert_eq!(refused(Given::List(many)), "must be at most 16 addresses");
        // None at all is fine beside a [[listener]]: see the check of all listeners.
        assert_eq!(read(Given::List(vec![])).unwrap(), [""; 0]);
        assert!(refused(Given::Integer(1)).contains("1 is not an address"));
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(FileMode::read(&text("660")), Ok(FileMode(0o660)));
        assert_eq!(FileMode::read(&Given::Loose("0600".into())), Ok(FileMode(0o600)));
        assert_eq!(FileMode(0o7).write().unwrap(), "\"007\"");
        for wrong in [text("rw"), text("888"), text("4755"), text("66"), text("+66"), Given::Integer(660)] {
            assert!(FileMode::read(&wrong).is_err(), "{wrong:?}");
        }
    }
}
