//! Room on a disk for a file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Makes the file so many bytes long, all zero, and takes their room from the disk, so that no write into it finds it full.
///
/// # Errors
/// There is no room. A file system that cannot tell beforehand takes it when it is written.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while `file` is borrowed, and no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Unsupported => file.set_len(bytes),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_length_at_once() {
        let file = tempfile::tempfile().unwrap();
        allocate(&file, 100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        assert!(allocate(&file, u64::MAX).is_err());
    }
}
