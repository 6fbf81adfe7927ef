//! One exchange with one server, over pooled connections.
//!
//! Redirects are not followed, so the key goes to the configured servers only. Dropping the future
//! of an exchange closes its socket: the server sees it and can stop generating.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use hyper::{StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::error::Error;
use crate::hints;
use crate::http::{self, Head, HttpError};
use crate::policy::{Fault, QUOTA};
use crate::reply::words_of_error;
use crate::request::Body;
use crate::settings::{Secret, Settings, chat_uri, seconds};
use crate::stream::Assembly;

/// No judge's reply is longer; a server that sends more is broken.
const LONGEST_REPLY: usize = 16 << 20;
const USER_AGENT: &str = concat!("exprl-judge/", env!("CARGO_PKG_VERSION"));
/// Of an error's body the first so many characters are kept.
const LONGEST_MESSAGE: usize = 300;

type Connection = http::Connection<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>;

/// One server and its idle connections.
pub(crate) struct Server {
    /// The endpoint as the user wrote it.
    pub(crate) name: Arc<str>,
    uri: Uri,
    /// What every request begins with, up to its length. It holds the key: it goes to the socket and
    /// nowhere else.
    head: Vec<u8>,
    idle: Mutex<Vec<Connection>>,
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
    fn new(endpoint: &str, authorization: Option<&Secret>) -> Result<Self, Error> {
        let uri = chat_uri(endpoint)?;
        let (path, host) = (uri.path(), host(&uri));
        // To an origin server the target is the path alone (RFC 9112, 3.2.1).
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {USER_AGENT}\r\naccept: application/json\r\ncontent-type: application/json\r\n"
        )
        .into_bytes();
        if let Some(secret) = authorization {
            head.extend([b"authorization: ", secret.header.as_bytes(), b"\r\n"].concat());
        }
        head.extend(b"content-length: ");
        Ok(Self {
            name: endpoint.into(),
            uri,
            head,
            idle: Mutex::default(),
        })
    }

    /// A connection that has served before and is still open.
    fn reuse(&self) -> Option<Connection> {
        loop {
            let mut connection = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, mut connection: Connection) {
        if connection.is_reusable() {
            connection.reused = true;
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }
}

fn host(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
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
        let https = settings
            .endpoints
            .iter()
            .any(|url| url.starts_with("https"));
        let tls = match &settings.ca_file {
            Some(path) => tls.with_root_certificates(certificates(path)?),
            // Reading the system's certificates takes milliseconds and may fail: only if they are needed.
            None if https => tls.with_native_roots().map_err(|error| tls_error(&error))?,
            None => tls.with_root_certificates(RootCertStore::empty()),
        };
        Ok(Self {
            connector: HttpsConnectorBuilder::new()
                .with_tls_config(tls.with_no_client_auth())
                .https_or_http()
                .enable_http1()
                .wrap_connector(tcp),
            authorization: settings.authorization()?,
            connect_timeout: seconds(settings.connect_timeout_s),
            first_byte_timeout: seconds(settings.first_byte_timeout_s),
            idle_timeout: seconds(settings.idle_timeout_s),
        })
    }

    /// The servers of the settings, in their order.
    pub(crate) fn servers(&self, settings: &Settings) -> Result<Vec<Server>, Error> {
        let endpoints = settings.endpoints.iter();
        endpoints
            .map(|url| Server::new(url, self.authorization.as_ref()))
            .collect()
    }

    /// Posts a body; gives a 200 answer. `begun` becomes true when the first byte of any answer is
    /// there. Where the server repeats the key, `***` stands instead.
    pub(crate) async fn post(
        &self,
        server: &Server,
        body: &Body,
        begun: &AtomicBool,
    ) -> Result<Answer, Fault> {
        let started = Instant::now();
        let mut connection = match server.reuse() {
            Some(connection) => connection,
            None => self.connect(server).await?,
        };
        let length = format!("{}\r\n\r\n", body.sizes().0);
        let [open, blocks, trace, close, end] = body.parts();
        let pieces = [
            &server.head,
            length.as_bytes(),
            open,
            blocks,
            trace,
            close,
            end,
        ];
        let sent = async {
            let sent = connection.send(pieces).await;
            // A server that refuses the body may have answered before it closed.
            connection
                .head()
                .await
                .map_err(|error| match (sent, error) {
                    (Err(error), HttpError::Closed) if !is_reset(&error) => HttpError::Io(error),
                    (_, error) => error,
                })
        };
        let head = match timeout(self.first_byte_timeout, sent).await {
            Err(_) => return Err(Fault::Timeout("the first byte", self.first_byte_timeout)),
            Ok(Err(HttpError::Closed)) if connection.reused => return Err(Fault::Stale),
            Ok(Err(error)) => return Err(Fault::Broken(error.to_string())),
            Ok(Ok(head)) => head,
        };
        begun.store(true, Ordering::Relaxed);
        let first_byte = started.elapsed();
        let bytes = if head.event_stream && head.status == StatusCode::OK {
            self.read_stream(&mut connection, Assembly::about(trace))
                .await?
        } else {
            self.read(&mut connection).await?
        };
        let bytes = self.without_key(bytes);
        // A stream that was left before its end closes its connection here: the server stops writing.
        server.put_back(connection);
        if head.status == StatusCode::OK {
            Ok(Answer {
                body: bytes,
                first_byte,
                pause: hints::pause(&head.hints, SystemTime::now(), false),
            })
        } else {
            Err(refusal(&head, &bytes))
        }
    }

    /// Fetches a page that stands beside `/v1`, such as `/metrics`, without the key. `None` if the
    /// server has no such page.
    pub(crate) async fn get(&self, server: &Server, page: &str) -> Option<Bytes> {
        let base = server.uri.path().strip_suffix("/v1/chat/completions")?;
        let mut connection = self.connect(server).await.ok()?;
        let request = format!(
            "GET {base}{page} HTTP/1.1\r\nhost: {}\r\nuser-agent: {USER_AGENT}\r\nconnection: close\r\n\r\n",
            host(&server.uri)
        );
        let asked = async {
            connection.send([request.as_bytes()]).await.ok()?;
            connection.head().await.ok()
        };
        let head = timeout(self.idle_timeout, asked).await.ok()??;
        let body = self.read(&mut connection).await.ok()?;
        (head.status == StatusCode::OK).then_some(body)
    }

    async fn connect(&self, server: &Server) -> Result<Connection, Fault> {
        let connect = self.connector.clone().call(server.uri.clone());
        let stream = timeout(self.connect_timeout, connect).await.map_err(|_| {
            let limit = self.connect_timeout.as_secs_f64();
            Fault::Connect(format!("not within {limit} s"))
        })?;
        let stream = stream.map_err(|error| Fault::Connect(chain(&*error)))?;
        Ok(Connection::new(TokioIo::new(stream)))
    }

    /// The rest of a reply.
    async fn read(&self, connection: &mut Connection) -> Result<Bytes, Fault> {
        let mut first = None;
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece(connection).await? {
            match (&first, whole.is_empty()) {
                (None, true) => first = Some(piece),
                (Some(_), _) => {
                    whole.extend_from_slice(&first.take().unwrap_or_default());
                    whole.extend_from_slice(&piece);
                }
                (None, false) => whole.extend_from_slice(&piece),
            }
            if whole.len() > LONGEST_REPLY {
                return Err(Fault::Broken(format!("longer than {LONGEST_REPLY} bytes")));
            }
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    }

    /// A streamed reply, as if it had come whole. When the grade is there, the rest gets a moment to
    /// come: most judges stop by themselves, and then the connection and the token counts are kept.
    async fn read_stream(
        &self,
        connection: &mut Connection,
        mut reply: Assembly,
    ) -> Result<Bytes, Fault> {
        let mut received = 0;
        while let Some(piece) = self.piece(connection).await? {
            received += piece.len();
            if received > LONGEST_REPLY {
                return Err(Fault::Broken(format!("longer than {LONGEST_REPLY} bytes")));
            }
            reply.feed(&piece).map_err(|fault| match fault {
                Fault::Broken(cause) => {
                    let cause = self.without_key(cause.into());
                    Fault::Broken(String::from_utf8_lossy(&cause).into_owned())
                }
                other => other,
            })?;
            if let Some(patience) = reply.patience() {
                // What fails from here on cannot take the grade away.
                let rest = async {
                    while let Ok(Some(piece)) = connection.piece().await {
                        if reply.feed(&piece).is_err() {
                            break;
                        }
                    }
                };
                let _ = timeout(patience, rest).await;
                break;
            }
        }
        reply.into_completion().map(Bytes::from)
    }

    /// What a server sent, with `***` where it repeats the key.
    fn without_key(&self, bytes: Bytes) -> Bytes {
        match &self.authorization {
            Some(secret) => secret.remove_from(bytes),
            None => bytes,
        }
    }

    async fn piece(&self, connection: &mut Connection) -> Result<Option<Bytes>, Fault> {
        match timeout(self.idle_timeout, connection.piece()).await {
            Err(_) => Err(Fault::Timeout("the next piece", self.idle_timeout)),
            Ok(piece) => piece.map_err(|error| Fault::Broken(error.to_string())),
        }
    }
}

/// An answer that is not a 200, in the server's own words.
fn refusal(head: &Head, body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let mut said = words_of_error(&text).unwrap_or_else(|| text.trim().to_owned());
    if text.contains(QUOTA) {
        said = format!("{QUOTA}: {said}");
    }
    Fault::Status {
        code: head.status.as_u16(),
        retry_after: hints::pause(
            &head.hints,
            SystemTime::now(),
            head.status == StatusCode::TOO_MANY_REQUESTS,
        ),
        message: said
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST_MESSAGE)
            .collect(),
    }
}

fn certificates(path: &Path) -> Result<RootCertStore, Error> {
    let wrong = |reason: String| Error::Setting {
        field: "ca_file".into(),
        reason: format!("{}: {reason}", path.display()),
    };
    let mut store = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("it holds no certificate in PEM form".into()));
    }
    Ok(store)
}

fn tls_error(error: &dyn std::fmt::Display) -> Error {
    Error::Setting {
        field: "endpoints".into(),
        reason: format!("TLS cannot start: {error}"),
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
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
