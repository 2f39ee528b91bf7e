//! What the allocator keeps of memory that was freed.

// The binary's allocator, linked into every caller of this function; beside another allocator it has nothing to give back.
use mimalloc as _;

// SAFETY: declared as in mimalloc.h; may be called on any thread at any time. The crate of the bindings has it behind a
// feature that brings another crate along.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

/// Gives memory back to the system that any thread freed at least a second ago.
///
/// The allocator does it by itself only in the course of further allocations, which an idle process does not make: what a
/// burst took would stay with it until the next one.
pub fn give_memory_back() {
    mi_collect(false);
}
