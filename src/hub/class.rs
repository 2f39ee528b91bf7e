//! Delivery classes: subscribers of a channel that get the same bytes.
//!
//! A publication is framed once for each class that is present, whatever the number of its subscribers. A channel's
//! classes are interned on each shard: its list of subscribers names them by a number of six bits. What else may tell the
//! bytes of two subscribers apart (a shape, a filter, compression) is a field of [`Class`]. Must not know: what an encoding
//! looks like, who is subscribed.
//!
//! # Filters
//! Clients choose them, so they are many. Those of a channel's present subscribers have numbers here, up to
//! [`FILTERS_SHARED_MAX`]: each looks at a publication once, whatever the number of its subscribers and of their encodings.
//! A subscriber with one more is of no class: it is looked at for itself, as is one whose class has no number left.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::filter::Filters;
use crate::base::ids::EncodingId;
use crate::base::shape::Shape;
use crate::hub::stream::Item;

/// Distinct filters of a channel on a shard that have numbers at a time. With JSON and Protobuf that is most of the
/// numbers of classes.
pub const FILTERS_SHARED_MAX: usize = 24;

/// What subscribers must have in common to get the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub encoding: EncodingId,
    /// Join and leave events are delivered.
    pub join_leave: bool,
    /// Frames are completed for each subscriber, from the one of the encoding.
    pub own_frames: bool,
    /// What they get of a publication.
    pub shape: Shape,
    /// Publications are left out that the filter of this number does not match.
    pub filter: Option<FilterId>,
}

impl Class {
    pub const fn shared(encoding: EncodingId) -> Class {
        Class { encoding, join_leave: false, own_frames: false, shape: Shape::Whole, filter: None }
    }
}

/// Number of a filter among those of its channel on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterId(u8);

/// Number of a class in its channel on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassId(u8);

impl ClassId {
    pub const BITS: u32 = 6;
    /// Of subscribers that are of no class.
    const NONE: ClassId = ClassId((1 << ClassId::BITS) - 1);

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn from_bits(bits: u32) -> ClassId {
        debug_assert!(bits < 1 << Self::BITS);
        ClassId(bits as u8)
    }

    pub(super) fn to_bits(self) -> u32 {
        u32::from(self.0)
    }

    pub(super) fn is_none(self) -> bool {
        self == ClassId::NONE
    }
}

/// A class in two bytes, as a channel keeps it.
/// ```text
///  15     11 10    9          8          7        0
///  ├ filter ┼ shape ┼ own frames ┼ join/leave ┼ encoding ┤     filter: 0 none, else its number and 1
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Packed(u16);

const _: () = assert!(FILTERS_SHARED_MAX < 1 << 5 && Shape::BITS == 1);

impl From<Class> for Packed {
    fn from(class: Class) -> Packed {
        let Class { encoding, join_leave, own_frames, shape, filter } = class;
        let flags = u16::from(join_leave) << 8 | u16::from(own_frames) << 9 | u16::from(shape.number()) << 10;
        Packed(u16::from(encoding.0) | flags | filter.map_or(0, |filter| u16::from(filter.0) + 1) << 11)
    }
}

impl Packed {
    fn class(self) -> Class {
        Class {
            encoding: EncodingId(self.0 as u8),
            join_leave: self.0 >> 8 & 1 == 1,
            own_frames: self.0 >> 9 & 1 == 1,
            shape: Shape::of_number((self.0 >> 10) as u8),
            filter: (self.0 >> 11).checked_sub(1).map(|filter| FilterId(filter as u8)),
        }
    }
}

/// Classes that a channel has without an allocation: JSON and Protobuf, and one more.
const FIRST: usize = 3;

/// The classes that a channel has had on this shard since it was last without subscribers. Few, and searched only when
/// somebody subscribes.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    first: [Packed; FIRST],
    len: u8,
    /// What few channels have.
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Classes>() <= 16);

#[derive(Clone, Debug, Default)]
struct More {
    /// Behind the first ones.
    list: Vec<Packed>,
    /// Not empty while somebody filters.
    filters: FilterTable,
    /// What those without a filter have had last that keep up, while somebody's shape is chained.
    delivered: Option<Bytes>,
}

#[derive(Clone, Debug, Default)]
struct FilterTable {
    /// By number. Bound: [`FILTERS_SHARED_MAX`].
    known: Vec<Known>,
    /// Of each item of the running batch, which filters it passes: a bit for each number.
    passed: Vec<u32>,
}

const _: () = assert!(FILTERS_SHARED_MAX <= u32::BITS as usize);

#[derive(Clone, Debug)]
struct Known {
    filters: Arc<Filters>,
    /// Without any the number is free.
    subscribers: u32,
    /// The payload that those had last that keep up, while somebody's shape is chained.
    delivered: Option<Bytes>,
}

impl Classes {
    /// The number of `class`, with this filter, given now if it is new here. It counts one subscriber more, until
    /// [`Classes::release`].
    pub fn intern(&mut self, class: Class, filters: Option<&Arc<Filters>>) -> ClassId {
        let filter = match filters.map(|filters| self.number_of(filters)) {
            None => None,
            Some(None) => return ClassId::NONE,
            Some(known) => known,
        };
        let id = self.number(Class { filter, ..class });
        if !id.is_none()
            && let Some(known) = self.known(filter)
        {
            known.subscribers += 1;
        }
        id
    }

    /// The class `change` makes of that of a subscriber, which is counted as before.
    pub fn change(&mut self, id: ClassId, change: impl FnOnce(Class) -> Class) -> ClassId {
        let Some(class) = self.get(id) else { return id };
        let changed = self.number(change(class));
        if changed.is_none() {
            self.release(id);
        }
        changed
    }

    /// A subscriber of the class has gone.
    pub fn release(&mut self, id: ClassId) {
        let filter = self.get(id).and_then(|class| class.filter);
        if let Some(known) = self.known(filter) {
            known.subscribers -= 1;
            known.delivered = known.delivered.take().filter(|_| known.subscribers > 0);
        }
        let Some(more) = &mut self.more else { return };
        if more.filters.known.iter().all(|known| known.subscribers == 0) {
            more.filters = FilterTable::default();
        }
        if more.list.is_empty() && more.filters.known.is_empty() && more.delivered.is_none() {
            self.more = None;
        }
    }

    fn number(&mut self, class: Class) -> ClassId {
        let class = Packed::from(class);
        if let Some(at) = self.iter().position(|known| known == class) {
            return ClassId(at as u8);
        }
        let at = self.len();
        if at >= ClassId::NONE.index() {
            return ClassId::NONE;
        }
        match self.first.get_mut(at) {
            Some(place) => *place = class,
            None => self.more.get_or_insert_default().list.push(class),
        }
        self.len += 1;
        ClassId(at as u8)
    }

    fn number_of(&mut self, filters: &Arc<Filters>) -> Option<FilterId> {
        let known = &mut self.more.get_or_insert_default().filters.known;
        let same = |known: &Known| known.subscribers > 0 && known.filters == *filters;
        let at =
            known.iter().position(same).or_else(|| known.iter().position(|known| known.subscribers == 0));
        let new = || Known { filters: Arc::clone(filters), subscribers: 0, delivered: None };
        match at {
            Some(at) if known[at].subscribers > 0 => Some(FilterId(at as u8)),
            Some(at) => {
                known[at] = new();
                Some(FilterId(at as u8))
            }
            None if known.len() < FILTERS_SHARED_MAX => {
                known.push(new());
                Some(FilterId((known.len() - 1) as u8))
            }
            None => None,
        }
    }

    fn known(&mut self, filter: Option<FilterId>) -> Option<&mut Known> {
        self.more.as_mut()?.filters.known.get_mut(usize::from(filter?.0))
    }

    /// `None`: subscribers with that number are of no class.
    pub fn get(&self, id: ClassId) -> Option<Class> {
        let at = id.index();
        if at >= self.len() {
            return None;
        }
        match self.first.get(at) {
            Some(class) => Some(class.class()),
            None => self.more.as_ref()?.list.get(at - FIRST).map(|class| class.class()),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Packed> {
        let more = self.more.iter().flat_map(|more| &more.list);
        self.first.iter().chain(more).copied().take(self.len())
    }

    // --- filters, batch by batch

    /// A batch of these items begins: each filter looks at each of them.
    pub(super) fn begin_batch<'i>(&mut self, items: impl Iterator<Item = &'i Item>) {
        let Some(more) = &mut self.more else { return };
        let FilterTable { known, passed } = &mut more.filters;
        if known.is_empty() {
            return;
        }
        passed.clear();
        passed.extend(items.map(|item| match item {
            // Told by the class's `join_leave` alone.
            Item::JoinLeaveEvent(_) => 0,
            Item::Publication(publication) => (0..).zip(known.iter()).fold(0, |mask, (at, known)| {
                let passes = known.subscribers > 0 && known.filters.match_all(&publication.tags);
                mask | u32::from(passes) << at
            }),
        }));
    }

    /// Whether subscribers of a class with the filter get the publication at this place of the running batch.
    pub fn passed(&self, filter: FilterId, at: usize) -> bool {
        let passed = self.more.as_ref().and_then(|more| more.filters.passed.get(at));
        passed.is_some_and(|mask| mask >> filter.0 & 1 == 1)
    }

    /// The payload that those of the filter, or without one, had last that keep up.
    pub(super) fn delivered(&self, filter: Option<FilterId>) -> Option<&Bytes> {
        let more = self.more.as_ref()?;
        match filter {
            None => more.delivered.as_ref(),
            Some(filter) => more.filters.known.get(usize::from(filter.0))?.delivered.as_ref(),
        }
    }

    /// The batch of these items has been delivered to all, and somebody's shape is chained.
    pub(super) fn end_batch<'i>(&mut self, items: impl Iterator<Item = &'i Item>) {
        let More { filters: FilterTable { known, passed }, delivered, .. } =
            &mut **self.more.get_or_insert_default();
        let masks = passed.iter().copied().chain(std::iter::repeat(0));
        for (item, mask) in items.zip(masks) {
            let Item::Publication(publication) = item else { continue };
            *delivered = Some(publication.data.clone());
            for (at, known) in (0..).zip(known.iter_mut()) {
                if mask >> at & 1 == 1 {
                    known.delivered = Some(publication.data.clone());
                }
            }
        }
    }

    /// Somebody gets what is written from the publication before.
    pub fn has_chained(&self) -> bool {
        self.iter().any(|class| class.class().shape.is_chained())
    }

    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::filter::Filter;

    #[test]
    fn equal_classes_have_one_number_and_others_their_own() {
        let mut classes = Classes::default();
        let mut seen = Vec::new();
        for round in 0..2 {
            for encoding in 0..15 {
                for (join_leave, own_frames) in [(false, false), (true, false), (false, true), (true, true)] {
                    // Who gets frames of its own gets no deltas.
                    let shape = if own_frames && encoding < 8 { Shape::Delta } else { Shape::Whole };
                    let own_frames = own_frames && shape == Shape::Whole;
                    let class =
                        Class { join_leave, own_frames, shape, ..Class::shared(EncodingId(encoding)) };
                    let id = classes.intern(class, None);
                    assert_eq!(classes.get(id), Some(class));
                    match round {
                        0 => seen.push(id),
                        _ => assert_eq!(seen.remove(0), id),
                    }
                }
            }
        }
        assert_eq!(classes.len(), 60);
        // Beyond the numbers there are, a subscriber is of no class.
        let more: Vec<ClassId> =
            (20..30).map(|encoding| classes.intern(Class::shared(EncodingId(encoding)), None)).collect();
        let (classed, none): (Vec<ClassId>, Vec<ClassId>) =
            more.iter().partition(|id| classes.get(**id).is_some());
        assert_eq!((classed.len(), none.len(), classes.len()), (3, 7, 63));
    }

    fn filters(value: usize) -> Arc<Filters> {
        let text = format!(r#"{{"key":"k","cmp":"eq","val":"{value}"}}"#);
        Arc::new(Filters { asked: Filter::parse(&text).ok(), imposed: None })
    }

    #[test]
    fn equal_filters_have_one_number_which_is_free_when_its_last_subscriber_goes() {
        let mut classes = Classes::default();
        let (json, protobuf) = (Class::shared(EncodingId(0)), Class::shared(EncodingId(1)));
        let filter_of = |classes: &Classes, id| classes.get(id).unwrap().filter.unwrap();
        let first = classes.intern(json, Some(&filters(0)));
        let same = classes.intern(protobuf, Some(&filters(0)));
        assert_ne!(first, same);
        assert_eq!(filter_of(&classes, first), filter_of(&classes, same), "whatever the encoding");
        let plain = classes.intern(json, None);
        assert_eq!(classes.get(plain).unwrap().filter, None);
        let ids: Vec<ClassId> =
            (1..FILTERS_SHARED_MAX).map(|value| classes.intern(json, Some(&filters(value)))).collect();
        assert!(ids.iter().all(|id| classes.get(*id).is_some()));
        assert!(classes.intern(json, Some(&filters(99))).is_none(), "one too many is of no class");
        classes.release(first);
        assert!(classes.intern(json, Some(&filters(99))).is_none(), "it has a subscriber still");
        classes.release(same);
        let next = classes.intern(json, Some(&filters(99)));
        assert_eq!(filter_of(&classes, next), FilterId(0));
        // Nobody filters any more.
        ids.into_iter().chain([next]).for_each(|id| classes.release(id));
        assert!(classes.more.is_none_or(|more| more.filters.known.is_empty()));
    }
}
