//! The tag that the text under judgement cannot know.

use std::fmt;

/// The secret that fence tags are derived from. It lives with the ledger, so that the same problem
/// gets the same fence in every run and its requests stay byte-identical.
#[derive(Clone, PartialEq, Eq)]
pub struct FenceKey([u8; 32]);

impl FenceKey {
    /// A key from 32 secret, random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored where only the owner of the ledger can read them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The keyed BLAKE3 hash of problem and reference.
    pub(crate) fn fence(&self, problem: &str, reference: Option<&str>) -> Fence {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // The length separates the two texts; its absence is not an empty reference.
        hasher.update(&(problem.len() as u64).to_le_bytes());
        hasher.update(problem.as_bytes());
        if let Some(reference) = reference {
            hasher.update(&[1]);
            hasher.update(reference.as_bytes());
        }
        let hash = hasher.finalize();
        Fence {
            hash: *hash.as_bytes(),
            digits: hash.to_hex()[..16].to_owned(),
        }
    }
}

/// What names a problem and its reference to those who have the key.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    hash: [u8; 32],
    /// The first 16 hex digits of the hash, which the tags carry.
    digits: String,
}

impl Fence {
    pub(crate) fn digits(&self) -> &str {
        &self.digits
    }

    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl fmt::Debug for FenceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FenceKey(..)")
    }
}
