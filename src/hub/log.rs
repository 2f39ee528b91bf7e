//! The words of a log, under the name the hub knows them by.

pub use crate::base::publication::{ClientInfo, Encoded, Publication, Publications};
