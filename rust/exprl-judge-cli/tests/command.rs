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
fn an_id_comes_back_as_it_was() {
    let ids = [json!(7), json!("7"), json!(u64::MAX), json!("é\u{2028}\"")];
    let mut input = String::new();
    for id in &ids {
        let line = json!({"id": id, "problem": "1 + 1?", "reference": "2", "trace": "It is 2."});
        input += &(line.to_string() + "\r\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let arguments = [
        "--rules",
        "numbers",
        "--resume",
        "-o",
        out.to_str().unwrap(),
    ];
    for _ in 0..2 {
        let done = score(&arguments, &input);
        assert_eq!(done.status.code(), Some(0), "{}", says(&done));
        let text = std::fs::read_to_string(&out).unwrap();
        let read = text.lines().map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(
            read.map(|line: Value| line["id"].clone())
                .collect::<Vec<_>>(),
            ids
        );
    }
}

#[test]
fn the_input_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("in.jsonl"), folder.path().join("link"));
    std::fs::write(&file, lines(3)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (file, link) = (file.to_str().unwrap(), link.to_str().unwrap());
    for arguments in [
        ["--rules", "numbers", "-o", link, file],
        ["--rules", "numbers", "-o", file, link],
    ] {
        let done = score(&arguments, "");
        assert_eq!(done.status.code(), Some(2));
        assert!(says(&done).contains("is the input"), "{}", says(&done));
        assert_eq!(std::fs::read_to_string(file).unwrap(), lines(3));
    }
}

#[test]
fn outcomes_come_one_per_line_in_input_order() {
    let served = Served::start(&["--latency-ms", "1", "--jitter-ms", "5"]);
    let done = served.score(&[], &lines(40));
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    let out = output(&done);
    assert_eq!(out.len(), 40);
    for (id, line) in (2..).zip(&out) {
        assert_eq!((&line["id"], &line["status"]), (&json!(id), &json!("ok")));
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
fn a_trace_is_cut_by_the_rule_and_its_steps_are_joined() {
    let served = Served::start(&[]);
    let trace = "C### is a key.\n\n3*2=6\n```\n### x\n```\nSo 6";
    let steps = |flags: &[&str]| {
        let flags = [&["--view", "prefix", "--no-reply"], flags].concat();
        output(&served.score(&flags, &line(2, trace)))[0]["segments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["end"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&[]), [1, 26, 40]);
    assert_eq!(steps(&["--steps", "heading"]), [40]);
    assert_eq!(steps(&["--steps", "paragraph"]), [16, 40]);
    assert_eq!(steps(&["--steps", "line"]), [16, 22, 36, 40]);
    assert_eq!(
        steps(&["--steps", "line", "--max-steps", "3"]),
        [22, 36, 40]
    );
    assert_eq!(
        steps(&["--steps", "line", "--min-step-words", "3"]),
        [16, 40]
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
        (vec!["--rules", "numbers", "--view", "page"], "`outcome`"),
        (vec!["--rules", "numbers", "--rpm", "many"], "--rpm"),
        (vec!["--rules", "sums"], "division and numbers"),
        (
            vec!["--rules", "numbers", "--steps", "sentence"],
            "delimiter, heading, paragraph, line",
        ),
        (
            vec!["--rules", "numbers", "--max-steps", "0"],
            "--max-steps",
        ),
        (vec!["--rules", "numbers", "--prices", "1,2"], "3 elements"),
        (vec!["--rules", "numbers", "--extra", "7"], "expected a map"),
    ] {
        let done = score(&arguments, "");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(says(&done).contains(named), "{}", says(&done));
    }
}

#[test]
fn a_checklist_has_no_settings_of_grades() {
    let done = Command::new(COMMAND)
        .args(["rubric", "--rules", "numbers", "--view", "prefix"])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(says(&done).contains("'--view'"), "{}", says(&done));
}

/// A file in a folder of the test's own.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_resumed_run_keeps_whole_lines_and_asks_for_the_rest() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(10));
    let out = folder.path().join("out.jsonl");
    let out = out.to_str().unwrap();
    let ids = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            format!("{} {}", line["id"], line["grade"])
        });
        lines.collect()
    };
    let run = |arguments: &[&str]| served.score(&[&[&input, "--out", out], arguments].concat(), "");
    assert_eq!(
        run(&["--resume"]).status.code(),
        Some(0),
        "a first run may say so too"
    );
    let whole = std::fs::read_to_string(out).unwrap();
    let fourth = whole.match_indices('\n').nth(3).unwrap().0;
    for cut in [fourth + 1, fourth + 40, whole.len()] {
        std::fs::write(out, &whole[..cut]).unwrap();
        let kept = whole[..cut].matches('\n').count();
        let done = run(&["--resume"]);
        assert_eq!(done.status.code(), Some(0), "{}", says(&done));
        let sent = format!("{} requests sent", 10 - kept);
        assert!(
            says(&done).contains(&sent) && says(&done).contains("10 verdicts"),
            "{}",
            says(&done)
        );
        let text = std::fs::read_to_string(out).unwrap();
        assert_eq!(ids(&text), ids(&whole));
        assert_eq!(text[..fourth], whole[..fourth]);
    }
    for (arguments, reason) in [
        (vec!["--view", "prefix"], "--view prefix"),
        (
            vec!["--reference", "none", "--out", "/dev/null/x"],
            "/dev/null/x",
        ),
    ] {
        let mut arguments = arguments;
        arguments.insert(0, "--resume");
        let done = if arguments.contains(&"--out") {
            served.score(&[&[input.as_str()], arguments.as_slice()].concat(), "")
        } else {
            run(&arguments)
        };
        assert_eq!(done.status.code(), Some(2));
        assert!(says(&done).contains(reason), "{}", says(&done));
    }
    let other = file(&folder, "other.jsonl", &(line(77, "x") + &lines(10)));
    let refused = served.score(&[&other, "--out", out, "--resume"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        says(&refused).contains("the same input in the same order"),
        "{}",
        says(&refused)
    );
    let nothing = served.score(&["--resume"], "");
    assert!(
        says(&nothing).contains("nothing to go on from"),
        "{}",
        says(&nothing)
    );
}

#[test]
fn a_file_of_grades_is_not_overwritten_unless_asked_and_not_by_missing_ones() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(5));
    let old = "the grades of last week\n";
    let out = file(&folder, "out.jsonl", old);
    let beside = format!("{out}.new");
    let text = || std::fs::read_to_string(&out).unwrap();
    let rules = ["--rules", "numbers", &input, "-o", &out];
    let refused = score(&rules, "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        says(&refused).contains("--resume") && says(&refused).contains("--force"),
        "{}",
        says(&refused)
    );
    assert_eq!(text(), old);

    let nobody = [
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        &input,
    ];
    let failed = score(&[&nobody[..], &["-o", &out, "--force"]].concat(), "");
    assert_eq!(failed.status.code(), Some(3), "{}", says(&failed));
    assert_eq!(text(), old, "nulls do not replace grades");
    assert!(says(&failed).contains("is as it was"), "{}", says(&failed));
    assert_eq!(std::fs::read_to_string(&beside).unwrap().lines().count(), 5);

    let done = score(&[&rules[..], &["--force"]].concat(), "");
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    assert_eq!(text().lines().count(), 5);
    assert!(!Path::new(&beside).exists());
    let both = score(&[&rules[..], &["--force", "--resume"]].concat(), "");
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn an_empty_file_and_a_device_may_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let empty = file(&folder, "out.jsonl", "");
    for out in [empty.as_str(), "/dev/null"] {
        let done = score(&["--rules", "numbers", "-o", out], &lines(2));
        assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    }
    assert_eq!(std::fs::read_to_string(&empty).unwrap().lines().count(), 2);
}

#[test]
fn the_commonest_reason_is_said_once_and_a_dead_server_is_not_waited_for() {
    let nobody = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"];
    let done = score(&nobody, &lines(300));
    assert_eq!(done.status.code(), Some(3));
    let said = says(&done);
    assert_eq!(said.matches("no connection").count(), 1, "{said}");
    assert!(said.contains("300 without a grade because: "), "{said}");
    assert_eq!(output(&done).len(), 300);
    let sent: u64 = output(&done)
        .iter()
        .map(|line| line["attempts"].as_u64().unwrap())
        .sum();
    assert!((5..=100).contains(&sent), "{sent} requests");
}

#[test]
fn a_run_that_finds_everything_done_says_so_in_whole_words() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(2));
    let out = folder.path().join("out.jsonl");
    let out = out.to_str().unwrap();
    let run = || score(&["--rules", "numbers", &input, "-o", out, "--resume"], "");
    assert!(
        says(&run()).contains("2 verdicts (ok 2), "),
        "{}",
        says(&run())
    );
    assert!(
        says(&run()).contains("2 verdicts (2 lines were there), "),
        "{}",
        says(&run())
    );
    let nothing = score(&["--rules", "numbers"], "");
    assert!(
        says(&nothing).contains("0 verdicts, "),
        "{}",
        says(&nothing)
    );
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(3000));
    let mut child = Command::new(COMMAND)
        .args([
            "score",
            &input,
            "--endpoint",
            &served.url,
            "--model",
            "rules-numbers",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.contains("grade"));
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    assert!(
        !says(&done).to_lowercase().contains("pipe"),
        "{}",
        says(&done)
    );
}

#[test]
fn what_is_shown_of_a_ledger_may_be_cut_short() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().to_str().unwrap();
    served.score(&["--ledger", ledger], &lines(1000));
    let mut child = Command::new(COMMAND)
        .args(["ledger", "export", ledger])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    assert!(
        !says(&done).to_lowercase().contains("pipe"),
        "{}",
        says(&done)
    );
}

#[test]
fn a_reason_that_all_rubrics_share_is_told_once() {
    let nobody = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"];
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(40));
    let mut command = Command::new(COMMAND);
    let done = command
        .arg("rubric")
        .args(nobody)
        .arg(&input)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(3));
    let said = says(&done);
    assert_eq!(said.matches("no connection").count(), 1, "{said}");
    assert!(said.contains("and 39 more: "), "{said}");
}

#[test]
fn the_judges_prompt_is_shown_and_nothing_is_sent() {
    let nobody = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"];
    let show = |more: &[&str]| {
        let done = score(&[&nobody[..], more].concat(), &lines(4));
        assert_eq!(done.status.code(), Some(0), "{}", says(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    let one = show(&["--show-prompt"]);
    assert!(
        one.starts_with("=== line 1, id 2, request 1 of 1\n"),
        "{one}"
    );
    for words in [
        "Problem 2: a hen lays",
        "She lays 3*2",
        "So the answer is 6",
        "Score: ",
    ] {
        assert!(one.contains(words), "{words}: {one}");
    }
    assert!(!one.contains("Problem 3"));
    let three = show(&["--show-prompt=3", "--view", "prefix"]);
    assert_eq!(
        three.matches("\n=== line ").count() + 1,
        6,
        "two prefixes each"
    );
    assert!(
        three.contains("=== line 3, id 4, request 2 of 2"),
        "{three}"
    );
    assert!(show(&["--show-prompt=9"]).contains("=== line 4, "));
}

#[test]
fn help_fits_80_columns() {
    for words in [
        &["--help"][..],
        &["score", "--help"],
        &["rubric", "--help"],
        &["serve", "--help"],
        &["ledger", "stats", "--help"],
    ] {
        let done = Command::new(COMMAND).args(words).output().unwrap();
        let help = String::from_utf8(done.stdout).unwrap();
        let widest = help
            .lines()
            .max_by_key(|line| line.chars().count())
            .unwrap();
        assert!(widest.chars().count() <= 80, "{words:?}: {widest}");
    }
}

#[test]
fn input_is_graded_while_it_still_comes_and_a_late_bad_line_costs_nothing_of_it() {
    let served = Served::start(&[]);
    let mut child = Command::new(COMMAND)
        .args([
            "score",
            "--endpoint",
            &served.url,
            "--model",
            "rules-numbers",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(line(2, "3*2=6").as_bytes()).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut graded = String::new();
    output.read_line(&mut graded).unwrap();
    assert!(graded.contains("\"grade\":5"), "{graded}");
    input
        .write_all((line(3, "3*3=9") + "{\"id\": 1}\n").as_bytes())
        .unwrap();
    graded.clear();
    output.read_line(&mut graded).unwrap();
    assert!(graded.contains("\"id\":3,"), "{graded}");
    drop(input);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(says(&done).contains("standard input, line 3: field `problem` is missing"));
}

#[test]
fn a_dry_run_counts_and_sends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let ledger = ledger.to_str().unwrap();
    let dry = |more: &[&str]| {
        let fixed = [
            "--endpoint",
            "http://127.0.0.1:9/v1",
            "--model",
            "rules-numbers",
            "--dry-run",
            "--ledger",
            ledger,
        ];
        let done = score(&[&fixed, more].concat(), &(lines(4) + &lines(1)));
        assert_eq!(done.status.code(), Some(0), "{}", says(&done));
        serde_json::from_slice::<Value>(&done.stdout).unwrap()
    };
    let all = dry(&["--prices", "1,0.1,2"]);
    assert_eq!(
        (&all["lines"], &all["requests"], &all["repeated"]),
        (&json!(5), &json!(4), &json!(1))
    );
    assert!(
        all["prompt_tokens"].as_u64() > Some(1000)
            && all["cost"].as_f64() < all["most_cost"].as_f64()
    );
    assert!(!Path::new(ledger).exists());
    assert_eq!(dry(&["--view", "prefix"])["requests"], 8);
    let served = Served::start(&[]);
    served.score(&["--ledger", ledger], &lines(2));
    let rest = dry(&[]);
    assert_eq!(
        (&rest["requests"], &rest["from_ledger"]),
        (&json!(2), &json!(2))
    );
    assert!(rest.get("cost").is_none());
}

#[test]
fn rubrics_are_written_once_kept_when_edited_and_used() {
    let served = Served::start(&["--prose-rate", "0.5", "--error-rate", "0.3"]);
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &(lines(6) + &lines(6)));
    let out = folder.path().join("rubrics.jsonl");
    let out = out.to_str().unwrap();
    let run = |input: &str| {
        Command::new(COMMAND)
            .args([
                "rubric",
                input,
                "-o",
                out,
                "--endpoint",
                &served.url,
                "--model",
                "rules-numbers",
            ])
            .output()
            .unwrap()
    };
    let done = run(&input);
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    let written = std::fs::read_to_string(out).unwrap();
    assert_eq!(written.lines().count(), 6, "one for each problem");
    let edited = written.replacen("\"weight\":1", "\"weight\":9", 1);
    std::fs::write(out, format!("{edited}{{\"key\": \"torn")).unwrap();
    let again = run(&input);
    assert!(
        says(&again).contains("6 problems, 0 to write"),
        "{}",
        says(&again)
    );
    assert_eq!(std::fs::read_to_string(out).unwrap(), edited);

    let graded = served.score(&["--rubrics", out, "--view", "prefix"], &lines(6));
    assert_eq!(graded.status.code(), Some(0), "{}", says(&graded));
    let more = lines(7);
    let missing = served.score(&["--rubrics", out], &more);
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        says(&missing).contains("line 7: field `problem`"),
        "{}",
        says(&missing)
    );
    assert!(missing.stdout.is_empty());
    let refused = Served::start(&["--no-grade-rate", "1"]);
    let none = Command::new(COMMAND)
        .args([
            "rubric",
            &input,
            "--endpoint",
            &refused.url,
            "--model",
            "rules-numbers",
        ])
        .output()
        .unwrap();
    assert_eq!(none.status.code(), Some(3));
    assert!(says(&none).contains("no JSON object"), "{}", says(&none));
}

#[test]
fn a_ledger_is_counted_exported_and_compacted() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().to_str().unwrap();
    served.score(&["--ledger", ledger], &lines(5));
    let run = |action: &str, ledger: &str| {
        let mut command = Command::new(COMMAND);
        command.args(["ledger", action, ledger]).output().unwrap()
    };
    let stats: Value = serde_json::from_slice(&run("stats", ledger).stdout).unwrap();
    assert_eq!(
        (&stats["replies"], &stats["statuses"]["ok"]),
        (&json!(5), &json!(5))
    );
    let exported = output(&run("export", ledger));
    assert_eq!(exported.len(), 5);
    assert!(exported[0]["key"].as_str().unwrap().len() == 64 && exported[0]["grade"].is_u64());
    let show = |key: &str| {
        let mut command = Command::new(COMMAND);
        command
            .args(["ledger", "show", ledger, key])
            .output()
            .unwrap()
    };
    let shown: Value =
        serde_json::from_slice(&show(exported[3]["key"].as_str().unwrap()).stdout).unwrap();
    assert_eq!(shown, exported[3]);
    let absent = show(&"0".repeat(64));
    assert_eq!(absent.status.code(), Some(1));
    assert!(says(&absent).contains("no reply under 000"));
    let wrong = show("p7");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(says(&wrong).contains("64 hex digits"), "{}", says(&wrong));
    assert_eq!(run("compact", ledger).status.code(), Some(0));
    let second = served.score(&["--ledger", ledger], &lines(5));
    assert!(
        says(&second).contains("0 requests sent, 5 from the ledger"),
        "{}",
        says(&second)
    );
    let missing = run("stats", "no/such/folder");
    assert_eq!(missing.status.code(), Some(2));
    assert!(says(&missing).contains("no/such/folder"));
}

#[test]
fn labels_give_the_misplacement_rate_and_an_own_rule_judge_needs_no_server() {
    let mut labelled = String::new();
    for id in 2..8 {
        let right = id % 2 == 0;
        let answer = if right { 3 * id } else { 1 };
        let text = line(id, &format!("So the answer is {answer}"));
        let mut line: Value = serde_json::from_str(&text).unwrap();
        line["is_correct"] = json!(right || id == 3);
        labelled.push_str(&line.to_string());
        labelled.push('\n');
    }
    let done = score(&["--rules", "numbers", "--label", "is_correct"], &labelled);
    assert_eq!(done.status.code(), Some(0), "{}", says(&done));
    assert!(
        says(&done).contains("misplacement rate 12.50% (false positives 0.00%, false negatives 25.00%, 6 graded, 0 missing)"),
        "{}",
        says(&done)
    );
    let unlabelled = score(&["--rules", "numbers", "--label", "truth"], &labelled);
    assert!(says(&unlabelled).contains("line 1: field `truth` is missing; give true or false"));
}

#[test]
fn ctrl_c_writes_what_has_finished_in_order_and_ends_with_130() {
    let served = Served::start(&["--latency-ms", "50"]);
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "in.jsonl", &lines(400));
    let child = Command::new(COMMAND)
        .args([
            "score",
            &input,
            "--endpoint",
            &served.url,
            "--model",
            "rules-numbers",
            "--concurrency",
            "4",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let process = child.id().to_string();
    Command::new("kill")
        .args(["-INT", &process])
        .status()
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", says(&done));
    let out = output(&done);
    assert!(!out.is_empty() && out.len() < 400, "{}", out.len());
    for (id, line) in (2..).zip(&out) {
        assert_eq!((&line["id"], &line["status"]), (&json!(id), &json!("ok")));
    }
}
