//! What a ledger spares, and what it does not.

use std::path::Path;

use crate::support::{Answer, Server, chatter, cut, grade, item, judge, score, settings};
use exprl_judge::{Forecaster, Settings, Status};

#[tokio::test]
async fn an_identical_re_run_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| if number % 3 == 0 { score(2) } else { score(4) }).await;
    let settings = Settings {
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let first = grade(&judge(&settings), 12).await;
    assert_eq!(server.seen().len(), 12);
    tokio::task::yield_now().await;
    let again = judge(&settings);
    let second = grade(&again, 12).await;
    assert_eq!(server.seen().len(), 12);
    assert_eq!(
        (again.stats().from_ledger, again.stats().requests_sent),
        (12, 0)
    );
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(
            (first.status, first.grade, &first.reply),
            (second.status, second.grade, &second.reply)
        );
        assert!(second.from_cache && second.attempts == 0);
        assert_eq!(first.key, second.key);
    }
}

#[tokio::test]
async fn a_verdict_names_the_reply_that_the_ledger_exports_under_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| match number {
        0 => Answer::Status(400, "", "bad".into()),
        1 => chatter(),
        _ => score(4),
    })
    .await;
    let settings = Settings {
        concurrency: 1,
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let verdicts = grade(&judge(&settings), 4).await;
    let mut out = Vec::new();
    exprl_judge::ledger::export(dir.path(), &mut out).unwrap();
    let lines = out
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    let exported: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(exported.len(), 3);
    for verdict in verdicts {
        let found = exported
            .iter()
            .find(|line| line["key"].as_str() == verdict.key.as_deref());
        assert_eq!(found.is_some(), verdict.status != Status::HttpError);
        if let Some(line) = found {
            assert_eq!(line["text"], verdict.reply);
        }
    }
}

#[tokio::test]
async fn the_ledger_keeps_no_failure_of_the_transport() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| match number {
        0 => Answer::Status(400, "", "bad".into()),
        _ => score(5),
    })
    .await;
    let settings = Settings {
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    assert_eq!(grade(&judge, 1).await[0].status, Status::HttpError);
    assert_eq!(grade(&judge, 1).await[0].status, Status::Ok);
    assert_eq!(judge.stats().ledger_replies, 1);
}

#[tokio::test]
async fn a_reply_without_a_grade_is_stored_and_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| match number {
        0 => chatter(),
        1 => Answer::Text("Score: 2\nScore: 3".into()),
        2 => cut("and so on"),
        _ => score(5),
    })
    .await;
    let settings = Settings {
        concurrency: 1,
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let first = grade(&judge(&settings), 4).await;
    assert_eq!(
        first
            .iter()
            .map(|verdict| verdict.status)
            .collect::<Vec<_>>(),
        [
            Status::Unparseable,
            Status::Unparseable,
            Status::Truncated,
            Status::Ok
        ]
    );
    assert_eq!(
        exprl_judge::ledger::stats(dir.path()).unwrap().statuses[..5],
        [1, 0, 2, 0, 1]
    );
    let mut forecaster = Forecaster::new(&settings).unwrap();
    for id in 0..4 {
        forecaster.add(&item(id, &["a trace"])).unwrap();
    }
    let forecast = forecaster.forecast();
    assert_eq!((forecast.requests, forecast.from_ledger), (3, 1));

    let again = judge(&settings);
    let second = grade(&again, 4).await;
    assert!(second.iter().all(|verdict| verdict.grade == Some(5)));
    assert_eq!(
        (again.stats().requests_sent, again.stats().from_ledger),
        (3, 1)
    );
    drop(again);
    let third = judge(&settings);
    grade(&third, 4).await;
    assert_eq!(third.stats().requests_sent, 0);
}

#[tokio::test]
async fn a_repaired_reply_is_never_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, seen| {
        if seen.body["continue_final_message"] == true {
            Answer::Text("3".into())
        } else {
            cut("Let me think")
        }
    })
    .await;
    let settings = Settings {
        reask: true,
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    for requests in [2, 0] {
        let judge = judge(&settings);
        let verdict = grade(&judge, 1).await.remove(0);
        assert_eq!((verdict.status, verdict.grade), (Status::Repaired, Some(3)));
        let stats = judge.stats();
        assert_eq!(
            (stats.requests_sent, stats.reasks),
            (requests, requests / 2)
        );
        assert_eq!((stats.repaired, stats.truncated), (1, 1));
        let page = judge.prometheus();
        assert!(page.contains("\nexprl_judge_repaired_total 1\n"), "{page}");
        assert!(page.contains("\nexprl_judge_truncated_total 1\n"), "{page}");
    }
}

/// Written by the program before its keys and its rules changed: five replies to `problem 0` to `problem 4`.
fn old_ledger() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/old_ledger");
    for file in ["replies.ledger", "fence.key"] {
        std::fs::copy(kept.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[tokio::test]
async fn what_an_old_ledger_holds_is_read_again_and_asked_for_only_if_no_grade_is_found() {
    let dir = old_ledger();
    let server = Server::start(|_, _| score(1)).await;
    let rubric = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/old_ledger/rubric.toml");
    let settings = Settings {
        reask: true,
        temperature: 0.0,
        max_tokens: 2048,
        rubric: Some(rubric),
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    let judge = judge(&settings);
    let verdicts = grade(&judge, 5).await;
    let found: Vec<_> = verdicts
        .iter()
        .map(|verdict| (verdict.status, verdict.grade, verdict.from_cache))
        .collect();
    assert_eq!(
        found,
        [
            (Status::Ok, Some(4), true),
            (Status::Repaired, Some(3), true),
            // `Score: 2`, and then `Score: N/A`: the old rules took the 2.
            (Status::Ok, Some(1), false),
            // An object with LaTeX in a string: the old rules found no grade.
            (Status::Ok, Some(5), true),
            (Status::Ok, Some(1), false),
        ]
    );
    assert_eq!(
        (judge.stats().requests_sent, judge.stats().from_ledger),
        (2, 3)
    );
}

#[tokio::test]
async fn the_score_map_may_change_without_asking_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::grading(4).await;
    let linear = Settings {
        ledger: Some(dir.path().into()),
        ..settings(&[&server])
    };
    assert_eq!(grade(&judge(&linear), 1).await[0].score, Some(0.75));
    for (map, score) in [
        (exprl_judge::ScoreMap::Binary, Some(1.0)),
        (exprl_judge::ScoreMap::Extremes, None),
        (exprl_judge::ScoreMap::ExtremesSoft, Some(0.8)),
    ] {
        let verdict = grade(
            &judge(&Settings {
                score_map: map,
                ..linear.clone()
            }),
            1,
        )
        .await
        .remove(0);
        assert_eq!(
            (verdict.status, verdict.grade, verdict.score),
            (Status::Ok, Some(4), score)
        );
    }
    assert_eq!(server.seen().len(), 1);
}
