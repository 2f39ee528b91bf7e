//! Public client ids: a connection's number, made unguessable.

use crate::base::ids::{ClientId, ConnId};

/// Which connection a client id of this run names.
///
/// The id is the connection's own number, a nonce of the run, and a keyed permutation over both: nothing is stored, and
/// nobody can guess another's from one's own.
#[derive(Clone)]
pub struct ClientIds {
    nonce: u64,
    keys: [ahash::RandomState; ROUNDS],
}

/// Rounds of the Feistel network: four make it a strong permutation over keyed functions.
const ROUNDS: usize = 4;
/// Half of the 122 bits that a UUID of version 4 leaves free.
const HALF_BITS: u32 = 61;
const HALF: u64 = (1 << HALF_BITS) - 1;

impl ClientIds {
    pub fn new(seed: u64) -> ClientIds {
        let mut prng = crate::base::prng::Prng::with_seed(seed);
        let mut key =
            || ahash::RandomState::with_seeds(prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..));
        let keys = [key(), key(), key(), key()];
        ClientIds { nonce: prng.u64(..1 << 58), keys }
    }

    pub fn id(&self, conn: ConnId) -> ClientId {
        let whole = u128::from(conn.to_bits()) << 58 | u128::from(self.nonce);
        let (mut left, mut right) = ((whole >> HALF_BITS) as u64 & HALF, whole as u64 & HALF);
        for key in &self.keys {
            (left, right) = (right, left ^ (key.hash_one(right) & HALF));
        }
        let bits = u128::from(left) << HALF_BITS | u128::from(right);
        // RFC 9562 section 5.4: four bits say version 4, two say the variant.
        let (high, middle, low) = (bits >> 74, bits >> 62 & 0xfff, bits & ((1 << 62) - 1));
        ClientId(high << 80 | 4 << 76 | middle << 64 | 2 << 62 | low)
    }

    /// `None` for an id that this run of the daemon never gave.
    pub fn conn(&self, id: ClientId) -> Option<ConnId> {
        if id.0 >> 76 & 0xf != 4 || id.0 >> 62 & 3 != 2 {
            return None;
        }
        let bits = (id.0 >> 80) << 74 | (id.0 >> 64 & 0xfff) << 62 | id.0 & ((1 << 62) - 1);
        let (mut left, mut right) = ((bits >> HALF_BITS) as u64 & HALF, bits as u64 & HALF);
        for key in self.keys.iter().rev() {
            (left, right) = (right ^ (key.hash_one(left) & HALF), left);
        }
        let whole = u128::from(left) << HALF_BITS | u128::from(right);
        (whole & ((1 << 58) - 1) == u128::from(self.nonce)).then(|| ConnId::from_bits((whole >> 58) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ShardId, Sock};

    #[test]
    fn a_client_id_leads_back_to_its_connection_and_no_other_id_does() {
        let ids = ClientIds::new(1);
        let mut seen = std::collections::HashSet::new();
        for shard in [0, 1, 4095] {
            for slot in 0..200 {
                let conn = ConnId::new(ShardId(shard), Sock { slot, generation: slot * 3 });
                let id = ids.id(conn);
                assert_eq!(ids.conn(id), Some(conn));
                assert_eq!(id.to_string().as_bytes()[14], b'4');
                assert!(seen.insert(id));
                assert_eq!(ids.conn(ClientId(id.0 ^ 1)), None);
                assert_eq!(ClientIds::new(2).conn(id), None, "another run's");
            }
        }
    }
}
