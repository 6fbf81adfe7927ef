//! Mistakes of the caller. The failure of one request is a `Verdict`, never one of these.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

/// The judge cannot be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range or contradicts another.
    #[error("judge setting `{field}`: {reason}")]
    Setting {
        /// Name of the field of `Settings`.
        field: Cow<'static, str>,
        /// The offending value and what is allowed.
        reason: String,
    },
    /// An item cannot be judged.
    #[error("judge item {id:?}: {reason}")]
    Item {
        /// The item's own id.
        id: String,
        /// What is wrong and what to change.
        reason: String,
    },
    /// A rubric does not parse or does not fit the view.
    #[error(transparent)]
    Rubric(#[from] exprl_rubric::Error),
    /// The job takes no more items.
    #[error("the job or its judge is closed: push before close(), or submit a new job")]
    Closed,
    /// The metrics cannot be served.
    #[error(
        "cannot serve metrics on 127.0.0.1:{port}: {source}; choose another port, or 0 for a free one"
    )]
    Metrics {
        /// The port asked for.
        port: u16,
        /// What the operating system says.
        source: io::Error,
    },
    /// The ledger's file or folder cannot be used.
    #[error("ledger {}: {source}", path.display())]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another process has the ledger open.
    #[error("ledger {}: in use by another process; wait for it, or give this run its own ledger folder", path.display())]
    LedgerLocked {
        /// The file.
        path: PathBuf,
    },
    /// A reply was asked for under something that is no key.
    #[error(
        "{key:?} is no key of a ledger; give the 64 hex digits of `exprl judge ledger export`, or of the column ledger_keys of a rollout file"
    )]
    LedgerKey {
        /// What was given.
        key: String,
    },
    /// The file was not written by this program.
    #[error("ledger {}: not a ledger of this version; move it away or name another folder", path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
    },
}
