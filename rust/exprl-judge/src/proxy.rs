//! The proxies that the environment names: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`,
//! in either case, as curl reads them.

use std::net::IpAddr;

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::error::Error;

const VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The proxy for a server, if requests to it go through one. A server on this machine is always asked
/// straight.
pub(crate) fn proxy_for(server: &Uri) -> Result<Option<Intercept>, Error> {
    if is_loopback(server.host().unwrap_or_default()) {
        return Ok(None);
    }
    match Matcher::from_env().intercept(server) {
        Some(proxy) if is_http(proxy.uri()) => Ok(Some(proxy)),
        Some(proxy) => Err(refused(format!(
            "the environment sends {server} through the proxy {}, and only http and https proxies can be used; \
             name one in HTTPS_PROXY or HTTP_PROXY, or the host in NO_PROXY",
            proxy.uri()
        ))),
        None => match VARIABLES.into_iter().find(|name| is_unreadable(name)) {
            // It may hold a password: it is not shown.
            Some(name) => Err(refused(format!(
                "the environment variable {name} is no URL of a proxy; write it like http://proxy:3128"
            ))),
            None => Ok(None),
        },
    }
}

fn refused(reason: String) -> Error {
    Error::Setting {
        field: "endpoints".into(),
        reason,
    }
}

fn is_http(proxy: &Uri) -> bool {
    matches!(proxy.scheme_str(), Some("http" | "https"))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = |name: &str| name == "localhost" || name.ends_with(".localhost");
    address
        .parse::<IpAddr>()
        .map_or_else(|_| is_local(host), |address| address.is_loopback())
}

/// Whether the variable is set to what no proxy can be taken from.
fn is_unreadable(variable: &str) -> bool {
    let value = std::env::var(variable).unwrap_or_default();
    let matcher = Matcher::builder().all(value.clone()).build();
    let proxy = matcher.intercept(&Uri::from_static("http://host"));
    !value.is_empty() && proxy.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_this_machine_are_known_by_name_and_address() {
        for (host, local) in [
            ("localhost", true),
            ("judge.localhost", true),
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("[::1]", true),
            ("10.0.0.1", false),
            ("localhost.example", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_loopback(host), local, "{host}");
        }
    }
}
