//! The way to a server: TCP, a proxy where the environment names one, TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::connection;
use crate::error::Error;
use crate::policy::Fault;
use crate::trusted::Trusted;

/// To the server or to its proxy; within it, TLS to a server behind a tunnel.
type Stream = MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>;
pub(crate) type Connection = connection::Connection<Stream>;

/// Opens connections.
pub(crate) struct Connector {
    straight: HttpsConnector<HttpConnector>,
    tls: Arc<ClientConfig>,
    time_limit: Duration,
}

impl Connector {
    /// `ca_file` holds the certificates that are trusted instead of the system's. Those are read only
    /// where `uses_tls`: it takes milliseconds and may fail.
    pub(crate) fn new(
        ca_file: Option<&Path>,
        uses_tls: bool,
        time_limit: Duration,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| tls_error(&error))?;
        let tls = match ca_file {
            Some(path) => {
                let trusted = Trusted::read(path, provider)?;
                tls.dangerous()
                    .with_custom_certificate_verifier(Arc::new(trusted))
            }
            None if uses_tls => tls.with_native_roots().map_err(|error| tls_error(&error))?,
            None => tls.with_root_certificates(RootCertStore::empty()),
        };
        let tls = tls.with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Ok(Self {
            straight: HttpsConnectorBuilder::new()
                .with_tls_config(tls.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(tcp),
            tls: Arc::new(tls),
            time_limit,
        })
    }

    /// A connection over which requests reach the server. Through a proxy, https goes in a tunnel
    /// (CONNECT); plain requests go to the proxy itself, which passes them on.
    pub(crate) async fn connect(
        &self,
        server: &Uri,
        proxy: Option<&Intercept>,
    ) -> Result<Connection, Fault> {
        let mut straight = self.straight.clone();
        let connecting = async {
            let stream = match proxy {
                None => MaybeHttpsStream::Http(straight.call(server.clone()).await?),
                Some(proxy) if is_https(server) => {
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), straight);
                    if let Some(password) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(password.clone());
                    }
                    let mut within = HttpsConnector::from((tunnel, self.tls.clone()));
                    within.call(server.clone()).await?
                }
                Some(proxy) => MaybeHttpsStream::Http(straight.call(proxy.uri().clone()).await?),
            };
            Ok(Connection::new(stream).await?)
        };
        let failed = |cause: String| match proxy.and_then(|proxy| proxy.uri().authority()) {
            Some(proxy) => Fault::Connect(format!("through the proxy {proxy}: {cause}")),
            None => Fault::Connect(cause),
        };
        match timeout(self.time_limit, connecting).await {
            Err(_) => Err(failed(format!(
                "not within {} s",
                self.time_limit.as_secs_f64()
            ))),
            Ok(connected) => connected
                .map_err(|error: Box<dyn std::error::Error + Send + Sync>| failed(chain(&*error))),
        }
    }
}

pub(crate) fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

fn tls_error(error: &dyn std::fmt::Display) -> Error {
    Error::Setting {
        field: "endpoints".into(),
        reason: format!("TLS cannot start: {error}"),
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
