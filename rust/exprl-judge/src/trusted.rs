//! Servers are trusted by the certificates of a file: by those who sign, or by the server's own.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::error::Error;

/// Checks a server's certificate as every client does, with one exception: a certificate that stands in
/// the file itself is trusted although it could also sign others. `openssl req -x509` makes such ones
/// unless told otherwise, often without any name of a server.
#[derive(Debug)]
pub(crate) struct Trusted {
    usual: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl Trusted {
    pub(crate) fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Setting {
            field: "ca_file".into(),
            reason: format!("{}: {reason}", path.display()),
        };
        let found =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        let own: Result<Vec<_>, _> = found.collect();
        let own = own.map_err(|error| wrong(error.to_string()))?;
        if own.is_empty() {
            return Err(wrong("it holds no certificate in PEM form".into()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &own {
            let added = roots.add(certificate.clone());
            added.map_err(|error| wrong(error.to_string()))?;
        }
        let usual = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        Ok(Self {
            usual: usual.map_err(|error| wrong(error.to_string()))?,
            own,
        })
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let checked = self
            .usual
            .verify_server_cert(server, between, name, ocsp, now);
        match checked {
            Err(error) if is_ca(&error) && self.own.iter().any(|own| own == server) => {
                // Its time has been checked by then, its name has not.
                match verify_server_name(&ParsedCertificate::try_from(server)?, name) {
                    Err(error) if !names_nothing(&error) => Err(error),
                    _ => Ok(ServerCertVerified::assertion()),
                }
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// The certificate may sign others. rustls has no variant for this error of webpki.
fn is_ca(error: &TlsError) -> bool {
    match error {
        TlsError::InvalidCertificate(CertificateError::Other(other)) => {
            other.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

/// The certificate is for no server in particular.
fn names_nothing(error: &TlsError) -> bool {
    match error {
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        }) => presented.is_empty(),
        _ => false,
    }
}
