//! What people ask of a store: is it whole, what is in it, all of it as lines.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::disk::StoreDirectory;
use super::fault::StoreFault;
use super::read::{Found, StoreRead, read_all};
use crate::base::ids::{ChannelName, Epoch};
use crate::record::{PublicationRecord, StoredRecord};

/// Channels that `stats` names.
const CHANNELS_SHOWN: usize = 10;

/// What a store holds.
#[derive(Debug, Serialize)]
pub struct Report {
    pub segments: usize,
    pub bytes: u64,
    pub records: u64,
    /// Bytes at the end that were never acknowledged: what a power loss leaves.
    pub unfinished_bytes: u64,
    pub channels: usize,
    /// Those that are kept more than once count once for each.
    pub publications: u64,
    pub idempotency_keys: u64,
    /// What cannot be read, in sentences.
    pub damages: Vec<String>,
    pub largest: Vec<Largest>,
}

#[derive(Debug, Serialize)]
pub struct Largest {
    pub channel: String,
    pub publications: u64,
    pub bytes: u64,
    pub last_offset: u64,
}

#[derive(Default)]
struct ToolChannel {
    epoch: Option<Epoch>,
    publications: u64,
    bytes: u64,
    last: u64,
}

/// Reads a store that another process may have open.
///
/// # Errors
/// It is no store that this build reads.
pub fn report(path: &Path) -> Result<Report, StoreFault> {
    let mut channels: HashMap<ChannelName, ToolChannel> = HashMap::new();
    let (mut publications, mut keys, mut damages) = (0, 0, Vec::new());
    let mut count = |channel: &ChannelName, entries: &[&PublicationRecord]| {
        let known = channels.entry(channel.clone()).or_default();
        for entry in entries.iter().filter(|entry| entry.offset.0 > 0) {
            if known.epoch != Some(entry.epoch) {
                *known = ToolChannel { epoch: Some(entry.epoch), ..ToolChannel::default() };
            }
            publications += 1;
            known.publications += 1;
            known.bytes += entry.data.len() as u64;
            known.last = known.last.max(entry.offset.0);
        }
    };
    let read = read_all(&mut StoreDirectory::look(path)?, &mut |found| match found {
        Found::Damage(damage) => damages.push(damage.to_string()),
        Found::Record(StoredRecord::Publication(stored)) => {
            keys += u64::from(!stored.key.is_empty());
            count(&stored.channel, &[&stored.publication]);
        }
        Found::Record(StoredRecord::Channel(stored)) => {
            count(&stored.channel, &stored.entries.iter().collect::<Vec<_>>());
        }
        Found::Record(StoredRecord::Log(part)) => {
            count(&part.channel, &part.entries.iter().collect::<Vec<_>>())
        }
        Found::Record(StoredRecord::Keys(part)) => keys += part.keys.len() as u64,
        Found::Record(
            StoredRecord::Removal(_)
            | StoredRecord::Run(_)
            | StoredRecord::End
            | StoredRecord::Events(_)
            | StoredRecord::Blocks(_)
            | StoredRecord::Cursors(_),
        ) => {}
    })?;
    let StoreRead { segments, records, cut, .. } = &read;
    let mut largest: Vec<Largest> = channels
        .iter()
        .map(|(name, channel)| Largest {
            channel: name.to_string(),
            publications: channel.publications,
            bytes: channel.bytes,
            last_offset: channel.last,
        })
        .collect();
    largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.channel.cmp(&b.channel)));
    largest.truncate(CHANNELS_SHOWN);
    Ok(Report {
        segments: segments.len(),
        bytes: read.bytes(),
        records: *records,
        unfinished_bytes: *cut,
        channels: channels.len(),
        publications,
        idempotency_keys: keys,
        damages,
        largest,
    })
}

/// A publication as a line of an export.
#[derive(Serialize)]
struct ToolLine<'r> {
    channel: &'r str,
    epoch: String,
    offset: u64,
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'r RawValue>,
    /// In its place, of a payload that is no JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'r str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'r str, &'r str>,
}

/// Writes every publication that can be read once, a JSON object a line, in the order in which they stand in the store.
/// Gives how many, and what cannot be read.
///
/// # Errors
/// As [`report`], and when a line cannot be written.
pub fn export(path: &Path, out: &mut impl Write) -> Result<(u64, Vec<String>), StoreFault> {
    let mut seen: HashMap<(ChannelName, Epoch), std::collections::HashSet<u64>> = HashMap::new();
    let (mut lines, mut damages, mut failed) = (0, Vec::new(), None);
    let mut line = |channel: &ChannelName, entry: &PublicationRecord| {
        let offset = entry.offset.0;
        let known = seen.entry((channel.clone(), entry.epoch)).or_default();
        if offset == 0 || failed.is_some() || !known.insert(offset) {
            return;
        }
        lines += 1;
        failed = write_line(channel, entry, out).err();
    };
    read_all(&mut StoreDirectory::look(path)?, &mut |found| match found {
        Found::Damage(damage) => damages.push(damage.to_string()),
        Found::Record(StoredRecord::Publication(stored)) => line(&stored.channel, &stored.publication),
        Found::Record(StoredRecord::Channel(stored)) => {
            stored.entries.iter().for_each(|entry| line(&stored.channel, entry));
        }
        Found::Record(StoredRecord::Log(part)) => {
            part.entries.iter().for_each(|entry| line(&part.channel, entry));
        }
        Found::Record(_) => {}
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((lines, damages)),
    }
}

fn write_line(channel: &str, entry: &PublicationRecord, out: &mut impl Write) -> io::Result<()> {
    // What form its namespace has is not known here.
    let data = serde_json::from_slice::<&RawValue>(&entry.data).ok();
    let b64data = data.is_none().then(|| STANDARD.encode(&entry.data));
    let line = ToolLine {
        channel,
        epoch: String::from_utf8_lossy(&entry.epoch.text()).into_owned(),
        offset: entry.offset.0,
        time_ms: entry.time_ms,
        data,
        b64data,
        user: entry.info.as_ref().map(|info| &*info.user),
        client: entry.info.as_ref().map(|info| &*info.client),
        tags: entry.tags.iter().map(|(name, value)| (&**name, &**value)).collect(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
