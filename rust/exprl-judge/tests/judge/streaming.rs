//! Streamed replies, and replies that no HTTP client should take.

use std::time::{Duration, Instant};

use exprl_judge::{Readout, Settings, Status, View};
use exprl_rehearsal as rehearsal;

use crate::support::{Answer, Server, Then, grade, judge, score, settings};

#[tokio::test]
async fn a_streamed_reply_is_asked_for_and_graded_and_its_connection_kept() {
    let server = Server::start(|_, _| Answer::Stream(vec!["Fine.\nSco", "re: 4"], Then::End)).await;
    let judge = judge(&Settings {
        stream: true,
        concurrency: 1,
        ..settings(&[&server])
    });
    for verdict in grade(&judge, 5).await {
        assert_eq!((verdict.status, verdict.grade), (Status::Ok, Some(4)));
        assert_eq!(verdict.prompt_tokens, 10);
    }
    let seen = server.seen();
    assert_eq!(seen[0].body["stream"], true);
    assert_eq!(seen[0].body["stream_options"]["include_usage"], true);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_judge_that_rambles_after_the_grade_is_left() {
    let server =
        Server::start(|_, _| Answer::Stream(vec!["Score: 2\n", "Also"], Then::Ramble)).await;
    let judge = judge(&Settings {
        stream: true,
        ..settings(&[&server])
    });
    let begun = Instant::now();
    let verdicts = grade(&judge, 3).await;
    assert!(verdicts.iter().all(|verdict| verdict.grade == Some(2)));
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The server finds out at its next write.
    for _ in 0..200 {
        if server.connections() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} streams still run", server.connections());
}

#[tokio::test]
async fn a_stream_that_stalls_before_the_grade_times_out_between_pieces() {
    let server = Server::start(|number, _| match number {
        0 => Answer::Stream(vec!["Let me see"], Then::Stall),
        _ => score(3),
    })
    .await;
    let judge = judge(&Settings {
        stream: true,
        attempts: 1,
        idle_timeout_s: 0.1,
        ..settings(&[&server])
    });
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!(verdict.status, Status::Timeout);
    assert!(verdict.error.unwrap().contains("next piece"));
}

#[tokio::test]
async fn a_stream_that_stalls_after_the_grade_costs_nothing() {
    let server = Server::start(|_, _| Answer::Stream(vec!["Score: 5\n"], Then::Stall)).await;
    let judge = judge(&Settings {
        stream: true,
        ..settings(&[&server])
    });
    assert_eq!(grade(&judge, 1).await[0].grade, Some(5));
}

#[tokio::test]
async fn streamed_or_whole_a_judge_gives_the_same_scores_under_one_key() {
    let server = rehearsal::serve(rehearsal::Config::new(rehearsal::Rule::Numbers))
        .await
        .unwrap();
    let ledger = tempfile::tempdir().unwrap();
    for (stream, sent) in [(true, 8), (false, 0)] {
        let judge = judge(&Settings {
            view: View::Outcome,
            readout: Readout::Expected,
            stream,
            ledger: Some(ledger.path().into()),
            ..Settings::new(vec![server.url()], "rules-numbers")
        });
        let verdicts = grade(&judge, 8).await;
        assert!(verdicts.iter().all(|verdict| verdict.score.is_some()));
        let stats = judge.stats();
        assert_eq!((stats.requests_sent, stats.readout_fallbacks), (sent, 0));
    }
    server.stop().await;
}

#[tokio::test]
async fn replies_that_no_client_should_take_are_faults_and_not_grades() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (bytes, said) in [
        (
            format!("{head}x: {}\r\n\r\n", "y".repeat(1 << 20)),
            "head is too large",
        ),
        (
            format!(
                "{head}content-length: {}\r\n\r\n{}",
                1_u64 << 40,
                " ".repeat(17 << 20)
            ),
            "longer than",
        ),
        (
            format!("{head}content-encoding: gzip\r\ncontent-length: 1\r\n\r\nx"),
            "content-encoding",
        ),
        (
            "SSH-2.0-OpenSSH_9.6\r\n\r\n".into(),
            "not an HTTP/1.1 reply",
        ),
    ] {
        let bytes = bytes.into_bytes();
        let server = Server::start(move |_, _| Answer::Raw(bytes.clone())).await;
        let judge = judge(&Settings {
            attempts: 1,
            ..settings(&[&server])
        });
        let verdict = grade(&judge, 1).await.remove(0);
        assert_eq!((verdict.status, verdict.grade), (Status::HttpError, None));
        let error = verdict.error.unwrap();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_no_grade() {
    let reply = b"{\"choices\": [{\"message\": {\"content\": \"\xff\nScore: 4\"}}]}";
    let server = Server::start(|_, _| Answer::Bytes(reply.to_vec())).await;
    let judge = judge(&Settings {
        attempts: 1,
        ..settings(&[&server])
    });
    let verdict = grade(&judge, 1).await.remove(0);
    assert_eq!((verdict.status, verdict.grade), (Status::HttpError, None));
}
