//! Randomness as an argument: one seedable generator, handed down, never global.
//!
//! `fastrand` (wyrand) is small, fast, deterministic from its seed, and enough for jitter and simulation.
//! The operating system's randomness is `secret`'s: what a stranger must not guess is made of it.

pub use fastrand::Rng as Prng;
