//! A chat completion to a grade. The reply is hostile input too: nothing in it is trusted but the
//! grade line that `exprl-rubric` finds.

use exprl_rubric::{Checklist, Reading, Readout, ScoreMap, grade_place, open_thinking, read_grade};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::{Message, Said};
use crate::policy::Fault;
use crate::settings::Task;
use crate::types::Status;

/// Below this probability mass on 1..5 the probabilities are not believed.
const LEAST_MASS: f64 = 0.9;
/// No request uses more tokens; a server that says so has miscounted.
const MOST_TOKENS: f64 = 1e9;

/// What a judge said, as the ledger keeps it. Scores are not kept: the score map may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) grade: Option<u8>,
    pub(crate) text: String,
    /// Probabilities of the tokens 1..5 at the grade, as the server gave them; at the first token of a
    /// reply that should be one digit.
    pub(crate) probabilities: Option<[f64; 5]>,
    /// A re-ask has been tried.
    pub(crate) reasked: bool,
    pub(crate) error: Option<String>,
    pub(crate) usage: Usage,
    /// The text ends where the token limit cut it: nothing in it is a verdict. Older ledgers do not tell.
    #[serde(default)]
    pub(crate) cut: bool,
    /// What the judge answered to the re-ask. Older ledgers do not tell.
    #[serde(default)]
    pub(crate) answer: Option<String>,
}

/// Tokens that a server counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    pub(crate) cached: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.completion += other.completion;
        self.cached += other.cached;
    }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            prompt: self.prompt - other.prompt,
            completion: self.completion - other.completion,
            cached: self.cached - other.cached,
        }
    }
}

impl Reply {
    /// Reads the body of a 200 answer.
    pub(crate) fn read(body: &[u8], readout: Readout) -> Result<Self, Fault> {
        let (choice, usage) = parse(body)?;
        let said = choice.message.into_said();
        let tokens = choice.logprobs.and_then(|logprobs| logprobs.content);
        let first = tokens.as_ref().and_then(|tokens| tokens.first());
        // The limit is one token there, and each reply reaches it.
        let at_first = first.filter(|_| readout == Readout::Direct).map(on_grades);
        let finish = choice.finish_reason.as_deref().unwrap_or_default();
        let (status, grade, error) = if !said.refusal.is_empty() {
            (Status::Refused, None, Some(said.refusal.clone()))
        } else if finish == "content_filter" {
            let why = "stopped by a content filter";
            (Status::Refused, None, Some(why.into()))
        } else if readout == Readout::Direct {
            match digit_alone(&said.text, at_first.as_ref()) {
                Some(grade) => (Status::Ok, Some(grade), None),
                None => (
                    Status::Unparseable,
                    None,
                    Some(why_no_digit(&said, at_first)),
                ),
            }
        } else if finish == "length" {
            (Status::Truncated, None, Some(why_cut(&said)))
        } else {
            match read_grade(&said.text) {
                Reading::Grade(grade) => (Status::Ok, Some(grade), None),
                other => (Status::Unparseable, None, Some(why(other, &said).into())),
            }
        };
        let text = said.text;
        let at_grade = grade
            .filter(|_| readout == Readout::Expected)
            .and_then(|_| probabilities(&text, grade_place(&text)?, tokens.as_ref()?));
        Ok(Self {
            status,
            grade,
            text,
            probabilities: at_first.or(at_grade),
            reasked: false,
            error,
            usage,
            cut: status == Status::Truncated,
            answer: None,
        })
    }

    /// A reply of the ledger, read by today's rules; `None` if they find in it nothing that can be used,
    /// so that the judge is asked again.
    pub(crate) fn read_stored(stored: &[u8], task: Task, readout: Readout) -> Option<Self> {
        let reply: Self = serde_json::from_slice(stored).ok()?;
        match (task, readout) {
            (Task::Checklist, _) => {
                Some(reply.into_checklist()).filter(|reply| reply.status == Status::Ok)
            }
            (Task::Grade, Readout::Direct) => reply.read_digit_again(),
            (Task::Grade, Readout::Text | Readout::Expected) => reply.graded_again(),
        }
    }

    fn read_digit_again(mut self) -> Option<Self> {
        let grade = digit_alone(&self.text, self.probabilities.as_ref())?;
        (self.status, self.grade, self.error) = (Status::Ok, Some(grade), None);
        Some(self)
    }

    fn graded_again(mut self) -> Option<Self> {
        let whole = matches!(self.status, Status::Ok | Status::Unparseable);
        let from_text = || grade_in(&self.text).filter(|_| whole);
        let from_answer = match &self.answer {
            Some(answer) => grade_in_answer(answer),
            // Stored when the answer was not kept: its grade was.
            None => self.grade.filter(|_| self.status == Status::Repaired),
        };
        let (status, grade) = match from_answer {
            Some(grade) => (Status::Repaired, grade),
            None => (Status::Ok, from_text()?),
        };
        if self.grade != Some(grade) {
            // They stand at another digit.
            self.probabilities = None;
        }
        (self.status, self.grade, self.error) = (status, Some(grade), None);
        Some(self)
    }

    /// The same reply, read for the checklist that was asked for instead of for a grade.
    pub(crate) fn into_checklist(mut self) -> Self {
        self.grade = None;
        self.probabilities = None;
        match Checklist::read(&self.text) {
            Ok(_) => {
                self.status = Status::Ok;
                self.error = None;
            }
            Err(reason) if matches!(self.status, Status::Ok | Status::Unparseable) => {
                self.status = Status::Unparseable;
                self.error = Some(reason);
            }
            Err(_) => {}
        }
        self
    }

    /// Takes in the answer to a re-ask: a digit, or nothing usable.
    pub(crate) fn repair(&mut self, body: &[u8]) -> Result<(), Fault> {
        let (choice, usage) = parse(body)?;
        self.usage += usage;
        self.reasked = true;
        let answer = choice.message.into_said().text;
        if let Some(grade) = grade_in_answer(&answer) {
            self.status = Status::Repaired;
            self.grade = Some(grade);
            self.error = None;
        }
        self.answer = Some(answer);
        Ok(())
    }

    /// Whether asking once more may bring a grade.
    pub(crate) fn wants_reask(&self) -> bool {
        !self.reasked && matches!(self.status, Status::Unparseable | Status::Truncated)
    }

    /// The score under a map, and whether it had to come from the grade alone although the readout is by
    /// probabilities.
    pub(crate) fn score(&self, map: ScoreMap, readout: Readout) -> (Option<f64>, bool) {
        let Some(grade) = self.grade else {
            return (None, false);
        };
        let believed = self
            .probabilities
            .filter(|p| p.iter().sum::<f64>() >= LEAST_MASS);
        match (readout, believed) {
            (Readout::Text, _) => (map.score(grade), false),
            (_, Some(probabilities)) => (map.expected(&probabilities), false),
            (_, None) => (map.score(grade), true),
        }
    }
}

fn grade_in(text: &str) -> Option<u8> {
    match read_grade(text) {
        Reading::Grade(grade) => Some(grade),
        _ => None,
    }
}

/// The grade in the answer to a re-ask. Some servers return the begun message as well; some do not keep to
/// the choice.
fn grade_in_answer(answer: &str) -> Option<u8> {
    let value = answer.rsplit("Score:").next().unwrap_or_default();
    grade_in(&format!("Score: {}", value.trim()))
}

/// The grade of a reply that should be one digit: the likeliest, or the one written where the listed
/// tokens leave too much open. Without probabilities there is none: that readout is made of them.
fn digit_alone(text: &str, probabilities: Option<&[f64; 5]>) -> Option<u8> {
    let probabilities = probabilities?;
    if probabilities.iter().sum::<f64>() < LEAST_MASS {
        return text
            .trim()
            .parse()
            .ok()
            .filter(|grade| (1..=5).contains(grade));
    }
    let likeliest = |best: (u8, f64), next: (u8, f64)| if next.1 > best.1 { next } else { best };
    let grades = (1..=5).zip(probabilities.iter().copied());
    grades.reduce(likeliest).map(|(grade, _)| grade)
}

fn why_no_digit(said: &Said, at_first: Option<[f64; 5]>) -> String {
    let instead = "or take judge.readout = \"text\" (--readout text)";
    if said.thinks || open_thinking(&said.text).is_some() {
        return format!(
            "the reply begins to think, and judge.readout = \"direct\" takes its first token: switch \
             thinking off with judge.extra.chat_template_kwargs = {{enable_thinking = false}}, {instead}"
        );
    }
    let Some(at_first) = at_first else {
        return format!(
            "the server sent no log-probabilities, and judge.readout = \"direct\" reads the grade from \
             them: use a server that sends them, such as vLLM, {instead}"
        );
    };
    format!(
        "the reply begins with {:?}, and the grades 1 to 5 have {:.2} of the probability there: \
         judge.readout = \"direct\" needs a server that keeps to a choice (structured_outputs), such as \
         vLLM; use one, {instead}",
        said.text,
        at_first.iter().sum::<f64>()
    )
}

fn why_cut(said: &Said) -> String {
    let only_thinks = said.thinks && said.text.trim().is_empty();
    let place = if only_thinks || open_thinking(&said.text).is_some() {
        "within its thinking"
    } else {
        "before its grade was complete"
    };
    format!("the reply reached judge.max_tokens {place}; raise judge.max_tokens (--max-tokens)")
}

fn why(reading: Reading, said: &Said) -> &'static str {
    match reading {
        Reading::Grade(_) => "",
        Reading::Conflict => "the reply holds two different grades",
        Reading::OutOfRange => "the grade in the reply is not one of 1, 2, 3, 4, 5",
        Reading::Unreadable => "the last verdict in the reply cannot be read as a grade",
        Reading::Absent if open_thinking(&said.text).is_some() => {
            "the reply does not end its thinking"
        }
        Reading::Absent if said.thinks && said.text.trim().is_empty() => {
            "the reply holds thinking alone, and no text"
        }
        Reading::Absent => "the reply holds no line `Score: n`",
    }
}

#[derive(Deserialize)]
struct Completion<'a> {
    choices: Vec<Choice>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<TokenLogprob>>,
}

#[derive(Deserialize)]
struct TokenLogprob {
    token: String,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<TopLogprob>,
}

#[derive(Deserialize)]
struct TopLogprob {
    token: String,
    logprob: f64,
}

/// Counts are read one by one: an odd one must not take the grade away.
#[derive(Default, Deserialize)]
struct RawUsage<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct PromptDetails<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
}

fn parse(body: &[u8]) -> Result<(Choice, Usage), Fault> {
    let text = String::from_utf8_lossy(body);
    let completion: Completion = serde_json::from_str(&text).map_err(|error| {
        Fault::Broken(match words_of_error(&text) {
            Some(words) => format!("an error instead of a completion: {words}"),
            None => format!("not a chat completion: {error}"),
        })
    })?;
    let usage = part::<RawUsage>(completion.usage);
    let details = part::<PromptDetails>(usage.prompt_tokens_details);
    let prompt = tokens(usage.prompt_tokens);
    let usage = Usage {
        prompt,
        completion: tokens(usage.completion_tokens),
        cached: tokens(details.cached_tokens).min(prompt),
    };
    let choice = completion.choices.into_iter().next();
    choice
        .map(|choice| (choice, usage))
        .ok_or_else(|| Fault::Broken("a completion without choices".into()))
}

/// A part of a reply that may be absent or of another shape.
fn part<'a, T: Default + Deserialize<'a>>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}

/// A count of tokens; 0, not known, if it is no number or not a possible one.
fn tokens(raw: Option<&RawValue>) -> u64 {
    let count: f64 = part(raw);
    if (0.0..=MOST_TOKENS).contains(&count) {
        count as u64
    } else {
        0
    }
}

/// What a server says in the body of an error.
pub(crate) fn words_of_error(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let fields = [
        &body["error"]["message"],
        &body["message"],
        &body["detail"],
        &body["error"],
    ];
    fields
        .iter()
        .find_map(|field| field.as_str().map(str::to_owned))
}

/// Probabilities of 1..5 at the token that carries the reply's grade, whose digit stands at `place`, as far
/// as they were listed.
fn probabilities(text: &str, place: usize, tokens: &[TokenLogprob]) -> Option<[f64; 5]> {
    // The listed tokens may begin with thinking that the text leaves out, and end with a stop token.
    let pieces: Vec<&[u8]> = tokens
        .iter()
        .map(|token| token.bytes.as_deref().unwrap_or(token.token.as_bytes()))
        .collect();
    let whole = pieces.concat();
    let start = (0..=whole.len().checked_sub(text.len())?)
        .rev()
        .find(|&at| whole[at..].starts_with(text.as_bytes()))?;
    let mut end = 0;
    let index = pieces.iter().position(|piece| {
        end += piece.len();
        start + place < end
    })?;
    Some(on_grades(&tokens[index]))
}

/// Probabilities of 1..5 at a token, as far as they were listed.
fn on_grades(token: &TokenLogprob) -> [f64; 5] {
    let mut found = [0.0; 5];
    for top in &token.top_logprobs {
        if let Ok(grade @ 1..=5) = top.token.trim().parse::<usize>() {
            found[grade - 1] += top.logprob.exp();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn completion(message: &Value, finish: &str) -> Vec<u8> {
        json!({
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
        })
        .to_string()
        .into_bytes()
    }

    fn read(text: &str, finish: &str) -> Reply {
        Reply::read(
            &completion(&json!({"content": text}), finish),
            Readout::Text,
        )
        .unwrap()
    }

    #[test]
    fn a_grade_is_ok_and_its_usage_is_counted() {
        let reply = read("fine\nScore: 4", "stop");
        assert_eq!((reply.status, reply.grade), (Status::Ok, Some(4)));
        assert_eq!(
            reply.usage,
            Usage {
                prompt: 9,
                completion: 3,
                cached: 4
            }
        );
        assert_eq!(
            reply.score(ScoreMap::Linear, Readout::Text),
            (Some(0.75), false)
        );
        assert_eq!(
            reply.score(ScoreMap::Extremes, Readout::Text),
            (None, false)
        );
    }

    #[test]
    fn a_reply_without_a_grade_has_no_score() {
        for (text, finish, status) in [
            ("no idea", "stop", Status::Unparseable),
            ("Score: 9", "stop", Status::Unparseable),
            ("Score: 2\nScore: 3", "stop", Status::Unparseable),
            ("Score: 4 is what I would", "length", Status::Truncated),
            ("", "content_filter", Status::Refused),
        ] {
            let reply = read(text, finish);
            assert_eq!((reply.status, reply.grade), (status, None), "{text:?}");
            assert_eq!(reply.score(ScoreMap::Linear, Readout::Text), (None, false));
            assert!(reply.error.is_some());
        }
        let refused = completion(&json!({"content": null, "refusal": "I cannot"}), "stop");
        let refused = Reply::read(&refused, Readout::Text).unwrap();
        assert_eq!(
            (refused.status, refused.error.as_deref()),
            (Status::Refused, Some("I cannot"))
        );
    }

    #[test]
    fn a_reply_that_thinks_and_says_nothing_is_named_as_such() {
        let apart = json!({"content": null, "reasoning_content": "so it is\nScore: 5"});
        let under_another_name = json!({"content": "\n", "reasoning": "so it is\nScore: 5"});
        let in_parts = json!({"content": [{"type": "thinking", "thinking": "Score: 5"}]});
        let in_tags = json!({"content": "<think>\nScore: 5"});
        for message in [apart, under_another_name, in_parts, in_tags] {
            let cut = Reply::read(&completion(&message, "length"), Readout::Text).unwrap();
            assert_eq!(
                (cut.status, cut.grade),
                (Status::Truncated, None),
                "{message}"
            );
            let why = cut.error.unwrap();
            assert!(
                why.contains("judge.max_tokens within its thinking"),
                "{why}"
            );
            let ended = Reply::read(&completion(&message, "stop"), Readout::Text).unwrap();
            assert_eq!(
                (ended.status, ended.grade),
                (Status::Unparseable, None),
                "{message}"
            );
            assert!(ended.error.unwrap().contains("thinking"), "{message}");
        }
        let why = read("It goes on and", "length").error.unwrap();
        assert!(why.contains("judge.max_tokens before its grade"), "{why}");
    }

    #[test]
    fn the_text_parts_of_a_reply_are_one_text() {
        let text = |text: &str| json!({"type": "text", "text": text});
        for (parts, grade) in [
            (json!([text("Sco"), text("re: 4")]), Some(4)),
            (
                json!([{"type": "thinking", "thinking": "Score: 1"}, text("Score: 4")]),
                Some(4),
            ),
            (json!([text("Score: 2\n"), text("Score: 4")]), None),
            (json!([]), None),
        ] {
            let body = completion(&json!({"content": parts}), "stop");
            let reply = Reply::read(&body, Readout::Text).unwrap();
            assert_eq!(reply.grade, grade, "{parts}");
        }
        let refusal = json!({"content": [{"type": "refusal", "refusal": "I will not"}]});
        let refused = Reply::read(&completion(&refusal, "stop"), Readout::Text).unwrap();
        assert_eq!(
            (refused.status, refused.error.as_deref()),
            (Status::Refused, Some("I will not"))
        );
    }

    fn served(stored: &Value) -> Option<(Status, u8, Option<[f64; 5]>)> {
        let reply = Reply::read_stored(stored.to_string().as_bytes(), Task::Grade, Readout::Text)?;
        assert!(reply.error.is_none());
        Some((reply.status, reply.grade.unwrap(), reply.probabilities))
    }

    #[test]
    fn a_stored_reply_is_read_by_the_rules_of_today() {
        let stored = |status: &str, grade: Option<u8>, text: &str| {
            json!({"status": status, "grade": grade, "text": text, "probabilities": [0, 0, 0, 1, 0],
                "reasked": status == "repaired", "error": null,
                "usage": {"prompt": 1, "completion": 1, "cached": 0}})
        };
        let sure = Some([0.0, 0.0, 0.0, 1.0, 0.0]);
        for (stored, expected) in [
            (
                stored("ok", Some(4), "Fine.\nScore: 4"),
                Some((Status::Ok, 4, sure)),
            ),
            (stored("ok", Some(2), "Score: 2\nNo:\nScore: none"), None),
            (
                stored("unparseable", None, "{\"why\": \"\\sin\", \"score\": 3}"),
                Some((Status::Ok, 3, None)),
            ),
            (stored("unparseable", None, "who knows"), None),
            (stored("truncated", None, "Score: 4"), None),
            (stored("refused", None, "Score: 4"), None),
            (
                stored("repaired", Some(4), "who knows"),
                Some((Status::Repaired, 4, sure)),
            ),
            (json!({"status": "ok"}), None),
        ] {
            assert_eq!(served(&stored), expected, "{stored}");
        }
    }

    #[test]
    fn a_repaired_reply_is_stored_with_the_answer_that_repaired_it() {
        for (first, answer, finish, expected) in [
            ("who knows", "4", "stop", Some(4)),
            ("<think> hm", " 2", "length", Some(2)),
            ("Score: 3", "2", "length", Some(2)),
            ("who knows", "nobody", "stop", None),
        ] {
            let mut reply = read(first, finish);
            reply
                .repair(&completion(&json!({"content": answer}), "stop"))
                .unwrap();
            assert_eq!(
                (reply.cut, reply.answer.as_deref()),
                (finish == "length", Some(answer))
            );
            let stored = serde_json::to_value(&reply).unwrap();
            assert_eq!(
                served(&stored).map(|(_, grade, _)| grade),
                expected,
                "{first:?}"
            );
            assert_eq!(reply.grade, expected, "{first:?}");
        }
    }

    #[test]
    fn what_is_no_completion_is_a_broken_reply() {
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"choices": []}"#,
            r#"{"choices": [{"message": 3}]}"#,
        ] {
            assert!(
                matches!(
                    Reply::read(body.as_bytes(), Readout::Text),
                    Err(Fault::Broken(_))
                ),
                "{body}"
            );
        }
    }

    #[test]
    fn a_re_ask_repairs_with_a_digit_and_nothing_else() {
        for (answer, grade) in [
            ("4", Some(4)),
            (" 2", Some(2)),
            ("so\nScore: 5", Some(5)),
            ("4/5", Some(4)),
            ("**3**\nbecause", Some(3)),
            ("6", None),
            ("+4", None),
            ("", None),
            ("four", None),
        ] {
            let mut reply = read("hm", "stop");
            assert!(reply.wants_reask());
            reply
                .repair(&completion(&json!({"content": answer}), "stop"))
                .unwrap();
            assert_eq!(reply.grade, grade, "{answer:?}");
            let status = if grade.is_some() {
                Status::Repaired
            } else {
                Status::Unparseable
            };
            assert_eq!((reply.status, reply.usage.prompt), (status, 18));
            assert!(!reply.wants_reask());
        }
    }

    #[test]
    fn an_odd_count_of_tokens_does_not_take_the_grade_away() {
        for (usage, counted) in [
            (json!(null), (0, 0, 0)),
            (json!("many"), (0, 0, 0)),
            (
                json!({"prompt_tokens": null, "completion_tokens": 5}),
                (0, 5, 0),
            ),
            (
                json!({"prompt_tokens": 9.0, "completion_tokens": -1}),
                (9, 0, 0),
            ),
            (
                json!({"prompt_tokens": u64::MAX, "completion_tokens": 1e300}),
                (0, 0, 0),
            ),
            (
                json!({"prompt_tokens": 9, "prompt_tokens_details": []}),
                (9, 0, 0),
            ),
            (
                json!({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 99}}),
                (9, 0, 9),
            ),
        ] {
            let choices = json!([{"message": {"content": "Score: 4"}, "finish_reason": "stop"}]);
            let body = json!({"choices": choices, "usage": usage}).to_string();
            let reply = Reply::read(body.as_bytes(), Readout::Text).unwrap();
            let Usage {
                prompt,
                completion,
                cached,
            } = reply.usage;
            assert_eq!(
                (reply.grade, (prompt, completion, cached)),
                (Some(4), counted),
                "{usage}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_do_not_take_the_grade_away() {
        let body = b"{\"choices\": [{\"message\": {\"content\": \"\xff\xfe\\nScore: 4\"}}]}";
        let reply = Reply::read(body, Readout::Text).unwrap();
        assert_eq!(
            (reply.grade, &*reply.text),
            (Some(4), "\u{fffd}\u{fffd}\nScore: 4")
        );
    }

    #[test]
    fn an_error_in_a_200_answer_is_told() {
        for body in [
            r#"{"error": {"message": "model overloaded"}}"#,
            r#"{"object": "error", "message": "model overloaded"}"#,
        ] {
            let said = Reply::read(body.as_bytes(), Readout::Text)
                .unwrap_err()
                .explain();
            assert!(said.contains("model overloaded"), "{said}");
        }
    }

    fn with_logprobs(thinking: &str, top: &[(&str, f64)]) -> Reply {
        let top: Vec<Value> = top
            .iter()
            .map(|(token, p)| json!({"token": token, "logprob": p.ln()}))
            .collect();
        let token = |text: &str| json!({"token": text, "logprob": -0.1, "bytes": text.as_bytes()});
        let mut grade = token(" 4");
        grade["top_logprobs"] = top.into();
        let tokens = [
            token(thinking),
            token("4 of 5 steps.\n"),
            token("Score:"),
            grade,
            token("<|end|>"),
        ];
        let body = json!({"choices": [{
            "message": {"content": "4 of 5 steps.\nScore: 4"},
            "finish_reason": "stop",
            "logprobs": {"content": tokens},
        }]});
        Reply::read(body.to_string().as_bytes(), Readout::Expected).unwrap()
    }

    #[test]
    fn the_expected_readout_is_the_mean_under_the_probabilities_at_the_digit() {
        for thinking in ["", "Score: 1 perhaps"] {
            let reply = with_logprobs(
                thinking,
                &[(" 4", 0.6), ("4", 0.1), (" 5", 0.25), (" x", 0.05)],
            );
            let (score, fell_back) = reply.score(ScoreMap::Linear, Readout::Expected);
            let expected = (0.7 * 0.75 + 0.25) / 0.95;
            assert!((score.unwrap() - expected).abs() < 1e-12 && !fell_back);
        }
    }

    #[test]
    fn the_probabilities_are_those_of_the_grade_and_of_no_other_digit() {
        for pieces in [
            &["Score (1-", "4", "): ", "4!"][..],
            &["{\"score\": ", "4!", ", \"why\": \"its score: ", "4", "\"}"],
            &["Score: ", "4!", " (no score above it)"],
        ] {
            let token = |piece: &&str| {
                let text = piece.trim_end_matches('!');
                let at_grade = if piece.ends_with('!') { 0.5 } else { 1.0 };
                let top = [("4", at_grade), ("5", 1.0 - at_grade)];
                let top = top.map(
                    |(token, p): (_, f64)| json!({"token": token, "logprob": p.max(1e-30).ln()}),
                );
                json!({"token": text, "top_logprobs": top})
            };
            let tokens: Vec<Value> = pieces.iter().map(token).collect();
            let body = json!({"choices": [{
                "message": {"content": pieces.concat().replace('!', "")},
                "logprobs": {"content": tokens},
            }]});
            let reply = Reply::read(body.to_string().as_bytes(), Readout::Expected).unwrap();
            let (score, fell_back) = reply.score(ScoreMap::Linear, Readout::Expected);
            assert!(
                (score.unwrap() - 0.875).abs() < 1e-9 && !fell_back,
                "{pieces:?}"
            );
        }
    }

    fn direct(text: &str, top: &[(&str, f64)]) -> Reply {
        let top: Vec<Value> = top
            .iter()
            .map(|(token, p)| json!({"token": token, "logprob": p.ln()}))
            .collect();
        let tokens = [json!({"token": text, "logprob": -0.1, "top_logprobs": top})];
        let body = json!({"choices": [{
            "message": {"content": text}, "finish_reason": "length", "logprobs": {"content": tokens},
        }]});
        let reply = Reply::read(body.to_string().as_bytes(), Readout::Direct).unwrap();
        assert!(!reply.cut);
        reply
    }

    #[test]
    fn the_direct_readout_is_the_mean_at_the_first_token_and_the_likeliest_grade() {
        let likely = [
            ("4", 0.3),
            (" 4", 0.1),
            ("5", 0.35),
            ("1", 0.2),
            ("x", 0.05),
        ];
        // Sampled is one digit, likeliest another.
        let reply = direct("5", &likely);
        assert_eq!((reply.status, reply.grade), (Status::Ok, Some(4)));
        let (score, fell_back) = reply.score(ScoreMap::Linear, Readout::Direct);
        let expected = (0.4 * 0.75 + 0.35) / 0.95;
        assert!((score.unwrap() - expected).abs() < 1e-12 && !fell_back);
        let stored = serde_json::to_vec(&reply).unwrap();
        let again = Reply::read_stored(&stored, Task::Grade, Readout::Direct);
        assert_eq!(again, Some(reply));
    }

    #[test]
    fn a_direct_reply_with_little_mass_on_the_digits_has_the_digit_that_it_writes_or_none() {
        let reply = direct("2", &[("2", 0.5), ("The", 0.5)]);
        assert_eq!((reply.status, reply.grade), (Status::Ok, Some(2)));
        let score = reply.score(ScoreMap::Linear, Readout::Direct);
        assert_eq!(score, (Some(0.25), true));

        let reply = direct("The", &[("The", 0.9), ("4", 0.04)]);
        assert_eq!((reply.status, reply.grade), (Status::Unparseable, None));
        let why = reply.error.as_deref().unwrap();
        let parts = ["\"The\"", "0.04", "structured_outputs", "\"text\""];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        let stored = serde_json::to_vec(&reply).unwrap();
        let again = Reply::read_stored(&stored, Task::Grade, Readout::Direct);
        assert_eq!(again, None, "another run asks again");
    }

    #[test]
    fn a_direct_reply_that_thinks_or_lacks_log_probabilities_says_what_to_change() {
        for (message, words) in [
            (json!({"content": "4"}), "log-probabilities"),
            (json!({"content": "<think>"}), "enable_thinking"),
            (
                json!({"content": null, "reasoning": "Let"}),
                "enable_thinking",
            ),
        ] {
            let body = completion(&message, "length");
            let reply = Reply::read(&body, Readout::Direct).unwrap();
            assert_eq!((reply.status, reply.grade), (Status::Unparseable, None));
            let why = reply.error.unwrap();
            assert!(why.contains(words) && why.contains("direct"), "{why}");
        }
    }

    #[test]
    fn with_little_mass_on_the_digits_the_text_grade_counts() {
        let reply = with_logprobs("", &[(" 4", 0.5), (" four", 0.4)]);
        assert_eq!(
            reply.score(ScoreMap::Linear, Readout::Expected),
            (Some(0.75), true)
        );
    }
}
