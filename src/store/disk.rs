//! What the store asks of a disk, and the directory of a real one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::fault::StoreFault;

/// Files with numbers. What was written may be lost, in part and in any order, until it is synced.
pub trait Disk: Send {
    /// Numbers of the segments that are there, in order.
    ///
    /// # Errors
    /// As all of these: what the system says.
    fn list(&mut self) -> io::Result<Vec<u64>>;

    fn len(&mut self, number: u64) -> io::Result<u64>;

    /// Up to `len` bytes from `at` on.
    fn read(&mut self, number: u64, at: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Makes a segment of so many zero bytes, and takes their room from the disk. It is there for good after
    /// [`Disk::sync_directory`].
    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()>;

    fn write(&mut self, number: u64, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Everything written to the segment is on disk.
    fn sync(&mut self, number: u64) -> io::Result<()>;

    fn truncate(&mut self, number: u64, len: u64) -> io::Result<()>;

    fn remove(&mut self, number: u64) -> io::Result<()>;

    /// What was made and removed is so for good.
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// Takes room for a file from the disk.
pub type Allocate = fn(&File, u64) -> io::Result<()>;

/// A directory of this process alone.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    /// Held while the store is open.
    lock: Option<File>,
    /// The segment that is written.
    open: Option<(u64, File)>,
    allocate: Allocate,
}

const LOCK: &str = "lock";
const SUFFIX: &str = ".seg";

impl StoreDirectory {
    /// Opens the directory, which is made if it is not there, and takes it for this process.
    ///
    /// # Errors
    /// It is another process's or holds something else.
    pub fn open(path: &Path, allocate: Allocate) -> Result<StoreDirectory, StoreFault> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreFault::InUse),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let directory = StoreDirectory { path: path.to_owned(), lock: Some(lock), open: None, allocate };
        directory.check()?;
        Ok(directory)
    }

    /// The lock, for the process that goes on here: it is held until both have let it go.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        let lock = self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(lock.try_clone()?.into())
    }

    /// Opens the directory by the lock of the process before this one, which has it open still.
    ///
    /// # Errors
    /// The lock is not that of this directory, or the directory holds something else.
    pub fn inherit(path: &Path, lock: OwnedFd, allocate: Allocate) -> Result<StoreDirectory, StoreFault> {
        let lock = File::from(lock);
        let (given, own) = (lock.metadata()?, fs::metadata(path.join(LOCK))?);
        if (given.dev(), given.ino()) != (own.dev(), own.ino()) {
            return Err(StoreFault::Foreign("it is not the directory of the process before".into()));
        }
        let directory = StoreDirectory { path: path.to_owned(), lock: Some(lock), open: None, allocate };
        directory.check()?;
        Ok(directory)
    }

    /// To be read alone, beside a process that may write it.
    ///
    /// # Errors
    /// It is not there or holds something else.
    pub fn look(path: &Path) -> Result<StoreDirectory, StoreFault> {
        let no_room: Allocate = |_, _| Err(io::ErrorKind::Unsupported.into());
        let directory = StoreDirectory { path: path.to_owned(), lock: None, open: None, allocate: no_room };
        directory.check()?;
        Ok(directory)
    }

    /// What is here and is not the store's was put here by somebody who means another directory.
    fn check(&self) -> Result<(), StoreFault> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            // What a file system puts into its root.
            if name != LOCK && name != "lost+found" && number_of(&name).is_none() {
                return Err(StoreFault::Foreign(format!("it holds {name:?}")));
            }
        }
        Ok(())
    }

    fn file(&mut self, number: u64) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let file = OpenOptions::new().read(true).write(self.lock.is_some()).open(self.path_of(number))?;
            self.open = Some((number, file));
        }
        let (_, file) = self.open.as_ref().expect("opened just now");
        Ok(file)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}{SUFFIX}"))
    }
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

impl Disk for StoreDirectory {
    fn list(&mut self) -> io::Result<Vec<u64>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|entry| entry.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| number_of(&name.to_string_lossy())).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn len(&mut self, number: u64) -> io::Result<u64> {
        Ok(fs::metadata(self.path_of(number))?.len())
    }

    fn read(&mut self, number: u64, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let there = self.len(number)?.saturating_sub(at);
        let mut bytes = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
        self.file(number)?.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        let path = self.path_of(number);
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        if let Err(error) = (self.allocate)(&file, bytes) {
            drop(file);
            // Nothing stands in it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.open = Some((number, file));
        Ok(())
    }

    fn write(&mut self, number: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(number)?.write_all_at(bytes, at)
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        self.file(number)?.sync_data()
    }

    fn truncate(&mut self, number: u64, len: u64) -> io::Result<()> {
        self.file(number)?.set_len(len)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == number) {
            self.open = None;
        }
        fs::remove_file(self.path_of(number))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_nothing_else_in_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("deep/store");
        let allocate: Allocate = |file, bytes| file.set_len(bytes);
        let mut first = StoreDirectory::open(&path, allocate).unwrap();
        assert!(matches!(StoreDirectory::open(&path, allocate), Err(StoreFault::InUse)));
        first.create(3, 100).unwrap();
        first.create(20, 50).unwrap();
        first.write(20, 10, b"abc").unwrap();
        first.sync(20).unwrap();
        assert_eq!(first.list().unwrap(), [3, 20]);
        assert_eq!(first.read(20, 9, 5).unwrap(), b"\0abc\0");
        assert_eq!(StoreDirectory::look(&path).unwrap().list().unwrap(), [3, 20]);
        first.truncate(20, 11).unwrap();
        assert_eq!(first.read(20, 9, 500).unwrap(), b"\0a");
        first.remove(3).unwrap();
        drop(first);
        assert_eq!(StoreDirectory::open(&path, allocate).unwrap().list().unwrap(), [20]);
        // The process that goes on has it as well, and keeps it.
        let old = StoreDirectory::open(&path, allocate).unwrap();
        let new = StoreDirectory::inherit(&path, old.lock().unwrap(), allocate).unwrap();
        drop(old);
        assert!(matches!(StoreDirectory::open(&path, allocate), Err(StoreFault::InUse)));
        let elsewhere = StoreDirectory::open(&place.path().join("elsewhere"), allocate).unwrap();
        let wrong = StoreDirectory::inherit(&path, elsewhere.lock().unwrap(), allocate);
        assert!(matches!(wrong, Err(StoreFault::Foreign(_))));
        drop(new);
        fs::write(path.join("notes.txt"), "mine").unwrap();
        let fault = StoreDirectory::open(&path, allocate).unwrap_err().to_string();
        assert!(fault.contains("notes.txt"), "{fault}");
    }
}
