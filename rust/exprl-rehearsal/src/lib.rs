//! A judge that grades by rule, behind the same wire as a real one: for tests, the demo and rehearsals.
//!
//! `POST /v1/chat/completions`, `GET /v1/models`, `/health`, `/metrics` and `/stats`. It reads the request
//! as a judge would, from the layout of `exprl-rubric`, and answers in words that end with `Score: n`:
//! whole or streamed, with log-probabilities, as JSON or as one of the choices that it is given. Asked
//! for a problem's checklist, it makes one of the reference's lines.

mod body;
mod checklist;
mod division;
mod faults;
mod numbers;
mod reply;
mod rule;
mod server;
mod stats;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use stats::Book;

pub use faults::Faults;
pub use rule::{Judgement, Rule};
pub use stats::Stats;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; loopback and a free port by default.
    pub listen: SocketAddr,
    /// The rule to grade by.
    pub rule: Rule,
    /// The model's name on the wire; requests for another are answered 404.
    pub model: String,
    /// What goes wrong, and how slowly.
    pub faults: Faults,
    /// Requests answered at once, at most; the others wait. `None` is no limit.
    pub slots: Option<usize>,
    /// Tokens of prompt and reply, at most; a request for more is answered 400, as vLLM does.
    pub max_model_len: Option<usize>,
    /// A longer request body is answered 413.
    pub max_body_bytes: usize,
}

impl Config {
    /// The model `rules-{rule}` on a free port of 127.0.0.1, without faults.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            rule,
            model: format!("rules-{rule}"),
            faults: Faults::default(),
            slots: None,
            max_model_len: None,
            max_body_bytes: 16 << 20,
        }
    }
}

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

/// A judge that is serving; it stops when this is dropped.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Dropping it stops the server.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Handle {
    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for a client: `http://{addr}/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The counts so far; also `GET /stats`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.book().stats.clone()
    }

    /// Closes the listener and every connection, and waits until they are closed.
    pub async fn stop(self) {
        drop(self.stop);
        // It can only fail by a panic, which the runtime has reported.
        let _ = self.task.await;
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: Config,
    slots: Option<Semaphore>,
    book: Mutex<Book>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Counts are whole at every step, so a panic elsewhere does not spoil them.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to serve on the current tokio runtime, which needs its I/O and time drivers.
pub async fn serve(config: Config) -> Result<Handle, Error> {
    config.faults.check()?;
    let addr = config.listen;
    let failed = |source| Error::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let shared = Arc::new(Shared {
        slots: config
            .slots
            .map(|slots| Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS))),
        config,
        book: Mutex::default(),
    });
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server::accept(listener, shared.clone(), stopped));
    Ok(Handle {
        addr,
        shared,
        stop,
        task,
    })
}
