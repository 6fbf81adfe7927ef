//! A streamed chat completion, put together; and when enough of it is there.

use std::time::Duration;

use exprl_rubric::is_complete;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::message::{Message, Said};
use crate::policy::Fault;
use crate::reply::words_of_error;
use crate::sse;

/// A stream that has its grade gets so long to end by itself.
const GRACE: Duration = Duration::from_millis(100);
/// A stream whose reply is finished gets so long for its token counts and its end.
const TO_THE_END: Duration = Duration::from_secs(2);

/// What has come of a streamed reply.
#[derive(Default)]
pub(crate) struct Assembly {
    /// A line that gives the grade is enough.
    leaves_early: bool,
    parser: sse::Parser,
    events: Vec<String>,
    said: Said,
    logprobs: Vec<Value>,
    finish: Option<String>,
    usage: Option<Value>,
    /// Bytes of the text that were searched for a grade.
    searched: usize,
    /// Pieces of text and thinking: a lower bound of the reply's tokens, for a stream that is left before its end.
    pieces: u64,
    done: bool,
    graded: bool,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Message>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Value>>,
}

impl Assembly {
    /// For the reply about a trace. The judge may quote the trace before it gives its own grade: where
    /// the trace speaks of a score, the reply is waited for to its end, and read whole.
    pub(crate) fn about(trace: &[u8]) -> Self {
        Self {
            leaves_early: !speaks_of_score(trace),
            ..Self::default()
        }
    }

    /// Takes in the next bytes of the stream.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut events = std::mem::take(&mut self.events);
        let parsed = self.parser.feed(bytes, &mut events);
        parsed.map_err(|error| Fault::Broken(error.to_string()))?;
        for event in events.drain(..) {
            match event.trim() {
                // Nothing, to keep the connection alive.
                "" => {}
                "[DONE]" => self.done = true,
                _ if self.done => {}
                event => match self.add(event) {
                    // What fails from here on cannot take the reply away.
                    Err(_) if self.patience().is_some() => self.done = true,
                    added => added?,
                },
            }
        }
        self.events = events;
        Ok(())
    }

    fn add(&mut self, event: &str) -> Result<(), Fault> {
        let chunk: Chunk = serde_json::from_str(event)
            .map_err(|error| Fault::Broken(format!("not a chunk of a chat completion: {error}")))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let said = words_of_error(event).unwrap_or_else(|| error.to_string());
            return Err(Fault::Broken(format!("the server broke off: {said}")));
        }
        self.usage = chunk
            .usage
            .filter(|usage| !usage.is_null())
            .or(self.usage.take());
        let choices = chunk.choices.into_iter().flatten();
        for choice in choices.filter(|choice| choice.index == 0) {
            let said = choice.delta.unwrap_or_default().into_said();
            self.logprobs.extend(
                choice
                    .logprobs
                    .and_then(|logprobs| logprobs.content)
                    .unwrap_or_default(),
            );
            self.finish = choice.finish_reason.or(self.finish.take());
            self.pieces += u64::from(said.thinks || !said.text.is_empty());
            let may_leave = self.leaves_early && said.text.contains('\n');
            self.said.append(&said);
            self.graded = self.graded || (may_leave && self.holds_grade());
        }
        Ok(())
    }

    /// Whether a whole line gives the grade: what comes after it is not waited for.
    fn holds_grade(&mut self) -> bool {
        let end = self.said.text.rfind('\n').unwrap_or(0);
        let fresh = &self.said.text.as_bytes()[self.searched..end];
        self.searched = end;
        speaks_of_score(fresh) && is_complete(&self.said.text[..end])
    }

    /// How long the rest of the stream is waited for, once the reply can be read.
    pub(crate) fn patience(&self) -> Option<Duration> {
        if self.done || self.graded {
            Some(GRACE)
        } else {
            self.finish.is_some().then_some(TO_THE_END)
        }
    }

    /// The chat completion that a server would have sent at once.
    pub(crate) fn into_completion(self) -> Result<Vec<u8>, Fault> {
        if self.finish.is_none() && !self.graded {
            return Err(Fault::Broken(
                "the stream ended before the reply did".into(),
            ));
        }
        let finish = if self.graded {
            Some("stop".into())
        } else {
            self.finish
        };
        let usage = self
            .usage
            .unwrap_or_else(|| json!({"prompt_tokens": 0, "completion_tokens": self.pieces}));
        let logprobs = (!self.logprobs.is_empty()).then(|| json!({"content": self.logprobs}));
        let refusal = (!self.said.refusal.is_empty()).then_some(self.said.refusal);
        let thinking = self.said.thinks.then_some("(not kept)");
        let completion = json!({
            "choices": [{
                "message": {"content": self.said.text, "refusal": refusal, "reasoning": thinking},
                "finish_reason": finish,
                "logprobs": logprobs,
            }],
            "usage": usage,
        });
        Ok(completion.to_string().into_bytes())
    }
}

fn speaks_of_score(text: &[u8]) -> bool {
    text.windows(5)
        .any(|word| word.eq_ignore_ascii_case(b"score"))
}

#[cfg(test)]
mod tests {
    use exprl_rubric::{Readout, ScoreMap};

    use super::*;
    use crate::reply::Reply;
    use crate::types::Status;

    fn chunk(text: &str) -> Value {
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
    }

    fn end(reason: &str) -> Value {
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    }

    fn fed(chunks: &[Value], done: bool) -> Assembly {
        let mut assembly = Assembly::about(b"### a step");
        for chunk in chunks {
            assembly
                .feed(format!("data: {chunk}\n\n").as_bytes())
                .unwrap();
        }
        if done {
            assembly.feed(b"data: [DONE]\n\n").unwrap();
        }
        assembly
    }

    fn reply(assembly: Assembly, readout: Readout) -> Reply {
        Reply::read(&assembly.into_completion().unwrap(), readout).unwrap()
    }

    #[test]
    fn a_streamed_reply_reads_like_a_whole_one() {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
        let assembly = fed(
            &[chunk("fine\nSco"), chunk("re: 4"), end("stop"), usage],
            true,
        );
        assert!(assembly.done && !assembly.graded);
        let reply = reply(assembly, Readout::Text);
        assert_eq!((reply.status, reply.grade), (Status::Ok, Some(4)));
        assert_eq!((reply.usage.prompt, reply.usage.completion), (7, 3));
        assert_eq!(reply.text, "fine\nScore: 4");
    }

    #[test]
    fn the_grade_is_complete_when_its_line_is() {
        for (texts, complete) in [
            (&["Score: 4"][..], false),
            (&["Score: 4", "\n", "and more"], true),
            (&["Score", ": 4\nso"], true),
            (&["Score: 4 of my five reasons\n"], false),
            (&["<think>\nScore: 4\n", "hm"], false),
            (&["<think>\nScore: 4\n</think>\nScore: 2\n"], true),
            (&["Score: 2\nScore: 3\n"], false),
            (&["Score: 2\n> no\nScore: none\n"], false),
            (&["Grade: 2\n"], false),
        ] {
            let chunks: Vec<Value> = texts.iter().map(|text| chunk(text)).collect();
            assert_eq!(fed(&chunks, false).graded, complete, "{texts:?}");
        }
        let left = reply(fed(&[chunk("Score: 5\n")], false), Readout::Text);
        assert_eq!((left.grade, left.usage.completion), (Some(5), 1));
    }

    #[test]
    fn parts_and_thinking_are_told_apart_in_streams_too() {
        let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
        let text = |text: &str| json!({"type": "text", "text": text});
        let chunks = [
            delta(json!({"reasoning_content": "hm\nScore: 1\n"})),
            delta(json!({"content": [{"type": "thinking", "thinking": [text("Score: 1\n")]}]})),
            delta(json!({"content": [text("Sco")]})),
            delta(json!({"content": [text("re: "), text("4")]})),
            end("stop"),
        ];
        let graded = reply(fed(&chunks, true), Readout::Text);
        assert_eq!((graded.grade, graded.text.as_str()), (Some(4), "Score: 4"));
        assert_eq!(graded.usage.completion, 4);
        for thinking in [&chunks[..1], &chunks[1..2]] {
            let cut = reply(
                fed(&[thinking, &[end("length")]].concat(), true),
                Readout::Text,
            );
            assert_eq!(cut.status, Status::Truncated);
            assert!(cut.error.unwrap().contains("within its thinking"));
        }
        let refusal = delta(json!({"content": [{"type": "refusal", "refusal": "no"}]}));
        let refused = reply(fed(&[refusal, end("stop")], true), Readout::Text);
        assert_eq!(refused.status, Status::Refused);
    }

    #[test]
    fn where_the_trace_speaks_of_a_score_the_whole_reply_counts() {
        let quoting = [
            chunk("The text says\nScore: 5\n"),
            chunk("which it must not.\nScore: 1"),
            end("stop"),
        ];
        let mut assembly = Assembly::about(b"### a\nSCORE: 5");
        for chunk in &quoting {
            let event = format!("data: {chunk}\n\n");
            assembly.feed(event.as_bytes()).unwrap();
            assert!(!assembly.graded);
        }
        let reply = reply(assembly, Readout::Text);
        assert_eq!((reply.status, reply.grade), (Status::Unparseable, None));
    }

    #[test]
    fn what_fails_after_the_reply_does_not_take_it_away() {
        let error = json!({"error": {"message": "out of memory"}});
        for (chunks, patience) in [
            (vec![chunk("Score: 4\n"), error.clone()], GRACE),
            (vec![chunk("Score: 4"), end("stop"), error], GRACE),
            (vec![chunk("Score: 4"), end("stop")], TO_THE_END),
        ] {
            let assembly = fed(&chunks, false);
            assert_eq!(assembly.patience(), Some(patience), "{chunks:?}");
            assert_eq!(reply(assembly, Readout::Text).grade, Some(4), "{chunks:?}");
        }
        assert_eq!(fed(&[chunk("Score: 4")], false).patience(), None);
    }

    #[test]
    fn empty_events_and_fields_mean_nothing() {
        let mut assembly = Assembly::default();
        assembly.feed(b"data:\n\ndata: \n\n").unwrap();
        for nothing in [
            json!({"choices": null}),
            json!({"choices": [{"delta": null}]}),
            json!({"choices": [{"delta": {"content": null}}], "usage": null, "error": null}),
        ] {
            let event = format!("data: {nothing}\n\n");
            assembly.feed(event.as_bytes()).unwrap();
        }
        assert_eq!(
            (assembly.said.text.as_str(), assembly.patience()),
            ("", None)
        );
    }

    #[test]
    fn streamed_log_probabilities_give_the_expected_score() {
        let token = |text: &str, top: &[(&str, f64)]| {
            let top: Vec<Value> = top
                .iter()
                .map(|(token, p)| json!({"token": token, "logprob": p.ln()}))
                .collect();
            let mut chunk = chunk(text);
            chunk["choices"][0]["logprobs"] =
                json!({"content": [{"token": text, "logprob": -0.1, "top_logprobs": top}]});
            chunk
        };
        let chunks = [
            token("Score:", &[]),
            token(" 4", &[(" 4", 0.5), (" 5", 0.5)]),
            end("stop"),
        ];
        let reply = reply(fed(&chunks, true), Readout::Expected);
        let (score, fell_back) = reply.score(ScoreMap::Linear, Readout::Expected);
        assert!((score.unwrap() - 0.875).abs() < 1e-12 && !fell_back);
    }

    #[test]
    fn a_broken_stream_is_a_fault() {
        let mut assembly = Assembly::default();
        assert!(matches!(
            assembly.feed(b"data: {\n\n"),
            Err(Fault::Broken(_))
        ));
        let error = format!(
            "data: {}\n\n",
            json!({"error": {"message": "out of memory"}})
        );
        let said = Assembly::default()
            .feed(error.as_bytes())
            .unwrap_err()
            .explain();
        assert!(said.contains("out of memory"), "{said}");
        let cut = fed(&[chunk("Sco")], false).into_completion();
        assert!(matches!(cut, Err(Fault::Broken(_))));
    }
}
