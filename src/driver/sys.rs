//! What the real drivers ask of the kernel, and all `unsafe` of this crate.
//!
//! Inputs: options, sockets by slot, bytes to send. Outputs: [`Completion`]s, a listener, the clock. Must not know:
//! what a completion means to the driver: it carries the driver's token back.
//!
//! The io_uring rules are kept by ownership: every byte that a submission points to (held bytes, gather lists, receive
//! buffers) lives in the [`Ring`], and is released only when the submission queue is empty. That is enough because of
//! two things: IORING_FEAT_SUBMIT_STABLE lets the kernel keep no pointer to a gather list after submit, and MSG_DONTWAIT
//! makes each send and receive complete inside submit, so none of them points anywhere once the queue is empty.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use super::{AcceptFailure, Hold, Part, SendCause, Wake};
use crate::base::bytes::Bytes;
use crate::base::time::Time;

/// Submissions between two enters, in entries of 64 bytes: a larger queue would not fit the second level cache with
/// what the sends touch, a smaller one pays the enter (0.2 us) on fewer sends. 64 KiB a shard.
pub(super) const SUBMISSIONS_MAX: u32 = 1024;
/// Completions the ring holds, in entries of 16 bytes (64 KiB a shard). More of them wait in kernel memory.
const COMPLETIONS_MAX: u32 = 4 * SUBMISSIONS_MAX;
/// Parts the kernel gathers into one send (UIO_MAXIOV).
pub(super) const SEND_PARTS_MAX: usize = 1024;
/// Bytes of one send. The kernel stops at 2 GiB less a page; half of it keeps every length an `i32`.
pub(super) const SEND_BYTES_MAX: usize = 1 << 30;
/// Parts of all gathered sends between two enters: 64 KiB of gather lists a shard, touched only as far as used.
const GATHER_PARTS_MAX: usize = 4096;
const _: () = assert!(SEND_PARTS_MAX <= GATHER_PARTS_MAX, "the longest send fits an empty arena");
/// Connections that wait for accept. The kernel caps it at net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;
/// Enters that may take nothing before the queue counts as stuck; one millisecond lies between two.
const STUCK_ENTERS_MAX: u32 = 8;
/// The ring's only group of provided buffers.
const BUFFER_GROUP: u16 = 0;
/// The largest page size of Linux on 64-bit machines: what a buffer ring's alignment must satisfy.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// What the kernel finished, with the token its submission was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub token: u64,
    /// Not negative: the result. Negative: an errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the submission stays armed and more completions of it will come.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Whether a receive left bytes, or the end, in the socket.
    pub fn socket_nonempty(&self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }

    /// The receive buffer that was used.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// A submission that points to no memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op<'a> {
    /// Multishot: one completion a client, whose result is its slot.
    Accept {
        listener: BorrowedFd<'a>,
    },
    /// Multishot, edge triggered, for bytes, the end and errors.
    PollRead {
        slot: u32,
    },
    /// One completion when the socket takes bytes, or is broken.
    PollWrite {
        slot: u32,
    },
    /// Multishot, edge triggered.
    PollEvent {
        fd: BorrowedFd<'a>,
    },
    /// Cancels what was submitted with `of`. Completes only if there was nothing to cancel.
    Cancel {
        of: u64,
    },
    /// Reads once into a provided buffer, without waiting.
    Recv {
        slot: u32,
    },
    /// Runs on a kernel worker: shutdown has no non-blocking form.
    Shutdown {
        slot: u32,
    },
    Close {
        slot: u32,
    },
}

/// The submission queue is full and the kernel takes nothing from it.
#[derive(Debug)]
pub(super) struct Stuck;

/// An io_uring with its direct descriptors, receive buffers and held bytes.
///
/// It may move between threads until its first enter; from then on the kernel accepts only the thread of that enter.
pub(super) struct Ring {
    // Dropped first: afterwards the kernel knows none of the memory below.
    ring: IoUring,
    enabled: bool,
    stuck: bool,
    /// Submissions that found the queue full and stuck, in order. Empty in every ordinary life.
    overflow: VecDeque<squeue::Entry>,
    holds: Vec<Bytes>,
    gather: Gather,
    buffers: Buffers,
}

impl Ring {
    /// # Errors
    /// With a text that says what is missing: io_uring forbidden, absent, too old, or a limit too low.
    pub fn try_new(files: u32, buffers: u16, buffer_bytes: usize) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(COMPLETIONS_MAX)
            .build(SUBMISSIONS_MAX)
            .map_err(explain_setup)?;
        check_features(&ring)?;
        ring.submitter().register_files_sparse(files).map_err(|error| {
            let text =
                format!("io_uring refuses a table of {files} sockets (RLIMIT_NOFILE bounds it): {error}");
            io::Error::new(error.kind(), text)
        })?;
        // Shutdown is the only work for kernel workers; one thread a ring is enough and costs nothing while unused.
        ring.submitter().register_iowq_max_workers(&mut [1, 1])?;
        let mut buffers = Buffers::new(buffers, buffer_bytes);
        buffers.register(&ring)?;
        Ok(Ring {
            ring,
            enabled: false,
            stuck: false,
            overflow: VecDeque::new(),
            holds: Vec::new(),
            gather: Gather::new(),
            buffers,
        })
    }

    pub fn push(&mut self, op: Op<'_>, token: u64) {
        let entry = match op {
            Op::Accept { listener } => {
                opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build()
            }
            Op::PollRead { slot } => {
                opcode::PollAdd::new(Fixed(slot), (libc::POLLIN | libc::POLLRDHUP) as u32).multi(true).build()
            }
            Op::PollWrite { slot } => opcode::PollAdd::new(Fixed(slot), libc::POLLOUT as u32).build(),
            Op::PollEvent { fd } => {
                opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).multi(true).build()
            }
            Op::Cancel { of } => {
                opcode::AsyncCancel2::new(CancelBuilder::user_data(of)).build().flags(Flags::SKIP_SUCCESS)
            }
            Op::Recv { slot } => {
                self.buffers.take_one();
                opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
                    .flags(libc::MSG_DONTWAIT)
                    .buf_group(BUFFER_GROUP)
                    .build()
                    .flags(Flags::BUFFER_SELECT)
            }
            Op::Shutdown { slot } => opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(),
            Op::Close { slot } => opcode::Close::new(Fixed(slot)).build(),
        };
        let entry = entry.user_data(token);
        if !self.overflow.is_empty() || !self.try_push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    /// Queues one write of `parts` that completes only if it is short or refused. A write longer than
    /// [`SEND_PARTS_MAX`] or [`SEND_BYTES_MAX`] is cut and completes always, with `cut_token`.
    ///
    /// # Errors
    /// [`Stuck`], and then nothing was queued.
    ///
    /// # Panics
    /// When a part lies outside its hold, or its hold was released: a bug of the caller.
    pub fn push_send(&mut self, slot: u32, parts: &[Part], token: u64, cut_token: u64) -> Result<(), Stuck> {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        if self.stuck {
            return Err(Stuck);
        }
        if let [part] = parts
            && part.range.len() <= SEND_BYTES_MAX
        {
            let bytes = held(&self.holds, part);
            if bytes.is_empty() {
                return Ok(());
            }
            let entry = opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32)
                .flags(FLAGS)
                .build()
                .flags(Flags::SKIP_SUCCESS)
                .user_data(token);
            return if self.try_push(&entry) { Ok(()) } else { Err(Stuck) };
        }
        // Room in the queue as well, before the gather list is written: a submit between the two would free the list.
        if !self.gather.has_room(parts.len().min(SEND_PARTS_MAX)) || self.ring.submission().is_full() {
            self.submit();
            if self.stuck {
                return Err(Stuck);
            }
        }
        let Some((message, whole)) = self.gather.push(&self.holds, parts) else { return Ok(()) };
        let entry = opcode::SendMsg::new(Fixed(slot), message).flags(FLAGS as u32).build();
        let entry = if whole {
            entry.flags(Flags::SKIP_SUCCESS).user_data(token)
        } else {
            entry.user_data(cut_token)
        };
        if self.try_push(&entry) { Ok(()) } else { Err(Stuck) }
    }

    pub fn hold(&mut self, bytes: Bytes) -> Hold {
        self.holds.push(bytes);
        Hold((self.holds.len() - 1) as u32)
    }

    /// Hands everything queued to the kernel, and releases what it pointed to. Without memory for it in the kernel the
    /// rest stays queued, and until a later submit succeeds every send is refused: a send that is not yet carried out
    /// must not be followed by another.
    pub fn submit(&mut self) {
        let mut attempts = 0;
        loop {
            while let Some(entry) = self.overflow.front() {
                // SAFETY: an entry in `overflow` was made by `push`, so it points to no memory but the buffer group.
                if unsafe { self.ring.submission().push(entry) }.is_err() {
                    break;
                }
                self.overflow.pop_front();
            }
            if self.ring.submission().is_empty() {
                break;
            }
            // An error leaves the queue as it was, and the length tells.
            let _ = self.enable().and_then(|()| self.ring.submit());
            if self.ring.submission().is_empty() {
                attempts = 0;
                continue;
            }
            attempts += 1;
            if attempts == STUCK_ENTERS_MAX {
                self.stuck = true;
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stuck = false;
        self.gather.clear();
    }

    /// Drops the held bytes unless a submission that was not taken still points to them.
    pub fn release_holds(&mut self) {
        if self.ring.submission().is_empty() {
            self.holds.clear();
        }
    }

    /// Hands everything queued to the kernel and waits for a completion.
    ///
    /// # Errors
    /// Those after which the ring is of no use.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.enable()?;
        if !self.overflow.is_empty() || self.stuck {
            self.submit();
        }
        let entered = match timeout {
            Some(Duration::ZERO) => {
                let queue = self.ring.submission();
                if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                    // With deferred task work only our own enter posts completions: there is nothing to look for.
                    return Ok(());
                }
                drop(queue);
                self.ring.submit()
            }
            Some(timeout) => {
                let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
            None => self.ring.submit_and_wait(1),
        };
        if self.ring.submission().is_empty() {
            self.stuck = false;
            self.gather.clear();
        }
        match entered.map_err(|error| error.raw_os_error()) {
            Ok(_) => Ok(()),
            // The timeout passed.
            Err(Some(libc::ETIME)) => Ok(()),
            // A signal: its handler has run, and the shard's next tick sees what it changed.
            Err(Some(libc::EINTR)) => Ok(()),
            // Completions wait in kernel memory and want room first: harvesting makes it.
            Err(Some(libc::EBUSY)) => Ok(()),
            // No memory for a request: what was not taken stays queued. Without the pause a tick would spin on it.
            Err(Some(libc::EAGAIN | libc::ENOMEM)) => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            // EBADR among them: the kernel lost completions for want of memory, so our tables are no longer true.
            Err(errno) => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
        }
    }

    /// Appends what the kernel has finished.
    pub fn harvest(&mut self, into: &mut Vec<Completion>) {
        loop {
            into.extend(self.ring.completion().map(|entry| Completion {
                token: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            }));
            if !self.ring.submission().cq_overflow() {
                return;
            }
            // Completions beyond the ring's size wait in kernel memory until an enter moves them over; an error
            // leaves them there for the next wait.
            if self.ring.submit().is_err() {
                return;
            }
        }
    }

    /// How many receives may be queued.
    pub fn buffers_free(&self) -> u16 {
        self.buffers.free
    }

    /// The bytes of a buffer that a receive used.
    pub fn buffer(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        self.buffers.get(buffer, len)
    }

    /// Gives a used buffer back for receives that are pushed from now on.
    pub fn buffer_return(&mut self, buffer: u16) {
        self.buffers.provide(buffer);
    }

    /// A receive completed without using the buffer it was counted for.
    pub fn buffer_unused(&mut self) {
        self.buffers.free += 1;
    }

    /// As after enters that took nothing.
    #[cfg(test)]
    pub fn pretend_stuck(&mut self) {
        self.stuck = true;
    }

    /// Counts buffers that are not in the ring, so that a receive meets an empty one.
    #[cfg(test)]
    pub fn pretend_buffers_free(&mut self, free: u16) {
        self.buffers.free = free;
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entry points to lives in `self` until the queue is empty: see the head of this file.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        self.submit();
        // SAFETY: as above. The submit freed gather lists, but `push_send` makes room in the queue before it writes one,
        // so an entry that comes here has none.
        !self.stuck && unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Binds the ring to the calling thread, which SINGLE_ISSUER asks for, on its first use.
    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }
}

/// Gather lists of the sends in the submission queue.
struct Gather {
    messages: Vec<libc::msghdr>,
    parts: Vec<libc::iovec>,
}

// SAFETY: the raw pointers inside point to the two vectors and to held bytes, which move with the `Ring` that owns both.
unsafe impl Send for Gather {}

impl Gather {
    fn new() -> Gather {
        // Never grown: the kernel is given pointers into both.
        Gather {
            messages: Vec::with_capacity(SUBMISSIONS_MAX as usize),
            parts: Vec::with_capacity(GATHER_PARTS_MAX),
        }
    }

    fn has_room(&self, parts: usize) -> bool {
        self.messages.len() < self.messages.capacity() && self.parts.len() + parts <= self.parts.capacity()
    }

    /// The message of one send and whether it holds all of `parts`; `None` when there is no byte to send.
    fn push(&mut self, holds: &[Bytes], parts: &[Part]) -> Option<(*const libc::msghdr, bool)> {
        assert!(self.has_room(parts.len().min(SEND_PARTS_MAX)), "room is made before");
        let first = self.parts.len();
        let mut room = SEND_BYTES_MAX;
        let mut whole = true;
        for part in parts {
            let bytes = held(holds, part);
            if bytes.is_empty() {
                continue;
            }
            if room == 0 || self.parts.len() - first == SEND_PARTS_MAX {
                whole = false;
                break;
            }
            let len = bytes.len().min(room);
            room -= len;
            whole = len == bytes.len();
            self.parts.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: len });
            if !whole {
                break;
            }
        }
        if self.parts.len() == first {
            return None;
        }
        // SAFETY: a message header of zeroes is one without address, control bytes and flags.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.parts[first..].as_mut_ptr();
        message.msg_iovlen = (self.parts.len() - first) as _;
        self.messages.push(message);
        self.messages.last().map(|message| (message as *const libc::msghdr, whole))
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.parts.clear();
    }
}

/// The bytes of one part.
///
/// # Panics
/// When the part lies outside its hold, or the hold was released.
pub(super) fn held<'a>(holds: &'a [Bytes], part: &Part) -> &'a [u8] {
    &holds[part.hold.0 as usize][part.range.start as usize..part.range.end as usize]
}

/// Receive buffers that the kernel picks from, and the ring by which they are given to it.
struct Buffers {
    ring: Pages,
    bytes: Pages,
    count: u16,
    buffer_bytes: usize,
    /// The ring's next entry; wraps.
    tail: u16,
    /// Buffers in the ring less the receives that are queued.
    free: u16,
}

impl Buffers {
    /// # Panics
    /// When `count` is no power of two or a buffer is empty or longer than `u32`: the configuration bounds both.
    fn new(count: u16, buffer_bytes: usize) -> Buffers {
        assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel masks ring positions");
        assert!(buffer_bytes > 0 && u32::try_from(buffer_bytes).is_ok());
        Buffers {
            ring: Pages::new(usize::from(count) * size_of::<BufRingEntry>()),
            bytes: Pages::new(usize::from(count) * buffer_bytes),
            count,
            buffer_bytes,
            tail: 0,
            free: 0,
        }
    }

    fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.ring.start.as_ptr() as u64;
        // SAFETY: the pages hold `count` entries, are aligned for any page size, and outlive the ring in `Ring`.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.count, BUFFER_GROUP, 0)? };
        for buffer in 0..self.count {
            self.provide(buffer);
        }
        Ok(())
    }

    fn provide(&mut self, buffer: u16) {
        assert!(buffer < self.count && self.free < self.count, "buffer {buffer} given back twice");
        let base = self.ring.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the offset is inside the buffer's own pages.
        let bytes = unsafe { self.bytes.start.as_ptr().add(usize::from(buffer) * self.buffer_bytes) };
        // SAFETY: the index is masked to the ring. The kernel reads no entry at or past the tail, so this one is ours;
        // of entry 0 only the three fields are written, as its fourth is the tail.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(bytes as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the registered ring's first entry, whose last two bytes are the tail, aligned to two; the
        // kernel reads them with acquire order.
        let tail = unsafe { &*BufRingEntry::tail(base).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
        self.free += 1;
    }

    fn take_one(&mut self) {
        assert!(self.free > 0, "a receive without a buffer");
        self.free -= 1;
    }

    fn get(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        assert!(buffer < self.count && len as usize <= self.buffer_bytes);
        // SAFETY: inside the buffer's pages, which are initialised; the kernel writes only to buffers in the ring, and a
        // lent one is not. The borrow of `self` keeps it out of the ring.
        unsafe {
            let start = self.bytes.start.as_ptr().add(usize::from(buffer) * self.buffer_bytes);
            std::slice::from_raw_parts_mut(start, len as usize)
        }
    }
}

/// Zeroed memory that begins on a page.
struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pages {}

impl Pages {
    fn new(len: usize) -> Pages {
        let layout = Layout::from_size_align(len, PAGE_BYTES_MAX).expect("bounded by the configuration");
        // SAFETY: `len` is not zero: both callers multiply counts that are asserted to be positive.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Pages { start, layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

fn explain_setup(error: io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here (a seccomp profile or kernel.io_uring_disabled)"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::EINVAL) => "this kernel's io_uring is too old: Linux 6.1 is needed",
        Some(libc::ENOMEM) => "no memory may be locked for io_uring (RLIMIT_MEMLOCK)",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left for io_uring",
        _ => "io_uring cannot be set up",
    };
    io::Error::new(error.kind(), format!("{text}: {error}"))
}

/// What setup alone does not prove: single operations may be missing, or forbidden by a sandbox.
fn check_features(ring: &IoUring) -> io::Result<()> {
    let missing =
        |what: &str| Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring lacks {what}")));
    let features = [
        ("keeping completions beyond the ring's size (NODROP)", ring.params().is_feature_nodrop()),
        ("a wait with timeout (EXT_ARG)", ring.params().is_feature_ext_arg()),
        ("gather lists that may go after submit (SUBMIT_STABLE)", ring.params().is_feature_submit_stable()),
        ("silent success (CQE_SKIP)", ring.params().is_feature_skip_cqe_on_success()),
    ];
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let operations = [
        ("accept", opcode::AcceptMulti::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("cancel", opcode::AsyncCancel2::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("recv", opcode::Recv::CODE),
        ("shutdown", opcode::Shutdown::CODE),
        ("close", opcode::Close::CODE),
    ];
    let operations = operations.map(|(name, code)| (name, probe.is_supported(code)));
    match features.iter().chain(&operations).find(|(_, there)| !there) {
        Some((name, _)) => missing(name),
        None => Ok(()),
    }
}

/// Wakes a ring from any thread, by one system call.
///
/// A message to the ring costs the waking thread what an eventfd does, and on a quiet machine the woken one less than half
/// of it (3.3 us of cpu a wake for 7.6 us, and 4 us less until it runs; on a busy one they are equal: `benches/wake.rs`).
/// It needs Linux 6.13 and a ring that is in use; the eventfd is there for all else. It is polled edge triggered, so that every wake is seen although its
/// counter is never read: it would take five centuries of a wake a nanosecond to overflow.
pub(super) struct RingWaker {
    event: OwnedFd,
    /// -1 when messages cannot be sent. A number, not a share in the descriptor: a waker must not keep the ring, and with
    /// it every socket, open after its driver. One that is late by a race meets no ring, or a spurious wake.
    ring: AtomicI32,
    token: u64,
}

impl RingWaker {
    /// `token` comes with the completion that ends the wait.
    pub fn try_new(ring: &Ring, token: u64) -> io::Result<RingWaker> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = ring.ring.as_raw_fd();
        // A kernel that knows the message says that this ring is not yet enabled.
        let known = send_message(fd, token).is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD));
        Ok(RingWaker {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ring: AtomicI32::new(if known { fd } else { -1 }),
            token,
        })
    }

    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The ring goes away.
    pub fn end(&self) {
        self.ring.store(-1, Ordering::Relaxed);
    }
}

impl Wake for RingWaker {
    fn wake(&self) {
        let ring = self.ring.load(Ordering::Relaxed);
        if ring >= 0 && send_message(ring, self.token).is_ok() {
            return;
        }
        // No messages here, a ring that is not yet in use, or no memory for the message. The only error an open eventfd
        // has is a counter about to overflow, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// Posts a completion with `token` to a ring (IORING_REGISTER_SEND_MSG_RING: without a ring of one's own).
fn send_message(ring: RawFd, token: u64) -> io::Result<()> {
    const IORING_REGISTER_SEND_MSG_RING: libc::c_uint = 31;
    let entry = opcode::MsgRingData::new(Fd(ring), 0, token, None).build();
    // SAFETY: the kernel reads one submission from `entry`, which lives through the call and points to no memory; -1 is
    // the descriptor that this request asks for.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, -1, IORING_REGISTER_SEND_MSG_RING, &raw const entry, 1)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A listener of one shard: each shard binds its own, and the kernel spreads clients over them.
pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by what is accepted: a message must not wait for the acknowledgement of the one before it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a client stands in the listener's backlog.
pub(super) fn is_readable(listener: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut on = [PollFd::new(&listener, PollFlags::IN)];
    // An error is a signal or no memory: then the next accept finds out.
    poll(&mut on, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

/// CLOCK_MONOTONIC, so that the times of all shards compare.
pub(super) fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The soft limit on open descriptors, which also bounds a table of direct descriptors.
pub(super) fn descriptors_max() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}

/// What a failed accept means: `None` when only that one client is affected and accepting goes on.
pub(super) fn accept_failure(errno: i32) -> Option<AcceptFailure> {
    match errno {
        // The client went away while it stood in the backlog, or its network did; accept(2) says to try the next one.
        libc::ECONNABORTED
        | libc::EPROTO
        | libc::ENETDOWN
        | libc::ENOPROTOOPT
        | libc::EHOSTDOWN
        | libc::ENONET
        | libc::EHOSTUNREACH
        | libc::EOPNOTSUPP
        | libc::ENETUNREACH => None,
        // A signal came between.
        libc::EINTR => None,
        libc::EMFILE | libc::ENFILE => Some(AcceptFailure::Full),
        libc::ENOMEM | libc::ENOBUFS => Some(AcceptFailure::NoMemory),
        other => Some(AcceptFailure::Other(other)),
    }
}

/// What a refused send means.
pub(super) fn send_cause(errno: i32) -> SendCause {
    match errno {
        // The socket's buffer is full; EINTR cannot come without waiting, and trying again is right for it too.
        libc::EAGAIN | libc::EINTR => SendCause::WouldBlock,
        libc::ENOBUFS | libc::ENOMEM => SendCause::NoBuffers,
        other => SendCause::Broken(other),
    }
}
