//! One HTTP/1.1 exchange with one server, over pooled connections (RFC 9112).
//!
//! Redirects are not followed, so the key goes to the configured servers only. Dropping the future
//! of an exchange closes its socket: the server sees it and can stop generating.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use tokio::time::timeout;
use tower_service::Service;

use crate::error::Error;
use crate::hints;
use crate::policy::{Fault, QUOTA};
use crate::request::Body;
use crate::settings::{Secret, Settings, chat_uri};

/// No judge's reply is longer; a server that sends more is broken.
const LONGEST_REPLY: usize = 16 << 20;
/// Of an error's body the first so many characters are kept.
const LONGEST_MESSAGE: usize = 300;

/// One server and its idle connections.
pub(crate) struct Server {
    /// The endpoint as the user wrote it.
    pub(crate) name: Arc<str>,
    uri: Uri,
    host: HeaderValue,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

/// A reply, and what its head told.
pub(crate) struct Answer {
    /// The body of a 200 answer.
    pub(crate) body: Bytes,
    /// From the request to the first byte of the reply.
    pub(crate) first_byte: Duration,
    /// The server's limits are used up for so long.
    pub(crate) pause: Option<Duration>,
}

/// How to reach servers: TLS, the key, the timeouts.
pub(crate) struct Transport {
    connector: HttpsConnector<HttpConnector>,
    authorization: Option<Secret>,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
}

impl Server {
    pub(crate) fn new(endpoint: &str) -> Result<Self, Error> {
        let uri = chat_uri(endpoint)?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(host).map_err(|_| Error::Setting {
            field: "endpoints",
            reason: format!("{endpoint:?} names no host"),
        })?;
        Ok(Self {
            name: endpoint.into(),
            uri,
            host,
            idle: Mutex::default(),
        })
    }

    /// A connection that has served before and is still open.
    async fn reuse(&self) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn put_back(&self, sender: SendRequest<Body>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
    }
}

impl Transport {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_error(&error))?;
        // Reading the system's certificates takes milliseconds and may fail: only if they are needed.
        let tls = if settings
            .endpoints
            .iter()
            .any(|url| url.starts_with("https"))
        {
            tls.with_native_roots().map_err(|error| tls_error(&error))?
        } else {
            tls.with_root_certificates(rustls::RootCertStore::empty())
        };
        Ok(Self {
            connector: HttpsConnectorBuilder::new()
                .with_tls_config(tls.with_no_client_auth())
                .https_or_http()
                .enable_http1()
                .wrap_connector(tcp),
            authorization: settings.authorization()?,
            connect_timeout: settings.connect_timeout,
            first_byte_timeout: settings.first_byte_timeout,
            idle_timeout: settings.idle_timeout,
        })
    }

    /// Posts a body; gives a 200 answer. `begun` becomes true when the first byte of any answer is
    /// there.
    pub(crate) async fn post(
        &self,
        server: &Server,
        body: Body,
        begun: &AtomicBool,
    ) -> Result<Answer, Fault> {
        let started = Instant::now();
        let (mut sender, reused) = match server.reuse().await {
            Some(sender) => (sender, true),
            None => (self.connect(server).await?, false),
        };
        let sent = sender.send_request(self.request(server, body));
        let response = match timeout(self.first_byte_timeout, sent).await {
            Err(_) => return Err(Fault::Timeout("the first byte", self.first_byte_timeout)),
            Ok(Err(error)) if reused && closed_early(&error) => return Err(Fault::Stale),
            Ok(Err(error)) => return Err(Fault::Broken(chain(&error))),
            Ok(Ok(response)) => response,
        };
        begun.store(true, Ordering::Relaxed);
        let first_byte = started.elapsed();
        let (head, body) = response.into_parts();
        let bytes = self.read(body).await?;
        server.put_back(sender);
        let head = Response::from_parts(head, ());
        if head.status() == hyper::StatusCode::OK {
            Ok(Answer {
                body: bytes,
                first_byte,
                pause: hints::pause(head.headers(), SystemTime::now(), false),
            })
        } else {
            Err(self.refusal(&head, &bytes))
        }
    }

    /// Fetches a page that stands beside `/v1`, such as `/metrics`, without the key. `None` if the
    /// server has no such page.
    pub(crate) async fn get(&self, server: &Server, page: &str) -> Option<Bytes> {
        let base = server.uri.path().strip_suffix("/v1/chat/completions")?;
        let mut sender = self.connect(server).await.ok()?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = format!("{base}{page}").parse().ok()?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, server.host.clone());
        let sent = timeout(self.idle_timeout, sender.send_request(request));
        let response = sent.await.ok()?.ok()?;
        let found = response.status() == hyper::StatusCode::OK;
        let body = self.read(response.into_body()).await.ok()?;
        found.then_some(body)
    }

    async fn connect(&self, server: &Server) -> Result<SendRequest<Body>, Fault> {
        let connect = async {
            let io = self.connector.clone().call(server.uri.clone()).await;
            let io = io.map_err(|error| Fault::Connect(chain(&*error)))?;
            let handshake = http1::handshake(io).await;
            handshake.map_err(|error| Fault::Connect(chain(&error)))
        };
        let (sender, connection) =
            timeout(self.connect_timeout, connect).await.map_err(|_| {
                Fault::Connect(format!(
                    "not within {} s",
                    self.connect_timeout.as_secs_f64()
                ))
            })??;
        // Moves this connection's bytes; ends when either side closes or the sender is dropped.
        // Its error reaches the exchange in progress through the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, server: &Server, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = hyper::Method::POST;
        // HTTP/1.1 to an origin server: the target is the path alone (RFC 9112, 3.2.1).
        *request.uri_mut() = server
            .uri
            .path_and_query()
            .map_or_else(Uri::default, |path| path.clone().into());
        let headers = request.headers_mut();
        headers.insert(header::HOST, server.host.clone());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.authorization {
            headers.insert(header::AUTHORIZATION, secret.header.clone());
        }
        request
    }

    async fn read(&self, mut body: Incoming) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::new();
        loop {
            let frame = timeout(self.idle_timeout, body.frame());
            match frame
                .await
                .map_err(|_| Fault::Timeout("the next piece", self.idle_timeout))?
            {
                None => return Ok(whole.freeze()),
                Some(Err(error)) => return Err(Fault::Broken(chain(&error))),
                Some(Ok(frame)) => whole.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
            if whole.len() > LONGEST_REPLY {
                return Err(Fault::Broken(format!("longer than {LONGEST_REPLY} bytes")));
            }
        }
    }

    fn refusal(&self, head: &Response<()>, body: &[u8]) -> Fault {
        let text = String::from_utf8_lossy(body);
        let said = serde_json::from_str::<Value>(&text).ok().and_then(|value| {
            let message = [
                &value["error"]["message"],
                &value["message"],
                &value["detail"],
                &value["error"],
            ];
            message
                .iter()
                .find_map(|field| field.as_str().map(str::to_owned))
        });
        let mut said = said.unwrap_or_else(|| text.trim().to_owned());
        if text.contains(QUOTA) {
            said = format!("{QUOTA}: {said}");
        }
        let said = self
            .authorization
            .as_ref()
            .map_or(said.clone(), |secret| secret.remove_from(&said));
        Fault::Status {
            code: head.status().as_u16(),
            retry_after: hints::pause(
                head.headers(),
                SystemTime::now(),
                head.status() == hyper::StatusCode::TOO_MANY_REQUESTS,
            ),
            message: said
                .chars()
                .filter(|c| !c.is_control())
                .take(LONGEST_MESSAGE)
                .collect(),
        }
    }
}

fn tls_error(error: &dyn std::fmt::Display) -> Error {
    Error::Setting {
        field: "endpoints",
        reason: format!("TLS cannot start: {error}"),
    }
}

/// The connection ended before the first byte of the reply.
fn closed_early(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_reset(error)
}

fn is_reset(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|io| {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
    })
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
