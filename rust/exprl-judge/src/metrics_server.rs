//! One page on loopback: `GET /metrics`, for Prometheus.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::Error;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Text format 0.0.4 of Prometheus.
const TEXT_FORMAT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Metrics that are being served; dropping it closes the port and every connection.
#[derive(Debug)]
pub struct MetricsServer {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `text` gives the page, or `None` once there is nothing to tell any more.
pub(crate) async fn serve(
    port: u16,
    text: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> Result<MetricsServer, Error> {
    let failed = |source| Error::Metrics { port, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    // Ends when the handle is dropped; its connections end with it.
    let task = tokio::spawn(accept(listener, Arc::new(text)));
    Ok(MetricsServer { addr, task })
}

async fn accept(
    listener: TcpListener,
    text: Arc<impl Fn() -> Option<String> + Send + Sync + 'static>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let text = text.clone();
                    let service = service_fn(move |request| {
                        let response = answer(&request, &*text);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    text: &impl Fn() -> Option<String>,
) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match text() {
            Some(text) => (StatusCode::OK, text),
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the judge is closed\n".into(),
            ),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into()),
        _ => (
            StatusCode::NOT_FOUND,
            "the metrics are at /metrics\n".into(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
    response
}
