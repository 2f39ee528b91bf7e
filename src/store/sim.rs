//! A disk that loses what was not synced: in part, torn in sectors, in any order. For tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::Disk;
use crate::base::prng::Prng;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// One disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<SimDiskState>>);

#[derive(Default)]
struct SimDiskState {
    /// As a process sees it.
    files: BTreeMap<u64, SimFile>,
    /// As the directory is for good: which of the files are there.
    kept: BTreeMap<u64, SimFile>,
    /// How many bytes all files may have; 0: any number.
    room: u64,
    /// What fails from now on.
    broken: Option<Broken>,
    syncs: u64,
}

#[derive(Clone, Default)]
struct SimFile {
    bytes: Vec<u8>,
    /// What is there for good.
    synced: Vec<u8>,
    /// Written since.
    loose: Vec<(usize, Vec<u8>)>,
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Writes,
    Syncs,
}

impl SimDisk {
    pub fn with_room(room: u64) -> SimDisk {
        let disk = SimDisk::default();
        disk.0.lock().room = room;
        disk
    }

    pub fn set_room(&self, room: u64) {
        self.0.lock().room = room;
    }

    pub fn set_broken(&self, broken: Option<Broken>) {
        self.0.lock().broken = broken;
    }

    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    pub fn bytes(&self) -> u64 {
        self.0.lock().held()
    }

    /// The machine loses its power, or with `power` false only the process ends: what was written is there then.
    pub fn crash(&self, power: bool, prng: &mut Prng) {
        let state = &mut *self.0.lock();
        state.broken = None;
        if !power {
            return;
        }
        let mut after = BTreeMap::new();
        let numbers: Vec<u64> = state.files.keys().chain(state.kept.keys()).copied().collect();
        for number in numbers {
            // What was made or removed since the directory was synced may be so or not.
            let (now, kept) = (state.files.get(&number), state.kept.get(&number));
            let is_there = match (now.is_some(), kept.is_some()) {
                (true, true) => true,
                _ => prng.bool(),
            };
            let Some(file) = now.or(kept).filter(|_| is_there) else { continue };
            let mut bytes = file.synced.clone();
            let mut sectors: Vec<(usize, &[u8])> = Vec::new();
            for (at, written) in &file.loose {
                let mut from = 0;
                while from < written.len() {
                    let end = written.len().min(from + SECTOR_BYTES - (at + from) % SECTOR_BYTES);
                    sectors.push((at + from, &written[from..end]));
                    from = end;
                }
            }
            let chance = prng.u32(..5);
            for (at, sector) in sectors {
                if prng.u32(..4) < chance {
                    if bytes.len() < at + sector.len() {
                        bytes.resize(at + sector.len(), 0);
                    }
                    bytes[at..at + sector.len()].copy_from_slice(sector);
                }
            }
            after.insert(number, SimFile { synced: bytes.clone(), bytes, loose: Vec::new() });
        }
        state.files.clone_from(&after);
        state.kept = after;
    }

    /// Changes a byte that was on disk.
    pub fn damage(&self, number: u64, at: usize) {
        let state = &mut *self.0.lock();
        for files in [&mut state.files, &mut state.kept] {
            if let Some(file) = files.get_mut(&number) {
                file.bytes[at] ^= 0x40;
                file.synced = file.bytes.clone();
            }
        }
    }

    /// The bytes of a file.
    pub fn content(&self, number: u64) -> Vec<u8> {
        self.0.lock().files.get(&number).map(|file| file.bytes.clone()).unwrap_or_default()
    }

    /// A disk with these files alone.
    pub fn of(files: impl IntoIterator<Item = (u64, Vec<u8>)>) -> SimDisk {
        let disk = SimDisk::default();
        {
            let state = &mut *disk.0.lock();
            state.files = files
                .into_iter()
                .map(|(number, bytes)| (number, SimFile { synced: bytes.clone(), bytes, loose: Vec::new() }))
                .collect();
            state.kept.clone_from(&state.files);
        }
        disk
    }
}

impl SimDiskState {
    fn held(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    fn file(&mut self, number: u64) -> io::Result<&mut SimFile> {
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().files.keys().copied().collect())
    }

    fn len(&mut self, number: u64) -> io::Result<u64> {
        self.0.lock().file(number).map(|file| file.bytes.len() as u64)
    }

    fn read(&mut self, number: u64, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        let bytes = &state.file(number)?.bytes;
        let from = bytes.len().min(at as usize);
        Ok(bytes[from..bytes.len().min(from.saturating_add(len))].to_vec())
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.room > 0 && state.held() + bytes > state.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.files.contains_key(&number) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let zeros = vec![0; bytes as usize];
        state.files.insert(number, SimFile { synced: zeros.clone(), bytes: zeros, loose: Vec::new() });
        Ok(())
    }

    fn write(&mut self, number: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let is_broken = state.broken == Some(Broken::Writes);
        let file = state.file(number)?;
        let at = at as usize;
        // A write that fails may have written something.
        let bytes = if is_broken { &bytes[..bytes.len() / 2] } else { bytes };
        if file.bytes.len() < at + bytes.len() {
            file.bytes.resize(at + bytes.len(), 0);
        }
        file.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        file.loose.push((at, bytes.to_vec()));
        if is_broken { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.syncs += 1;
        if state.broken == Some(Broken::Syncs) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = state.file(number)?;
        file.loose.clear();
        file.synced = file.bytes.clone();
        let file = file.clone();
        // Its length and bytes are; its name is with the directory.
        if let Some(kept) = state.kept.get_mut(&number) {
            *kept = file;
        }
        Ok(())
    }

    fn truncate(&mut self, number: u64, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.file(number)?;
        file.bytes.resize(len as usize, 0);
        file.synced.truncate(len as usize);
        file.loose.retain(|(at, bytes)| at + bytes.len() <= len as usize);
        Ok(())
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.0.lock().files.remove(&number).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.broken == Some(Broken::Syncs) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut files = state.files.clone();
        for file in files.values_mut() {
            // Only the name is kept by this.
            file.bytes.clone_from(&file.synced);
        }
        state.kept = files;
        Ok(())
    }
}
