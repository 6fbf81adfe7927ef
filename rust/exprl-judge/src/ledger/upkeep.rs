//! What can be done with a ledger at rest: count, export, compact. Counting and exporting only read,
//! so they also work while a run holds the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{FILE, HEADER, KEY, Key, Ledger, MAGIC, record, to_hex};
use crate::error::Error;
use crate::types::Status;

/// What a ledger holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerStats {
    /// Distinct requests whose reply is kept.
    pub replies: u64,
    /// Older replies under the same keys; compacting drops them.
    pub superseded: u64,
    /// Records that are damaged and will be asked for again; compacting drops them.
    pub corrupt: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Replies by status, in the order of `Status::ALL`.
    pub statuses: [u64; 8],
    /// Replies with grade 1, 2, 3, 4, 5.
    pub grades: [u64; 5],
    /// Tokens that these replies cost.
    pub prompt_tokens: u64,
    /// Of these, found in a prefix cache.
    pub cached_tokens: u64,
    /// Tokens that judges wrote.
    pub completion_tokens: u64,
}

/// What compacting did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Replies kept.
    pub replies: u64,
    /// Size before.
    pub bytes_before: u64,
    /// Size after.
    pub bytes_after: u64,
}

/// The part of a stored reply that is counted.
#[derive(Deserialize)]
struct Counted {
    status: Status,
    grade: Option<u8>,
    #[serde(default)]
    usage: CountedUsage,
}

#[derive(Default, Deserialize)]
struct CountedUsage {
    prompt: u64,
    completion: u64,
    cached: u64,
}

/// Counts what the ledger in a folder holds.
pub fn stats(dir: &Path) -> Result<LedgerStats, Error> {
    let ledger = Ledger::read(dir)?;
    let mut stats = LedgerStats {
        corrupt: ledger.corrupt as u64,
        superseded: ledger.superseded as u64,
        bytes: ledger.file.metadata().map_err(fail(dir))?.len(),
        ..LedgerStats::default()
    };
    for (key, _) in ledger.newest() {
        stats.replies += 1;
        let counted = ledger.get(&key).map(|value| serde_json::from_slice(&value));
        let Some(Ok(Counted {
            status,
            grade,
            usage,
        })) = counted
        else {
            continue;
        };
        stats.statuses[status as usize] += 1;
        if let Some(count) =
            grade.and_then(|grade| stats.grades.get_mut(usize::from(grade).wrapping_sub(1)))
        {
            *count += 1;
        }
        stats.prompt_tokens += usage.prompt;
        stats.cached_tokens += usage.cached;
        stats.completion_tokens += usage.completion;
    }
    Ok(stats)
}

/// Writes the newest reply under each key as a line `{"key": HEX, "status": ..., ...}`, in the order of
/// the file; returns their number.
pub fn export(dir: &Path, out: &mut dyn Write) -> Result<u64, Error> {
    let ledger = Ledger::read(dir)?;
    let mut written = 0;
    for (key, _) in ledger.newest() {
        let Some(value) = ledger.get(&key) else {
            continue;
        };
        let Some(line) = line(&key, &value) else {
            continue;
        };
        writeln!(out, "{line}").map_err(fail(dir))?;
        written += 1;
    }
    out.flush().map_err(fail(dir))?;
    Ok(written)
}

/// Rewrites the file with the newest reply under each key alone. A crash leaves the old file or the new one.
pub fn compact(dir: &Path) -> Result<Compacted, Error> {
    if !dir.join(FILE).exists() {
        // Opening would make one.
        return Err(fail(dir)(io::ErrorKind::NotFound.into()));
    }
    let ledger = Ledger::open(dir)?;
    let fresh = dir.join(format!("{FILE}.new"));
    let written = rewrite(&ledger, &fresh).map_err(fail(dir))?;
    let before = ledger.file.metadata().map_err(fail(dir))?.len();
    fs::rename(&fresh, dir.join(FILE)).map_err(fail(dir))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(fail(dir))?;
    Ok(Compacted {
        replies: ledger.len() as u64,
        bytes_before: before,
        bytes_after: written,
    })
}

/// A reply and its key as one JSON object; `None` for a value that is no object.
pub(super) fn line(key: &Key, value: &[u8]) -> Option<String> {
    let fields = str::from_utf8(value).ok()?.strip_prefix('{')?;
    Some(format!("{{\"key\":\"{}\",{fields}", to_hex(key)))
}

fn rewrite(ledger: &Ledger, path: &Path) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(MAGIC)?;
    let mut written = MAGIC.len() as u64;
    for (key, _) in ledger.newest() {
        let value = ledger
            .get(&key)
            .ok_or_else(|| io::Error::other("a record cannot be read back"))?;
        let record = record(&key, &value)?;
        out.write_all(&record)?;
        written += record.len() as u64;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(written)
}

fn fail(dir: &Path) -> impl Fn(io::Error) -> Error {
    let path = dir.join(FILE);
    move |source| Error::Ledger {
        path: path.clone(),
        source,
    }
}

impl Ledger {
    /// The keys with the places of their newest values, in the order of the file.
    fn newest(&self) -> Vec<(Key, u64)> {
        let state = self.lock();
        let mut newest: Vec<(Key, u64)> = state
            .index
            .iter()
            .map(|(key, &(at, _))| (*key, at))
            .collect();
        newest.sort_by_key(|&(_, at)| at);
        debug_assert!(
            newest
                .iter()
                .all(|&(_, at)| at >= (MAGIC.len() + HEADER + KEY) as u64)
        );
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(grade: u8, words: &str) -> Vec<u8> {
        format!(
            r#"{{"status":"ok","grade":{grade},"text":"{words}","usage":{{"prompt":10,"completion":3,"cached":4}}}}"#
        )
        .into_bytes()
    }

    fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        for n in 0..50_u8 {
            ledger
                .put(&[n % 10; KEY], &reply(1 + n % 5, &format!("take {n}")))
                .unwrap();
        }
        dir
    }

    #[test]
    fn the_newest_reply_of_each_key_is_counted_and_exported() {
        let dir = filled();
        let held = Ledger::open(dir.path()).unwrap();
        let stats = stats(dir.path()).unwrap();
        assert_eq!(
            (stats.replies, stats.superseded, stats.corrupt),
            (10, 40, 0)
        );
        assert_eq!((stats.grades, stats.statuses[0]), ([2; 5], 10));
        assert_eq!(
            (
                stats.prompt_tokens,
                stats.completion_tokens,
                stats.cached_tokens
            ),
            (100, 30, 40)
        );
        let mut out = Vec::new();
        assert_eq!(export(dir.path(), &mut out).unwrap(), 10);
        drop(held);
        let lines: Vec<serde_json::Value> = out
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[3]["key"], "03".repeat(32));
        assert_eq!(lines[3]["text"], "take 43");
    }

    #[test]
    fn compacting_keeps_the_newest_and_drops_damage() {
        let dir = filled();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[MAGIC.len() + 60] ^= 1;
        fs::write(&path, bytes).unwrap();
        let done = compact(dir.path()).unwrap();
        assert_eq!(done.replies, 10);
        assert!(done.bytes_after * 4 < done.bytes_before, "{done:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), done.bytes_after);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!((ledger.len(), ledger.corrupt), (10, 0));
        assert!(
            String::from_utf8(ledger.get(&[3; KEY]).unwrap())
                .unwrap()
                .contains("take 43")
        );
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [FILE]);
    }

    #[test]
    fn a_ledger_in_use_is_not_compacted_and_a_missing_one_is_not_made() {
        let dir = filled();
        let _held = Ledger::open(dir.path()).unwrap();
        assert!(matches!(
            compact(dir.path()),
            Err(Error::LedgerLocked { .. })
        ));
        let empty = tempfile::tempdir().unwrap();
        assert!(compact(empty.path()).is_err() && stats(empty.path()).is_err());
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_opens_a_ledger_while_it_is_compacted_gets_the_new_file() {
        let dir = filled();
        let before = OpenOptions::new()
            .read(true)
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap();
        compact(dir.path()).unwrap();
        assert!(!super::super::is_at(&before, &dir.path().join(FILE)).unwrap());
        let ledger = Ledger::open(dir.path()).unwrap();
        assert!(super::super::is_at(&ledger.file, &dir.path().join(FILE)).unwrap());
    }
}
