//! One exchange with one server, over pooled connections.
//!
//! Redirects are not followed, so the key goes to the configured servers only. Dropping the future
//! of an exchange closes its socket: the server sees it and can stop generating.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap,
    HeaderValue, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Intercept;
use tokio::time::timeout;

use crate::access::{Secret, authorization, chat_uri};
use crate::connect::{Connection, Connector, chain, is_https};
use crate::connection::{Pieces, pieces};
use crate::error::Error;
use crate::hints;
use crate::policy::{Fault, Wait};
use crate::proxy::proxy_for;
use crate::refusal::QUOTA;
use crate::reply::words_of_error;
use crate::request::Body;
use crate::settings::{Settings, seconds};
use crate::stream::Assembly;

/// No judge's reply is longer; a server that sends more is broken.
const LONGEST_REPLY: usize = 16 << 20;
const OUR_NAME: HeaderValue =
    HeaderValue::from_static(concat!("exprl-judge/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Of an error's body the first so many characters are kept.
const LONGEST_MESSAGE: usize = 300;

/// One server and its idle connections.
pub(crate) struct Server {
    /// The endpoint as the user wrote it.
    pub(crate) name: Arc<str>,
    uri: Uri,
    proxy: Option<Intercept>,
    /// What a request names: the path, or all of the address where a proxy reads it (RFC 9112, 3.2).
    target: Uri,
    /// Of every request. They hold the secrets, which go to the socket and nowhere else.
    headers: HeaderMap,
    secrets: Vec<Secret>,
    /// A connection to it was made once.
    reached: AtomicBool,
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

/// How to reach servers, and how long to wait for them.
pub(crate) struct Transport {
    connector: Connector,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
}

impl Server {
    fn new(endpoint: &str, key: Option<&Secret>) -> Result<Self, Error> {
        let uri = chat_uri(endpoint)?;
        let proxy = proxy_for(&uri)?;
        let forwarded = proxy.as_ref().filter(|_| !is_https(&uri));
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(host);
        let mut headers =
            HeaderMap::from_iter([(USER_AGENT, OUR_NAME), (ACCEPT, JSON), (CONTENT_TYPE, JSON)]);
        headers.extend(host.map(|host| (HOST, host)));
        headers.extend(key.map(|key| (AUTHORIZATION, key.header.clone())));
        let password = proxy.as_ref().and_then(Intercept::basic_auth);
        let password = password.and_then(|header| Secret::from_header(header.clone()));
        let passed_on = password.as_ref().filter(|_| forwarded.is_some());
        headers.extend(passed_on.map(|password| (PROXY_AUTHORIZATION, password.header.clone())));
        Ok(Self {
            name: endpoint.into(),
            target: match forwarded {
                Some(_) => uri.clone(),
                None => only_path(uri.path()),
            },
            headers,
            secrets: key.cloned().into_iter().chain(password).collect(),
            proxy,
            uri,
            reached: AtomicBool::new(false),
            idle: Mutex::default(),
        })
    }

    /// Whether a connection to it has ever been made.
    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    fn uses_tls(&self) -> bool {
        is_https(&self.uri)
            || self
                .proxy
                .as_ref()
                .is_some_and(|proxy| is_https(proxy.uri()))
    }

    /// A connection that has served before and is still open.
    fn reuse(&self) -> Option<Connection> {
        loop {
            let mut connection = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, mut connection: Connection) {
        if connection.is_ready() {
            connection.reused = true;
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }

    fn question(&self, body: &Body) -> Request<Pieces> {
        let mut request = Request::new(pieces(body.pieces()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// What the server sent, with `***` where it repeats the key.
    fn without_secrets(&self, bytes: Bytes) -> Bytes {
        let secrets = self.secrets.iter();
        secrets.fold(bytes, |bytes, secret| secret.remove_from(bytes))
    }
}

fn only_path(path: &str) -> Uri {
    path.parse().unwrap_or_default()
}

impl Transport {
    /// The way to the servers of the settings, and these in their order.
    pub(crate) fn new(settings: &Settings) -> Result<(Self, Vec<Server>), Error> {
        let key = authorization(
            settings.api_key_env.as_deref(),
            settings.api_key_file.as_deref(),
        )?;
        let servers = settings
            .endpoints
            .iter()
            .map(|url| Server::new(url, key.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let connector = Connector::new(
            settings.ca_file.as_deref(),
            servers.iter().any(Server::uses_tls),
            seconds(settings.connect_timeout_s),
        )?;
        let transport = Self {
            connector,
            first_byte_timeout: seconds(settings.first_byte_timeout_s),
            idle_timeout: seconds(settings.idle_timeout_s),
        };
        Ok((transport, servers))
    }

    /// Posts a body; gives a 200 answer. `begun` becomes true when the first byte of any answer is
    /// there. Where the server repeats a key, `***` stands instead.
    pub(crate) async fn post(
        &self,
        server: &Server,
        body: &Body,
        begun: &AtomicBool,
    ) -> Result<Answer, Fault> {
        let started = Instant::now();
        let mut connection = match server.reuse() {
            Some(connection) => connection,
            // Boxed: most requests find a connection, and none keeps room for the making of one.
            None => Box::pin(self.connect(server)).await?,
        };
        let sent = connection.send(server.question(body));
        let reply = match timeout(self.first_byte_timeout, sent).await {
            Err(_) => return Err(Fault::Timeout(Wait::FirstByte, self.first_byte_timeout)),
            // What cannot be parsed is a reply; everything else is none.
            Ok(Err(error)) if connection.reused && !error.is_parse() => return Err(Fault::Stale),
            Ok(Err(error)) => return Err(broken(&error)),
            Ok(Ok(reply)) => reply,
        };
        begun.store(true, Ordering::Relaxed);
        let first_byte = started.elapsed();
        let (head, mut rest) = reply.into_parts();
        if head
            .headers
            .get(CONTENT_ENCODING)
            .is_some_and(|value| value != "identity")
        {
            let cause = "a content-encoding that was not asked for";
            return Err(Fault::Broken(cause.into()));
        }
        let bytes = if is_event_stream(&head.headers) && head.status == StatusCode::OK {
            let reply = Assembly::about(body.trace());
            self.read_stream(server, &mut connection, &mut rest, reply)
                .await?
        } else {
            self.read(&mut connection, &mut rest).await?
        };
        let bytes = server.without_secrets(bytes);
        // A stream that was left before its end closes its connection here: the server stops writing.
        server.put_back(connection);
        if head.status == StatusCode::OK {
            Ok(Answer {
                body: bytes,
                first_byte,
                pause: hints::pause(&head.headers, SystemTime::now(), false),
            })
        } else {
            Err(refusal(head.status, &head.headers, &bytes))
        }
    }

    /// The list of the server's models. `None` if the server has none, or none for this key.
    pub(crate) async fn models(&self, server: &Server) -> Option<Bytes> {
        let base = server.uri.path().strip_suffix("/chat/completions")?;
        let page = format!("{base}/models");
        self.get(server, &page, server.headers.clone()).await
    }

    /// The page `/metrics` beside `/v1`, without the key. `None` if the server has no such page.
    pub(crate) async fn metrics(&self, server: &Server) -> Option<Bytes> {
        let base = server.uri.path().strip_suffix("/v1/chat/completions")?;
        let mut headers = server.headers.clone();
        headers.remove(AUTHORIZATION);
        self.get(server, &format!("{base}/metrics"), headers).await
    }

    async fn get(&self, server: &Server, page: &str, headers: HeaderMap) -> Option<Bytes> {
        let mut target = server.target.clone().into_parts();
        target.path_and_query = page.parse().ok();
        let mut request = Request::new(Pieces::default());
        *request.uri_mut() = Uri::from_parts(target).ok()?;
        *request.headers_mut() = headers;
        request.headers_mut().remove(CONTENT_TYPE);
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        let mut connection = self.connect(server).await.ok()?;
        let asked = timeout(self.idle_timeout, connection.send(request));
        let (head, mut rest) = asked.await.ok()?.ok()?.into_parts();
        let body = self.read(&mut connection, &mut rest).await.ok()?;
        (head.status == StatusCode::OK).then_some(body)
    }

    async fn connect(&self, server: &Server) -> Result<Connection, Fault> {
        let proxy = server.proxy.as_ref();
        let connection = self.connector.connect(&server.uri, proxy).await?;
        server.reached.store(true, Ordering::Relaxed);
        Ok(connection)
    }

    /// The rest of a reply.
    async fn read(&self, connection: &mut Connection, body: &mut Incoming) -> Result<Bytes, Fault> {
        let mut first = None;
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece(connection, body).await? {
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
        server: &Server,
        connection: &mut Connection,
        body: &mut Incoming,
        mut reply: Assembly,
    ) -> Result<Bytes, Fault> {
        let mut received = 0;
        while let Some(piece) = self.piece(connection, body).await? {
            received += piece.len();
            if received > LONGEST_REPLY {
                return Err(Fault::Broken(format!("longer than {LONGEST_REPLY} bytes")));
            }
            reply.feed(&piece).map_err(|fault| match fault {
                Fault::Broken(cause) => {
                    let cause = server.without_secrets(cause.into());
                    Fault::Broken(String::from_utf8_lossy(&cause).into_owned())
                }
                other => other,
            })?;
            if let Some(patience) = reply.patience() {
                // What fails from here on cannot take the grade away.
                let rest = async {
                    while let Ok(Some(piece)) = connection.piece(body).await {
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

    async fn piece(
        &self,
        connection: &mut Connection,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, Fault> {
        match timeout(self.idle_timeout, connection.piece(body)).await {
            Err(_) => Err(Fault::Timeout(Wait::NextPiece, self.idle_timeout)),
            Ok(piece) => piece.map_err(|error| broken(&error)),
        }
    }
}

fn broken(error: &hyper::Error) -> Fault {
    let cause = chain(error);
    Fault::Broken(if error.is_parse() {
        format!("not an HTTP/1.1 reply: {cause}")
    } else {
        cause
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// An answer that is not a 200, in the server's own words.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let mut said = words_of_error(&text).unwrap_or_else(|| text.trim().to_owned());
    if text.contains(QUOTA) {
        said = format!("{QUOTA}: {said}");
    }
    let refused = status == StatusCode::TOO_MANY_REQUESTS;
    Fault::Status {
        code: status.as_u16(),
        retry_after: hints::pause(headers, SystemTime::now(), refused),
        message: said
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST_MESSAGE)
            .collect(),
    }
}
