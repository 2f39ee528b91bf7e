//! All `unsafe` of this crate: submissions that point to memory, and one socket option that no library has.
//!
//! [`Kernel`] owns the rings together with all memory that submissions point to: targets' addresses, the bytes to
//! send, the read buffers. Sends and reads are counted from their submission to their completion, and their memory is
//! used again only when that count is zero.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::{READ_BYTES, READS_MAX};

/// Bytes of one piece of the arena that sends are copied to. A longer send gets a piece of its own.
const CHUNK_BYTES: usize = 64 * 1024;
/// Enters that may fail for want of kernel memory before the ring counts as broken; one millisecond lies between two.
const RETRIES_MAX: u32 = 1000;

/// What a submission was for. It comes back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Connect,
    Poll,
    Read,
    Send,
    Cancel,
    Close,
}

const KINDS: [Kind; 6] = [Kind::Connect, Kind::Poll, Kind::Read, Kind::Send, Kind::Cancel, Kind::Close];

#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub kind: Kind,
    pub slot: u32,
    /// Of a read.
    pub buffer: u16,
    /// Of a send: 0 when it was taken whole, else an errno. Of anything else: the kernel's result.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the submission stays armed.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Whether a read left bytes, or the end, in the socket.
    pub fn socket_nonempty(&self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}

/// One thread's rings and everything they point to. Slots are numbered over all rings.
pub(super) struct Kernel {
    // Dropped first: afterwards the kernel knows none of the memory below.
    rings: Vec<IoUring>,
    /// Signalled when any ring has work. Only with several rings; a single one is waited for directly.
    doorbell: Option<OwnedFd>,
    slots_per_ring: u32,
    /// Each stays where it is. Bound: the servers of a run.
    targets: Vec<(SocketAddr, Box<socket2::SockAddr>)>,
    chunks: Vec<Vec<u8>>,
    buffers: Box<[u8]>,
    sends: usize,
    reads: usize,
    /// Rings with submissions that were not handed over.
    dirty: Vec<bool>,
}

impl Kernel {
    /// # Errors
    /// When io_uring is forbidden, absent or too old here.
    pub fn try_new(rings: u32, slots_per_ring: u32) -> io::Result<Kernel> {
        // One ring takes a whole fan-out's readiness at once; many share the machine's memory.
        let (submissions, completions) = if rings <= 4 { (512, 8192) } else { (256, 2048) };
        let doorbell = if rings > 1 {
            Some(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
        } else {
            None
        };
        let mut made = Vec::new();
        for _ in 0..rings {
            let ring = IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all()
                .setup_cqsize(completions)
                .build(submissions)?;
            if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old"));
            }
            ring.submitter().register_files_sparse(slots_per_ring)?;
            if let Some(doorbell) = &doorbell {
                ring.submitter().register_eventfd(doorbell.as_raw_fd())?;
            }
            made.push(ring);
        }
        Ok(Kernel {
            dirty: vec![false; made.len()],
            rings: made,
            doorbell,
            slots_per_ring,
            targets: Vec::new(),
            chunks: Vec::new(),
            buffers: vec![0; READ_BYTES * READS_MAX].into_boxed_slice(),
            sends: 0,
            reads: 0,
        })
    }

    /// Puts a socket into its slot's place in the ring's table. The caller's descriptor may be closed afterwards.
    pub fn adopt(&mut self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (ring, index) = self.place(slot);
        self.rings[ring].submitter().register_files_update(index, &[socket.as_raw_fd()]).map(drop)
    }

    pub fn push_connect(&mut self, slot: u32, target: SocketAddr) -> io::Result<()> {
        let known = self.targets.iter().position(|(known, _)| *known == target);
        let at = known.unwrap_or_else(|| {
            self.targets.push((target, Box::new(target.into())));
            self.targets.len() - 1
        });
        let address = &self.targets[at].1;
        let (address, len) = (address.as_ptr().cast(), address.len());
        let entry = opcode::Connect::new(Fixed(self.place(slot).1), address, len).build();
        self.push(entry, Kind::Connect, slot, 0)
    }

    pub fn push_poll(&mut self, slot: u32) -> io::Result<()> {
        let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(Fixed(self.place(slot).1), mask).multi(true).build();
        self.push(entry, Kind::Poll, slot, 0)
    }

    pub fn push_close(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Close::new(Fixed(self.place(slot).1)).build();
        self.push(entry, Kind::Close, slot, 0)
    }

    /// Cancels the connect or poll of a slot. Completes only when there was none.
    pub fn push_cancel(&mut self, slot: u32, of: Kind) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(token(of, slot, 0)).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry, Kind::Cancel, slot, 0)
    }

    /// Whether another read can be pushed before the ones that were are settled.
    pub fn can_read(&self) -> bool {
        self.reads < READS_MAX
    }

    /// Queues a read that does not wait, into the next buffer.
    pub fn push_read(&mut self, slot: u32) -> io::Result<()> {
        assert!(self.can_read(), "a read without a buffer");
        let buffer = self.reads;
        let start = self.buffers[buffer * READ_BYTES..].as_mut_ptr();
        let entry = opcode::Recv::new(Fixed(self.place(slot).1), start, READ_BYTES as u32)
            .flags(libc::MSG_DONTWAIT)
            .build();
        self.push(entry, Kind::Read, slot, buffer as u32)?;
        self.reads += 1;
        Ok(())
    }

    /// Queues a send that does not wait. Its completion tells how much was taken.
    pub fn push_send(&mut self, slot: u32, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() < 1 << EXTRA_BITS, "messages are bounded by the plan");
        let fits = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= bytes.len();
        if !self.chunks.last().is_some_and(fits) {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES.max(bytes.len())));
        }
        let chunk = self.chunks.last_mut().expect("pushed above");
        let at = chunk.len();
        chunk.extend_from_slice(bytes);
        let start = chunk[at..].as_ptr();
        let entry = opcode::Send::new(Fixed(self.place(slot).1), start, bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, Kind::Send, slot, bytes.len() as u32)?;
        self.sends += 1;
        Ok(())
    }

    /// The bytes of a read that has completed; valid until the next [`Kernel::forget_reads`].
    pub fn buffer(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        let start = usize::from(buffer) * READ_BYTES;
        &mut self.buffers[start..start + len as usize]
    }

    /// Frees the buffers of completed reads.
    ///
    /// # Panics
    /// When one has not completed: the kernel may still write to it.
    pub fn forget_reads(&mut self, completed: usize) {
        assert_eq!(self.reads, completed, "reads settle before their buffers are used again");
        self.reads = 0;
    }

    /// Hands everything queued to the kernel.
    pub fn submit(&mut self) -> io::Result<()> {
        for index in 0..self.rings.len() {
            if self.dirty[index] {
                self.enter(index)?;
            }
        }
        Ok(())
    }

    /// Hands everything queued to the kernel and waits until a completion is there or the time is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let Some(doorbell) = &self.doorbell else {
            let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
            let args = SubmitArgs::new().timespec(&time);
            let wanted = usize::from(!timeout.is_zero());
            self.dirty[0] = false;
            return match self.rings[0].submitter().submit_with_args(wanted, &args) {
                Ok(_) => Ok(()),
                Err(error) => self.excuse(0, error),
            };
        };
        if !timeout.is_zero()
            && !self.rings.iter_mut().any(|ring| !ring.submission().is_empty() || has_work(ring))
        {
            let mut on = [PollFd::new(doorbell, PollFlags::IN)];
            let time = rustix::event::Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: timeout.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut on, Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Emptied before the rings are looked at: what comes later rings again.
        let mut count = [0; 8];
        let _ = rustix::io::read(doorbell, &mut count);
        for index in 0..self.rings.len() {
            if self.dirty[index] || has_work(&mut self.rings[index]) {
                self.enter(index)?;
            }
        }
        Ok(())
    }

    /// Appends what the kernel has finished.
    pub fn harvest(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            loop {
                for entry in ring.completion() {
                    let completion = completion(&entry);
                    self.sends -= usize::from(completion.kind == Kind::Send);
                    into.push(completion);
                }
                if !ring.submission().cq_overflow() {
                    break;
                }
                // Completions beyond the ring's size wait in kernel memory until an enter moves them over.
                if ring.submit().is_err() {
                    break;
                }
            }
            self.dirty[index] = !ring.submission().is_empty();
        }
        if self.sends == 0 && !self.dirty.contains(&true) {
            self.chunks.truncate(1);
            if let Some(chunk) = self.chunks.first_mut() {
                chunk.clear();
            }
        }
        Ok(())
    }

    fn place(&self, slot: u32) -> (usize, u32) {
        ((slot / self.slots_per_ring) as usize, slot % self.slots_per_ring)
    }

    fn push(&mut self, entry: Entry, kind: Kind, slot: u32, extra: u32) -> io::Result<()> {
        let (ring, _) = self.place(slot);
        let entry = entry.user_data(token(kind, slot, extra));
        self.dirty[ring] = true;
        for _ in 0..RETRIES_MAX {
            // SAFETY: an entry points to a target's address, which lives as long as the rings; to a chunk of sends,
            // which is cleared, moved or freed only when no send is counted; or to a read buffer, which is used again
            // only when no read is counted. All are owned by `self` and dropped after the rings.
            if unsafe { self.rings[ring].submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.enter(ring)?;
            self.dirty[ring] = true;
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "the kernel takes no more submissions"))
    }

    /// One enter that does not wait, and runs the work the kernel has put off until one.
    fn enter(&mut self, index: usize) -> io::Result<()> {
        self.dirty[index] = false;
        match self.rings[index].submit() {
            Ok(_) => Ok(()),
            Err(error) => self.excuse(index, error),
        }
    }

    /// What an enter's error means: nothing, or the end of this thread's work.
    fn excuse(&mut self, index: usize, error: io::Error) -> io::Result<()> {
        self.dirty[index] = !self.rings[index].submission().is_empty();
        match error.raw_os_error() {
            // The time is over; a signal; completions want room first, which the harvest makes.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
            // No memory for a request: what was not taken stays queued.
            Some(libc::EAGAIN | libc::ENOMEM) => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Whether completions are there, or work is put off until the next enter.
fn has_work(ring: &mut IoUring) -> bool {
    if !ring.completion().is_empty() {
        return true;
    }
    let queue = ring.submission();
    queue.taskrun() || queue.cq_overflow()
}

/// Bits of what a submission carries beside its kind and slot: a read's buffer, a send's length.
const EXTRA_BITS: u32 = 28;

fn token(kind: Kind, slot: u32, extra: u32) -> u64 {
    (kind as u64) << (32 + EXTRA_BITS) | u64::from(extra) << 32 | u64::from(slot)
}

fn completion(entry: &cqueue::Entry) -> Completion {
    let token = entry.user_data();
    let kind = KINDS[(token >> (32 + EXTRA_BITS)) as usize % KINDS.len()];
    let extra = (token >> 32) as u32 & ((1 << EXTRA_BITS) - 1);
    let result = match (kind, entry.result()) {
        (Kind::Send, sent) if sent >= 0 => i32::from(sent as u32 != extra) * libc::EAGAIN,
        (Kind::Send, errno) => -errno,
        (_, result) => result,
    };
    Completion { kind, slot: token as u32, buffer: extra as u16, result, flags: entry.flags() }
}

/// IP_BIND_ADDRESS_NO_PORT (ip(7)): bind chooses no port, connect does.
pub(super) fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One message to many sockets by io_uring, for the floor server.
pub struct Broadcast {
    ring: IoUring,
}

/// Submissions of one batch.
const BATCH: usize = 512;

impl Broadcast {
    /// # Errors
    /// When io_uring cannot be used here.
    pub fn try_new() -> io::Result<Broadcast> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(BATCH as u32)?;
        Ok(Broadcast { ring })
    }

    /// Sends `bytes` to every descriptor, without waiting for room in any. What is not taken is lost.
    pub fn send(&mut self, descriptors: &[std::os::fd::RawFd], bytes: &[u8]) {
        for batch in descriptors.chunks(BATCH) {
            for &descriptor in batch {
                let entry =
                    opcode::Send::new(io_uring::types::Fd(descriptor), bytes.as_ptr(), bytes.len() as u32)
                        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                        .build();
                // SAFETY: `bytes` is borrowed until this returns, and that is when every send has completed: below.
                let pushed = unsafe { self.ring.submission().push(&entry) };
                assert!(pushed.is_ok(), "a batch fits the queue, which is empty before it");
            }
            let mut left = batch.len();
            while left > 0 {
                // An error is a signal or want of memory: the rest is still queued, and the bytes still borrowed.
                let _ = self.ring.submit_and_wait(left);
                left -= self.ring.completion().count();
            }
        }
    }
}
