//! Randomness as an argument: one seedable generator, handed down, never global.
//!
//! `fastrand` (wyrand) is small, fast, deterministic from its seed, and enough for jitter and simulation.
//! Secrets (epochs, client ids, session ids, development keys) are seeded from the operating system.

pub use fastrand::Rng as Prng;
