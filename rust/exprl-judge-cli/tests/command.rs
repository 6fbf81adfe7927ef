//! The command as a user runs it, against its own rule judge.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const COMMAND: &str = env!("CARGO_BIN_EXE_exprl-judge");

/// `exprl-judge serve` on a free port.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(COMMAND)
            .args(["serve", "--rules", "numbers", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        Self {
            child,
            url: url.trim().into(),
        }
    }

    fn score(&self, arguments: &[&str], input: &str) -> Output {
        score(
            &[
                &["--endpoint", &self.url, "--model", "rules-numbers"],
                arguments,
            ]
            .concat(),
            input,
        )
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn score(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(COMMAND)
        .arg("score")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn line(id: usize, trace: &str) -> String {
    let problem = format!("Problem {id}: a hen lays 3 eggs a day. How many in {id} days?");
    let reference = format!("She lays 3*{id}=<<3*{id}={0}>>{0} eggs.\n#### {0}", 3 * id);
    format!(
        "{}\n",
        json!({"id": id, "problem": problem, "reference": reference, "trace": trace})
    )
}

fn lines(count: usize) -> String {
    (2..count + 2)
        .map(|id| {
            let answer = if id % 2 == 0 { 3 * id } else { 3 * id + 1 };
            line(
                id,
                &format!("3*{id}={answer}\n### So the answer is {answer}"),
            )
        })
        .collect()
}

fn output(done: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&done.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn says(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn outcomes_come_one_per_line_in_input_order() {
    let served = Served::start(&["--latency-ms", "1", "--jitter-ms", "5"]);
    let done = served.score(&[], &lines(40));
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    let out = output(&done);
    assert_eq!(out.len(), 40);
    for (id, line) in (2..).zip(&out) {
        assert_eq!(
            (line["id"].as_str(), line["status"].as_str()),
            (Some(id.to_string().as_str()), Some("ok"))
        );
        assert_eq!(line["grade"] == 5, id % 2 == 0, "{line}");
        assert_eq!(
            (&line["attempts"], &line["from_cache"], &line["server"]),
            (&json!(1), &json!(false), &json!(served.url))
        );
        assert!(
            line["usage"]["prompt_tokens"].as_u64() > Some(0)
                && line["latency_s"].as_f64() > Some(0.0)
        );
    }
}

#[test]
fn prefixes_come_as_segments_with_their_places() {
    let served = Served::start(&[]);
    let done = served.score(
        &["--view", "prefix", "--no-reply"],
        &line(2, "é: 3*2=6 ### So the answer is 6"),
    );
    let out = output(&done);
    let places: Vec<_> = out[0]["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (&s["start"], &s["end"]))
        .collect();
    assert_eq!(places, [(&json!(0), &json!(9)), (&json!(9), &json!(31))]);
    assert!(
        out[0]["segments"][0].get("reply").is_none() && out[0]["segments"][0]["grade"].is_u64()
    );
}

#[test]
fn a_second_run_over_the_ledger_sends_nothing() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().to_str().unwrap();
    let first = served.score(&["--ledger", ledger], &lines(10));
    let second = served.score(&["--ledger", ledger], &lines(10));
    assert!(
        says(&second).contains("0 requests sent, 10 from the ledger"),
        "{}",
        says(&second)
    );
    let grades = |done: &Output| {
        output(done)
            .iter()
            .map(|line| line["grade"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(grades(&first), grades(&second));
    assert!(Path::new(ledger).join("fence.key").exists());
}

#[test]
fn too_many_missing_grades_end_with_3_and_every_line_is_there() {
    let served = Served::start(&["--no-grade-rate", "1"]);
    let done = served.score(&[], &lines(4));
    assert_eq!(done.status.code(), Some(3));
    let out = output(&done);
    assert_eq!(out.len(), 4);
    assert!(
        out.iter()
            .all(|line| line["status"] == "unparseable" && line["score"].is_null())
    );
    assert_eq!(
        served
            .score(&["--max-missing", "1"], &lines(4))
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_wrong_reference_gives_other_grades_and_none_is_sent_when_asked() {
    let served = Served::start(&[]);
    let right = line(2, "answer is 6") + &line(4, "answer is 12");
    let grades = |arguments: &[&str]| {
        let done = served.score(arguments, &right);
        output(&done)
            .iter()
            .map(|line| line["grade"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(grades(&[]), [5, 5]);
    assert!(
        grades(&["--reference", "wrong"])
            .iter()
            .all(|&grade| grade < 5)
    );
    assert_eq!(grades(&["--reference", "none"]), [3, 3]);
}

#[test]
fn bad_input_ends_with_2_names_the_line_and_sends_nothing() {
    let input = lines(1) + "{\"id\": \"x\", \"problem\": \"p\", \"reference\": \"r\"}\n";
    let done = score(
        &["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"],
        &input,
    );
    assert_eq!(done.status.code(), Some(2));
    assert!(
        says(&done).contains("line 2") && says(&done).contains("trace"),
        "{}",
        says(&done)
    );
    assert!(done.stdout.is_empty());
}

#[test]
fn wrong_settings_end_with_2_and_say_what_to_change() {
    for (arguments, named) in [
        (
            vec!["--endpoint", "localhost:8000", "--model", "m"],
            "http://127.0.0.1:8000/v1",
        ),
        (
            vec![
                "--endpoint",
                "http://h/v1",
                "--model",
                "m",
                "--api-key-env",
                "EXPRL_NO_SUCH",
            ],
            "EXPRL_NO_SUCH",
        ),
        (
            vec![
                "--endpoint",
                "http://h/v1",
                "--model",
                "m",
                "--max-missing",
                "7",
            ],
            "--max-missing",
        ),
        (
            vec![
                "--endpoint",
                "http://h/v1",
                "--model",
                "m",
                "--rubric",
                "no/such.toml",
            ],
            "no/such.toml",
        ),
        (vec!["--model", "m"], "--endpoint"),
    ] {
        let done = score(&arguments, "");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(says(&done).contains(named), "{}", says(&done));
    }
}
