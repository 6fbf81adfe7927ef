//! Single replies out of a ledger of millions: without its lock, while a run writes to it, and without
//! reading all of it each time.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::index::{Entry, Index, prefix};
use super::records::{Records, read_record};
use super::upkeep::line;
use super::{CHECK, FILE, KEY, Key, MAGIC, checked, is_at};
use crate::error::Error;

/// A thread looks so often whether its reader is gone.
const STOP_CHECK: usize = 1 << 12;
/// Who waits for the index looks so often.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a reader holds in memory.
#[derive(Clone, Copy)]
struct Limits {
    /// So many bytes of a ledger are looked through by who asks; more are indexed on disk, by a thread.
    tail: u64,
    /// Entries that are sorted at once.
    chunk: usize,
}

const LIMITS: Limits = Limits {
    tail: 32 << 20,
    chunk: 2 << 20, // 32 MB
};

/// Looks up replies by key. What the index on disk does not cover, at most 32 MB of the ledger, it holds in
/// memory.
pub struct LedgerReader(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    limits: Limits,
    state: Mutex<State>,
    grown: Condvar,
    gone: AtomicBool,
}

struct State {
    file: Arc<File>,
    index: Arc<Index>,
    /// The newest place of each key behind the index.
    tail: HashMap<Key, u64>,
    /// What the index and the tail cover together.
    end: u64,
    /// What was looked through: more than `end` where no whole record stands behind it.
    seen: u64,
    growing: bool,
    failed: Option<io::Error>,
}

impl LedgerReader {
    /// Opens the ledger in a folder.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_within(dir, LIMITS)
    }

    fn open_within(dir: &Path, limits: Limits) -> Result<Self, Error> {
        let state = State::open(dir).map_err(fail(dir))?;
        let mut magic = [0; MAGIC.len()];
        let read = std::os::unix::fs::FileExt::read_exact_at(&*state.file, &mut magic, 0);
        if read.is_err() || magic != MAGIC {
            return Err(Error::NotALedger {
                path: dir.join(FILE),
            });
        }
        Ok(Self(Arc::new(Shared {
            dir: dir.into(),
            limits,
            state: Mutex::new(state),
            grown: Condvar::new(),
            gone: AtomicBool::new(false),
        })))
    }

    /// Whether every reply can be found now; waits so long for the index of a long ledger, which a thread
    /// writes.
    pub fn wait(&self, patience: Duration) -> Result<bool, Error> {
        let found = self.0.catch_up(Instant::now() + patience);
        Ok(found.map_err(fail(&self.0.dir))?.is_some())
    }

    /// The newest reply under a key of 64 hex digits, as a line of `export` without its end. Waits for the
    /// index.
    pub fn get(&self, key: &str) -> Result<Option<String>, Error> {
        let key = blake3::Hash::from_hex(key).map_err(|_| Error::LedgerKey { key: key.into() })?;
        let shared = &self.0;
        loop {
            let state = shared.catch_up(Instant::now() + PATIENCE);
            if let Some(state) = state.map_err(fail(&shared.dir))? {
                let found = state.find(key.as_bytes()).map_err(fail(&shared.dir))?;
                return Ok(found.and_then(|value| line(key.as_bytes(), &value)));
            }
        }
    }
}

impl Drop for LedgerReader {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// The state when it covers the whole ledger; `None` when it is too late.
    fn catch_up(self: &Arc<Self>, until: Instant) -> io::Result<Option<MutexGuard<'_, State>>> {
        let mut state = self.lock();
        loop {
            let size = state.follow(&self.dir)?;
            if size.saturating_sub(state.seen) <= self.limits.tail {
                state.scan_tail(size)?;
                if state.end - state.index.end > self.limits.tail {
                    self.start_growing(&mut state);
                }
                return Ok(Some(state));
            }
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            self.start_growing(&mut state);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.grown.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn start_growing(self: &Arc<Self>, state: &mut State) {
        if state.growing {
            return;
        }
        state.growing = true;
        let (shared, file, index) = (self.clone(), state.file.clone(), state.index.clone());
        // Ends with the ledger's end as it is now, or when the reader is dropped.
        std::thread::spawn(move || {
            let size = file.metadata().map(|about| about.len());
            let grown = size.and_then(|size| Ok((shared.grow(&file, size, index)?, size)));
            let mut state = shared.lock();
            state.growing = false;
            match grown {
                // The ledger may have been compacted meanwhile.
                Ok((index, size)) if Arc::ptr_eq(&state.file, &file) => state.adopt(index, size),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the index of a ledger was not written");
                    state.failed = Some(error);
                }
            }
            drop(state);
            shared.grown.notify_all();
        });
    }

    fn grow(&self, file: &File, size: u64, mut index: Arc<Index>) -> io::Result<Arc<Index>> {
        let mut records = Records::new(file, index.end, size);
        loop {
            let mut entries: Vec<Entry> = Vec::new();
            while entries.len() < self.limits.chunk
                && let Some(frame) = records.next()?
            {
                let mut key = [0; KEY];
                records.read(&mut key)?;
                entries.push((prefix(&key), frame.at));
                if entries.len().is_multiple_of(STOP_CHECK) && self.gone.load(Ordering::Relaxed) {
                    return Ok(index);
                }
            }
            if entries.is_empty() {
                return Ok(index);
            }
            index = Arc::new(index.grow(&self.dir, file, entries, records.end)?);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(dir: &Path) -> io::Result<Self> {
        let file = File::open(dir.join(FILE))?;
        let index = Index::open(dir, &file, file.metadata()?.len());
        Ok(Self {
            end: index.end,
            seen: index.end,
            file: Arc::new(file),
            index: Arc::new(index),
            tail: HashMap::new(),
            growing: false,
            failed: None,
        })
    }

    /// The size of the ledger that the folder holds now, which compacting replaces.
    fn follow(&mut self, dir: &Path) -> io::Result<u64> {
        let size = self.file.metadata()?.len();
        if size >= self.end && is_at(&self.file, &dir.join(FILE))? {
            return Ok(size);
        }
        let growing = self.growing;
        *self = Self::open(dir)?;
        self.growing = growing;
        Ok(self.file.metadata()?.len())
    }

    fn scan_tail(&mut self, size: u64) -> io::Result<()> {
        let mut records = Records::new(&self.file, self.end, size);
        let mut payload = Vec::new();
        while let Some(frame) = records.next()? {
            payload.resize(frame.length as usize + CHECK, 0);
            records.read(&mut payload)?;
            if let Some(key) = checked(&payload) {
                self.tail.insert(key, frame.at);
            }
        }
        self.end = records.end;
        self.seen = size;
        Ok(())
    }

    fn adopt(&mut self, index: Arc<Index>, size: u64) {
        self.tail.retain(|_, at| *at >= index.end);
        self.end = self.end.max(index.end);
        self.seen = self.seen.max(size);
        self.index = index;
    }

    /// The newest value under a key whose record is whole.
    fn find(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        let behind = self.tail.get(key).copied();
        for at in behind.into_iter().chain(self.index.places(prefix(key))?) {
            let payload = read_record(&self.file, at)?;
            if let Some(payload) = payload.filter(|payload| checked(payload) == Some(*key)) {
                return Ok(Some(payload[KEY..payload.len() - CHECK].to_vec()));
            }
        }
        Ok(None)
    }
}

fn fail(dir: &Path) -> impl Fn(io::Error) -> Error {
    let path = dir.join(FILE);
    move |source| Error::Ledger {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Ledger, compact};
    use super::*;

    /// Everything goes through the index, in many chunks.
    const SMALL: Limits = Limits { tail: 0, chunk: 7 };

    fn key(n: u32) -> Key {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn put(ledger: &Ledger, n: u32, words: &str) {
        let value = format!(r#"{{"text":"{words} {n}"}}"#);
        ledger.put(&key(n), value.as_bytes()).unwrap();
    }

    fn filled(replies: u32) -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        (0..replies).for_each(|n| put(&ledger, n, "first"));
        (dir, ledger)
    }

    fn text(reader: &LedgerReader, n: u32) -> Option<String> {
        let hex = super::super::to_hex(&key(n));
        let line: serde_json::Value = serde_json::from_str(&reader.get(&hex).unwrap()?).unwrap();
        assert_eq!(line["key"], hex);
        Some(line["text"].as_str().unwrap().into())
    }

    /// Waits until no thread writes the index.
    fn settle(reader: &LedgerReader) {
        while reader.0.lock().growing {
            std::thread::yield_now();
        }
    }

    fn first(n: u32) -> String {
        format!("first {n}")
    }

    #[test]
    fn every_reply_is_found_while_a_run_writes_more() {
        for limits in [
            SMALL,
            LIMITS,
            Limits {
                tail: 500,
                chunk: 7,
            },
        ] {
            let (dir, ledger) = filled(50);
            let reader = LedgerReader::open_within(dir.path(), limits).unwrap();
            for n in 0..50 {
                assert_eq!(text(&reader, n), Some(first(n)));
            }
            for n in 0..80 {
                assert_eq!(text(&reader, 50 + n), None);
                put(&ledger, 50 + n, "first");
                assert_eq!(text(&reader, 50 + n), Some(first(50 + n)));
                put(&ledger, n, "second");
                assert_eq!(text(&reader, n), Some(format!("second {n}")));
            }
            settle(&reader);
            drop(reader);
            let again = LedgerReader::open_within(dir.path(), limits).unwrap();
            assert_eq!(text(&again, 3).unwrap(), "second 3");
            assert_eq!(text(&again, 129), Some(first(129)));
            settle(&again);
            let indexed = dir.path().join("replies.index").exists();
            assert_eq!(indexed, limits.tail < LIMITS.tail);
            assert!(!dir.path().join("replies.index.new").exists());
        }
    }

    #[test]
    fn a_flipped_bit_of_the_ledger_hides_a_reply_and_is_never_read_as_one() {
        let (dir, ledger) = filled(4);
        drop(ledger);
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in MAGIC.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let _ = fs::remove_file(dir.path().join("replies.index"));
            for limits in [SMALL, LIMITS] {
                let reader = LedgerReader::open_within(dir.path(), limits).unwrap();
                let found: Vec<_> = (0..4).map(|n| text(&reader, n)).collect();
                let right = (0..4)
                    .filter(|&n| found[n as usize] == Some(first(n)))
                    .count();
                assert_eq!(found.iter().flatten().count(), right, "flip at {at}");
                assert_eq!(right, 3, "flip at {at}");
            }
        }
    }

    #[test]
    fn an_index_that_is_not_this_ledgers_is_made_anew() {
        let (dir, ledger) = filled(30);
        let index = dir.path().join("replies.index");
        let read = || LedgerReader::open_within(dir.path(), SMALL).unwrap();
        assert_eq!(text(&read(), 29), Some(first(29)));
        let whole = fs::read(&index).unwrap();
        assert_eq!(whole.len(), 64 + 30 * 16);
        for spoiled in [&whole[..200], &[], &[7; 64 + 30 * 16]] {
            fs::write(&index, spoiled).unwrap();
            assert!((0..30).all(|n| text(&read(), n) == Some(first(n))));
            assert_eq!(fs::read(&index).unwrap(), whole);
        }
        // Compacted, other replies stand where the index points.
        (0..29).for_each(|n| put(&ledger, n, "second"));
        drop(ledger);
        let reader = read();
        assert_eq!(text(&reader, 3).unwrap(), "second 3");
        compact(dir.path()).unwrap();
        for reader in [reader, read()] {
            assert_eq!(text(&reader, 3).unwrap(), "second 3");
            assert_eq!(text(&reader, 29), Some(first(29)));
        }
    }

    #[test]
    fn a_folder_that_takes_no_index_is_read_all_the_same() {
        let (dir, _ledger) = filled(30);
        fs::create_dir(dir.path().join("replies.index.new")).unwrap();
        let reader = LedgerReader::open_within(dir.path(), SMALL).unwrap();
        assert!(reader.wait(Duration::from_secs(60)).unwrap());
        assert!((0..30).all(|n| text(&reader, n) == Some(first(n))));
        assert!(!dir.path().join("replies.index").exists());
    }

    #[test]
    fn what_is_no_ledger_or_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            LedgerReader::open(dir.path()),
            Err(Error::Ledger { .. })
        ));
        fs::write(dir.path().join(FILE), "notes of somebody else").unwrap();
        assert!(matches!(
            LedgerReader::open(dir.path()),
            Err(Error::NotALedger { .. })
        ));
        let (dir, _ledger) = filled(1);
        let reader = LedgerReader::open(dir.path()).unwrap();
        for key in ["", "p7", &"x".repeat(64), &"0".repeat(63)] {
            assert!(matches!(reader.get(key), Err(Error::LedgerKey { .. })));
        }
        assert_eq!(reader.get(&"0".repeat(64)).unwrap(), None);
    }
}
