//! What was read of a store, in the owners' memory.

use std::collections::{BTreeMap, HashSet};

use super::read::{Damage, Found};
use crate::base::bytes::Bytes;
use crate::base::ids::ChannelName;
use crate::hub::OwnedChannels;
use crate::hub::options::Namespaces;
use crate::hub::owned::{OFFSET_JUMP, StoredMoment, Taken};
use crate::record::{BlockRecord, RecordFault, StoredEvents, StoredKeys, StoredRecord, StoredRun};

/// Lines that say what is gone; more are only counted.
const LINES_MAX: usize = 100;

/// What came of it.
#[derive(Debug, Default)]
pub struct Restored {
    /// What cannot be read, and what is missing therefore, in sentences.
    pub gone: Vec<String>,
    /// How many there are of them.
    pub gone_total: u64,
    /// Channels whose last publications are not known: they have another epoch.
    pub lost_channels: u64,
    /// Entries of channels that this configuration does not keep.
    pub not_wanted: u64,
    /// The process before has ended without writing everything.
    pub unclean: bool,
    /// Users that were blocked and tokens that were revoked, by kind and name.
    pub blocks: BTreeMap<(u8, Box<str>), BlockRecord>,
    /// The log of events, if there was one.
    pub events: Option<RestoredEvents>,
}

/// What was read of the log of events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RestoredEvents {
    pub epoch: Box<str>,
    /// The newest number that may have been given: farther by a jump where a process ended without writing everything.
    pub last: u64,
    pub fallen: u64,
    pub accepted: u64,
    /// By their numbers: a copy comes behind what it is a copy of, and behind what came meanwhile.
    /// Bound: what had not fallen off the log that was written.
    pub entries: BTreeMap<u64, Bytes>,
    /// Something before the next entry could not be read.
    damaged: bool,
}

impl RestoredEvents {
    fn take(&mut self, part: StoredEvents) {
        if self.epoch != part.epoch {
            *self = RestoredEvents { epoch: part.epoch, ..RestoredEvents::default() };
        }
        self.last = self.last.max(part.last);
        self.accepted = self.accepted.max(part.accepted);
        if let (true, Some(first)) = (self.damaged, part.entries.first()) {
            self.fallen = self.fallen.max(first.seq.saturating_sub(1));
            self.damaged = false;
        }
        self.entries.extend(part.entries.into_iter().map(|entry| (entry.seq, entry.json)));
        if part.fallen > self.fallen {
            self.fallen = part.fallen;
            self.entries = self.entries.split_off(&(part.fallen + 1));
        }
    }

    /// Something cannot be read: it may have been of these, and numbers are given up rather than left out.
    fn damage(&mut self) {
        self.entries.clear();
        (self.fallen, self.damaged) = (self.last, true);
    }
}

/// Takes entries in their order. `place` says whose a channel is.
pub struct Restoring<'p> {
    owners: Vec<OwnedChannels>,
    place: &'p dyn Fn(&str) -> usize,
    at: StoredMoment,
    /// Channels of which offsets may have been given that were not written.
    loose: HashSet<ChannelName>,
    /// Channels of which nothing was read since something could not be read.
    suspects: HashSet<ChannelName>,
    run: Option<StoredRun>,
    /// Nothing was written since the last end.
    clean: bool,
    restored: Restored,
}

impl<'p> Restoring<'p> {
    pub fn new(
        owners: Vec<OwnedChannels>,
        place: &'p dyn Fn(&str) -> usize,
        at: StoredMoment,
    ) -> Restoring<'p> {
        Restoring {
            owners,
            place,
            at,
            loose: HashSet::new(),
            suspects: HashSet::new(),
            run: None,
            clean: true,
            restored: Restored::default(),
        }
    }

    pub fn take(&mut self, found: Found) {
        match found {
            Found::Damage(damage) => self.damaged(&damage),
            Found::Record(StoredRecord::Run(run)) => {
                self.end_of_run();
                (self.run, self.clean) = (Some(run), false);
            }
            Found::Record(StoredRecord::End) => self.clean = true,
            Found::Record(StoredRecord::Events(events)) => {
                self.clean = false;
                self.restored.events.get_or_insert_default().take(events);
            }
            Found::Record(StoredRecord::Blocks(part)) => {
                self.clean = false;
                if part.reset {
                    self.restored.blocks.clear();
                }
                for change in part.changes {
                    let key = (change.kind, change.name.clone());
                    match change.removed {
                        true => drop(self.restored.blocks.remove(&key)),
                        false => drop(self.restored.blocks.insert(key, change)),
                    }
                }
            }
            Found::Record(StoredRecord::Keys(keys)) => {
                for key in keys.keys {
                    let owner = (self.place)(&key.channel);
                    self.owners[owner]
                        .take_stored(StoredRecord::Keys(StoredKeys { keys: vec![key] }), self.at);
                }
            }
            Found::Record(record) => {
                self.clean = false;
                self.record(record);
            }
        }
    }

    fn record(&mut self, record: StoredRecord) {
        let (channel, loose) = match &record {
            StoredRecord::Publication(stored) => (stored.channel.clone(), Some(stored.loose)),
            StoredRecord::Channel(stored) => (stored.channel.clone(), Some(stored.loose)),
            StoredRecord::Log(part) => (part.channel.clone(), None),
            StoredRecord::Removal(removal) => (removal.channel.clone(), None),
            StoredRecord::Cursors(stored) => (stored.channel.clone(), None),
            StoredRecord::Keys(_)
            | StoredRecord::Run(_)
            | StoredRecord::End
            | StoredRecord::Events(_)
            | StoredRecord::Blocks(_) => return,
        };
        match loose {
            Some(true) => drop(self.loose.insert(channel.clone())),
            Some(false) => drop(self.loose.remove(&channel)),
            None => {}
        }
        let owner = (self.place)(&channel);
        match self.owners[owner].take_stored(record, self.at) {
            Taken::Yes if loose.is_some() => drop(self.suspects.remove(&channel)),
            Taken::Yes => {}
            Taken::After(last, next) => {
                self.suspects.remove(&channel);
                let (first, last) = (last.0 + 1, next.0 - 1);
                self.gone(|| {
                    format!("channel {channel:?}: offsets {first} to {last} are gone, and the history before")
                });
            }
            Taken::NotWanted => self.restored.not_wanted += 1,
            Taken::Wrong => self.gone(|| format!("channel {channel:?}: an entry contradicts the one before")),
        }
    }

    /// Everything was read.
    ///
    /// # Errors
    /// There is more than the configuration has room for.
    pub fn finish(mut self) -> Result<(Vec<OwnedChannels>, Restored), RecordFault> {
        self.restored.unclean = !self.clean;
        self.end_of_run();
        let mut suspects: Vec<ChannelName> = std::mem::take(&mut self.suspects).into_iter().collect();
        suspects.sort_unstable();
        for channel in suspects {
            self.owners[(self.place)(&channel)].lose_stored(&channel);
            self.restored.lost_channels += 1;
            self.gone(|| {
                format!("channel {channel:?}: what it had last is gone, and with it its history: it has another epoch")
            });
        }
        for owner in &mut self.owners {
            owner.finish_stored()?;
        }
        Ok((self.owners, self.restored))
    }

    fn damaged(&mut self, damage: &Damage) {
        self.gone(|| damage.to_string());
        if let Some(events) = &mut self.restored.events {
            events.damage();
        }
        for owner in &self.owners {
            self.suspects.extend(owner.names().cloned());
        }
    }

    /// A process has ended here, with everything written or not.
    fn end_of_run(&mut self) {
        if self.clean {
            return;
        }
        if let Some(events) = &mut self.restored.events {
            events.last += OFFSET_JUMP;
        }
        let of_run = self.run.take().map(|run| {
            let named = run.loose.into_iter().map(|name| (name, true));
            Namespaces::new(run.default_is_loose, named, usize::MAX).with_private_prefix(&run.private_prefix)
        });
        for owner in &mut self.owners {
            let is_loose = |name: &ChannelName| {
                self.loose.contains(name)
                    || of_run.as_ref().is_some_and(|all| all.resolve(name).is_ok_and(|loose| **loose))
            };
            let jumping: Vec<ChannelName> = owner.names().filter(|name| is_loose(name)).cloned().collect();
            for channel in jumping {
                owner.jump_stored(&channel);
            }
        }
    }

    fn gone(&mut self, line: impl FnOnce() -> String) {
        self.restored.gone_total += 1;
        if self.restored.gone.len() < LINES_MAX {
            self.restored.gone.push(line());
        }
    }
}
