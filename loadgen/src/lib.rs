//! Load generator.
pub mod net;
