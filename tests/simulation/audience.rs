//! Who must see which publication: what a subscriber filters out by tags, what is filtered for it, and what names it among
//! those that it is kept from. Written from the protocol alone: shards judge by other code than this.

use trunkline::base::except::Except;
use trunkline::base::filter::{Filter, Filters};
use trunkline::base::prng::Prng;

use crate::scenario::pick;

pub type Tags = Vec<(String, String)>;

const KINDS: [&str; 3] = ["goal", "card", "corner"];

/// Tags as an application sets them: some, others, or none.
pub fn draw_tags(prng: &mut Prng) -> Tags {
    let mut tags = Tags::new();
    if prng.u8(..4) != 0 {
        tags.push(("kind".into(), (*pick(prng, &KINDS)).into()));
    }
    match prng.u8(..5) {
        0 => {}
        1 => tags.push(("minute".into(), "soon".into())),
        _ => tags.push(("minute".into(), prng.u32(..90).to_string())),
    }
    tags
}

/// A filter by tags: as it is sent, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    Is(&'static str),
    OneOf(Vec<&'static str>),
    NoneOf(Vec<&'static str>),
    HasKind,
    From(u32),
    Before(u32),
    Not(Box<TagFilter>),
    Both(Box<TagFilter>, Box<TagFilter>),
    Either(Box<TagFilter>, Box<TagFilter>),
}

impl TagFilter {
    pub fn draw(prng: &mut Prng, depth: u32) -> TagFilter {
        let kind = |prng: &mut Prng| *pick(prng, &KINDS);
        let inner = |prng: &mut Prng| Box::new(TagFilter::draw(prng, depth - 1));
        match prng.u8(..if depth > 0 { 10 } else { 6 }) {
            0 => TagFilter::Is(kind(prng)),
            1 => TagFilter::OneOf(vec![kind(prng), kind(prng)]),
            2 => TagFilter::NoneOf(vec![kind(prng)]),
            3 => TagFilter::HasKind,
            4 => TagFilter::From(prng.u32(..90)),
            5 => TagFilter::Before(prng.u32(..90)),
            6 => TagFilter::Not(inner(prng)),
            7 => TagFilter::Both(inner(prng), inner(prng)),
            _ => TagFilter::Either(inner(prng), inner(prng)),
        }
    }

    fn lets_through(&self, tags: &Tags) -> bool {
        let value = |key: &str| tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let (kind, minute) = (value("kind"), value("minute").and_then(|text| text.parse::<u32>().ok()));
        match self {
            TagFilter::Is(wanted) => kind == Some(wanted),
            TagFilter::OneOf(wanted) => kind.is_some_and(|kind| wanted.contains(&kind)),
            TagFilter::NoneOf(unwanted) => kind.is_none_or(|kind| !unwanted.contains(&kind)),
            TagFilter::HasKind => kind.is_some(),
            TagFilter::From(first) => minute.is_some_and(|minute| minute >= *first),
            TagFilter::Before(end) => minute.is_some_and(|minute| minute < *end),
            TagFilter::Not(other) => !other.lets_through(tags),
            TagFilter::Both(one, other) => one.lets_through(tags) && other.lets_through(tags),
            TagFilter::Either(one, other) => one.lets_through(tags) || other.lets_through(tags),
        }
    }

    pub fn json(&self) -> String {
        let kind = |cmp: &str, value: &str| format!(r#"{{"key":"kind","cmp":"{cmp}"{value}}}"#);
        let minute = |cmp: &str, value| format!(r#"{{"key":"minute","cmp":"{cmp}","val":"{value}"}}"#);
        let group = |op: &str, nodes: &[&TagFilter]| {
            let nodes: Vec<String> = nodes.iter().map(|node| node.json()).collect();
            format!(r#"{{"op":"{op}","nodes":[{}]}}"#, nodes.join(","))
        };
        match self {
            TagFilter::Is(wanted) => kind("eq", &format!(r#","val":"{wanted}""#)),
            TagFilter::OneOf(wanted) => kind("in", &format!(r#","vals":{wanted:?}"#)),
            TagFilter::NoneOf(unwanted) => kind("nin", &format!(r#","vals":{unwanted:?}"#)),
            TagFilter::HasKind => kind("ex", ""),
            TagFilter::From(first) => minute("gte", *first),
            TagFilter::Before(end) => minute("lt", *end),
            TagFilter::Not(other) => group("not", &[other]),
            TagFilter::Both(one, other) => group("and", &[one, other]),
            TagFilter::Either(one, other) => group("or", &[one, other]),
        }
    }

    pub fn parsed(&self) -> Filter {
        Filter::parse(&self.json()).expect("it is a filter")
    }

    /// As the server API imposes it.
    pub fn imposed(&self) -> Filters {
        Filters { asked: None, imposed: Some(self.parsed()) }
    }
}

/// Those whom a publication or a message is kept from.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub client: Option<String>,
    pub user: Option<String>,
    pub origin: Option<String>,
}

impl Kept {
    pub fn from(&self, who: &Who) -> bool {
        let same = |named: &Option<String>, own: &str| named.as_ref().is_some_and(|named| *named == own);
        !who.client.is_empty() && same(&self.client, &who.client)
            || !who.user.is_empty() && same(&self.user, &who.user)
            || !who.origin.is_empty() && same(&self.origin, &who.origin)
    }

    pub fn except(&self) -> Except {
        Except {
            client: self.client.as_ref().and_then(|id| id.parse().ok()),
            user: self.user.as_ref().map(|user| user.as_str().into()),
            origin: self.origin.as_ref().map(|origin| origin.as_str().into()),
        }
    }
}

/// Who listens. What is empty is not known of it.
#[derive(Clone, Debug, Default)]
pub struct Who {
    pub client: String,
    pub user: String,
    pub origin: String,
}

/// A listener, and what its subscription is filtered by.
#[derive(Clone, Debug, Default)]
pub struct Audience {
    pub who: Who,
    /// Both hold.
    pub filters: Vec<TagFilter>,
}

impl Audience {
    pub fn of(who: &Who, filters: impl IntoIterator<Item = TagFilter>) -> Audience {
        Audience { who: who.clone(), filters: filters.into_iter().collect() }
    }

    pub fn gets(&self, tags: &Tags, kept: Option<&Kept>) -> bool {
        self.filters.iter().all(|filter| filter.lets_through(tags))
            && !kept.is_some_and(|kept| kept.from(&self.who))
    }
}
