//! Why the rule judge cannot start.

use std::net::SocketAddr;

/// A rehearsal judge that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rate is not a share.
    #[error("faults.{name} is {rate}; it is a share of requests and must be in 0..=1")]
    Rate {
        /// The field.
        name: &'static str,
        /// Its value.
        rate: f64,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}
