//! Filters by tags: which publications of a channel a subscriber gets.
//!
//! Inputs: a tree of nodes, as a client, a token or a backend writes it; tags. Outputs: whether the tags match. A tree is
//! read once, and bounded: what it costs to look at a publication is known. Must not know: subscribers, channels.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer};

/// Most nodes of one filter: what a form with a few choices needs, a microsecond or two for each publication.
pub const FILTER_NODES_MAX: usize = 64;
/// How deep nodes may stand in each other.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Bytes of all keys and values of one filter: it is kept as long as the subscription.
pub const FILTER_BYTES_MAX: usize = 8 * 1024;
/// Most values of one filter's lists.
pub const FILTER_VALUES_MAX: usize = 256;

/// Why a tree is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterFault(pub &'static str);

impl fmt::Display for FilterFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FilterFault {}

/// A node as it is written, whatever the form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    #[serde(deserialize_with = "or_default")]
    pub op: String,
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    #[serde(deserialize_with = "or_default")]
    pub cmp: String,
    #[serde(deserialize_with = "or_default")]
    pub val: String,
    #[serde(deserialize_with = "or_default")]
    pub vals: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub nodes: Vec<FilterNode>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A filter whose form has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(FilterTerm);

#[derive(Clone, Debug, PartialEq, Eq)]
enum FilterTerm {
    Leaf { key: Box<str>, test: Test },
    All(Box<[FilterTerm]>),
    Any(Box<[FilterTerm]>),
    Not(Box<FilterTerm>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Is(Box<str>),
    IsNot(Box<str>),
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    ExistsNot,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// A decimal that is above, below or equal, as the two say.
    Compares {
        to: Box<str>,
        wanted: Ordering,
        or_equal: bool,
    },
}

/// What is left of the bounds while a tree is read.
struct FilterRoom {
    nodes: usize,
    bytes: usize,
    values: usize,
}

impl Filter {
    /// # Errors
    /// What is wrong with the tree, or which bound it is over.
    pub fn of(node: &FilterNode) -> Result<Filter, FilterFault> {
        let mut room =
            FilterRoom { nodes: FILTER_NODES_MAX, bytes: FILTER_BYTES_MAX, values: FILTER_VALUES_MAX };
        Ok(Filter(FilterTerm::of(node, FILTER_DEPTH_MAX, &mut room)?))
    }

    /// # Errors
    /// The text is no JSON of a node, or [`Filter::of`].
    pub fn parse(json: &str) -> Result<Filter, FilterFault> {
        let node = serde_json::from_str(json).map_err(|_| FilterFault("a filter is not a tree of nodes"))?;
        Filter::of(&node)
    }

    pub fn matches(&self, tags: &[(String, String)]) -> bool {
        self.0.matches(tags)
    }

    /// As it could have been written: for records.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.0.write(&mut out);
        out
    }
}

impl FilterTerm {
    fn of(node: &FilterNode, depth: usize, room: &mut FilterRoom) -> Result<FilterTerm, FilterFault> {
        let take = |left: &mut usize, amount: usize, over| {
            *left = left.checked_sub(amount).ok_or(FilterFault(over))?;
            Ok(())
        };
        take(&mut room.nodes, 1, "a filter has more than 64 nodes")?;
        if depth == 0 {
            return Err(FilterFault("a filter is deeper than 16 nodes"));
        }
        let bytes = node.key.len() + node.val.len() + node.vals.iter().map(String::len).sum::<usize>();
        take(&mut room.bytes, bytes, "a filter has more than 8192 bytes of keys and values")?;
        take(&mut room.values, node.vals.len(), "a filter has more than 256 values in lists")?;
        let mut children = || {
            if node.nodes.is_empty() {
                return Err(FilterFault("an operator has no nodes"));
            }
            node.nodes
                .iter()
                .map(|child| FilterTerm::of(child, depth - 1, room))
                .collect::<Result<Box<[FilterTerm]>, _>>()
        };
        Ok(match node.op.as_str() {
            "" => FilterTerm::Leaf { key: node.key.as_str().into(), test: Test::of(node)? },
            "and" => FilterTerm::All(children()?),
            "or" => FilterTerm::Any(children()?),
            "not" => match &node.nodes[..] {
                [child] => FilterTerm::Not(Box::new(FilterTerm::of(child, depth - 1, room)?)),
                _ => return Err(FilterFault("not has one node")),
            },
            _ => return Err(FilterFault("unknown operator of a filter")),
        })
    }

    fn matches(&self, tags: &[(String, String)]) -> bool {
        match self {
            FilterTerm::Leaf { key, test } => {
                let tag = tags.iter().find(|(name, _)| **name == **key);
                test.holds(tag.map(|(_, value)| value.as_str()))
            }
            FilterTerm::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            FilterTerm::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            FilterTerm::Not(node) => !node.matches(tags),
        }
    }

    fn write(&self, out: &mut String) {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut branch = |op: &str, nodes: &[FilterTerm]| {
            out.push_str(&format!("{{\"op\":\"{op}\",\"nodes\":["));
            for (at, node) in nodes.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                node.write(out);
            }
            out.push_str("]}");
        };
        match self {
            FilterTerm::All(nodes) => branch("and", nodes),
            FilterTerm::Any(nodes) => branch("or", nodes),
            FilterTerm::Not(node) => branch("not", std::slice::from_ref(&**node)),
            FilterTerm::Leaf { key, test } => {
                let (cmp, val, vals) = test.written();
                out.push_str(&format!("{{\"key\":{},\"cmp\":\"{cmp}\"", quoted(key)));
                if let Some(val) = val {
                    out.push_str(&format!(",\"val\":{}", quoted(val)));
                }
                if let Some(vals) = vals {
                    out.push_str(&format!(
                        ",\"vals\":{}",
                        serde_json::Value::from_iter(vals.iter().map(|val| &**val))
                    ));
                }
                out.push('}');
            }
        }
    }
}

impl Test {
    fn of(node: &FilterNode) -> Result<Test, FilterFault> {
        let FilterNode { key, cmp, val, vals, nodes, .. } = node;
        if !nodes.is_empty() {
            return Err(FilterFault("a comparison has no nodes"));
        }
        let is_about_presence = matches!(cmp.as_str(), "ex" | "nex");
        if key.is_empty() && !is_about_presence {
            return Err(FilterFault("a comparison has no key"));
        }
        let single = || match (val.is_empty(), vals.is_empty()) {
            (false, true) => Ok(val.as_str().into()),
            _ => Err(FilterFault("this comparison has one value, in val")),
        };
        let list = || match (val.is_empty(), vals.is_empty()) {
            (true, false) => Ok(vals.iter().map(|val| val.as_str().into()).collect()),
            _ => Err(FilterFault("this comparison has its values in vals")),
        };
        let compares = |wanted, or_equal| Ok(Test::Compares { to: single()?, wanted, or_equal });
        match cmp.as_str() {
            "eq" => Ok(Test::Is(single()?)),
            "neq" => Ok(Test::IsNot(single()?)),
            "in" => Ok(Test::In(list()?)),
            "nin" => Ok(Test::NotIn(list()?)),
            "ex" | "nex" if !(val.is_empty() && vals.is_empty()) => {
                Err(FilterFault("this comparison has no value"))
            }
            "ex" => Ok(Test::Exists),
            "nex" => Ok(Test::ExistsNot),
            "sw" => Ok(Test::StartsWith(single()?)),
            "ew" => Ok(Test::EndsWith(single()?)),
            "ct" => Ok(Test::Contains(single()?)),
            "gt" => compares(Ordering::Greater, false),
            "gte" => compares(Ordering::Greater, true),
            "lt" => compares(Ordering::Less, false),
            "lte" => compares(Ordering::Less, true),
            "" => Err(FilterFault("a node has neither op nor cmp")),
            _ => Err(FilterFault("unknown comparison of a filter")),
        }
    }

    fn holds(&self, tag: Option<&str>) -> bool {
        let Some(tag) = tag else { return matches!(self, Test::IsNot(_) | Test::NotIn(_) | Test::ExistsNot) };
        match self {
            Test::Is(value) => tag == &**value,
            Test::IsNot(value) => tag != &**value,
            Test::In(values) => values.iter().any(|value| tag == &**value),
            Test::NotIn(values) => values.iter().all(|value| tag != &**value),
            Test::Exists => true,
            Test::ExistsNot => false,
            Test::StartsWith(value) => tag.starts_with(&**value),
            Test::EndsWith(value) => tag.ends_with(&**value),
            Test::Contains(value) => tag.contains(&**value),
            Test::Compares { to, wanted, or_equal } => compared(tag, to)
                .is_some_and(|order| order == *wanted || *or_equal && order == Ordering::Equal),
        }
    }

    /// Its name, its value and its list.
    fn written(&self) -> (&'static str, Option<&str>, Option<&[Box<str>]>) {
        match self {
            Test::Is(value) => ("eq", Some(value), None),
            Test::IsNot(value) => ("neq", Some(value), None),
            Test::In(values) => ("in", None, Some(values)),
            Test::NotIn(values) => ("nin", None, Some(values)),
            Test::Exists => ("ex", None, None),
            Test::ExistsNot => ("nex", None, None),
            Test::StartsWith(value) => ("sw", Some(value), None),
            Test::EndsWith(value) => ("ew", Some(value), None),
            Test::Contains(value) => ("ct", Some(value), None),
            Test::Compares { to, wanted, or_equal } => {
                let cmp = match (wanted, or_equal) {
                    (Ordering::Less, false) => "lt",
                    (Ordering::Less, true) => "lte",
                    (_, false) => "gt",
                    (_, true) => "gte",
                };
                (cmp, Some(to), None)
            }
        }
    }
}

/// How two decimals compare, exactly and however long they are; `None` where one is none.
fn compared(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Decimal::of(one)?, Decimal::of(other)?);
    let (below, above) = (Ordering::Less, Ordering::Greater);
    Some(match (one.is_negative(), other.is_negative()) {
        (true, false) => below,
        (false, true) => above,
        (false, false) => one.magnitude(&other),
        (true, true) => one.magnitude(&other).reverse(),
    })
}

/// Digits without zeros that say nothing.
struct Decimal<'a> {
    minus: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Option<Decimal<'a>> {
        let (minus, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (digits, ""),
        };
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        Some(Decimal { minus, whole, fraction })
    }

    fn is_negative(&self) -> bool {
        self.minus && !(self.whole.is_empty() && self.fraction.is_empty())
    }

    fn magnitude(&self, other: &Decimal<'_>) -> Ordering {
        let by_length = self.whole.len().cmp(&other.whole.len());
        by_length.then_with(|| self.whole.cmp(other.whole)).then_with(|| self.fraction.cmp(other.fraction))
    }
}

/// What a subscription is filtered by. Both hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// What the client asked for.
    pub asked: Option<Filter>,
    /// What a token, a hook or the API imposes.
    pub imposed: Option<Filter>,
}

impl Filters {
    pub fn match_all(&self, tags: &[(String, String)]) -> bool {
        let one = |filter: &Option<Filter>| filter.as_ref().is_none_or(|filter| filter.matches(tags));
        one(&self.imposed) && one(&self.asked)
    }

    pub fn is_none(&self) -> bool {
        self.asked.is_none() && self.imposed.is_none()
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
