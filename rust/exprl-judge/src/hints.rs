//! How long a server asks to be left alone, from the head of its answer.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, RETRY_AFTER};

/// No server may pause us for longer than this at a time; then it is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// The limits of `OpenAI`'s API; vLLM proxies and other hosts use the same names.
const LIMITS: [&str; 2] = ["requests", "tokens"];

/// The pause that the headers ask for: `Retry-After` (also in milliseconds); otherwise the time until
/// the limits that are used up are reset; two minutes at most. `None` if nothing is used up. Where the server has `refused`
/// for its limits, a limit without a remainder counts as used up.
pub(crate) fn pause(headers: &HeaderMap, now: SystemTime, refused: bool) -> Option<Duration> {
    asked(headers, now, refused).map(|pause| pause.min(LONGEST_PAUSE))
}

fn asked(headers: &HeaderMap, now: SystemTime, refused: bool) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let milliseconds = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok());
    if let Some(pause) = milliseconds.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()) {
        return Some(pause);
    }
    if let Some(pause) = text(RETRY_AFTER.as_str()).and_then(|value| retry_after(value, now)) {
        return Some(pause);
    }
    LIMITS
        .into_iter()
        .filter(|limit| {
            text(&format!("x-ratelimit-remaining-{limit}")).map_or(refused, |left| left == "0")
        })
        .filter_map(|limit| duration(text(&format!("x-ratelimit-reset-{limit}"))?))
        .max()
}

/// Reads `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Reads a duration as `OpenAI` writes it (Go's syntax: `20ms`, `1s`, `6m0s`, `1h2m3.5s`), or plain
/// seconds.
fn duration(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut seconds = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!value.is_empty()).then_some(seconds)?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn paused(headers: &[(&str, &str)]) -> Option<Duration> {
        after(headers, false)
    }

    fn after(headers: &[(&str, &str)], refused: bool) -> Option<Duration> {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let headers = headers.iter().map(|(name, value)| {
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        pause(&headers.collect(), now, refused)
    }

    #[test]
    fn retry_after_is_read_as_seconds_milliseconds_and_as_a_date() {
        let seconds = Duration::from_secs;
        for (value, pause) in [
            (" 3 ", Some(seconds(3))),
            ("0.5", Some(Duration::from_millis(500))),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(seconds(30))),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("nan", None),
            ("inf", None),
        ] {
            assert_eq!(paused(&[("Retry-After", value)]), pause, "{value:?}");
        }
        let both = [("retry-after-ms", "250"), ("retry-after", "1")];
        assert_eq!(paused(&both), Some(Duration::from_millis(250)));
    }

    #[test]
    fn durations_are_read_as_openai_writes_them() {
        for (value, ms) in [
            ("1s", 1000),
            ("6m0s", 360_000),
            ("20ms", 20),
            ("1h2m3.5s", 3_723_500),
            ("12", 12_000),
            ("0.25", 250),
        ] {
            assert_eq!(
                duration(value),
                Some(Duration::from_millis(ms)),
                "{value:?}"
            );
        }
        for bad in ["", "s", "1x", "1s2", "-1s", "1..s", "1e999s"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_pause_is_longer_than_two_minutes() {
        for headers in [
            [("retry-after", "1e18"), ("x", "")],
            [("retry-after", "Sat, 06 Nov 2094 08:49:37 GMT"), ("x", "")],
            [
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1e18"),
            ],
        ] {
            assert_eq!(paused(&headers), Some(LONGEST_PAUSE), "{headers:?}");
        }
    }

    #[test]
    fn only_a_limit_that_is_used_up_pauses() {
        let reset = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "2s"),
            ("x-ratelimit-remaining-tokens", "900"),
            ("x-ratelimit-reset-tokens", "9s"),
        ];
        assert_eq!(paused(&reset), Some(Duration::from_secs(2)));
        assert_eq!(paused(&reset[2..]), None);
        assert_eq!(after(&reset[1..], true), Some(Duration::from_secs(2)));
        assert_eq!(after(&reset[2..], true), None);
        let both = [
            reset[0],
            reset[1],
            ("x-ratelimit-remaining-tokens", "0"),
            reset[3],
        ];
        assert_eq!(paused(&both), Some(Duration::from_secs(9)));
    }
}
