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

    /// The first 16 hex digits of the keyed BLAKE3 hash of problem and reference.
    pub(crate) fn fence(&self, problem: &str, reference: Option<&str>) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // The length separates the two texts; its absence is not an empty reference.
        hasher.update(&(problem.len() as u64).to_le_bytes());
        hasher.update(problem.as_bytes());
        if let Some(reference) = reference {
            hasher.update(&[1]);
            hasher.update(reference.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

impl fmt::Debug for FenceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FenceKey(..)")
    }
}
