//! What a failure means: again at once, again elsewhere, pause the server, or give up.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::refusal::{Complaint, QUOTA};

/// A pause after a 429 that names no time.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// A server that asks to be asked again at once, or at a time that has passed, gets so long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// What a server was too slow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    FirstByte,
    NextPiece,
}

impl Wait {
    /// What took too long, and which setting gives it more time.
    fn explain(self, seconds: f64) -> String {
        match self {
            Self::FirstByte => format!(
                "the first byte took more than {seconds} s; for a slow server raise \
                 judge.first_byte_timeout_s (--first-byte-timeout-s), or set judge.stream = true \
                 (--stream), with which the first byte comes before the reply is whole"
            ),
            Self::NextPiece => format!(
                "the next piece took more than {seconds} s; for a slow server raise \
                 judge.idle_timeout_s (--idle-timeout-s)"
            ),
        }
    }
}

/// Why one HTTP exchange brought no reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// No connection: refused, unreachable, name not found, TLS, or not in time.
    Connect(String),
    /// A connection that had served before closed before the first byte of this reply.
    Stale,
    /// The exchange broke off, or its body is not a chat completion.
    Broken(String),
    /// A timeout passed.
    Timeout(Wait, Duration),
    /// A status other than 200, with the server's own words (shortened, keys removed).
    Status {
        code: u16,
        retry_after: Option<Duration>,
        message: String,
    },
    /// It was not sent: the judge's context cannot hold it.
    TooLong {
        complaint: Complaint,
        /// Of a reply.
        max_tokens: u64,
    },
}

/// What to do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send again at once: the server has not seen the request.
    Again,
    /// Send again after a back-off, to another server if there is one.
    Elsewhere,
    /// Nothing goes to this server for so long; then the request is sent again.
    Pause(Duration),
    /// Sending it again cannot help.
    GiveUp,
}

impl Fault {
    /// The remedy for this fault.
    pub(crate) fn action(&self) -> Action {
        match self {
            Self::Stale => Action::Again,
            Self::Status {
                code: 429, message, ..
            } if message.starts_with(QUOTA) => Action::GiveUp,
            Self::Status {
                code: 429,
                retry_after,
                ..
            } => Action::Pause(retry_after.unwrap_or(DEFAULT_PAUSE).max(SHORTEST_PAUSE)),
            Self::Status {
                code: 503,
                retry_after: Some(pause),
                ..
            } => Action::Pause((*pause).max(SHORTEST_PAUSE)),
            Self::Connect(_)
            | Self::Broken(_)
            | Self::Timeout(..)
            | Self::Status {
                code: 408 | 425 | 500 | 502..=599,
                ..
            } => Action::Elsewhere,
            Self::Status { .. } | Self::TooLong { .. } => Action::GiveUp,
        }
    }

    /// The server itself is in doubt, not only this request.
    pub(crate) fn blames_server(&self) -> bool {
        !matches!(self, Self::Stale) && self.action() == Action::Elsewhere
    }

    /// The label of its outcome in metrics.
    pub(crate) fn label(&self) -> Cow<'static, str> {
        match self {
            Self::Connect(_) => "connect".into(),
            Self::Stale => "stale".into(),
            Self::Broken(_) => "broken".into(),
            Self::Timeout(..) => "timeout".into(),
            Self::Status { code, .. } => code.to_string().into(),
            Self::TooLong { .. } => "too long".into(),
        }
    }

    /// What a refusal is about; `None` for other faults.
    pub(crate) fn complaint(&self) -> Option<Complaint> {
        match self {
            Self::Status { code, message, .. } => Some(Complaint::read(*code, message)),
            Self::TooLong { complaint, .. } => Some(*complaint),
            _ => None,
        }
    }

    /// One line for the user: what happened and, where it is known, what to change.
    pub(crate) fn explain(&self) -> String {
        match self {
            Self::Connect(cause) => format!("no connection: {cause}{}", way_in(cause)),
            Self::Stale => "the server closed a reused connection".into(),
            Self::Broken(cause) => format!("broken reply: {cause:.400}"),
            Self::Timeout(wait, limit) => wait.explain(limit.as_secs_f64()),
            Self::Status { code, message, .. } => {
                let remedy = Complaint::read(*code, message).remedy();
                format!("HTTP {code}: {message}{remedy}")
            }
            Self::TooLong {
                complaint,
                max_tokens,
            } => too_long(*complaint, *max_tokens),
        }
    }
}

/// What to do about a failed connection, where its cause tells.
fn way_in(cause: &str) -> &'static str {
    let says = |words: &str| cause.contains(words);
    if says("UnknownIssuer") {
        "; name the server's certificate, or its authority's, as judge.ca_file (--ca-file)"
    } else if says("NotValidForName") || says("not valid for name") {
        "; name the server in the endpoint as its certificate does"
    } else if says("Expired") || says("expired") {
        "; the server needs a new certificate"
    } else if says("InvalidContentType") || says("corrupt message") {
        "; does the endpoint speak http instead of https?"
    } else if says("refused") || says("lookup") || says("not within") {
        "; check that the judge's server runs there (endpoints)"
    } else {
        ""
    }
}

/// One message for all prompts that were not sent.
fn too_long(complaint: Complaint, max_tokens: u64) -> String {
    let (room, reply) = match complaint {
        Complaint::Context { limit, with_reply } => (
            limit.map_or(String::new(), |tokens| format!(" of {tokens} tokens")),
            with_reply.then_some(max_tokens),
        ),
        _ => (String::new(), None),
    };
    let reply = reply.map_or(String::new(), |tokens| {
        format!(" with a reply of judge.max_tokens = {tokens}")
    });
    let remedy = complaint.remedy();
    format!("not sent: the prompt{reply} does not fit the judge's context{room}{remedy}")
}

/// Decorrelated jitter: uniform in [base, 3 x previous], capped ("Exponential Backoff and Jitter",
/// AWS Architecture Blog, 2015).
pub(crate) fn backoff(previous: Duration) -> Duration {
    let spread = (previous * 3)
        .min(LONGEST_BACKOFF)
        .saturating_sub(SHORTEST_BACKOFF);
    SHORTEST_BACKOFF + spread.mul_f64(fastrand::f64())
}

/// Retries may not exceed a share of the requests sent, plus a reserve for the start.
pub(crate) struct RetryBudget {
    /// Thousandths of a retry.
    left: AtomicI64,
    per_request: i64,
}

impl RetryBudget {
    pub(crate) fn new(share: f64, reserve: usize) -> Self {
        Self {
            // As good as without end, and what is deposited still fits.
            left: AtomicI64::new(reserve.min(1 << 40) as i64 * 1000),
            per_request: (share * 1000.0) as i64,
        }
    }

    /// A first request was sent.
    pub(crate) fn deposit(&self) {
        self.left.fetch_add(self.per_request, Ordering::Relaxed);
    }

    /// Takes one retry out, if one is left.
    pub(crate) fn withdraw(&self) -> bool {
        let take = |left: i64| (left >= 1000).then(|| left - 1000);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// How many requests may be in flight to one server: slow start, then additive increase;
/// multiplicative decrease (TCP's, RFC 5681).
pub(crate) struct Window {
    size: f64,
    threshold: f64,
    limit: f64,
}

impl Window {
    const START: f64 = 16.0;

    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1) as f64;
        Self {
            size: limit.min(Self::START),
            threshold: limit,
            limit,
        }
    }

    #[cfg(test)]
    pub(crate) fn opened(limit: usize) -> Self {
        Self {
            size: limit as f64,
            ..Self::new(limit)
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    /// A request was answered.
    pub(crate) fn grow(&mut self) {
        let step = if self.size < self.threshold {
            1.0
        } else {
            1.0 / self.size
        };
        self.size = (self.size + step).min(self.limit);
    }

    /// The server is overloaded: half the window, or a single probe if it is out of order.
    pub(crate) fn shrink(&mut self, probe: bool) {
        self.threshold = (self.size / 2.0).max(1.0);
        self.size = if probe { 1.0 } else { self.threshold };
    }
}

/// Servers that fail again and again are left alone for a growing time.
#[derive(Default)]
pub(crate) struct Breaker {
    failures: u32,
    openings: u32,
}

impl Breaker {
    /// So many failures in a row open it.
    const LIMIT: u32 = 5;
    const LONGEST: Duration = Duration::from_secs(30);

    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// How long to leave the server alone, if this failure is one too many.
    pub(crate) fn failed(&mut self) -> Option<Duration> {
        self.failures += 1;
        // After the first opening every failed probe opens it again.
        if self.failures < Self::LIMIT && self.openings == 0 {
            return None;
        }
        self.failures = 0;
        self.openings += 1;
        Some((Duration::from_millis(500) * 2_u32.pow(self.openings.min(8))).min(Self::LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Fault {
        Fault::Status {
            code,
            retry_after: None,
            message: "no".into(),
        }
    }

    #[test]
    fn server_faults_go_elsewhere_and_caller_faults_are_final() {
        for code in [408, 500, 502, 503, 504, 529] {
            assert_eq!(status(code).action(), Action::Elsewhere, "{code}");
        }
        for code in [301, 307, 400, 401, 403, 404, 413, 422, 501] {
            assert_eq!(status(code).action(), Action::GiveUp, "{code}");
        }
        assert_eq!(Fault::Stale.action(), Action::Again);
    }

    #[test]
    fn a_timeout_names_the_setting_that_gives_more_time() {
        let told = |wait| Fault::Timeout(wait, Duration::from_secs(300)).explain();
        let first = told(Wait::FirstByte);
        assert!(
            first.starts_with("the first byte took more than 300 s;"),
            "{first}"
        );
        assert!(first.contains("judge.first_byte_timeout_s"), "{first}");
        let next = told(Wait::NextPiece);
        assert!(next.contains("judge.idle_timeout_s"), "{next}");
    }

    #[test]
    fn a_429_pauses_for_as_long_as_it_says() {
        let fault = Fault::Status {
            code: 429,
            retry_after: Some(Duration::from_secs(7)),
            message: String::new(),
        };
        assert_eq!(fault.action(), Action::Pause(Duration::from_secs(7)));
        assert_eq!(status(429).action(), Action::Pause(DEFAULT_PAUSE));
        for code in [429, 503] {
            let at_once = Fault::Status {
                code,
                retry_after: Some(Duration::ZERO),
                message: String::new(),
            };
            assert_eq!(at_once.action(), Action::Pause(SHORTEST_PAUSE));
        }
        let broke = Fault::Status {
            code: 429,
            retry_after: None,
            message: format!("{QUOTA}: You exceeded your current quota"),
        };
        assert_eq!(broke.action(), Action::GiveUp);
        assert!(broke.explain().contains("credit"), "{}", broke.explain());
    }

    #[test]
    fn backoff_stays_between_its_bounds_and_grows() {
        let mut previous = Duration::ZERO;
        for _ in 0..1000 {
            let next = backoff(previous);
            assert!((SHORTEST_BACKOFF..=LONGEST_BACKOFF).contains(&next));
            assert!(next <= (previous * 3).max(SHORTEST_BACKOFF));
            previous = next.max(SHORTEST_BACKOFF);
        }
    }

    #[test]
    fn the_budget_allows_its_share_and_no_more() {
        let budget = RetryBudget::new(0.1, 2);
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 12);
        let endless = RetryBudget::new(10.0, usize::MAX);
        endless.deposit();
        assert!(endless.withdraw());
    }

    #[test]
    fn the_window_halves_and_recovers_to_its_limit() {
        let mut window = Window::new(64);
        assert_eq!(window.size(), 16);
        for _ in 0..48 {
            window.grow();
        }
        assert_eq!(window.size(), 64);
        window.shrink(false);
        assert_eq!(window.size(), 32);
        (0..33).for_each(|_| window.grow());
        assert_eq!(window.size(), 33);
        window.shrink(true);
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_waits_longer_each_time() {
        let mut breaker = Breaker::default();
        let pauses: Vec<_> = (0..7).map(|_| breaker.failed()).collect();
        assert!(pauses[..4].iter().all(Option::is_none));
        assert!(pauses[4] < pauses[5] && pauses[5] < pauses[6]);
        breaker.answered();
        assert_eq!(breaker.failed(), None);
    }
}
