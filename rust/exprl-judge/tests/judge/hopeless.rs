//! Servers that will never grade anything are asked a few times, not once for every grade; and a request
//! that hangs is asked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use exprl_judge::{Settings, Status, Verdict};

use crate::support::{Answer, Server, grade, judge, score, settings};

fn failed(verdicts: &[Verdict], words: &str) -> bool {
    verdicts.iter().all(|verdict| {
        let error = verdict.error.as_deref().unwrap_or_default();
        verdict.status == Status::HttpError && error.contains(words)
    })
}

#[tokio::test]
async fn a_wrong_key_or_address_is_found_out_with_the_first_requests() {
    for (code, words) in [
        (401, "API key"),
        (402, "credit"),
        (403, "API key"),
        (404, "/v1"),
        (405, "/v1"),
    ] {
        let server = Server::start(move |_, _| Answer::Status(code, "", "no".into())).await;
        let verdicts = grade(&judge(&settings(&[&server])), 2_000).await;
        assert!(failed(&verdicts, words), "{code}");
        let sent = server.seen().len();
        assert!((4..=32).contains(&sent), "{code}: {sent} requests");
    }
}

#[tokio::test]
async fn a_field_that_no_request_may_have_is_found_out_too() {
    let server = Server::start(|_, _| Answer::Status(422, "", "unknown field".into())).await;
    let verdicts = grade(&judge(&settings(&[&server])), 2_000).await;
    assert!(failed(&verdicts, "extra"));
    assert!(server.seen().len() <= 48, "{}", server.seen().len());
}

#[tokio::test]
async fn a_server_that_was_never_there_is_not_waited_for() {
    let dead = { Server::grading(1).await.url.clone() };
    let settings = Settings {
        endpoints: vec![dead],
        outage_s: 3600.0,
        deadline_s: 60.0,
        ..settings(&[])
    };
    let judge = judge(&settings);
    let verdicts = grade(&judge, 500).await;
    assert!(failed(&verdicts, "no connection"), "{:?}", verdicts[0]);
    assert!(judge.stats().requests_sent < 100, "{:?}", judge.stats());
}

#[tokio::test]
async fn beside_a_server_that_refuses_the_others_go_on() {
    let refuses = Server::start(|_, _| Answer::Status(403, "", "no".into())).await;
    let good = Server::grading(4).await;
    let dead = { Server::grading(1).await.url.clone() };
    let mut settings = settings(&[&refuses, &good]);
    settings.endpoints.push(dead);
    let verdicts = grade(&judge(&settings), 300).await;
    let by_good = verdicts
        .iter()
        .filter(|v| v.server.as_deref() == Some(&*good.url));
    assert!(by_good.clone().all(|verdict| verdict.status == Status::Ok));
    assert!(by_good.count() > 100);
}

#[tokio::test]
async fn a_server_that_has_graded_is_not_given_up_for_what_it_refuses() {
    let server = Server::start(|number, _| match number {
        0 => score(4),
        _ => Answer::Status(403, "", "not this one".into()),
    })
    .await;
    let judge = judge(&Settings {
        concurrency: 1,
        ..settings(&[&server])
    });
    let verdicts = grade(&judge, 50).await;
    assert_eq!(verdicts[0].status, Status::Ok);
    assert_eq!(server.seen().len(), 50);
}

#[tokio::test]
async fn another_job_tries_again() {
    let mended = Arc::new(AtomicBool::new(false));
    let works = mended.clone();
    let server = Server::start(move |_, _| {
        if works.load(Ordering::SeqCst) {
            score(4)
        } else {
            Answer::Status(401, "", "no".into())
        }
    })
    .await;
    let judge = judge(&settings(&[&server]));
    assert!(failed(&grade(&judge, 100).await, "API key"));
    mended.store(true, Ordering::SeqCst);
    let verdicts = grade(&judge, 100).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
}

#[tokio::test]
async fn a_request_that_hangs_is_sent_to_the_same_server_again() {
    for concurrency in [1, 8] {
        let server =
            Server::start(|number, _| if number == 60 { Answer::Hang } else { score(4) }).await;
        let settings = Settings {
            concurrency,
            first_byte_timeout_s: 3600.0,
            deadline_s: 60.0,
            ..settings(&[&server])
        };
        let judge = judge(&settings);
        let verdicts = grade(&judge, 100).await;
        assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
        assert!(judge.stats().hedges > 0);
    }
}
