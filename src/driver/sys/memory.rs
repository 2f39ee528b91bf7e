//! The memory that submissions point to.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::base::bytes::Bytes;
use crate::base::limits::LISTENING_SOCKETS_MAX;
use crate::driver::types::SendPart;

/// Submissions between two enters, in entries of 64 bytes: a larger queue would not fit the second level cache with
/// what the sends touch, a smaller one pays the enter (0.2 us) on fewer sends. 64 KiB a shard.
pub(in crate::driver) const SUBMISSIONS_MAX: u32 = 1024;
/// Parts the kernel gathers into one send (UIO_MAXIOV).
pub(in crate::driver) const SEND_PARTS_MAX: usize = 1024;
/// Bytes of one send. The kernel stops at 2 GiB less a page; half of it keeps every length an `i32`.
pub(in crate::driver) const SEND_BYTES_MAX: usize = 1 << 30;
/// Parts of all gathered sends between two enters: 64 KiB of gather lists a shard, touched only as far as used.
const GATHER_PARTS_MAX: usize = 4096;
const _: () = assert!(SEND_PARTS_MAX <= GATHER_PARTS_MAX, "the longest send fits an empty arena");
/// The ring's only group of provided buffers.
pub(super) const BUFFER_GROUP: u16 = 0;
/// The largest page size of Linux on 64-bit machines: what a buffer ring's alignment must satisfy.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Gather lists of the sends in the submission queue.
pub(super) struct GatherList {
    messages: Vec<libc::msghdr>,
    parts: Vec<libc::iovec>,
}

// SAFETY: the raw pointers inside point to the two vectors and to held bytes, which move with the `Ring` that owns both.
unsafe impl Send for GatherList {}

impl GatherList {
    pub fn new() -> GatherList {
        // Never grown: the kernel is given pointers into both.
        GatherList {
            messages: Vec::with_capacity(SUBMISSIONS_MAX as usize),
            parts: Vec::with_capacity(GATHER_PARTS_MAX),
        }
    }

    pub fn has_room(&self, parts: usize) -> bool {
        self.messages.len() < self.messages.capacity() && self.parts.len() + parts <= self.parts.capacity()
    }

    /// The message of one send and whether it holds all of `parts`; `None` when there is no byte to send.
    pub fn push(&mut self, holds: &[Bytes], parts: &[SendPart]) -> Option<(*const libc::msghdr, bool)> {
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

    pub fn clear(&mut self) {
        self.messages.clear();
        self.parts.clear();
    }
}

/// The bytes of one part.
///
/// # Panics
/// When the part lies outside its hold, or the hold was released.
pub(in crate::driver) fn held<'a>(holds: &'a [Bytes], part: &SendPart) -> &'a [u8] {
    &holds[part.hold.0 as usize][part.range.start as usize..part.range.end as usize]
}

/// Receive buffers that the kernel picks from, and the ring by which they are given to it.
pub(super) struct SharedBuffers {
    ring: Pages,
    bytes: Pages,
    count: u16,
    buffer_bytes: usize,
    /// The ring's next entry; wraps.
    tail: u16,
    /// Buffers in the ring less the receives that are queued.
    pub free: u16,
}

impl SharedBuffers {
    /// # Panics
    /// When `count` is no power of two or a buffer is empty or longer than `u32`: the configuration bounds both.
    pub fn new(count: u16, buffer_bytes: usize) -> SharedBuffers {
        assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel masks ring positions");
        assert!(buffer_bytes > 0 && u32::try_from(buffer_bytes).is_ok());
        SharedBuffers {
            ring: Pages::new(usize::from(count) * size_of::<BufRingEntry>()),
            bytes: Pages::new(usize::from(count) * buffer_bytes),
            count,
            buffer_bytes,
            tail: 0,
            free: 0,
        }
    }

    pub fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.ring.start.as_ptr() as u64;
        // SAFETY: the pages hold `count` entries, are aligned for any page size, and outlive the ring in `Ring`.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.count, BUFFER_GROUP, 0)? };
        for buffer in 0..self.count {
            self.provide(buffer);
        }
        Ok(())
    }

    pub fn provide(&mut self, buffer: u16) {
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

    pub fn take_one(&mut self) {
        assert!(self.free > 0, "a receive without a buffer");
        self.free -= 1;
    }

    pub fn get(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        assert!(buffer < self.count && len as usize <= self.buffer_bytes);
        // SAFETY: inside the buffer's pages, which are initialised; the kernel writes only to buffers in the ring, and a
        // lent one is not. The borrow of `self` keeps it out of the ring.
        unsafe {
            let start = self.bytes.start.as_ptr().add(usize::from(buffer) * self.buffer_bytes);
            std::slice::from_raw_parts_mut(start, len as usize)
        }
    }
}

/// Where the kernel writes the names of those that it accepts: one place for each listener.
pub(super) struct MessageNames(Pages);

/// What an accept writes, and how much of it.
#[repr(C)]
struct Name {
    address: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl MessageNames {
    pub fn new() -> MessageNames {
        MessageNames(Pages::new(LISTENING_SOCKETS_MAX * size_of::<Name>()))
    }

    fn at(&self, place: usize) -> *mut Name {
        assert!(place < LISTENING_SOCKETS_MAX);
        // SAFETY: inside the pages, which hold so many names and are aligned for any of them.
        unsafe { self.0.start.as_ptr().cast::<Name>().add(place) }
    }

    /// For one accept to write to. The one before it has completed.
    pub fn room(&mut self, place: usize) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let name = self.at(place);
        // SAFETY: the place is ours, zeroed at first, and no accept that knows of it is in the kernel.
        unsafe {
            (*name).len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            ((&raw mut (*name).address).cast(), &raw mut (*name).len)
        }
    }

    /// What the last accept wrote; the next one has not been submitted.
    pub fn get(&self, place: usize) -> Option<IpAddr> {
        let name = self.at(place).cast_const();
        // SAFETY: every byte of it was zeroed or written by the kernel, which knows of it no more until the next accept.
        let (address, len) = unsafe { ((*name).address, (*name).len as usize) };
        let start = (&raw const address).cast::<u8>();
        match i32::from(address.ss_family) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: a storage has room for it, and any bytes are one.
                let found = unsafe { start.cast::<libc::sockaddr_in>().read() };
                Some(Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let found = unsafe { start.cast::<libc::sockaddr_in6>().read() };
                Some(IpAddr::V6(found.sin6_addr.s6_addr.into()).to_canonical())
            }
            _ => None,
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
