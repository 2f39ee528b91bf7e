//! How one value of theirs is written in ours.

use crate::config::centrifugo::keys::As;
use crate::config::centrifugo::tree::{TreeNode, TreeValue, json_text};
use crate::config::value::{quote, write_duration_ms};

/// The value as TOML; `None` when it says nothing: Centrifugo takes an empty text for unset.
///
/// # Errors
/// What is wrong with it, or what it cannot be here.
pub fn convert(to: As, node: &TreeNode) -> Result<Option<String>, String> {
    if matches!(&node.value, TreeValue::Null) {
        return Ok(None);
    }
    Ok(match to {
        As::Flag => Some(flag(node)?.to_string()),
        As::Number => number(node)?.map(|number| number.to_string()),
        As::Time => time_ms(node)?.map(write_duration_ms),
        As::Text => Some(text(node)?).filter(|text| !text.is_empty()).map(|text| quote(&text)),
        As::Texts => Some(list(&texts(node)?)),
        As::Deltas => Some(deltas(&texts(node)?)?.to_string()),
        As::Payload => match &*text(node)? {
            "" => None,
            "json" => Some(quote("json")),
            "binary" => Some(quote("bytes")),
            other => return Err(format!("payloads are not checked to be {other:?}")),
        },
        As::Level => level(&text(node)?)?.map(quote),
        As::Origins => {
            let patterns = texts(node)?;
            Some(list(&patterns.iter().map(|pattern| origin(pattern)).collect::<Vec<_>>()))
        }
    })
}

fn deltas(kinds: &[String]) -> Result<bool, String> {
    match kinds.iter().find(|kind| *kind != "fossil") {
        Some(other) => Err(format!("there are no deltas of the kind {other:?}")),
        None => Ok(!kinds.is_empty()),
    }
}

/// As Go reads one.
pub fn flag(node: &TreeNode) -> Result<bool, String> {
    match &node.value {
        TreeValue::Boolean(boolean) => Ok(*boolean),
        TreeValue::Integer(0) => Ok(false),
        TreeValue::Integer(1) => Ok(true),
        TreeValue::Text(text) | TreeValue::Loose(text) => match text.trim() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" | "" => Ok(false),
            other => Err(format!("{other:?} is neither true nor false")),
        },
        _ => Err("is neither true nor false".to_string()),
    }
}

/// `None` for an empty text.
pub fn number(node: &TreeNode) -> Result<Option<u64>, String> {
    match &node.value {
        TreeValue::Integer(integer) => u64::try_from(*integer).map(Some).map_err(|_| below_zero(*integer)),
        TreeValue::Text(text) | TreeValue::Loose(text) if text.trim().is_empty() => Ok(None),
        TreeValue::Text(text) | TreeValue::Loose(text) => {
            text.trim().parse().map(Some).map_err(|_| format!("{text:?} is not a whole number from 0 on"))
        }
        _ => Err("is not a whole number".to_string()),
    }
}

fn below_zero(integer: i64) -> String {
    format!("{integer} switches something off that cannot be switched off here")
}

/// A duration as Go writes it, `1h30m` or `1.5s`, in milliseconds.
pub fn time_ms(node: &TreeNode) -> Result<Option<u64>, String> {
    let text = match &node.value {
        TreeValue::Text(text) | TreeValue::Loose(text) => text.trim(),
        TreeValue::Integer(0) => "0",
        TreeValue::Integer(integer) if *integer < 0 => return Err(below_zero(*integer)),
        _ => return Err("is not a duration: Centrifugo writes it like \"25s\"".to_string()),
    };
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with('-') {
        return Err(format!("{text:?} switches something off that cannot be switched off here"));
    }
    let wrong = || format!("{text:?} is not a duration: Centrifugo writes it like \"25s\"");
    if text == "0" {
        return Ok(Some(0));
    }
    let (mut rest, mut total_ns) = (text, 0u128);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(end);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let each: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() > 12 || part.len() > 9 || (whole.is_empty() && part.is_empty()) {
            return Err(wrong());
        }
        let digits = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>() };
        let whole = digits(whole).map_err(|_| wrong())?;
        let part_ns = digits(part).map_err(|_| wrong())? * each / 10u128.pow(part.len() as u32);
        total_ns += whole * each + part_ns;
        rest = behind;
    }
    if total_ns % 1_000_000 != 0 {
        return Err(format!("{text:?} has parts of a millisecond"));
    }
    u64::try_from(total_ns / 1_000_000).map(Some).map_err(|_| wrong())
}

pub fn text(node: &TreeNode) -> Result<String, String> {
    match &node.value {
        TreeValue::Text(text) | TreeValue::Loose(text) => Ok(text.clone()),
        TreeValue::Integer(integer) => Ok(integer.to_string()),
        TreeValue::Boolean(boolean) => Ok(boolean.to_string()),
        TreeValue::Null => Ok(String::new()),
        _ => Err("is not a text".to_string()),
    }
}

/// A list of texts; where there is only one text, blanks stand between its items.
pub fn texts(node: &TreeNode) -> Result<Vec<String>, String> {
    match &node.value {
        TreeValue::List(items) => items.iter().map(text).collect(),
        TreeValue::Text(items) | TreeValue::Loose(items) => match json_text(items, &node.origin) {
            Some(TreeNode { value: TreeValue::List(items), .. }) => items.iter().map(text).collect(),
            _ => Ok(items.split_whitespace().map(str::to_string).collect()),
        },
        TreeValue::Null => Ok(Vec::new()),
        _ => Err("is not a list of texts".to_string()),
    }
}

pub fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(", "))
}

fn level(text: &str) -> Result<Option<&'static str>, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "" => None,
        "trace" => Some("trace"),
        "debug" => Some("debug"),
        "info" => Some("info"),
        "warn" => Some("warn"),
        // The least that is logged here.
        "error" | "fatal" | "none" => Some("error"),
        _ => return Err(format!("{text:?} is not a level")),
    })
}

/// Their patterns are of the whole origin, so that a star can stand for its scheme too.
fn origin(pattern: &str) -> String {
    match pattern.starts_with("*.") {
        true => format!("*://{pattern}"),
        false => pattern.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fault::SettingOrigin;

    fn of(to: As, value: TreeValue) -> Result<Option<String>, String> {
        convert(to, &TreeNode { value, origin: SettingOrigin::Default })
    }

    fn loose(to: As, text: &str) -> Result<Option<String>, String> {
        of(to, TreeValue::Loose(text.to_string()))
    }

    #[test]
    fn durations_of_go_are_read_whole() {
        for (given, expected) in [
            ("25s", "25s"),
            ("1000ms", "1s"),
            ("720h", "30d"),
            ("1h30m", "90m"),
            ("1.5h", "90m"),
            ("0.25s", "250ms"),
            ("1m0.5s", "60500ms"),
            ("2000us", "2ms"),
            ("0", "0s"),
            ("0s", "0s"),
        ] {
            assert_eq!(loose(As::Time, given), Ok(Some(format!("\"{expected}\""))), "{given}");
        }
        assert_eq!(loose(As::Time, ""), Ok(None));
        for wrong in ["25", "s", "1.s5", "1d", "1us", "-1", "-1s", "9999999999999h", ".s", "1..5s", "1s x"] {
            assert!(loose(As::Time, wrong).is_err(), "{wrong}");
        }
        assert!(of(As::Time, TreeValue::Integer(25)).is_err(), "of which unit is not said");
        assert!(of(As::Time, TreeValue::Integer(-1)).unwrap_err().contains("switched off"));
    }

    #[test]
    fn values_are_read_as_go_reads_them() {
        assert_eq!(loose(As::Flag, "1"), Ok(Some("true".into())));
        assert_eq!(loose(As::Flag, "F"), Ok(Some("false".into())));
        assert!(loose(As::Flag, "yes").is_err());
        assert_eq!(of(As::Number, TreeValue::Text("8000".into())), Ok(Some("8000".into())));
        assert!(of(As::Number, TreeValue::Integer(-1)).is_err());
        assert!(of(As::Number, TreeValue::Boolean(true)).is_err());
        assert_eq!(loose(As::Texts, "a  b"), Ok(Some("[\"a\", \"b\"]".into())));
        assert_eq!(loose(As::Texts, "[\"a b\"]"), Ok(Some("[\"a b\"]".into())));
        assert_eq!(loose(As::Text, ""), Ok(None));
        assert_eq!(
            of(As::Text, TreeValue::Integer(7)),
            Ok(Some("\"7\"".into())),
            "YAML takes 7 for a number"
        );
        assert_eq!(loose(As::Level, "none"), Ok(Some("\"error\"".into())));
        assert!(loose(As::Level, "loud").is_err());
        assert_eq!(loose(As::Payload, "binary"), Ok(Some("\"bytes\"".into())));
        assert_eq!(loose(As::Payload, ""), Ok(None));
        assert!(loose(As::Payload, "json_object").is_err());
        let origins = loose(As::Origins, "https://*.a.example *.b.example *").unwrap().unwrap();
        assert_eq!(origins, "[\"https://*.a.example\", \"*://*.b.example\", \"*\"]");
        assert_eq!(of(As::Number, TreeValue::Null), Ok(None));
    }
}
