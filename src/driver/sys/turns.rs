//! How long the scheduler lets a thread run while another one waits for its cpu.

use std::io;

/// A turn: the least that the kernel grants. Its own is 3 ms, which is what a delivery waits for when something else runs
/// on the cpu of its shard; a thread with a shorter turn that wakes goes before it. The share of the cpu stays the same.
const TURN_NS: u64 = 100_000;

/// `struct sched_attr` of sched_setattr(2) in its first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = 48;
const _: () = assert!(size_of::<SchedAttr>() == SIZE as usize);

/// Asks for short turns for this thread and those it starts from now on. Needs no right. Kernels before Linux 6.12 take it
/// and do nothing; a thread of another policy than the normal one (chrt) is left as it is.
///
/// # Errors
/// Where the call is forbidden.
pub fn take_short_turns() -> io::Result<()> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes `SIZE` bytes at most, which is what `attr` has.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, SIZE, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attr.size = SIZE;
    attr.runtime = TURN_NS;
    // SAFETY: the kernel reads `attr.size` bytes, which is what `attr` has.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn_ns() -> u64 {
        let mut attr = SchedAttr::default();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, SIZE, 0) }, 0);
        attr.runtime
    }

    #[test]
    fn threads_started_afterwards_have_short_turns_too() {
        let (own, started) = std::thread::spawn(|| {
            take_short_turns().unwrap();
            (turn_ns(), std::thread::spawn(turn_ns).join().unwrap())
        })
        .join()
        .unwrap();
        // A kernel that knows no turns tells none.
        assert!(own == 0 || own == TURN_NS, "{own}");
        assert_eq!(own, started);
    }
}
