//! Where servers are, and the key that opens them. A key is read here, shown nowhere.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use hyper::Uri;
use hyper::header::HeaderValue;

use crate::error::Error;

/// The value of the `authorization` header, from a variable of the environment or a file.
pub(crate) fn authorization(
    env: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<Secret>, Error> {
    let (field, key) = if let Some(name) = env {
        let key = std::env::var(name).map_err(|_| Error::Setting {
            field: "api_key_env".into(),
            reason: format!("the environment has no variable {name:?}"),
        })?;
        ("api_key_env", key)
    } else if let Some(path) = file {
        ("api_key_file", read("api_key_file", path)?)
    } else {
        return Ok(None);
    };
    Secret::bearer(key.trim())
        .map(Some)
        .ok_or_else(|| Error::Setting {
            field: field.into(),
            reason: "the key is empty or holds characters that no HTTP header may carry".into(),
        })
}

/// Reads a file that a setting names.
pub(crate) fn read(field: &'static str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| Error::Setting {
        field: field.into(),
        reason: format!("{}: {error}", path.display()),
    })
}

/// Checks an endpoint and gives the URI that chat completions are posted to.
pub(crate) fn chat_uri(endpoint: &str) -> Result<Uri, Error> {
    let wrong = |reason: &str| Error::Setting {
        field: "endpoints".into(),
        reason: format!(
            "{:?} {reason}; write it like http://127.0.0.1:8000/v1",
            hide_user(endpoint)
        ),
    };
    let base = endpoint
        .trim_end_matches('/')
        .trim_end_matches("/chat/completions");
    let uri: Uri = base.parse().map_err(|_| wrong("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("is neither http nor https"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("holds a user or key: name it in api_key_env instead"));
    }
    if uri.query().is_some() {
        return Err(wrong("has a query"));
    }
    format!("{base}/chat/completions")
        .parse()
        .map_err(|_| wrong("is not a URL"))
}

/// The URL without what may be a password in it.
fn hide_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.into(),
    }
}

/// An API key or a proxy's password on its way into a header. It has no readable form.
#[derive(Clone)]
pub(crate) struct Secret {
    key: String,
    pub(crate) header: HeaderValue,
}

impl Secret {
    fn bearer(key: &str) -> Option<Self> {
        Self::from_header(HeaderValue::from_str(&format!("Bearer {key}")).ok()?)
    }

    /// From a header's value such as `Basic dXNlcjpwYXNz`.
    pub(crate) fn from_header(mut header: HeaderValue) -> Option<Self> {
        header.set_sensitive(true);
        let key = header.to_str().ok()?.split_once(' ')?.1.to_owned();
        (!key.is_empty()).then_some(Self { key, header })
    }

    /// The text without the key, should a server have repeated it.
    pub(crate) fn remove_from(&self, text: Bytes) -> Bytes {
        let (mut clean, mut copied) = (Vec::new(), 0);
        for at in memchr::memmem::find_iter(&text, &self.key) {
            clean.extend_from_slice(&text[copied..at]);
            clean.extend_from_slice(b"***");
            copied = at + self.key.len();
        }
        if copied == 0 {
            return text;
        }
        clean.extend_from_slice(&text[copied..]);
        clean.into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_the_address_of_chat_completions() {
        for endpoint in [
            "http://h:8000/v1",
            "http://h:8000/v1/",
            "http://h:8000/v1/chat/completions",
        ] {
            assert_eq!(
                chat_uri(endpoint).unwrap(),
                "http://h:8000/v1/chat/completions"
            );
        }
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_without_showing_a_password() {
        for endpoint in [
            "",
            "h:8000",
            "ftp://h/v1",
            "http://user:sk-secret@h/v1",
            "http://h/v1?key=x",
        ] {
            let error = chat_uri(endpoint).unwrap_err().to_string();
            assert!(!error.contains("sk-secret"), "{error}");
        }
    }

    #[test]
    fn a_key_has_no_readable_form() {
        let secret = Secret::bearer("sk-secret").unwrap();
        assert!(!format!("{secret:?} {:?}", secret.header).contains("sk-secret"));
        for (text, clean) in [
            ("bad key sk-secret!", "bad key ***!"),
            ("sk-secretsk-secret", "******"),
            ("sk-secre", "sk-secre"),
        ] {
            assert_eq!(secret.remove_from(text.into()), clean);
        }
        assert!(Secret::bearer("").is_none() && Secret::bearer("a\nb").is_none());
    }
}
