//! Input on its way to the judge: read on a thread, looked at ahead, passed over where it is done.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::Error;
use crate::args::ReferenceArg;
use crate::input::{Entry, Reader, Source, exchange_references};
use crate::output::{Done, Tally};

/// Lines that have been read and not yet queued.
const READ_AHEAD: usize = 32;
/// Piped input that comes within this time is checked before the first request leaves.
const LOOK_AHEAD: Duration = Duration::from_secs(1);

/// Entries as a thread reads them.
pub(crate) type Entries = mpsc::Receiver<Result<Entry, Error>>;

/// Reads on a thread of its own: input may be slow, and reading blocks. The thread ends with the input,
/// at the first bad line, or when nobody takes entries any more.
pub(crate) fn spawn_reading(source: Source, reader: Reader) -> Entries {
    let (send, receive) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        if reader.reference != ReferenceArg::Wrong {
            for entry in source.entries(&reader) {
                let bad = entry.is_err();
                if send.blocking_send(entry).is_err() || bad {
                    return;
                }
            }
            return;
        }
        let exchanged = source.entries(&reader).collect::<Result<Vec<_>, _>>();
        let exchanged = exchanged.and_then(|mut entries| {
            exchange_references(&mut entries)?;
            Ok(entries)
        });
        match exchanged {
            Ok(entries) => {
                for entry in entries {
                    if send.blocking_send(Ok(entry)).is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                let _ = send.blocking_send(Err(error));
            }
        }
    });
    receive
}

/// Entries in their order: some that were looked at ahead, then the rest as it comes.
pub(crate) struct Feed {
    ahead: VecDeque<Entry>,
    rest: Entries,
}

impl Feed {
    /// Waits a moment for input, so that a bad line among the first is told before anything is sent.
    pub(crate) async fn look_ahead(mut rest: Entries, most_bytes: usize) -> Result<Self, Error> {
        let mut ahead = VecDeque::new();
        let mut bytes = 0;
        let until = tokio::time::Instant::now() + LOOK_AHEAD;
        while bytes < most_bytes {
            let Ok(Some(entry)) = tokio::time::timeout_at(until, rest.recv()).await else {
                break;
            };
            let entry = entry?;
            bytes += entry.item.bytes();
            ahead.push_back(entry);
        }
        Ok(Self { ahead, rest })
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Entry, Error>> {
        match self.ahead.pop_front() {
            Some(entry) => Some(Ok(entry)),
            None => self.rest.recv().await,
        }
    }

    /// Passes over what an earlier run has written, and counts it.
    pub(crate) async fn skip(
        &mut self,
        done: VecDeque<Done>,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let count = done.len();
        for (number, line) in (1..).zip(done) {
            let entry = self.next().await.transpose()?;
            let entry = entry.ok_or_else(|| {
                Error::Usage(format!(
                    "--out has {count} lines, and the input ends before that"
                ))
            })?;
            if entry.id != line.id {
                return Err(Error::Usage(format!(
                    "--resume: line {number} of --out is about {}, that of the input about {}; \
                     it needs the same input in the same order",
                    line.id, entry.id
                )));
            }
            line.count(tally, &entry);
        }
        Ok(())
    }
}
