//! Prompts that a judge's context does not hold, and limits of its reply.

use exprl_judge::{Settings, Status, Verdict, View};
use serde_json::{Value, json};

use crate::support::{Answer, Seen, Server, grade, item, judge, score, settings};

/// Tokens of a request, at four bytes each.
fn tokens(seen: &Seen) -> usize {
    seen.question().len() / 4
}

/// Grades what fits, counts tokens, and refuses the rest as vLLM does.
fn holding(limit: usize) -> impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static {
    move |_, seen| {
        let prompt = tokens(seen);
        if prompt > limit {
            let message = format!(
                "This model's maximum context length is {limit} tokens. However, your prompt contains {prompt} \
                 input tokens, which exceeds this limit even without any output tokens."
            );
            return Answer::Status(400, "", json!({"error": {"message": message}}).to_string());
        }
        let choice = json!({"message": {"content": "Score: 4"}, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": prompt, "completion_tokens": 3});
        Answer::Bytes(
            json!({"choices": [choice], "usage": usage})
                .to_string()
                .into(),
        )
    }
}

fn prefixes(servers: &[&Server]) -> Settings {
    Settings {
        view: View::Prefix,
        concurrency: 1,
        ..settings(servers)
    }
}

async fn graded(settings: &Settings, segments: &[&str]) -> (Vec<Verdict>, u64) {
    let judge = judge(settings);
    let job = judge.submit();
    job.push(&item(0, segments)).await.unwrap();
    let verdicts = job.collect().await.remove(0).verdicts;
    (verdicts, judge.stats().over_context)
}

#[tokio::test]
async fn where_one_prefix_does_not_fit_the_longer_ones_are_not_sent() {
    let step = "Seven times eight is 56. ".repeat(40);
    let segments = vec![&*step; 12];
    let probe = Server::grading(3).await;
    graded(&prefixes(&[&probe]), &segments).await;
    let limit = tokens(&probe.seen()[4]);
    let server = Server::start(holding(limit)).await;
    let (verdicts, over_context) = graded(&prefixes(&[&server]), &segments).await;
    let ok = verdicts
        .iter()
        .filter(|verdict| verdict.status == Status::Ok);
    assert_eq!((ok.count(), over_context), (5, 7));
    assert_eq!(
        server.seen().len(),
        6,
        "five that fit, and one that does not"
    );
    let held_back: Vec<_> = verdicts[6..]
        .iter()
        .map(|v| v.error.clone().unwrap())
        .collect();
    assert!(held_back[0].starts_with("not sent:"), "{}", held_back[0]);
    assert!(
        held_back[0].contains(&format!("{limit} tokens"))
            && held_back[0].contains("longer context")
    );
    assert!(
        held_back.iter().all(|error| *error == held_back[0]),
        "one message"
    );
    assert!(
        verdicts[6..]
            .iter()
            .all(|v| v.status == Status::HttpError && v.attempts == 0)
    );
}

#[tokio::test]
async fn a_step_alone_says_nothing_about_the_next_one() {
    let long = "Seven times eight is 56. ".repeat(400);
    let server = Server::start(holding(2_000)).await;
    let settings = Settings {
        view: View::Step,
        ..prefixes(&[&server])
    };
    let (verdicts, _) = graded(&settings, &["It is 1.", &long, "It is 2."]).await;
    let statuses: Vec<_> = verdicts.iter().map(|verdict| verdict.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::HttpError, Status::Ok]);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn what_the_list_of_models_rules_out_is_not_sent_and_all_that_fits_is() {
    let limit = 1_500;
    let server = Server::with_context(limit, holding(limit)).await;
    let judge = judge(&Settings {
        concurrency: 2,
        ..settings(&[&server])
    });
    let text = "Seven times eight is 56, and 7 more is 63. ";
    let loops = ["          ", "\n\n", "=", "ha"];
    let job = judge.submit();
    let mut lengths = Vec::new();
    for id in 0..120_usize {
        // Short ones first, from which tokens per byte are learnt.
        let words = text.repeat(if id < 20 { 1 } else { id * 4 });
        let blanks = loops[id % 4].repeat(if id % 3 == 0 { 200 } else { 0 });
        let trace = format!("{words}{blanks}");
        lengths.push(trace.len());
        job.push(&item(id, &[&trace])).await.unwrap();
    }
    let verdicts: Vec<_> = job
        .collect()
        .await
        .into_iter()
        .map(|mut g| g.verdicts.remove(0))
        .collect();
    let refused_at_server = |verdict: &Verdict| verdict.attempts > 0;
    // What the head and the frame of a question take beside the trace.
    let head = server.seen()[0].question().len() - lengths[0];
    for (verdict, length) in verdicts.iter().zip(&lengths) {
        let fits = (head + length) / 4 <= limit + 20;
        let held_back = verdict.status != Status::Ok && !refused_at_server(verdict);
        assert!(!(held_back && fits), "{length}: {:?}", verdict.error);
    }
    let held_back = verdicts
        .iter()
        .filter(|verdict| !refused_at_server(verdict));
    assert!(
        held_back.count() > 10,
        "the longest are more than twice too long"
    );
}

#[tokio::test]
async fn a_server_with_a_longer_context_gets_what_the_other_refuses() {
    let text = "Seven times eight is 56. ".repeat(400);
    let (short, long) = (
        Server::with_context(1_000, holding(1_000)).await,
        Server::with_context(100_000, holding(100_000)).await,
    );
    let judge = judge(&settings(&[&short, &long]));
    let job = judge.submit();
    for id in 0..30 {
        job.push(&item(id, &[&text])).await.unwrap();
    }
    let graded = job.collect().await;
    assert!(
        graded
            .iter()
            .all(|graded| graded.verdicts[0].status == Status::Ok)
    );
    assert!(!short.seen().is_empty(), "some of them tried the short one");
}

#[tokio::test]
async fn a_limit_of_the_reply_names_its_setting() {
    let body = json!({"error": {"message": "max_tokens=2048 cannot be greater than max_model_len=1024. Please request fewer output tokens."}});
    let server = Server::start(move |_, _| Answer::Status(400, "", body.to_string())).await;
    let verdict = grade(&judge(&settings(&[&server])), 1).await.remove(0);
    let error = verdict.error.unwrap();
    assert!(
        error.contains("lower judge.max_tokens") && error.contains("max_model_len=1024"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_asks_for_max_completion_tokens_gets_it() {
    let refusal = json!({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}});
    let takes =
        |body: &Value| body["max_tokens"].is_null() && body["max_completion_tokens"].is_u64();
    let server = Server::start(move |_, seen| {
        if takes(&seen.body) {
            score(4)
        } else {
            Answer::Status(400, "", refusal.to_string())
        }
    })
    .await;
    let judge = judge(&Settings {
        concurrency: 1,
        ..settings(&[&server])
    });
    let verdicts = grade(&judge, 20).await;
    assert!(verdicts.iter().all(|verdict| verdict.status == Status::Ok));
    assert_eq!(server.seen().len(), 21, "it is asked the wrong way once");
}

#[tokio::test]
async fn a_server_that_takes_neither_name_is_left_with_a_reason() {
    let refusal =
        json!({"error": {"message": "max_tokens and max_completion_tokens are not supported"}});
    let server = Server::start(move |_, _| Answer::Status(400, "", refusal.to_string())).await;
    let verdict = grade(&judge(&settings(&[&server])), 1).await.remove(0);
    assert_eq!((verdict.status, verdict.attempts), (Status::HttpError, 2));
    assert!(verdict.error.unwrap().contains("neither"));
}
