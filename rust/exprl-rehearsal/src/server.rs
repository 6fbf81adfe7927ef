//! The server: its start, its connections and its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::Config;
use crate::error::Error;
use crate::routes::route;
use crate::state::State;
use crate::stats::Stats;

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A judge that is serving; it stops when this is dropped.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    state: Arc<State>,
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
        self.state.book().stats.clone()
    }

    /// Closes the listener and every connection, and waits until they are closed.
    pub async fn stop(self) {
        drop(self.stop);
        // It can only fail by a panic, which the runtime has reported.
        let _ = self.task.await;
    }
}

/// Starts to serve on the current tokio runtime, which needs its I/O and time drivers.
pub async fn serve(config: Config) -> Result<Handle, Error> {
    config.faults.check()?;
    let addr = config.listen;
    let failed = |source| Error::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let state = Arc::new(State::new(config));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accept(listener, state.clone(), stopped));
    Ok(Handle {
        addr,
        state,
        stop,
        task,
    })
}

/// Serves connections until the sender of `stopped` is gone; then closes them all.
async fn accept(listener: TcpListener, state: Arc<State>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without it a reply may wait 40 ms for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve_connection(stream, state.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn serve_connection(stream: tokio::net::TcpStream, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(route(request, &state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client's connection ended early");
    }
}
