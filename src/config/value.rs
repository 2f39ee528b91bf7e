//! How each type of setting is read from a file, the environment or a flag, and how it is written back as TOML.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::base::address::Serves;
use crate::base::address_mask::AddressMask;
use crate::base::pattern::Pattern;
use crate::base::publication::PayloadForm;
use crate::base::rewind::Rewind;
use crate::base::trusted::AddressField;
use crate::hub::log_store::Durable;
use crate::hub::users::UserPolicy;
use crate::hub::{ChannelKind, Deliver, GapPolicy, PresenceBy, RecoveryMode};
use crate::telemetry::{LogFormat, LogLevel};

/// A value as its source gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// A TOML string.
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Given>),
    /// A TOML type that no setting has, by its name ("a table", "a float").
    Other(&'static str),
    /// Text of the environment or a flag: its type is the setting's.
    Loose(String),
}

impl Given {
    /// As it would stand in an error message.
    fn show(&self) -> String {
        match self {
            Given::Text(text) | Given::Loose(text) => format!("{text:?}"),
            Given::Integer(integer) => integer.to_string(),
            Given::Boolean(boolean) => boolean.to_string(),
            Given::List(_) => "a list".to_string(),
            Given::Other(kind) => kind.to_string(),
        }
    }

    /// # Errors
    /// What is wrong, with what would be right.
    pub(super) fn expected(&self, what: &str) -> String {
        format!("{} is not {what}", self.show())
    }
}

/// A type that a setting may have.
pub trait Setting: Sized {
    /// What a value is and how it is written: stands in `--help`, in the documented file, in errors.
    const KIND: &'static str;
    /// Shown as stars wherever the configuration is printed for reading.
    const SECRET: bool = false;
    /// Takes several values: the environment writes them with commas, a flag may be repeated.
    const LIST: bool = false;

    /// # Errors
    /// A sentence that says what is wrong with the value and how it is written rightly.
    fn read(given: &Given) -> Result<Self, String>;

    /// As a TOML value; `None` when unset.
    fn write(&self) -> Option<String>;
}

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;
    const LIST: bool = T::LIST;

    /// An empty text unsets: the environment has no other way to say it.
    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) | Given::Loose(text) if text.is_empty() => Ok(None),
            given => T::read(given).map(Some),
        }
    }

    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Boolean(boolean) => Ok(*boolean),
            Given::Loose(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(given.expected(Self::KIND)),
            },
            _ => Err(given.expected(Self::KIND)),
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! integer_settings {
    ($($int:ty),+) => {$(
        impl Setting for $int {
            const KIND: &'static str = "a whole number";

            fn read(given: &Given) -> Result<Self, String> {
                let read = match given {
                    Given::Integer(integer) => <$int>::try_from(*integer).ok(),
                    Given::Loose(text) => text.trim().parse().ok(),
                    _ => None,
                };
                read.ok_or_else(|| given.expected(&format!("a whole number from 0 to {}", <$int>::MAX)))
            }

            fn write(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}
integer_settings!(u8, u16, u32, usize);

impl Setting for String {
    const KIND: &'static str = "a text";

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) | Given::Loose(text) => Ok(text.clone()),
            _ => Err(given.expected("a text in quotes")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(self))
    }
}

impl<T: Setting> Setting for Vec<T> {
    const KIND: &'static str = "a list";
    const SECRET: bool = T::SECRET;
    const LIST: bool = true;

    /// The environment and flags write a list with commas.
    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::List(items) => items.iter().map(T::read).collect(),
            Given::Loose(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| T::read(&Given::Loose(item.to_string())))
                .collect(),
            _ => Err(given.expected("a list: write it like [\"one\", \"two\"]")),
        }
    }

    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::write).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

impl Setting for Pattern {
    const KIND: &'static str = "a regular expression";

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) | Given::Loose(text) => {
                Pattern::new(text).map_err(|problem| format!("{} {problem}", given.show()))
            }
            _ => Err(given.expected("a text in quotes")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(self.text()))
    }
}

impl Setting for SocketAddr {
    const KIND: &'static str = "an address and port";

    fn read(given: &Given) -> Result<Self, String> {
        let read = match given {
            Given::Text(text) | Given::Loose(text) => match text.strip_prefix("localhost:") {
                Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
                None => text.parse().ok(),
            },
            _ => None,
        };
        read.ok_or_else(|| {
            given.expected("an address and port: write it like \"127.0.0.1:8000\" or \"[::]:8000\"")
        })
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for Duration {
    const KIND: &'static str = "a duration";

    /// Whole units only: `300ms`, `25s`, `5m`, `24h`, `30d`.
    fn read(given: &Given) -> Result<Self, String> {
        let text = match given {
            Given::Text(text) | Given::Loose(text) => text.trim(),
            _ => "",
        };
        let (number, unit) = split_number(text);
        let ms_each: Option<u64> = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            "d" => Some(86_400_000),
            _ => None,
        };
        ms_each
            .zip(number)
            .and_then(|(each, number)| each.checked_mul(number))
            .map(Duration::from_millis)
            .ok_or_else(|| given.expected("a duration: write it like \"300ms\", \"25s\", \"5m\" or \"24h\""))
    }

    fn write(&self) -> Option<String> {
        Some(write_duration_ms(u64::try_from(self.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Setting for Rewind {
    const KIND: &'static str = "a number of publications or a duration";

    fn read(given: &Given) -> Result<Self, String> {
        let read = match given {
            Given::Text(text) | Given::Loose(text) => Rewind::parse(text.trim()).ok(),
            Given::Integer(count) => u32::try_from(*count).ok().map(Rewind::Count),
            _ => None,
        };
        read.ok_or_else(|| given.expected("a number of publications or a duration, like \"10\" or \"5m\""))
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// In the largest unit that it is a whole number of.
pub(super) fn write_duration_ms(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let (number, unit) = units
        .into_iter()
        .find(|(each, _)| ms > 0 && ms.is_multiple_of(*each))
        .map_or((ms, if ms == 0 { "s" } else { "ms" }), |(each, unit)| (ms / each, unit));
    format!("\"{number}{unit}\"")
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kib(kib: u64) -> Size {
        Size(kib << 10)
    }

    pub const fn mib(mib: u64) -> Size {
        Size(mib << 20)
    }

    /// In bytes; the largest that the machine can address when it is larger than that.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Setting for Size {
    const KIND: &'static str = "a size in bytes";

    fn read(given: &Given) -> Result<Self, String> {
        let read = match given {
            Given::Integer(integer) => u64::try_from(*integer).ok(),
            Given::Text(text) | Given::Loose(text) => {
                let (number, unit) = split_number(text.trim());
                let each: Option<u64> = match unit.to_ascii_lowercase().as_str() {
                    "" | "b" => Some(1),
                    "kib" | "k" => Some(1 << 10),
                    "mib" | "m" => Some(1 << 20),
                    "gib" | "g" => Some(1 << 30),
                    "kb" => Some(1_000),
                    "mb" => Some(1_000_000),
                    "gb" => Some(1_000_000_000),
                    _ => None,
                };
                each.zip(number).and_then(|(each, number)| each.checked_mul(number))
            }
            _ => None,
        };
        read.map(Size)
            .ok_or_else(|| given.expected("a size: write it like \"64KiB\", \"16MiB\" or a number of bytes"))
    }

    fn write(&self) -> Option<String> {
        let bytes = self.0;
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        Some(match units.into_iter().find(|(each, _)| bytes > 0 && bytes.is_multiple_of(*each)) {
            Some((each, unit)) => format!("\"{}{unit}\"", bytes / each),
            None => bytes.to_string(),
        })
    }
}

impl std::fmt::Display for Size {
    /// Rounded for reading: `1.5 GiB`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(each, _)| self.0 >= *each) {
            Some((each, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / each as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A key or password: `Debug` shows stars, so that no log and no panic prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const KIND: &'static str = "a secret text";
    const SECRET: bool = true;

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) | Given::Loose(text) if !text.is_empty() => Ok(Secret(text.clone())),
            Given::Text(_) | Given::Loose(_) => Err("an empty text protects nothing".to_string()),
            // The value itself stays out of the message.
            _ => Err("must be a text in quotes".to_string()),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.0))
    }
}

/// A moment to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSetting(x509_cert::der::DateTime);

impl TimeSetting {
    /// Seconds since 1970.
    pub fn unix_s(self) -> u64 {
        self.0.unix_duration().as_secs()
    }
}

impl Setting for TimeSetting {
    const KIND: &'static str = "a time in UTC in quotes, like \"2030-01-31T12:00:00Z\"";

    fn read(given: &Given) -> Result<Self, String> {
        let (Given::Text(text) | Given::Loose(text)) = given else { return Err(given.expected(Self::KIND)) };
        text.parse().map(TimeSetting).map_err(|_| given.expected(Self::KIND))
    }

    fn write(&self) -> Option<String> {
        Some(quote(&self.0.to_string()))
    }
}

/// Implements [`Setting`] for an enum whose values are words.
macro_rules! word_settings {
    ($type:ty, $kind:literal, $($word:literal => $value:path),+ $(,)?) => {
        impl $crate::config::value::Setting for $type {
            const KIND: &'static str = $kind;

            fn read(given: &$crate::config::value::Given) -> Result<Self, String> {
                match given {
                    $crate::config::value::Given::Text(text) | $crate::config::value::Given::Loose(text) => match text.as_str() {
                        $($word => Ok($value),)+
                        _ => Err(given.expected($kind)),
                    },
                    _ => Err(given.expected($kind)),
                }
            }

            fn write(&self) -> Option<String> {
                Some($crate::config::value::quote(match self { $($value => $word,)+ }))
            }
        }
    };
}

pub(super) use word_settings;

/// Which way to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel grants it, else mio.
    #[default]
    Auto,
    IoUring,
    Mio,
}

/// What becomes of a hook call that the backend does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenUnavailable {
    #[default]
    Refuse,
    LetIn,
}

word_settings!(DriverChoice, "\"auto\", \"io-uring\" or \"mio\"",
    "auto" => DriverChoice::Auto, "io-uring" => DriverChoice::IoUring, "mio" => DriverChoice::Mio);
word_settings!(LogFormat, "\"text\" or \"json\"", "text" => LogFormat::Text, "json" => LogFormat::Json);
word_settings!(LogLevel, "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    "error" => LogLevel::Error, "warn" => LogLevel::Warn, "info" => LogLevel::Info,
    "debug" => LogLevel::Debug, "trace" => LogLevel::Trace);
word_settings!(WhenUnavailable, "\"refuse\" or \"let-in\"",
    "refuse" => WhenUnavailable::Refuse, "let-in" => WhenUnavailable::LetIn);
word_settings!(PayloadForm, "\"json\" or \"bytes\"",
    "json" => PayloadForm::Json, "bytes" => PayloadForm::Bytes);
word_settings!(PresenceBy, "\"client\" or \"user\"",
    "client" => PresenceBy::Client, "user" => PresenceBy::User);
word_settings!(ChannelKind, "\"stream\" or \"value\"",
    "stream" => ChannelKind::Stream, "value" => ChannelKind::Value);
word_settings!(Deliver, "\"publication\", \"notice\" or \"notice_with_ping\"",
    "publication" => Deliver::Publication, "notice" => Deliver::Notice,
    "notice_with_ping" => Deliver::NoticeWithPing);
word_settings!(RecoveryMode, "\"stream\" or \"cache\"",
    "stream" => RecoveryMode::Stream, "cache" => RecoveryMode::Cache);
word_settings!(Durable, "\"no\", \"async\" or \"sync\"",
    "no" => Durable::No, "async" => Durable::Async, "sync" => Durable::Sync);
word_settings!(GapPolicy, "\"tell\", \"latest\" or \"close\"",
    "tell" => GapPolicy::Tell, "latest" => GapPolicy::Latest, "close" => GapPolicy::Close);

word_settings!(AddressMask, "\"none\", \"network\" or \"all\"",
    "none" => AddressMask::None, "network" => AddressMask::Network, "all" => AddressMask::All);
word_settings!(AddressField, "\"x-forwarded-for\" or \"forwarded\"",
    "x-forwarded-for" => AddressField::XForwardedFor, "forwarded" => AddressField::Forwarded);
word_settings!(Serves, "\"clients\", \"api\" or \"both\"",
    "clients" => Serves::Clients, "api" => Serves::Api, "both" => Serves::Both);
word_settings!(UserPolicy, "\"reject\" or \"replace\"",
    "reject" => UserPolicy::Reject, "replace" => UserPolicy::Replace);

/// The leading digits and what follows them.
fn split_number(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok(), text[end..].trim_start())
}

/// A TOML basic string (TOML 1.0, "String").
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Setting>(text: &str) -> Result<T, String> {
        let loose = T::read(&Given::Loose(text.to_string()));
        // What a file can say as a string means the same in the environment.
        if let Ok(from_file) = T::read(&Given::Text(text.to_string())) {
            assert_eq!(from_file.write(), loose.as_ref().ok().and_then(T::write));
        }
        loose
    }

    #[test]
    fn durations_keep_their_unit() {
        for (given, ms, shown) in [
            ("300ms", 300, "\"300ms\""),
            ("25s", 25_000, "\"25s\""),
            ("90s", 90_000, "\"90s\""),
            ("5m", 300_000, "\"5m\""),
            ("24h", 86_400_000, "\"1d\""),
            ("0s", 0, "\"0s\""),
        ] {
            let duration: Duration = text(given).unwrap();
            assert_eq!(duration, Duration::from_millis(ms));
            assert_eq!(duration.write().unwrap(), shown);
        }
        for wrong in ["", "25", "s", "1.5s", "-1s", "99999999999999999999s", "18446744073709551615d", "5 x"] {
            assert!(text::<Duration>(wrong).unwrap_err().contains("duration"), "{wrong:?}");
        }
        assert!(Duration::read(&Given::Integer(25)).is_err(), "a duration without its unit is a guess");
    }

    #[test]
    fn sizes_take_units_and_plain_bytes() {
        for (given, bytes) in
            [("64KiB", 65_536), ("1 MiB", 1 << 20), ("10kb", 10_000), ("77", 77), ("2g", 2 << 30)]
        {
            assert_eq!(text::<Size>(given), Ok(Size(bytes)));
        }
        assert_eq!(Size::read(&Given::Integer(77)), Ok(Size(77)));
        assert!(Size::read(&Given::Integer(-1)).is_err());
        assert!(text::<Size>("18446744073709551615GiB").is_err());
        assert_eq!(Size::kib(64).write().unwrap(), "\"64KiB\"");
        assert_eq!(Size(1001).write().unwrap(), "1001");
        assert_eq!(Size(3 << 29).to_string(), "1.5 GiB");
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        assert_eq!(text::<SocketAddr>("localhost:9"), Ok(SocketAddr::from(([127, 0, 0, 1], 9))));
        assert_eq!(text::<SocketAddr>("[::1]:9").unwrap().to_string(), "[::1]:9");
        for wrong in ["", "8000", "127.0.0.1", "example.com:80", "localhost:99999"] {
            assert!(text::<SocketAddr>(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lists_come_with_commas_from_the_environment() {
        assert_eq!(Vec::<String>::read(&Given::Loose("a, b,,c".into())).unwrap(), ["a", "b", "c"]);
        assert!(Vec::<String>::read(&Given::Text("a".into())).is_err());
        assert!(Vec::<String>::read(&Given::List(vec![Given::Integer(1)])).is_err());
        assert_eq!(vec!["a\"b\n".to_string()].write().unwrap(), r#"["a\"b\u000A"]"#);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("hunter2"));
        assert_eq!(Option::<Secret>::read(&Given::Loose(String::new())), Ok(None));
        assert!(Secret::read(&Given::Text(String::new())).is_err());
    }
}
