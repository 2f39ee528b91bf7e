//! Public client ids: a connection's number, made unguessable.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::base::ids::{ClientId, ConnId};
use crate::base::prng::Prng;
use crate::base::secret;

/// Which connection a client id of this run names.
///
/// The id is the connection's own number and a nonce of the run, permuted with SipHash-2-4, which is made for keys that
/// strangers see the results of: nothing is stored, and nobody can guess another's from one's own.
#[derive(Clone)]
pub struct ClientIds {
    words: Words,
    nonce: u64,
    keys: [SipHasher24; ROUNDS],
}

/// What the ids of a run are made from: the keys, and the nonce.
pub type Words = [u64; 2 * ROUNDS + 1];

/// Rounds of the Feistel network: four of a pseudorandom function make a strong pseudorandom permutation (Luby, Rackoff).
const ROUNDS: usize = 4;
/// Half of the 122 bits that a UUID of version 4 leaves free.
const HALF_BITS: u32 = 61;
const HALF: u64 = (1 << HALF_BITS) - 1;
/// What the number of a connection leaves of the 122: a guess is right once in 2^58.
const NONCE_BITS: u32 = 58;

impl ClientIds {
    /// `keys`: 128 bits for each round, of the operating system's randomness.
    pub fn new(keys: [[u64; 2]; ROUNDS], nonce: u64) -> ClientIds {
        let mut words = [nonce; 2 * ROUNDS + 1];
        words[..2 * ROUNDS].copy_from_slice(keys.as_flattened());
        let keys = keys.map(|[low, high]| SipHasher24::new_with_keys(low, high));
        ClientIds { words, nonce: nonce & ((1 << NONCE_BITS) - 1), keys }
    }

    /// For the process that follows this one: the ids of clients that it takes over stay the same. A secret.
    pub fn to_words(&self) -> Words {
        self.words
    }

    pub fn from_words(words: Words) -> ClientIds {
        let keys = std::array::from_fn(|round| [words[2 * round], words[2 * round + 1]]);
        ClientIds::new(keys, words[2 * ROUNDS])
    }

    /// # Errors
    /// When the operating system gives no randomness.
    pub fn random() -> std::io::Result<ClientIds> {
        let key = || Ok::<_, std::io::Error>([secret::word()?, secret::word()?]);
        Ok(ClientIds::new([key()?, key()?, key()?, key()?], secret::word()?))
    }

    /// For runs that must repeat.
    pub fn of_seed(seed: u64) -> ClientIds {
        let mut prng = Prng::with_seed(seed);
        let keys = std::array::from_fn(|_| [prng.u64(..), prng.u64(..)]);
        ClientIds::new(keys, prng.u64(..))
    }

    pub fn id(&self, conn: ConnId) -> ClientId {
        self.permuted(conn, Purpose::Public)
    }

    /// What a client whose commands come by requests of their own shows with them. Nobody can know it from its public id.
    pub fn session(&self, conn: ConnId) -> ClientId {
        self.permuted(conn, Purpose::Session)
    }

    fn permuted(&self, conn: ConnId, purpose: Purpose) -> ClientId {
        let whole = u128::from(conn.to_bits()) << NONCE_BITS | u128::from(self.nonce);
        let (mut left, mut right) = ((whole >> HALF_BITS) as u64 & HALF, whole as u64 & HALF);
        for key in &self.keys {
            (left, right) = (right, left ^ (round(*key, purpose, right) & HALF));
        }
        let bits = u128::from(left) << HALF_BITS | u128::from(right);
        // RFC 9562 section 5.4: four bits say version 4, two say the variant.
        let (high, middle, low) = (bits >> 74, bits >> 62 & 0xfff, bits & ((1 << 62) - 1));
        ClientId(high << 80 | 4 << 76 | middle << 64 | 2 << 62 | low)
    }

    /// `None` for an id that this run of the daemon never gave.
    pub fn conn(&self, id: ClientId) -> Option<ConnId> {
        self.found(id, Purpose::Public)
    }

    /// The connection of a [`ClientIds::session`]; `None` for anything else, a public id included.
    pub fn conn_of_session(&self, session: ClientId) -> Option<ConnId> {
        self.found(session, Purpose::Session)
    }

    fn found(&self, id: ClientId, purpose: Purpose) -> Option<ConnId> {
        if id.0 >> 76 & 0xf != 4 || id.0 >> 62 & 3 != 2 {
            return None;
        }
        let bits = (id.0 >> 80) << 74 | (id.0 >> 64 & 0xfff) << 62 | id.0 & ((1 << 62) - 1);
        let (mut left, mut right) = ((bits >> HALF_BITS) as u64 & HALF, bits as u64 & HALF);
        for key in self.keys.iter().rev() {
            (left, right) = (right ^ (round(*key, purpose, left) & HALF), left);
        }
        let whole = u128::from(left) << HALF_BITS | u128::from(right);
        let nonce = whole & ((1 << NONCE_BITS) - 1);
        (nonce == u128::from(self.nonce)).then(|| ConnId::from_bits((whole >> NONCE_BITS) as u64))
    }
}

/// What an id is for. The rounds of one say nothing of those of the other.
#[derive(Clone, Copy)]
enum Purpose {
    Public,
    Session,
}

fn round(mut key: SipHasher24, purpose: Purpose, half: u64) -> u64 {
    key.write_u64(half);
    match purpose {
        Purpose::Public => {}
        // A longer input is another one to the function.
        Purpose::Session => key.write_u64(1),
    }
    key.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ShardId, Sock};

    #[test]
    fn a_client_id_leads_back_to_its_connection_and_no_other_id_does() {
        let ids = ClientIds::of_seed(1);
        let mut seen = std::collections::HashSet::new();
        for shard in [0, 1, 4095] {
            for slot in 0..200 {
                let conn = ConnId::new(ShardId(shard), Sock { slot, generation: slot * 3 });
                let id = ids.id(conn);
                assert_eq!(ids.conn(id), Some(conn));
                assert_eq!(ClientIds::from_words(ids.to_words()).id(conn), id, "in the next process");
                assert_eq!(id.to_string().as_bytes()[14], b'4');
                assert!(seen.insert(id));
                assert_eq!(ids.conn(ClientId(id.0 ^ 1)), None);
                assert_eq!(ClientIds::of_seed(2).conn(id), None, "another run's");
            }
        }
    }

    #[test]
    fn a_session_is_a_secret_of_its_own() {
        let ids = ClientIds::of_seed(1);
        let mut seen = std::collections::HashSet::new();
        for slot in 0..500 {
            let conn = ConnId::new(ShardId(2), Sock { slot, generation: 9 });
            let session = ids.session(conn);
            assert!(seen.insert(session) && seen.insert(ids.id(conn)));
            assert_eq!(ids.conn_of_session(session), Some(conn));
            assert_eq!(ids.conn_of_session(ids.id(conn)), None, "a public id");
            assert_eq!(ids.conn(session), None);
            assert_eq!(ids.conn_of_session(ClientId(session.0 ^ 1)), None);
            assert_eq!(ClientIds::of_seed(2).conn_of_session(session), None, "another run's");
        }
    }

    #[test]
    fn two_runs_give_the_same_connection_different_ids() {
        let conn = ConnId::new(ShardId(0), Sock { slot: 0, generation: 1 });
        let (one, other) = (ClientIds::random().unwrap(), ClientIds::random().unwrap());
        assert_ne!(one.id(conn), other.id(conn));
        assert_eq!(one.conn(other.id(conn)), None);
    }
}
