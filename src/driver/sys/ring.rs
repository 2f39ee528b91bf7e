//! An io_uring as the driver uses it: submissions, completions, and the memory that they point to.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use crate::base::bytes::Bytes;
use crate::driver::sys::memory::{
    BUFFER_GROUP, GatherList, MessageNames, SEND_BYTES_MAX, SEND_PARTS_MAX, SUBMISSIONS_MAX, SharedBuffers,
    held,
};
use crate::driver::types::{SendHold, SendPart};

/// Completions the ring holds, in entries of 16 bytes (128 KiB a shard). More of them wait in kernel memory. The kernel
/// also sizes the table in which a close looks its poll up by this, and 8192 give it the most places it can have, 256:
/// with 20,000 sockets the search is a good part of what a close costs.
const COMPLETIONS_MAX: u32 = 8 * SUBMISSIONS_MAX;
/// Enters that may take nothing before the queue counts as stuck; one millisecond lies between two.
const STUCK_ENTERS_MAX: u32 = 8;

/// What the kernel finished, with the token its submission was given.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct Completion {
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

/// A submission that points to no memory but what lives as long as the ring.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) enum Op<'a> {
    /// Multishot: one completion a client, whose result is its slot.
    Accept {
        listener: BorrowedFd<'a>,
    },
    /// One completion, of one client: for a listener that rings share. The kernel wakes the ring that has waited longest.
    AcceptOne {
        listener: BorrowedFd<'a>,
    },
    /// One completion, of one client, whose address [`Ring::accepted_from`] then gives. One at a time for each place.
    AcceptFrom {
        listener: BorrowedFd<'a>,
        place: usize,
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
    /// Breaks the connection: the peer gets a reset, what waits to be sent is dropped.
    Reset {
        slot: u32,
    },
    /// Completes with an ordinary descriptor of the socket: [`Ring::installed`] has it.
    Install {
        slot: u32,
    },
}

/// Connecting to no address dissolves a connection (connect(2)): TCP then sends a reset and drops its queue. A linger time
/// of zero does the same, but io_uring sets options of sockets only from Linux 6.7 on.
static NOWHERE: libc::sockaddr = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };

/// The submission queue is full and the kernel takes nothing from it.
#[derive(Debug)]
pub(in crate::driver) struct Stuck;

/// An io_uring with its direct descriptors, receive buffers and held bytes.
///
/// It may move between threads until its first enter; from then on the kernel accepts only the thread of that enter.
pub(in crate::driver) struct Ring {
    // Dropped first: afterwards the kernel knows none of the memory below.
    pub(super) ring: IoUring,
    enabled: bool,
    stuck: bool,
    /// The kernel knows [`Op::Install`].
    installs: bool,
    /// Submissions that found the queue full and stuck, in order. Empty in every ordinary life.
    /// Bound: what one tick submits, a few operations for each socket.
    overflow: VecDeque<squeue::Entry>,
    holds: Vec<Bytes>,
    gather: GatherList,
    buffers: SharedBuffers,
    names: MessageNames,
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
        let installs = check_features(&ring)?;
        ring.submitter().register_files_sparse(files).map_err(|error| {
            let text =
                format!("io_uring refuses a table of {files} sockets (RLIMIT_NOFILE bounds it): {error}");
            io::Error::new(error.kind(), text)
        })?;
        // Shutdown is the only work for kernel workers; one thread a ring is enough and costs nothing while unused.
        ring.submitter().register_iowq_max_workers(&mut [1, 1])?;
        let mut buffers = SharedBuffers::new(buffers, buffer_bytes);
        buffers.register(&ring)?;
        Ok(Ring {
            ring,
            enabled: false,
            stuck: false,
            installs,
            overflow: VecDeque::new(),
            holds: Vec::new(),
            gather: GatherList::new(),
            buffers,
            names: MessageNames::new(),
        })
    }

    pub fn push(&mut self, op: Op<'_>, token: u64) {
        let entry = match op {
            Op::Accept { listener } => {
                opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build()
            }
            Op::AcceptOne { listener } => {
                opcode::Accept::new(Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
                    .file_index(Some(DestinationSlot::auto_target()))
                    .build()
            }
            Op::AcceptFrom { listener, place } => {
                let (name, len) = self.names.room(place);
                opcode::Accept::new(Fd(listener.as_raw_fd()), name, len)
                    .file_index(Some(DestinationSlot::auto_target()))
                    .build()
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
            Op::Reset { slot } => {
                opcode::Connect::new(Fixed(slot), &raw const NOWHERE, size_of_val(&NOWHERE) as u32).build()
            }
            Op::Install { slot } => opcode::FixedFdInstall::new(Fixed(slot), 0).build(),
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
    pub fn push_send(
        &mut self,
        slot: u32,
        parts: &[SendPart],
        token: u64,
        cut_token: u64,
    ) -> Result<(), Stuck> {
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

    pub fn hold(&mut self, bytes: Bytes) -> SendHold {
        self.holds.push(bytes);
        SendHold((self.holds.len() - 1) as u32)
    }

    /// Hands everything queued to the kernel, and releases what it pointed to. Without memory for it in the kernel the
    /// rest stays queued, and until a later submit succeeds every send is refused: a send that is not yet carried out
    /// must not be followed by another.
    pub fn submit(&mut self) {
        let mut attempts = 0;
        loop {
            while let Some(entry) = self.overflow.front() {
                // SAFETY: an entry in `overflow` was made by `push`, so it points to no memory but the buffer group and the
                // names, which live as long as the ring.
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

    /// Whether sockets can leave the ring.
    pub fn installs(&self) -> bool {
        self.installs
    }

    /// What an [`Op::Install`] completed with. Once for each completion.
    pub fn installed(completion: &Completion) -> io::Result<OwnedFd> {
        match completion.result {
            // SAFETY: the kernel has made the descriptor for this completion, and nobody else knows of it.
            fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        }
    }

    /// Puts a socket into a free slot. The ring has a reference of its own.
    ///
    /// # Errors
    /// There is no such slot, no memory, or it is no file that a ring takes.
    pub fn register(&mut self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.enable()?;
        match self.ring.submitter().register_files_update(slot, &[socket.as_raw_fd()])? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Where the client came from that an accept for this place has taken just now.
    pub fn accepted_from(&self, place: usize) -> Option<IpAddr> {
        self.names.get(place)
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
/// Tells whether sockets can leave the ring, which is not needed to serve.
fn check_features(ring: &IoUring) -> io::Result<bool> {
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
        ("connect", opcode::Connect::CODE),
    ];
    let operations = operations.map(|(name, code)| (name, probe.is_supported(code)));
    match features.iter().chain(&operations).find(|(_, there)| !there) {
        Some((name, _)) => missing(name),
        None => Ok(probe.is_supported(opcode::FixedFdInstall::CODE)),
    }
}
