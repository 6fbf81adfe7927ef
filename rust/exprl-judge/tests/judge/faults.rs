//! Servers that misbehave: every request ends with a status, and none is lost.

use std::time::{Duration, Instant};

use crate::support::{Answer, Server, Then, grade, item, judge, score, settings};
use exprl_judge::{Settings, Status, Verdict};

fn all_ok(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.status == Status::Ok)
}

#[tokio::test]
async fn a_transient_failure_is_asked_again() {
    let huge = vec![b' '; 17 << 20];
    for failure in [
        Answer::Status(500, "", "oops".into()),
        Answer::Status(503, "retry-after: 0\r\n", String::new()),
        Answer::Cut,
        Answer::Close,
        Answer::Bytes(b"<html>not json</html>".to_vec()),
        Answer::Bytes(vec![0xff, 0xfe]),
        Answer::Bytes(huge),
    ] {
        let server = Server::start(move |number, _| {
            if number == 0 {
                failure.clone()
            } else {
                score(4)
            }
        })
        .await;
        let judge = judge(&settings(&[&server]));
        let verdicts = grade(&judge, 1).await;
        assert!(all_ok(&verdicts), "{:?}", verdicts[0].error);
        assert_eq!((verdicts[0].attempts, judge.stats().retries), (2, 1));
    }
}

#[tokio::test]
async fn after_a_failure_another_server_is_asked() {
    let bad = Server::start(|_, _| Answer::Status(500, "", "oops".into())).await;
    let good = Server::grading(5).await;
    let judge = judge(&settings(&[&bad, &good]));
    let verdicts = grade(&judge, 40).await;
    assert!(all_ok(&verdicts));
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.attempts <= 2 && verdict.server.as_deref() == Some(&*good.url))
    );
    assert!(
        bad.seen().len() <= 16 + 5,
        "the bad server was asked {} times",
        bad.seen().len()
    );
}

#[tokio::test]
async fn a_429_pauses_its_server_for_everybody_and_costs_no_attempt() {
    let server = Server::start(|number, _| match number {
        0 => Answer::Status(429, "retry-after: 1\r\n", "slow down".into()),
        _ => score(3),
    })
    .await;
    let judge = judge(&Settings {
        concurrency: 1,
        attempts: 1,
        ..settings(&[&server])
    });
    let verdicts = grade(&judge, 5).await;
    assert!(all_ok(&verdicts));
    let seen = server.seen();
    assert!(
        seen[1].at - seen[0].at >= Duration::from_millis(950),
        "asked again too early"
    );
    assert_eq!((seen.len(), judge.stats().rate_limit_pauses), (6, 1));
}

#[tokio::test]
async fn what_the_caller_did_wrong_is_asked_once_and_explained() {
    for (code, body, remedy) in [
        (
            400,
            r#"{"error": {"message": "maximum context length is 4096 tokens"}}"#,
            "shorten the trace",
        ),
        (401, r#"{"error": {"message": "no key"}}"#, "API key"),
        (403, "forbidden", "API key"),
        (404, r#"{"detail": "no model m"}"#, "/v1"),
    ] {
        let server = Server::start(move |_, _| Answer::Status(code, "", body.into())).await;
        let verdict = grade(&judge(&settings(&[&server])), 1).await.remove(0);
        assert_eq!(
            (verdict.status, verdict.grade, verdict.score),
            (Status::HttpError, None, None)
        );
        let error = verdict.error.unwrap();
        assert!(
            error.contains(&code.to_string()) && error.contains(remedy),
            "{error}"
        );
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_key_stays_home() {
    let other = Server::grading(5).await;
    let location: &'static str = format!("location: {}/chat/completions\r\n", other.url).leak();
    let server = Server::start(move |_, _| Answer::Status(307, location, String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-very-secret\n").unwrap();
    let settings = Settings {
        api_key_file: Some(folder.path().join("key")),
        ..settings(&[&server])
    };
    let verdict = grade(&judge(&settings), 1).await.remove(0);
    assert_eq!(verdict.status, Status::HttpError);
    assert!(
        server.seen()[0]
            .head
            .contains("authorization: bearer sk-very-secret")
    );
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_key_that_the_server_repeats_is_nowhere() {
    const KEY: &str = "sk-very-secret";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), KEY).unwrap();
    let streamed = format!("data: {{\"error\": {{\"message\": \"{KEY}\"}}}}\n\n");
    let streamed = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{streamed}",
        streamed.len()
    );
    for answer in [
        // Also where an error's words are cut.
        Answer::Status(401, "", format!("{}{KEY}", "x".repeat(290))),
        Answer::Text(format!("You sent {KEY}.\nScore: 4")),
        Answer::Bytes(format!("{{\"choices\": \"{KEY}\"}}").into()),
        Answer::Stream(vec!["You sent ", KEY, ".\nScore: 4"], Then::End),
        Answer::Raw(streamed.into()),
    ] {
        let server = Server::start(move |_, _| answer.clone()).await;
        let ledger = tempfile::tempdir().unwrap();
        let settings = Settings {
            api_key_file: Some(folder.path().join("key")),
            ledger: Some(ledger.path().into()),
            ..settings(&[&server])
        };
        let verdict = grade(&judge(&settings), 1).await.remove(0);
        assert!(server.seen()[0].head.contains(KEY));
        assert!(!format!("{verdict:?} {settings:?}").contains("sk-very"));
        let kept = std::fs::read(ledger.path().join("replies.ledger")).unwrap();
        assert!(!String::from_utf8_lossy(&kept).contains("sk-very"));
    }
}

#[tokio::test]
async fn a_server_that_says_at_once_is_not_asked_in_a_hot_loop() {
    for (code, again) in [
        (429, "retry-after: 0\r\n"),
        (429, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        (503, "retry-after: 0\r\n"),
    ] {
        let server = Server::start(move |_, _| Answer::Status(code, again, String::new())).await;
        let settings = Settings {
            deadline_s: 0.45,
            ..settings(&[&server])
        };
        assert_eq!(grade(&judge(&settings), 1).await[0].status, Status::Timeout);
        assert!(server.seen().len() <= 6, "{}", server.seen().len());
    }
}

#[tokio::test]
async fn a_server_that_hangs_ends_as_a_timeout_and_another_one_helps() {
    for silence in [Answer::Hang, Answer::Stall] {
        let script = silence.clone();
        let silent = Server::start(move |_, _| script.clone()).await;
        let short = Settings {
            first_byte_timeout_s: 0.08,
            idle_timeout_s: 0.08,
            attempts: 2,
            ..settings(&[&silent])
        };
        let verdict = grade(&judge(&short), 1).await.remove(0);
        assert_eq!(
            (verdict.status, verdict.score, verdict.attempts),
            (Status::Timeout, None, 2)
        );
        let good = Server::grading(4).await;
        let both = Settings {
            endpoints: vec![silent.url.clone(), good.url.clone()],
            ..short
        };
        assert!(all_ok(&grade(&judge(&both), 10).await));
    }
}

#[tokio::test]
async fn a_reused_connection_that_closes_before_a_byte_costs_no_attempt() {
    // Every second request on the one connection meets a server that has just hung up.
    let server = Server::start(|number, _| {
        if number % 2 == 1 {
            Answer::Close
        } else {
            score(2)
        }
    })
    .await;
    let judge = judge(&Settings {
        concurrency: 1,
        attempts: 1,
        ..settings(&[&server])
    });
    let verdicts = grade(&judge, 10).await;
    assert!(all_ok(&verdicts));
    assert_eq!(server.seen().len(), 19);
}

#[tokio::test]
async fn beside_a_dead_server_nothing_is_lost() {
    let good = Server::grading(4).await;
    let dead = { Server::grading(1).await.url.clone() };
    let settings = Settings {
        endpoints: vec![dead, good.url.clone()],
        ..settings(&[])
    };
    let verdicts = grade(&judge(&settings), 200).await;
    assert!(all_ok(&verdicts));
}

#[tokio::test]
async fn servers_that_die_on_the_way_lose_nothing() {
    // Until it dies, a server answers; then it closes its connections, and later its port.
    let mortal = |life: usize| {
        Server::start(move |number, _| {
            if number < life {
                Answer::Slow(Duration::from_millis(5), "Score: 4".into())
            } else {
                Answer::Close
            }
        })
    };
    let last = Server::grading(4).await;
    let mut doomed = vec![mortal(40).await, mortal(90).await];
    let settings = Settings {
        concurrency: 8,
        ..settings(&[&doomed[0], &last, &doomed[1]])
    };
    let judge = judge(&settings);
    let job = judge.submit();
    for id in 0..600 {
        job.push(&item(id, &["a trace"])).await.unwrap();
    }
    while doomed[0].seen().len() < 40 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(doomed.remove(0));
    let graded = job.collect().await;
    let verdicts: Vec<_> = graded.into_iter().flat_map(|g| g.verdicts).collect();
    assert_eq!(verdicts.len(), 600);
    assert!(all_ok(&verdicts), "{:?}", judge.stats());
    let by_last = verdicts
        .iter()
        .filter(|v| v.server.as_deref() == Some(&last.url));
    assert!(by_last.count() >= 600 - 130);
}

#[tokio::test]
async fn when_every_server_is_dead_the_wait_ends() {
    let dead = { Server::grading(1).await.url.clone() };
    let settings = Settings {
        endpoints: vec![dead],
        outage_s: 0.5,
        ..settings(&[])
    };
    let started = Instant::now();
    let verdicts = grade(&judge(&settings), 100).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.status == Status::HttpError && verdict.error.is_some())
    );
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn idle_time_is_no_outage() {
    let server = Server::start(|number, _| match number {
        1..=5 => Answer::Status(500, "", String::new()),
        _ => score(3),
    })
    .await;
    let judge = judge(&Settings {
        concurrency: 5,
        outage_s: 1.5,
        ..settings(&[&server])
    });
    assert!(all_ok(&grade(&judge, 1).await));
    tokio::time::sleep(Duration::from_millis(1600)).await;
    let job = judge.submit();
    for id in 1..=20 {
        job.push(&item(id, &["step"])).await.unwrap();
    }
    let graded = job.collect().await;
    assert!(graded.iter().all(|graded| all_ok(&graded.verdicts)));
}

#[tokio::test]
async fn a_bad_day_loses_nothing() {
    let server = Server::start(|number, _| match number % 29 {
        3 => Answer::Status(429, "retry-after: 0.05\r\n", String::new()),
        7 => Answer::Status(500, "", String::new()),
        11 => Answer::Cut,
        13 => Answer::Close,
        _ => score(3),
    })
    .await;
    // A request can meet one fault after the other: four attempts are too few for one of these days.
    let judge = judge(&Settings {
        attempts: 20,
        retry_budget: 1.0,
        ..settings(&[&server])
    });
    let verdicts = grade(&judge, 500).await;
    assert!(all_ok(&verdicts));
    let stats = judge.stats();
    assert_eq!(stats.requests_sent as usize, server.seen().len());
    assert_eq!(stats.requests_sent, 500 + stats.retries);
}

#[tokio::test]
async fn retries_stop_when_their_budget_is_spent() {
    let server = Server::start(|_, _| Answer::Status(500, "", String::new())).await;
    let settings = Settings {
        concurrency: 4,
        attempts: 100,
        outage_s: 3600.0,
        ..settings(&[&server])
    };
    let judge = judge(&Settings {
        deadline_s: 60.0,
        ..settings
    });
    let job = judge.submit();
    for id in 0..3 {
        job.push(&item(id, &["trace"])).await.unwrap();
    }
    let graded = job.collect().await;
    assert!(
        graded
            .iter()
            .all(|graded| graded.verdicts[0].status == Status::HttpError)
    );
    assert!(
        server.seen().len() <= 3 + 4,
        "{} requests",
        server.seen().len()
    );
}

#[tokio::test]
async fn cancelling_drops_the_sockets_and_marks_the_rest() {
    let server = Server::start(|number, _| if number == 0 { score(5) } else { Answer::Hang }).await;
    let judge = judge(&Settings {
        concurrency: 4,
        ..settings(&[&server])
    });
    let job = judge.submit();
    for id in 0..10 {
        job.push(&item(id, &["trace"])).await.unwrap();
    }
    let ok = Status::ALL
        .iter()
        .position(|status| *status == Status::Ok)
        .unwrap();
    while server.connections() < 4 || judge.stats().statuses[ok] == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    job.cancel();
    let graded = job.collect().await;
    let count = |status| {
        graded
            .iter()
            .filter(|graded| graded.verdicts[0].status == status)
            .count()
    };
    assert_eq!((count(Status::Ok), count(Status::Cancelled)), (1, 9));
    let started = Instant::now();
    while server.connections() > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{} sockets stay open",
            server.connections()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(judge.stats().in_flight, 0);
}

#[tokio::test]
async fn the_deadline_ends_what_is_queued_and_in_flight() {
    let server = Server::start(|_, _| Answer::Hang).await;
    let judge = judge(&Settings {
        concurrency: 2,
        deadline_s: 0.15,
        ..settings(&[&server])
    });
    let started = Instant::now();
    let verdicts = grade(&judge, 10).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.status == Status::Timeout && verdict.score.is_none())
    );
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn closing_the_judge_ends_its_jobs_and_frees_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Answer::Hang).await;
    let settings = Settings {
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let first = judge(&settings);
    let job = first.submit();
    job.push(&item(0, &["trace"])).await.unwrap();
    while server.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(first);
    assert_eq!(job.collect().await[0].verdicts[0].status, Status::Cancelled);
    tokio::time::sleep(Duration::from_millis(50)).await;
    judge(&settings);
}
