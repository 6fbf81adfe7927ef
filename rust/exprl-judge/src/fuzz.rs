//! Replies that no server should send: random changes to good ones, for as long as `EXPRL_FUZZ_S` says.

use std::time::{Duration, Instant};

use exprl_rubric::{Readout, ScoreMap};

use crate::reply::Reply;
use crate::settings::Task;
use crate::sse;
use crate::types::Status;

/// Seconds by default: more where continuous integration says that it is one.
const LOCAL_S: f64 = 2.0;
const CI_S: f64 = 20.0;
/// A reply never grows beyond.
const LONGEST: usize = 100_000;

const SEEDS: [&str; 13] = [
    ": hello\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"Score: 4\"}}]}\r\n\r\ndata: a\ndata: b\n\ndata: [DONE]\n\n",
    r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"It follows.\nScore: 4"}}],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#,
    r#"{"choices":[{"finish_reason":"length","message":{"content":"<think>\nScore: 1\n</think>\n**Score:** 5/5"}}]}"#,
    r#"{"choices":[{"finish_reason":"stop","message":{"content":null,"refusal":"I cannot"}}],"usage":{"prompt_tokens":9}}"#,
    r#"{"choices":[{"message":{"content":"{\"reasoning\": \"Score: 1\", \"score\": \"4\"}"},"logprobs":null}]}"#,
    r#"{"choices":[{"message":{"content":"a\nScore: 4"},"logprobs":{"content":[{"token":"a\nScore:","bytes":null,"top_logprobs":[]},{"token":" 4","bytes":[32,52],"top_logprobs":[{"token":" 4","logprob":-0.1},{"token":"5","logprob":-2.5}]}]}}]}"#,
    r#"{"choices":[{"message":{"content":"{\"checkpoints\": [{\"text\": \"a\", \"weight\": 1}, {\"text\": \"b\", \"weight\": 3}]}"}}]}"#,
    r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Score: 1"}]},{"type":"text","text":"Score: 4"}]}}]}"#,
    r#"{"choices":[{"finish_reason":"length","message":{"content":null,"reasoning_content":"hm","reasoning":"hm"}}]}"#,
    r#"{"choices":[{"message":{"content":"Score: 2\n{\n \"why\": \"\\frac{1}{2}\",\n \"grade\": 5\n}\nMy final score is 5.\n| Score | 5 |"}}]}"#,
    r#"{"choices":[{"message":{"content":"Score: 2\nI raise it to 3\n\\boxed{5}\nScore:\n4\n\u5f97\u5206\uff1a5\n<score>4</score>"}}]}"#,
    r#"{"choices":[],"error":{"message":"no","code":400}}"#,
    "{\"choices\":[{\"message\":{\"content\":\"Score：\\u0665 \\ud83d\\ude00 Score: ５\"}}]}",
];

/// Pieces that parsers look for.
const PIECES: [&str; 33] = [
    "data: ",
    "\n\n",
    "\r",
    "\r\n",
    ": ",
    "Score: ",
    "Score:",
    "score",
    "grade",
    " is ",
    "\\\\",
    "\\u200b",
    "boxed{",
    "> ",
    "\\n",
    "1",
    "5",
    "9",
    "/5",
    "**",
    "<think>",
    "</think>",
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "-1e999",
    "\\ud800",
    "18446744073709551616",
];

/// The time to spend, and the seed: printed when a test fails, taken from `EXPRL_FUZZ_SEED` to repeat it.
fn budget() -> (Duration, u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<f64>().ok();
    let usual = if std::env::var_os("CI").is_some() {
        CI_S
    } else {
        LOCAL_S
    };
    let seconds = number("EXPRL_FUZZ_S").unwrap_or(usual);
    let seed =
        number("EXPRL_FUZZ_SEED").map_or_else(|| fastrand::u64(..1 << 52), |seed| seed as u64);
    (Duration::from_secs_f64(seconds), seed)
}

/// A few random changes: bytes, pieces, parts of another seed, repetitions.
fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=bytes.len());
        let end = at + random.usize(..=(bytes.len() - at).min(40));
        match random.u8(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 => {
                bytes.drain(at..end);
            }
            2 => {
                let piece = random.choice(PIECES).unwrap_or_default();
                bytes.splice(at..at, piece.bytes());
            }
            3 => {
                let other = random.choice(SEEDS).unwrap_or_default().as_bytes();
                let from = random.usize(..other.len());
                let to = (from + random.usize(..60)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 => {
                let repeated = bytes[at..end].repeat(random.usize(1..200));
                bytes.splice(at..at, repeated);
            }
            _ => bytes.truncate(bytes.len() - random.usize(..=bytes.len().min(20))),
        }
        bytes.truncate(LONGEST);
    }
}

/// What must hold of any body at all.
fn check(body: &[u8]) {
    for readout in [Readout::Text, Readout::Expected, Readout::Direct] {
        let Ok(reply) = Reply::read(body, readout) else {
            continue;
        };
        let graded = matches!(reply.status, Status::Ok | Status::Repaired);
        assert_eq!(reply.grade.is_some(), graded, "{reply:?}");
        assert!(reply.grade.is_none_or(|grade| (1..=5).contains(&grade)));
        // The likeliest digit need not be the one that was sampled.
        if let Some(grade) = reply.grade.filter(|_| readout != Readout::Direct) {
            assert!(reply.text.contains(char::from(b'0' + grade)), "{reply:?}");
        }
        for map in [ScoreMap::Linear, ScoreMap::ExtremesSoft] {
            let (score, _) = reply.score(map, readout);
            assert!(
                score.is_none_or(|score| (0.0..=1.0).contains(&score)),
                "{reply:?}"
            );
        }
        let stored = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&stored).unwrap(), reply);
        let again = Reply::read_stored(&stored, Task::Grade, readout);
        assert_eq!(again, graded.then(|| reply.clone()));
        let listed = reply.clone().into_checklist();
        assert!(listed.grade.is_none());
        let mut again = reply;
        if readout != Readout::Direct && again.wants_reask() && again.repair(body).is_ok() {
            assert!(!again.wants_reask());
            assert_eq!(again.grade.is_some(), again.status == Status::Repaired);
            let stored = serde_json::to_vec(&again).unwrap();
            let served = Reply::read_stored(&stored, Task::Grade, readout);
            assert_eq!(served, again.grade.is_some().then_some(again));
        }
    }
}

/// What a stream says may not depend on where the network cuts it.
fn check_stream(random: &mut fastrand::Rng, stream: &[u8]) {
    let mut whole = Vec::new();
    let read = sse::Parser::default().feed(stream, &mut whole);
    let (mut parser, mut events, mut rest) = (sse::Parser::default(), Vec::new(), stream);
    let mut piecewise = Ok(());
    while !rest.is_empty() && piecewise.is_ok() {
        let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(64)));
        piecewise = parser.feed(piece, &mut events);
        rest = after;
    }
    assert_eq!((read, whole), (piecewise, events));
}

#[test]
fn no_reply_whatever_breaks_the_reader_or_forges_a_grade() {
    let (budget, seed) = budget();
    let mut random = fastrand::Rng::with_seed(seed);
    let started = Instant::now();
    let mut body = Vec::new();
    let mut tried = 0_u64;
    while started.elapsed() < budget {
        if tried.is_multiple_of(6) {
            body = random.choice(SEEDS).unwrap_or_default().into();
        }
        mutate(&mut random, &mut body);
        let mut cuts = random.fork();
        let checked = std::panic::catch_unwind(move || {
            check_stream(&mut cuts, &body);
            check(&body);
            body
        });
        let Ok(unharmed) = checked else {
            panic!("EXPRL_FUZZ_SEED={seed}: input {tried} breaks a reader");
        };
        body = unharmed;
        tried += 1;
    }
    assert!(tried > 100, "{tried} inputs in {budget:?}");
}
