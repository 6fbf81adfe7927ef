//! Every completed reply, on disk under a hash of what was asked: a re-run sends nothing.
//!
//! One append-only file. After the magic line come records: `length: u32`, `!length: u32`, the
//! payload (32-byte key, then a JSON value), and the first 8 bytes of the payload's blake3 hash;
//! integers are little-endian. A record is one `write`, so a killed process leaves at most one torn
//! record, at the end; opening cuts it off. A damaged record elsewhere is skipped and counted: if its
//! hash is wrong, by its length; if its length is, by a search for the next whole record. (A reply
//! cannot hold the look of one: JSON has no raw control characters, and every length has a zero byte
//! or a small one on top.) The page cache keeps what was written when the process dies; `sync` makes it survive
//! power loss too.

mod index;
mod reader;
mod records;
mod upkeep;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

use records::{Frame, Records};

pub use reader::LedgerReader;
pub use upkeep::{Compacted, LedgerStats, compact, export, stats};

const FILE: &str = "replies.ledger";
const MAGIC: &[u8] = b"exprl-judge-ledger 1\n";
const HEADER: usize = 8;
const KEY: usize = 32;
const CHECK: usize = 8;
/// Longer than any reply that the transport lets through.
const LONGEST: u32 = 64 << 20;

/// blake3 of everything that decides a reply.
pub(crate) type Key = [u8; KEY];

/// A key as exports and rollout files have it: 64 hex digits.
pub(crate) fn to_hex(key: &Key) -> String {
    blake3::Hash::from_bytes(*key).to_hex().to_string()
}

/// An open ledger: this process holds the exclusive lock on it.
pub(crate) struct Ledger {
    file: File,
    state: Mutex<State>,
    /// Damaged records that were met when the file was read.
    pub(crate) corrupt: usize,
    /// Records whose key has a newer one.
    superseded: usize,
    /// Opened for reading alone: it has no lock to give back.
    read_only: bool,
}

struct State {
    /// Key to the place and length of the JSON value.
    index: HashMap<Key, (u64, u32)>,
    end: u64,
}

impl Ledger {
    /// Opens or creates `dir/replies.ledger`.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let fail = |source| Error::Ledger {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(fail)?;
        let mut file = loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).append(true).create(true).mode(0o600);
            let file = file.open(&path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::LedgerLocked { path }),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
            // Compacting puts another file in this one's place: what is locked must be what others find.
            if is_at(&file, &path).map_err(fail)? {
                break file;
            }
        };
        if file.metadata().map_err(fail)?.len() < MAGIC.len() as u64 {
            start(&mut file, &path)?;
        }
        let scan = scan(&file, &path)?;
        file.set_len(scan.end).map_err(fail)?;
        if scan.corrupt > 0 {
            tracing::warn!(path = %path.display(), records = scan.corrupt, "corrupt ledger records skipped");
        }
        Ok(Self::new(file, scan, false))
    }

    /// Opens what is there for reading, without the lock and without mending anything.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let file = File::open(&path).map_err(|source| Error::Ledger {
            path: path.clone(),
            source,
        })?;
        let scan = scan(&file, &path)?;
        Ok(Self::new(file, scan, true))
    }

    fn new(file: File, scan: Scan, read_only: bool) -> Self {
        Self {
            file,
            state: Mutex::new(State {
                index: scan.index,
                end: scan.end,
            }),
            corrupt: scan.corrupt,
            superseded: scan.superseded,
            read_only,
        }
    }

    /// The stored value, or `None` if there is none or it can no longer be read.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let (at, length) = *self.lock().index.get(key)?;
        let mut value = vec![0; length as usize];
        match self.file.read_exact_at(&mut value, at) {
            Ok(()) => Some(value),
            Err(error) => {
                tracing::warn!(%error, at, "a ledger record cannot be read; asking again");
                None
            }
        }
    }

    /// Appends a value; the newest one under a key is the one that `get` finds.
    pub(crate) fn put(&self, key: &Key, value: &[u8]) -> io::Result<()> {
        let record = record(key, value)?;
        let mut state = self.lock();
        if let Err(error) = (&self.file).write_all(&record) {
            // Half a record would hide every later one (a full disk): take it back.
            self.file.set_len(state.end)?;
            return Err(error);
        }
        let at = state.end + (HEADER + KEY) as u64;
        state.index.insert(*key, (at, value.len() as u32));
        state.end += record.len() as u64;
        Ok(())
    }

    /// Makes everything stored so far survive power loss.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Number of distinct keys.
    pub(crate) fn len(&self) -> usize {
        self.lock().index.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        // A child made by fork shares the descriptor: only an explicit unlock frees the file now.
        let freed = self.sync().and_then(|()| self.file.unlock());
        if let Err(error) = freed {
            tracing::warn!(%error, "closing the ledger");
        }
    }
}

/// Whether a folder holds a ledger and its fence key.
pub(crate) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists() && dir.join("fence.key").exists()
}

/// The secret behind the fences around judged text; made on first use, readable by its owner only.
pub(crate) fn fence_key(dir: &Path) -> Result<[u8; 32], Error> {
    let path: PathBuf = dir.join("fence.key");
    let fail = |source| Error::Ledger {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(dir).map_err(fail)?;
    match fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            fail(io::Error::other(
                "not a fence key of 32 bytes; delete it and the ledger beside it",
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = random_key().map_err(fail)?;
            // Written whole under another name first: a crash leaves no short key.
            let fresh = dir.join(format!("fence.key.{}", std::process::id()));
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)
                .map_err(fail)?;
            file.write_all(&key)
                .and_then(|()| file.sync_all())
                .map_err(fail)?;
            fs::rename(&fresh, &path).map_err(fail)?;
            Ok(key)
        }
        Err(error) => Err(fail(error)),
    }
}

/// 32 bytes from the operating system.
pub(crate) fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

/// Whether the open file is the one that the path names.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn start(file: &mut File, path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Ledger {
        path: path.into(),
        source,
    };
    let mut begun = Vec::new();
    file.read_to_end(&mut begun).map_err(fail)?;
    if !MAGIC.starts_with(&begun) {
        return Err(Error::NotALedger { path: path.into() });
    }
    file.set_len(0).map_err(fail)?;
    file.write_all(MAGIC).map_err(fail)
}

fn record(key: &Key, value: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(KEY + value.len())
        .ok()
        .filter(|&length| length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("the reply is too long for the ledger"))?;
    let mut bytes = Vec::with_capacity(HEADER + KEY + value.len() + CHECK);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&(!length).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    let check = blake3::hash(&bytes[HEADER..]);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
    Ok(bytes)
}

struct Scan {
    index: HashMap<Key, (u64, u32)>,
    /// Where the last whole record ends.
    end: u64,
    corrupt: usize,
    superseded: usize,
}

fn scan(file: &File, path: &Path) -> Result<Scan, Error> {
    let fail = |source| Error::Ledger {
        path: path.into(),
        source,
    };
    let size = file.metadata().map_err(fail)?.len();
    let mut magic = [0; MAGIC.len()];
    if file.read_exact_at(&mut magic, 0).is_err() || magic != MAGIC {
        return Err(Error::NotALedger { path: path.into() });
    }
    let mut records = Records::new(file, MAGIC.len() as u64, size);
    let (mut index, mut corrupt, mut superseded) = (HashMap::new(), 0, 0);
    let mut payload = Vec::new();
    while let Some(Frame { at, length }) = records.next().map_err(fail)? {
        payload.resize(length as usize + CHECK, 0);
        records.read(&mut payload).map_err(fail)?;
        match checked(&payload) {
            Some(key) => {
                let place = (at + (HEADER + KEY) as u64, length - KEY as u32);
                superseded += usize::from(index.insert(key, place).is_some());
            }
            None => corrupt += 1,
        }
    }
    Ok(Scan {
        index,
        end: records.end,
        corrupt: corrupt + records.corrupt,
        superseded,
    })
}

/// The key of a payload with its check, if that is right.
fn checked(payload: &[u8]) -> Option<Key> {
    let (content, check) = payload.split_at_checked(payload.len().checked_sub(CHECK)?)?;
    let right = blake3::hash(content).as_bytes()[..CHECK] == *check;
    content.first_chunk().copied().filter(|_| right)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        [n; KEY]
    }

    fn filled(dir: &Path, records: u8) -> Vec<u8> {
        let ledger = Ledger::open(dir).unwrap();
        for n in 0..records {
            ledger
                .put(&key(n), format!("value {n}").as_bytes())
                .unwrap();
        }
        drop(ledger);
        fs::read(dir.join("replies.ledger")).unwrap()
    }

    #[test]
    fn what_was_put_is_found_again_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 3);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.get(&key(1)).unwrap(), b"value 1");
        assert_eq!(ledger.get(&key(9)), None);
        ledger.put(&key(1), b"newer").unwrap();
        assert_eq!(ledger.get(&key(1)).unwrap(), b"newer");
        assert_eq!(ledger.len(), 3);
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_only_the_torn_record() {
        let dir = tempfile::tempdir().unwrap();
        let whole = filled(dir.path(), 3);
        let record = (whole.len() - MAGIC.len()) / 3;
        for cut in 0..=whole.len() {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("replies.ledger"), &whole[..cut]).unwrap();
            let ledger = Ledger::open(dir.path()).unwrap();
            let left = cut.saturating_sub(MAGIC.len()) / record;
            assert_eq!(ledger.len(), left, "cut at {cut}");
            ledger.put(&key(7), b"after").unwrap();
            drop(ledger);
            let again = Ledger::open(dir.path()).unwrap();
            assert_eq!(again.get(&key(7)).unwrap(), b"after", "cut at {cut}");
            assert_eq!((again.len(), again.corrupt), (left + 1, 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let whole = filled(dir.path(), 3);
        for at in MAGIC.len()..whole.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(dir.path().join("replies.ledger"), &damaged).unwrap();
            let ledger = Ledger::open(dir.path()).unwrap();
            assert_eq!((ledger.len(), ledger.corrupt), (2, 1), "flip at {at}");
            for n in 0..3 {
                let expected = format!("value {n}").into_bytes();
                assert!(ledger.get(&key(n)).is_none_or(|value| value == expected));
            }
            ledger.put(&key(9), b"after").unwrap();
            drop(ledger);
            let again = Ledger::open(dir.path()).unwrap();
            assert_eq!(
                (again.len(), again.get(&key(9)).unwrap()),
                (3, b"after".to_vec())
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a map: any puts, a cut at any byte, and any flip before it.
        #[test]
        fn whatever_happens_to_the_file_no_value_is_ever_a_wrong_one(
            puts in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..40)), 1..12),
            cut in any::<prop::sample::Index>(),
            flip in prop::option::of((any::<prop::sample::Index>(), 0_u32..8)),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(dir.path()).unwrap();
            let mut ends = vec![MAGIC.len()];
            for (n, value) in &puts {
                ledger.put(&key(*n), value).unwrap();
                ends.push(ends.last().unwrap() + HEADER + KEY + value.len() + CHECK);
            }
            drop(ledger);
            let path = dir.path().join(FILE);
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(MAGIC.len() + cut.index(bytes.len() - MAGIC.len() + 1));
            let whole = ends.iter().filter(|&&end| end <= bytes.len()).count() - 1;
            let flipped = flip.filter(|_| bytes.len() > MAGIC.len()).map(|(place, bit)| {
                let at = MAGIC.len() + place.index(bytes.len() - MAGIC.len());
                bytes[at] ^= 1 << bit;
                ends.iter().filter(|&&end| end <= at).count() - 1
            });
            fs::write(&path, &bytes).unwrap();
            let ledger = Ledger::open(dir.path()).unwrap();
            let mut expected = HashMap::new();
            for (index, (n, value)) in puts[..whole].iter().enumerate() {
                if flipped != Some(index) {
                    expected.insert(*n, value.clone());
                }
            }
            for n in 0..4 {
                prop_assert_eq!(ledger.get(&key(n)), expected.get(&n).cloned());
            }
            prop_assert!(ledger.corrupt <= 1);
        }
    }

    #[test]
    fn a_tail_of_zeros_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = filled(dir.path(), 2);
        bytes.extend([0; 300]);
        fs::write(dir.path().join("replies.ledger"), &bytes).unwrap();
        assert_eq!(Ledger::open(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_second_opener_is_told_that_the_ledger_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let held = Ledger::open(dir.path()).unwrap();
        let refused = Ledger::open(dir.path()).err().unwrap();
        assert!(matches!(refused, Error::LedgerLocked { .. }), "{refused}");
        drop(held);
        assert!(Ledger::open(dir.path()).is_ok());
    }

    #[test]
    fn another_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["notes", "a long text that is no ledger at all"] {
            fs::write(dir.path().join("replies.ledger"), content).unwrap();
            let refused = Ledger::open(dir.path()).err().unwrap();
            assert!(matches!(refused, Error::NotALedger { .. }), "{refused}");
            assert_eq!(
                fs::read(dir.path().join("replies.ledger")).unwrap(),
                content.as_bytes()
            );
        }
    }

    #[test]
    fn the_fence_key_is_secret_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = fence_key(dir.path()).unwrap();
        assert_eq!(first, fence_key(dir.path()).unwrap());
        let mode = fs::metadata(dir.path().join("fence.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(first, random_key().unwrap());
    }
}
