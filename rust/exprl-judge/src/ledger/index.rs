//! Where the reply to each key stands: a sorted file beside the ledger, so that nobody holds the keys of
//! six million replies in memory.
//!
//! After a header of 64 bytes come entries of 16: the first 8 bytes of the key, and the place of its
//! record. Equal keys stand in the order of the ledger. An entry proves nothing: who follows it looks at
//! the record's own key and check. The header names the part of the ledger that is covered and repeats
//! the check of its last record, so that the index of another ledger, or of the one before it was
//! compacted, is not taken for this one's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::records::At;
use super::{CHECK, Key, MAGIC, is_at};

const FILE: &str = "replies.index";
const DRAFT: &str = "replies.index.new";
const INDEX_MAGIC: &[u8; 24] = b"exprl-judge-index 1\n\0\0\0\0";
const HEADER: usize = 64;
const ENTRY: usize = 16;

/// The beginning of a key, and where its record begins in the ledger.
pub(super) type Entry = (u64, u64);

/// An index of the first `end` bytes of a ledger.
#[derive(Debug)]
pub(super) struct Index {
    /// `None` where it has no entry.
    file: Option<File>,
    count: u64,
    pub(super) end: u64,
}

/// The beginning of a key by which the index is sorted.
pub(super) fn prefix(key: &Key) -> u64 {
    u64::from_be_bytes(*key.first_chunk().expect("a key is longer"))
}

impl Index {
    /// One that covers nothing.
    pub(super) fn empty() -> Self {
        Self {
            file: None,
            count: 0,
            end: MAGIC.len() as u64,
        }
    }

    /// The index on disk, or an empty one where none fits this ledger of `size` bytes.
    pub(super) fn open(dir: &Path, ledger: &File, size: u64) -> Self {
        let found = File::open(dir.join(FILE)).and_then(|file| Self::read(file, ledger, size));
        found.ok().flatten().unwrap_or_else(Self::empty)
    }

    fn read(file: File, ledger: &File, size: u64) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let number =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let (end, count) = (number(24), number(32));
        let whole = (HEADER as u64).checked_add(count.saturating_mul(ENTRY as u64));
        if !header.starts_with(INDEX_MAGIC)
            || whole != Some(file.metadata()?.len())
            || end > size
            || last_check(ledger, end)? != header[40..48]
        {
            return Ok(None);
        }
        Ok(Some(Self {
            file: Some(file),
            count,
            end,
        }))
    }

    /// The places of the records whose keys begin so, the newest first.
    pub(super) fn places(&self, prefix: u64) -> io::Result<Vec<u64>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.entry(middle)?.0 <= prefix {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut places = Vec::new();
        while let Some(before) = low.checked_sub(1) {
            let (found, place) = self.entry(before)?;
            if found != prefix {
                break;
            }
            places.push(place);
            low = before;
        }
        Ok(places)
    }

    fn entry(&self, number: u64) -> io::Result<Entry> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = [0; ENTRY];
        file.read_exact_at(&mut bytes, HEADER as u64 + number * ENTRY as u64)?;
        Ok(decode(bytes))
    }

    /// This index with further entries, of records up to `end`; it takes the place of the one on disk.
    pub(super) fn grow(
        &self,
        dir: &Path,
        ledger: &File,
        mut entries: Vec<Entry>,
        end: u64,
    ) -> io::Result<Self> {
        // By key, then by place.
        entries.sort_unstable();
        let count = self.count + entries.len() as u64;
        let draft = Draft::new(dir)?;
        let mut out = BufWriter::with_capacity(1 << 20, &draft.file);
        let mut header = [0; HEADER];
        header[..24].copy_from_slice(INDEX_MAGIC);
        header[24..32].copy_from_slice(&end.to_le_bytes());
        header[32..40].copy_from_slice(&count.to_le_bytes());
        header[40..48].copy_from_slice(&last_check(ledger, end)?);
        out.write_all(&header)?;
        let mut old = self.entries();
        let mut new = entries.into_iter();
        let (mut first, mut second) = (old.next()?, new.next());
        while let Some(least) = [first, second].into_iter().flatten().min() {
            out.write_all(&least.0.to_be_bytes())?;
            out.write_all(&least.1.to_le_bytes())?;
            if first == Some(least) {
                first = old.next()?;
            } else {
                second = new.next();
            }
        }
        out.flush()?;
        drop(out);
        let file = draft.publish(dir)?;
        Ok(Self {
            file: Some(file),
            count,
            end,
        })
    }

    fn entries(&self) -> Entries<'_> {
        let start = |file| At {
            file,
            place: HEADER as u64,
        };
        let reader = |file| BufReader::with_capacity(1 << 20, start(file));
        Entries {
            reader: self.file.as_ref().map(reader),
            left: self.count,
        }
    }
}

struct Entries<'a> {
    reader: Option<BufReader<At<'a>>>,
    left: u64,
}

impl Entries<'_> {
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some(reader) = self.reader.as_mut().filter(|_| self.left > 0) else {
            return Ok(None);
        };
        self.left -= 1;
        let mut bytes = [0; ENTRY];
        reader.read_exact(&mut bytes)?;
        Ok(Some(decode(bytes)))
    }
}

/// A file that is being written: beside the ledger, or without a name where that cannot be, because the
/// folder is read-only or another reader is writing there.
struct Draft {
    file: File,
    is_beside: bool,
}

impl Draft {
    fn new(dir: &Path) -> io::Result<Self> {
        if let Ok(Some(file)) = Self::beside(&dir.join(DRAFT)) {
            return Ok(Self {
                file,
                is_beside: true,
            });
        }
        let thread = std::thread::current().id();
        let name = format!("exprl-{}-{thread:?}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = create(&path)?;
        fs::remove_file(&path)?;
        Ok(Self {
            file,
            is_beside: false,
        })
    }

    /// `None` where another one writes it. What a killed process left is written over.
    fn beside(path: &Path) -> io::Result<Option<File>> {
        let file = create(path)?;
        let is_own = file.try_lock().is_ok() && is_at(&file, path)?;
        if is_own {
            file.set_len(0)?;
        }
        Ok(is_own.then_some(file))
    }

    fn publish(self, dir: &Path) -> io::Result<File> {
        if self.is_beside {
            self.file.sync_data()?;
            fs::rename(dir.join(DRAFT), dir.join(FILE))?;
        }
        Ok(self.file)
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn decode(bytes: [u8; ENTRY]) -> Entry {
    let (prefix, place) = bytes.split_at(8);
    (
        u64::from_be_bytes(prefix.try_into().expect("8 bytes")),
        u64::from_le_bytes(place.try_into().expect("8 bytes")),
    )
}

/// The check of the record that ends at a place of the ledger.
fn last_check(ledger: &File, end: u64) -> io::Result<[u8; CHECK]> {
    let mut check = [0; CHECK];
    let place = end.checked_sub(CHECK as u64);
    let place = place.ok_or(io::ErrorKind::UnexpectedEof)?;
    ledger.read_exact_at(&mut check, place)?;
    Ok(check)
}
