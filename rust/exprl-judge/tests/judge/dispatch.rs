//! What reaches the servers, in which order, and what comes back.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::{Answer, Server, chatter, grade, item, judge, score, settings};
use exprl_judge::{Settings, Status, View};

#[tokio::test]
async fn graded_items_come_in_input_order_though_replies_do_not() {
    let server = Server::start(|number, _| {
        let delay = Duration::from_millis(if number % 2 == 0 { 60 } else { 1 });
        Answer::Slow(delay, format!("Score: {}", 1 + number % 5))
    })
    .await;
    let verdicts = grade(&judge(&settings(&[&server])), 20).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.status == Status::Ok && verdict.score.is_some())
    );
    assert_eq!(server.seen().len(), 20);
}

#[tokio::test]
async fn every_field_of_a_verdict_says_what_happened() {
    let server = Server::grading(4).await;
    let judge = judge(&settings(&[&server]));
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!((verdict.grade, verdict.score), (Some(4), Some(0.75)));
    assert_eq!(verdict.reply, "Checked.\nScore: 4");
    assert_eq!(
        (
            verdict.prompt_tokens,
            verdict.completion_tokens,
            verdict.cached_tokens
        ),
        (10, 2, 4)
    );
    assert_eq!(
        (verdict.attempts, verdict.server.as_deref()),
        (1, Some(&*server.url))
    );
    assert!(!verdict.from_cache && verdict.error.is_none() && verdict.latency_s > 0.0);
    let stats = judge.stats();
    assert_eq!(
        (stats.requests_sent, stats.prompt_tokens, stats.in_flight),
        (1, 10, 0)
    );
    assert_eq!(stats.statuses, [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn the_prefixes_of_a_rollout_go_to_one_server_in_order() {
    let servers = [
        Server::grading(3).await,
        Server::grading(3).await,
        Server::grading(3).await,
    ];
    let settings = Settings {
        view: View::Prefix,
        concurrency: 4,
        ..settings(&[&servers[0], &servers[1], &servers[2]])
    };
    let judge = judge(&settings);
    let job = judge.submit();
    for id in 0..30 {
        job.push(&item(id, &["one. ", "###two. ", "###three. ", "###four."]))
            .await
            .unwrap();
    }
    let graded = job.collect().await;
    assert!(graded.iter().all(|graded| graded.verdicts.len() == 4));
    for graded in &graded {
        let first = &graded.verdicts[0].server;
        assert!(
            graded
                .verdicts
                .iter()
                .all(|verdict| verdict.server == *first)
        );
    }
    assert!(
        servers.iter().all(|server| !server.seen().is_empty()),
        "one server did nothing"
    );
}

#[tokio::test]
async fn rollouts_of_one_problem_share_the_bytes_before_the_trace() {
    let server = Server::grading(3).await;
    let judge = judge(&Settings {
        view: View::Prefix,
        concurrency: 1,
        ..settings(&[&server])
    });
    let job = judge.submit();
    job.push(&item(0, &["[first] ", "###two."])).await.unwrap();
    job.push(&item(0, &["[primo] ", "###due."])).await.unwrap();
    job.collect().await;
    let questions: Vec<String> = server
        .seen()
        .iter()
        .map(|seen| seen.question().to_owned())
        .collect();
    let before = |question: &str, trace: &str| question[..question.find(trace).unwrap()].to_owned();
    assert_eq!(
        before(&questions[0], "[first]"),
        before(&questions[2], "[primo]")
    );
    assert!(questions[1].starts_with(&format!(
        "{}[first] ###two.",
        before(&questions[0], "[first]")
    )));
}

#[tokio::test]
async fn a_reply_without_a_grade_is_asked_once_to_go_on_after_score() {
    let server = Server::start(
        |_, seen| match seen.body["messages"][1]["content"].as_str() {
            None => chatter(),
            Some(begun) => {
                assert_eq!(begun, "I would rather not say.\nScore:");
                Answer::Text("4".into())
            }
        },
    )
    .await;
    let judge = judge(&Settings {
        reask: true,
        ..settings(&[&server])
    });
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!((verdict.status, verdict.grade), (Status::Repaired, Some(4)));
    assert_eq!(
        (verdict.reply.as_str(), verdict.attempts),
        ("I would rather not say.", 2)
    );
    let again = &server.seen()[1].body;
    assert_eq!(again["continue_final_message"], true);
    assert_eq!(again["add_generation_prompt"], false);
    assert_eq!(
        again["structured_outputs"]["choice"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    assert_eq!(judge.stats().reasks, 1);
}

#[tokio::test]
async fn a_grade_that_never_comes_is_missing() {
    let server = Server::start(|_, _| chatter()).await;
    let judge = judge(&Settings {
        reask: true,
        ..settings(&[&server])
    });
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!(
        (verdict.status, verdict.grade, verdict.score),
        (Status::Unparseable, None, None)
    );
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_failed_re_ask_leaves_the_first_reply_and_says_so() {
    let server = Server::start(|number, _| match number {
        0 => chatter(),
        _ => Answer::Status(400, "", r#"{"error": {"message": "unknown field"}}"#.into()),
    })
    .await;
    let judge = judge(&Settings {
        reask: true,
        ..settings(&[&server])
    });
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!(verdict.status, Status::Unparseable);
    assert!(verdict.error.unwrap().contains("unknown field"));
}

#[tokio::test]
async fn equal_requests_in_flight_are_sent_once() {
    let server =
        Server::start(|_, _| Answer::Slow(Duration::from_millis(50), "Score: 2".into())).await;
    let judge = judge(&settings(&[&server]));
    let job = judge.submit();
    for _ in 0..10 {
        job.push(&item(0, &["the same trace"])).await.unwrap();
    }
    let graded = job.collect().await;
    assert!(
        graded
            .iter()
            .all(|graded| graded.verdicts[0].grade == Some(2))
    );
    assert_eq!(
        graded
            .iter()
            .filter(|graded| graded.verdicts[0].from_cache)
            .count(),
        9
    );
    assert_eq!((server.seen().len(), judge.stats().shared), (1, 9));
}

#[tokio::test]
async fn an_equal_request_of_another_job_outlives_a_cancelled_one() {
    let server = Server::start(|number, _| if number == 0 { Answer::Hang } else { score(3) }).await;
    let judge = judge(&settings(&[&server]));
    let first = judge.submit();
    first.push(&item(0, &["trace"])).await.unwrap();
    let second = judge.submit();
    second.push(&item(0, &["trace"])).await.unwrap();
    while server.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.cancel();
    assert_eq!(
        first.collect().await[0].verdicts[0].status,
        Status::Cancelled
    );
    assert_eq!(second.collect().await[0].verdicts[0].status, Status::Ok);
}

#[tokio::test]
async fn push_waits_while_the_queue_is_full() {
    let server = Server::start(|_, _| Answer::Hang).await;
    let judge = judge(&Settings {
        queue_bytes: 4096,
        concurrency: 1,
        ..settings(&[&server])
    });
    let job = judge.submit();
    let long = "x".repeat(8192);
    // What is in flight has left the queue.
    job.push(&item(0, &[&long])).await.unwrap();
    job.push(&item(1, &[&long])).await.unwrap();
    let third = item(2, &[&long]);
    let wait = tokio::time::timeout(Duration::from_millis(100), job.push(&third)).await;
    assert!(wait.is_err(), "the third push did not wait");
    job.cancel();
    assert_eq!(
        job.collect().await.len(),
        2,
        "a push that was given up must not queue its item"
    );
}

#[tokio::test]
async fn a_closed_job_takes_no_more_items() {
    let server = Server::grading(1).await;
    let judge = judge(&settings(&[&server]));
    let job = judge.submit();
    job.close();
    assert!(job.push(&item(0, &["t"])).await.is_err());
    assert!(job.collect().await.is_empty());
}

#[tokio::test]
async fn the_load_is_spread_over_equal_servers() {
    let slow = |_: usize, _: &crate::support::Seen| {
        Answer::Slow(Duration::from_millis(5), "Score: 3".into())
    };
    let servers = [
        Server::start(slow).await,
        Server::start(slow).await,
        Server::start(slow).await,
    ];
    let judge = judge(&Settings {
        concurrency: 8,
        ..settings(&[&servers[0], &servers[1], &servers[2]])
    });
    grade(&judge, 300).await;
    let loads: HashMap<_, _> = servers
        .iter()
        .map(|server| (&server.url, server.seen().len()))
        .collect();
    assert_eq!(loads.values().sum::<usize>(), 300);
    assert!(loads.values().all(|&load| load <= 130), "{loads:?}");
}
