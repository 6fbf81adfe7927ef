//! Hedges, limits, pauses, the size of the cache, and what the metrics tell.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use exprl_judge::{Prices, Settings, Status, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Answer, Server, grade, item, judge, score, settings};

/// Answers after `usual`, but hangs on every request whose number `is_lost` accepts.
async fn losing(
    usual: Duration,
    is_lost: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> Server {
    Server::start(move |number, _| {
        if is_lost(number) {
            Answer::Hang
        } else {
            Answer::Slow(usual, "Score: 4".into())
        }
    })
    .await
}

#[tokio::test]
async fn a_late_request_is_hedged_and_the_losers_socket_is_dropped() {
    let lossy = losing(Duration::from_millis(5), |number| number == 150).await;
    let sound = losing(Duration::from_millis(5), |_| false).await;
    let settings = Settings {
        hedge: 1.0,
        first_byte_timeout_s: 60.0,
        ..settings(&[&lossy, &sound])
    };
    let judge = judge(&settings);
    let started = Instant::now();
    let verdicts = grade(&judge, 400).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the hang was waited for"
    );
    let stats = judge.stats();
    assert!(stats.hedges >= 1 && stats.hedges_won >= 1, "{stats:?}");
    assert_eq!(stats.requests_sent, 400 + stats.hedges);
    assert_eq!(stats.retries, 0);
    let hedged: Vec<_> = verdicts.iter().filter(|v| v.attempts == 2).collect();
    assert!(
        hedged
            .iter()
            .any(|v| v.server.as_deref() == Some(&sound.url))
    );
    // Idle connections stay open; the hanging one would never have become idle.
    assert_eq!(stats.in_flight, 0);
    let page = judge.prometheus();
    let line = format!(
        "exprl_judge_requests_total{{server=\"{}\",status=\"cancelled\"}} ",
        lossy.url
    );
    assert!(page.lines().any(|l| l.starts_with(&line)), "{page}");
}

#[tokio::test]
async fn without_hedging_a_request_that_hangs_waits_for_its_timeout() {
    let lossy = losing(Duration::from_millis(2), |number| number == 60).await;
    let settings = Settings {
        hedge: 0.0,
        first_byte_timeout_s: 3.0,
        ..settings(&[&lossy])
    };
    let judge = judge(&settings);
    let verdicts = grade(&judge, 120).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
    assert_eq!(judge.stats().hedges, 0);
    assert_eq!(judge.stats().retries, 1);
}

#[tokio::test]
async fn hedges_stay_within_their_share() {
    // Every tenth request is slow: far more than may be hedged.
    let script = |number: usize| {
        let ms = if number % 10 == 9 { 60 } else { 2 };
        Answer::Slow(Duration::from_millis(ms), "Score: 4".into())
    };
    let servers = [
        Server::start(move |number, _| script(number)).await,
        Server::start(move |number, _| script(number)).await,
    ];
    for (share, at_most) in [(0.02, 12), (0.0, 0)] {
        let settings = Settings {
            hedge: share,
            ..settings(&[&servers[0], &servers[1]])
        };
        let judge = judge(&settings);
        grade(&judge, 600).await;
        let stats = judge.stats();
        assert!(stats.hedges <= at_most, "{share}: {stats:?}");
    }
}

#[tokio::test]
async fn requests_per_minute_are_kept_to() {
    let server = Server::grading(3).await;
    let settings = Settings {
        rpm: Some(1200),
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    let started = Instant::now();
    let verdicts = grade(&judge, 50).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
    // 20 may leave at once, the other 30 at a little less than 20 per second.
    assert!(
        started.elapsed() > Duration::from_millis(1400),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(server.seen().len(), 50);
}

#[tokio::test]
async fn tokens_per_minute_follow_what_the_server_counts() {
    // By its bytes a request would cost some hundred tokens; the server counts 12.
    let server = Server::grading(3).await;
    let settings = Settings {
        tpm: Some(6000),
        max_tokens: 16,
        concurrency: 1,
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    let started = Instant::now();
    grade(&judge, 30).await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(2), "no limit at all: {took:?}");
    assert!(
        took < Duration::from_secs(20),
        "estimates were not corrected: {took:?}"
    );
}

#[tokio::test]
async fn a_limit_that_is_used_up_pauses_before_the_server_refuses() {
    let headers = "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 400ms\r\n";
    let body = r#"{"choices": [{"message": {"content": "Score: 2"}, "finish_reason": "stop"}]}"#;
    let server = Server::start(move |number, _| {
        if number == 0 {
            Answer::Status(200, headers, body.into())
        } else {
            score(2)
        }
    })
    .await;
    let settings = Settings {
        concurrency: 1,
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    let verdicts = grade(&judge, 3).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
    let seen = server.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(390));
    assert_eq!(judge.stats().rate_limit_pauses, 1);
}

#[tokio::test]
async fn every_form_of_a_pause_is_kept_to() {
    // Longer than the pause after a 429 that names none, and than any first back-off.
    let mut forms = JoinSet::new();
    for (code, headers) in [
        (429, "retry-after: 1.3\r\n"),
        (429, "retry-after-ms: 1300\r\n"),
        (
            429,
            "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 0m1.3s\r\n",
        ),
        (429, "x-ratelimit-reset-requests: 1300ms\r\n"),
        (503, "retry-after: 1.3\r\n"),
    ] {
        forms.spawn(async move {
            let server = Server::start(move |number, _| {
                if number == 0 {
                    Answer::Status(code, headers, "{}".into())
                } else {
                    score(2)
                }
            })
            .await;
            let judge = judge(&settings(&[&server]));
            let verdicts = grade(&judge, 1).await;
            assert_eq!(verdicts[0].status, Status::Ok, "{headers}");
            let seen = server.seen();
            let gap = seen[1].at - seen[0].at;
            assert!(gap >= Duration::from_millis(1290), "{headers}: {gap:?}");
        });
    }
    forms.join_all().await;
}

#[tokio::test]
async fn a_key_without_credit_is_not_asked_again() {
    let body = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
    let server = Server::start(move |_, _| Answer::Status(429, "", body.into())).await;
    let judge = judge(&settings(&[&server]));
    let verdicts = grade(&judge, 1).await;
    assert_eq!(verdicts[0].status, Status::HttpError);
    assert!(
        verdicts[0].error.as_ref().unwrap().contains("credit"),
        "{verdicts:?}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_is_judged_at_once_fits_the_cache() {
    // One rollout of three prefixes at a time: the fourth request in flight is another rollout's.
    let busy = Arc::new(Mutex::new((HashMap::<String, usize>::new(), 0_usize)));
    let most = Arc::new(AtomicUsize::new(0));
    let (book, peak) = (busy.clone(), most.clone());
    let server = Server::start(move |_, seen| {
        let problem = seen.question().split("problem ").nth(1).unwrap()[..1].to_owned();
        let mut book = book.lock().unwrap();
        let came = book.0.entry(problem).or_default();
        *came += 1;
        let (first, last) = (*came == 1, *came == 3);
        book.1 += usize::from(first);
        peak.fetch_max(book.1, Ordering::SeqCst);
        book.1 -= usize::from(last);
        Answer::Slow(Duration::from_millis(30), "Score: 4".into())
    })
    .await;
    let settings = Settings {
        view: View::Prefix,
        kv_tokens: Some(1),
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    let job = judge.submit();
    for id in 0..5 {
        job.push(&item(id, &["a", "b", "c"])).await.unwrap();
    }
    let graded = job.collect().await;
    assert!(
        graded
            .iter()
            .flat_map(|g| &g.verdicts)
            .all(|v| v.status == Status::Ok)
    );
    assert_eq!(
        most.load(Ordering::SeqCst),
        1,
        "two rollouts were judged at once"
    );
}

#[tokio::test]
async fn a_server_is_asked_for_the_size_of_its_cache_once() {
    const PAGE: &str =
        "vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"1000\"} 1.0\n";
    let server = Server::with_metrics(PAGE, |_, _| score(4)).await;
    let judge = judge(&settings(&[&server]));
    grade(&judge, 1).await;
    let line = format!(
        "exprl_judge_kv_tokens_capacity{{server=\"{}\"}} 16000",
        server.url
    );
    for _ in 0..200 {
        if judge.prometheus().lines().any(|l| l == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{}", judge.prometheus());
}

async fn fetch(url: &str, request: &str) -> String {
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn metrics_are_served_on_loopback_until_they_are_dropped() {
    let server = Server::start(|number, _| {
        if number == 0 {
            Answer::Status(500, "", "no".into())
        } else {
            score(5)
        }
    })
    .await;
    let settings = Settings {
        prices: Some(Prices {
            prompt: 1e6,
            cached: 0.0,
            completion: 0.0,
        }),
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    grade(&judge, 10).await;
    let metrics = judge.serve_metrics(0).await.unwrap();
    assert!(metrics.addr().ip().is_loopback());
    let url = format!("http://{}/metrics", metrics.addr());
    let page = fetch(&url, "GET /metrics").await;
    let server_label = format!("server=\"{}\"", server.url);
    for line in [
        format!("exprl_judge_requests_total{{{server_label},status=\"200\"}} 10"),
        format!("exprl_judge_requests_total{{{server_label},status=\"500\"}} 1"),
        format!("exprl_judge_request_duration_seconds_count{{{server_label}}} 10"),
        format!("exprl_judge_in_flight{{{server_label}}} 0"),
        "exprl_judge_verdicts_total{status=\"ok\"} 10".into(),
        "exprl_judge_prompt_tokens_total 100".into(),
        "exprl_judge_cached_tokens_total 40".into(),
        // 10 requests of 10 prompt tokens, 4 of them cached for nothing.
        "exprl_judge_cost_total 60".into(),
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    assert!(page.starts_with("HTTP/1.1 200"));
    assert!(
        fetch(&url, "POST /metrics")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert!(fetch(&url, "GET /").await.starts_with("HTTP/1.1 404"));
    let port = metrics.addr().port();
    assert!(
        judge.serve_metrics(port).await.is_err(),
        "the port is taken"
    );
    drop(metrics);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(
        judge.serve_metrics(port).await.is_ok(),
        "the port is free again"
    );
}
