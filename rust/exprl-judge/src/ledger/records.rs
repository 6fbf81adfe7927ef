//! The records of a ledger's file, one after another, from any place where one begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::{CHECK, HEADER, KEY, LONGEST, checked};

const BUFFER: usize = 1 << 20;

/// Goes from record to record without a file cursor, so that several can read one file.
pub(super) struct Records<'a> {
    file: &'a File,
    reader: BufReader<At<'a>>,
    at: u64,
    size: u64,
    /// Where the last whole record ends.
    pub(super) end: u64,
    /// Damaged stretches that were skipped.
    pub(super) corrupt: usize,
}

/// A record whose frame is whole; its payload may be damaged all the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Where the record begins.
    pub(super) at: u64,
    /// Bytes of key and value.
    pub(super) length: u32,
}

impl<'a> Records<'a> {
    /// Those between `from`, where one begins, and `size`.
    pub(super) fn new(file: &'a File, from: u64, size: u64) -> Self {
        let start = At { file, place: from };
        Self {
            file,
            reader: BufReader::with_capacity(BUFFER, start),
            at: from,
            size,
            end: from,
            corrupt: 0,
        }
    }

    /// The next record, or `None` where no whole one follows.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        while self.size.saturating_sub(self.at) >= HEADER as u64 {
            self.seek(self.at);
            let mut header = [0; HEADER];
            self.reader.read_exact(&mut header)?;
            let Some(length) = length(header) else {
                let (next, blank) = find_record(self.file, self.at, self.size)?;
                // Zeros are what a file system may leave after power loss; anything else is damage.
                self.corrupt += usize::from(next.is_some() || !blank);
                let Some(next) = next else { break };
                self.at = next;
                continue;
            };
            let whole = whole(length);
            if self.size - self.at < whole {
                break;
            }
            let frame = Frame {
                at: self.at,
                length,
            };
            self.at += whole;
            self.end = self.at;
            return Ok(Some(frame));
        }
        Ok(None)
    }

    /// Reads the first bytes of what follows the header of the record that `next` gave.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(bytes)
    }

    fn seek(&mut self, to: u64) {
        let buffered = self.reader.buffer().len() as u64;
        let here = self.reader.get_ref().place - buffered;
        match to.checked_sub(here) {
            Some(skip) if skip <= buffered => self.reader.consume(skip as usize),
            _ => {
                self.reader.consume(buffered as usize);
                self.reader.get_mut().place = to;
            }
        }
    }
}

/// Reads a file from a place of its own.
pub(super) struct At<'a> {
    pub(super) file: &'a File,
    pub(super) place: u64,
}

impl Read for At<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

/// The payload of the record at a place, with its check; `None` where no whole record stands.
pub(super) fn read_record(file: &File, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    let mut payload = Vec::new();
    let read = file.read_exact_at(&mut header, at).and_then(|()| {
        let Some(length) = length(header) else {
            return Ok(false);
        };
        payload.resize(length as usize + CHECK, 0);
        file.read_exact_at(&mut payload, at + HEADER as u64)?;
        Ok(true)
    });
    match read {
        Ok(whole) => Ok(whole.then_some(payload)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of a record with a payload of so many.
fn whole(length: u32) -> u64 {
    HEADER as u64 + u64::from(length) + CHECK as u64
}

/// The payload's length, if the header is one.
fn length(header: [u8; HEADER]) -> Option<u32> {
    let [length, inverse] = [0, 4]
        .map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    (length == !inverse && (KEY as u32..=LONGEST).contains(&length)).then_some(length)
}

/// Where the next whole record after `from` begins, and whether all bytes on the way are zero.
fn find_record(file: &File, from: u64, size: u64) -> io::Result<(Option<u64>, bool)> {
    let (mut start, mut blank) = (from, true);
    let mut window = Vec::new();
    while start < size {
        window.resize(BUFFER.min((size - start) as usize), 0);
        file.read_exact_at(&mut window, start)?;
        blank &= window.iter().all(|&byte| byte == 0);
        for (place, header) in (start..).zip(window.windows(HEADER)) {
            let header = header.try_into().expect("a window is a header long");
            let is_record = place > from
                && length(header).is_some_and(|length| size - place >= whole(length))
                && read_record(file, place)?
                    .as_deref()
                    .and_then(checked)
                    .is_some();
            if is_record {
                return Ok((Some(place), blank));
            }
        }
        // The last bytes may be the beginning of a header.
        start += (window.len() - (HEADER - 1).min(window.len() - 1)) as u64;
    }
    Ok((None, blank))
}
