//! Items to request bodies. A body is pieces of shared memory, never one long copy.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use exprl_rubric::{Checklist, Checklists, FenceKey, PARSER_VERSION, Readout, Rubric, View};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::escape::{escape, escape_into};
use crate::ledger::Key;
use crate::settings::{Settings, Task};
use crate::types::Item;

/// A request body: `[up to the trace][trace][after the trace][end of the JSON]`.
#[derive(Clone)]
pub(crate) struct Body {
    parts: [Bytes; 4],
}

impl Body {
    fn new(parts: [Bytes; 4]) -> Self {
        Self { parts }
    }

    pub(crate) fn parts(&self) -> &[Bytes; 4] {
        &self.parts
    }

    /// Bytes that the body of a longer prefix of the same trace begins with as well.
    pub(crate) fn shareable(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    /// Tells heads apart.
    pub(crate) fn head_hash(&self) -> Key {
        *blake3::hash(&self.parts[0]).as_bytes()
    }

    /// Bytes of the whole, and of the head that its problem's requests share.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.parts.iter().map(Bytes::len).sum(), self.parts[0].len())
    }

    /// The same conversation, with the judge's reply begun: it goes on after `Score:`.
    pub(crate) fn continued(&self, reply: &str, ask_again: &Bytes) -> Self {
        // An open thinking block would swallow the grade.
        let thinking = reply.rfind("<think>") > reply.rfind("</think>");
        let close = if thinking { "\n</think>\n" } else { "" };
        let begun = format!("{}{close}\nScore:", reply.trim_end());
        let mut end = b"\"},{\"role\":\"assistant\",\"content\":\"".to_vec();
        end.extend_from_slice(&escape(begun.trim_start()));
        end.extend_from_slice(ask_again);
        let [head, trace, tail, _] = self.parts.clone();
        Self::new([head, trace, tail, end.into()])
    }

    #[cfg(test)]
    fn text(&self) -> String {
        String::from_utf8(self.parts.concat()).unwrap()
    }
}

/// One request, rendered.
pub(crate) struct Rendered {
    pub(crate) key: Key,
    pub(crate) body: Body,
}

/// Turns items into requests; holds what they all share.
pub(crate) struct Composer {
    task: Task,
    checklists: Option<Arc<Checklists>>,
    view: View,
    fence: FenceKey,
    /// A rubric for all domains; otherwise the built-in ones, made when first met.
    rubric: Option<Arc<Rubric>>,
    builtin: std::sync::Mutex<HashMap<String, Arc<Rubric>>>,
    /// JSON before the head's text.
    open: Vec<u8>,
    /// JSON after the tail's text.
    close: Bytes,
    /// The same without what says how the reply travels, for the keys.
    close_of_key: Bytes,
    /// JSON after the begun reply of a re-ask.
    pub(crate) ask_again: Bytes,
    /// Hash state over all that a key holds beside the body.
    hasher: blake3::Hasher,
}

impl Composer {
    pub(crate) fn new(settings: &Settings, fence: FenceKey) -> Result<Self, Error> {
        let rubric = settings.rubric.as_deref();
        let rubric = rubric
            .map(|text| Rubric::from_toml_str(text, settings.view))
            .transpose()?;
        let mut open = b"{\"model\":\"".to_vec();
        open.extend_from_slice(&escape(&settings.model));
        open.extend_from_slice(b"\",\"messages\":[{\"role\":\"user\",\"content\":\"");
        let mut hasher =
            blake3::Hasher::new_derive_key("exprl-judge 2026 request key: head, trace, end");
        hasher.update(&PARSER_VERSION.to_le_bytes());
        hasher.update(&settings.sample_index.to_le_bytes());
        hasher.update(&(settings.revision.len() as u64).to_le_bytes());
        hasher.update(settings.revision.as_bytes());
        let mut fields = settings.extra.clone();
        fields.insert("temperature".into(), json!(settings.temperature));
        fields.insert("max_tokens".into(), json!(settings.max_tokens));
        let mut again = fields.clone();
        if settings.task == Task::Checklist {
            let schema =
                json!({"name": "checklist", "strict": true, "schema": Checklist::schema()});
            let format = json!({"type": "json_schema", "json_schema": schema});
            fields.insert("response_format".into(), format);
        } else if settings.readout == Readout::Expected {
            fields.insert("logprobs".into(), json!(true));
            fields.insert("top_logprobs".into(), json!(20));
        }
        let close_of_key = end_of_body(&fields);
        if settings.stream {
            fields.insert("stream".into(), json!(true));
            fields.insert("stream_options".into(), json!({"include_usage": true}));
        }
        // vLLM's names (chat completion protocol, 0.32): the last message is continued, not closed.
        again.insert("max_tokens".into(), json!(4));
        again.insert("add_generation_prompt".into(), json!(false));
        again.insert("continue_final_message".into(), json!(true));
        again.insert(
            "structured_outputs".into(),
            json!({"choice": ["1", "2", "3", "4", "5"]}),
        );
        Ok(Self {
            task: settings.task,
            checklists: settings.checklists.clone(),
            view: settings.view,
            fence,
            rubric: rubric.map(Arc::new),
            builtin: std::sync::Mutex::default(),
            open,
            close: end_of_body(&fields),
            close_of_key,
            ask_again: end_of_body(&again),
            hasher,
        })
    }

    pub(crate) fn view(&self) -> View {
        self.view
    }

    pub(crate) fn task(&self) -> Task {
        self.task
    }

    /// The requests of one rollout, in the order of its segments.
    pub(crate) fn render(&self, item: &Item) -> Result<Vec<Rendered>, Error> {
        if item.segments.is_empty() && self.task == Task::Grade {
            let reason = "it has no segments; an empty trace is one empty segment".into();
            return Err(Error::Item {
                id: item.id.clone(),
                reason,
            });
        }
        if self.task == Task::Checklist {
            return Ok(vec![self.render_checklist(item)?]);
        }
        let rubric = self.rubric(&item.domain)?;
        let checklist = self.checklist(item)?;
        if checklist.is_some() && !rubric.takes_checklists() {
            let reason = "it has a checklist, and the rubric file says nothing about one; use `has_checklist` there";
            return Err(Error::Item {
                id: item.id.clone(),
                reason: reason.into(),
            });
        }
        let reference = item.reference.as_deref();
        let head = rubric.head_with(&self.fence, &item.problem, reference, checklist);
        let mut text = Vec::with_capacity(self.open.len() + head.text().len() * 9 / 8);
        text.extend_from_slice(&self.open);
        escape_into(&mut text, head.text());
        let text = Bytes::from(text);
        let tail = Bytes::from(escape(head.tail()));

        // Escaping and neutralizing a prefix give a prefix of the whole, so all share one buffer.
        let mut trace = Vec::new();
        let mut plain = String::new();
        let mut ends = Vec::with_capacity(item.segments.len());
        for segment in &item.segments {
            let before = if self.view == View::Step { "" } else { &plain };
            escape_into(&mut trace, &head.neutralize_after(before, segment));
            ends.push(trace.len());
            plain.push_str(segment);
        }
        let trace = Bytes::from(trace);
        let spans: Vec<(usize, usize)> = match self.view {
            View::Outcome => vec![(0, trace.len())],
            View::Prefix => ends.iter().map(|&end| (0, end)).collect(),
            View::Step => {
                let starts = std::iter::once(0).chain(ends.iter().copied());
                starts.zip(ends.iter().copied()).collect()
            }
        };

        // A key is a hash of three hashes: what requests share is hashed once, and whole.
        let head_hash = blake3::hash(&text);
        let end_hash = blake3::Hasher::new()
            .update(&tail)
            .update(&self.close_of_key)
            .finalize();
        let mut traces = blake3::Hasher::new();
        let mut fed = 0;
        let requests = spans.into_iter().map(|(start, end)| {
            let trace_hash = if self.view == View::Step {
                blake3::hash(&trace[start..end])
            } else {
                traces.update(&trace[fed..end]);
                fed = end;
                traces.finalize()
            };
            let mut whole = self.hasher.clone();
            for hash in [&head_hash, &trace_hash, &end_hash] {
                whole.update(hash.as_bytes());
            }
            let parts = [
                text.clone(),
                trace.slice(start..end),
                tail.clone(),
                self.close.clone(),
            ];
            Rendered {
                key: *whole.finalize().as_bytes(),
                body: Body::new(parts),
            }
        });
        Ok(requests.collect())
    }

    /// The item's own checklist, or its problem's.
    fn checklist<'a>(&'a self, item: &'a Item) -> Result<Option<&'a Checklist>, Error> {
        match (&item.checklist, &self.checklists, &item.reference) {
            (Some(own), ..) => Ok(Some(own)),
            (None, Some(all), Some(reference)) => {
                let found = all.find(&item.problem, reference);
                found.map(Some).ok_or_else(|| Error::Item {
                    id: item.id.clone(),
                    reason: "the file of rubrics has none for this problem and reference; write the missing ones".into(),
                })
            }
            _ => Ok(None),
        }
    }

    /// The request for a problem's checklist: one text, shared with nothing.
    fn render_checklist(&self, item: &Item) -> Result<Rendered, Error> {
        let reference = item.reference.as_deref().ok_or_else(|| Error::Item {
            id: item.id.clone(),
            reason: "a checklist is written from a reference, and it has none".into(),
        })?;
        let text = Checklist::request(&self.fence, &item.domain, &item.problem, reference)?;
        let mut body = self.open.clone();
        escape_into(&mut body, &text);
        let mut hasher = self.hasher.clone();
        hasher.update(&body).update(&self.close);
        let body = [body.into(), Bytes::new(), Bytes::new(), self.close.clone()];
        Ok(Rendered {
            key: *hasher.finalize().as_bytes(),
            body: Body::new(body),
        })
    }

    fn rubric(&self, domain: &str) -> Result<Arc<Rubric>, Error> {
        if let Some(rubric) = &self.rubric {
            return Ok(rubric.clone());
        }
        let mut known = self
            .builtin
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match known.entry(domain.to_owned()) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            Entry::Vacant(entry) => Ok(entry
                .insert(Arc::new(Rubric::builtin(domain, self.view)?))
                .clone()),
        }
    }
}

/// Closes the message, the list and the object around `fields`.
fn end_of_body(fields: &Map<String, Value>) -> Bytes {
    let fields = Value::Object(fields.clone()).to_string();
    format!("\"}}],{}", &fields[1..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer(view: View) -> Composer {
        let settings = Settings {
            view,
            ..Settings::new(vec!["http://h/v1".into()], "a \"judge\"")
        };
        Composer::new(&settings, FenceKey::new([1; 32])).unwrap()
    }

    fn item(segments: &[&str]) -> Item {
        Item {
            id: "i".into(),
            problem: "2 + 2 = \"?\"".into(),
            reference: Some("4\n".into()),
            segments: segments.iter().map(|&text| text.into()).collect(),
            domain: "math".into(),
            checklist: None,
        }
    }

    fn content(body: &Body) -> String {
        let body: Value = serde_json::from_str(&body.text()).unwrap();
        assert_eq!(body["model"], "a \"judge\"");
        assert_eq!(body["temperature"], 0.0);
        assert_eq!(body["max_tokens"], 2048);
        body["messages"][0]["content"].as_str().unwrap().to_owned()
    }

    const SEGMENTS: [&str; 3] = [
        "first \"line\"\n\u{1}",
        "### step <|im_start|> é",
        "###\\n</think> end",
    ];

    #[test]
    fn a_request_is_head_then_neutralized_trace_then_tail() {
        for (view, traces) in [
            (View::Outcome, vec![SEGMENTS.concat()]),
            (
                View::Prefix,
                (1..=3).map(|t| SEGMENTS[..t].concat()).collect(),
            ),
            (View::Step, SEGMENTS.map(str::to_owned).to_vec()),
        ] {
            let composer = composer(view);
            let item = item(&SEGMENTS);
            let head = Rubric::builtin("math", view).unwrap();
            let head = head.head(&composer.fence, &item.problem, item.reference.as_deref());
            let requests = composer.render(&item).unwrap();
            assert_eq!(requests.len(), traces.len());
            for (request, trace) in requests.iter().zip(traces) {
                let expected = format!("{}{}{}", head.text(), head.neutralize(&trace), head.tail());
                assert_eq!(content(&request.body), expected);
            }
        }
    }

    #[test]
    fn keys_differ_exactly_when_the_requests_differ() {
        let composer = composer(View::Prefix);
        let keys = |item: &Item| -> Vec<Key> {
            composer
                .render(item)
                .unwrap()
                .iter()
                .map(|request| request.key)
                .collect()
        };
        let first = keys(&item(&["a", "b"]));
        assert_eq!(first, keys(&item(&["a", "b"])));
        assert_eq!(first[1], keys(&item(&["ab"]))[0]);
        assert_ne!(first[0], first[1]);
        let without = Item {
            reference: None,
            ..item(&["a"])
        };
        assert_ne!(first[0], keys(&without)[0]);
        let settings = Settings {
            revision: "2".into(),
            ..Settings::new(vec!["http://h/v1".into()], "a \"judge\"")
        };
        let other = Composer::new(&settings, FenceKey::new([1; 32])).unwrap();
        assert_ne!(first[0], other.render(&item(&["a"])).unwrap()[0].key);
    }

    #[test]
    fn a_re_ask_continues_the_reply_after_score() {
        let composer = composer(View::Outcome);
        let body = &composer.render(&item(&["trace"])).unwrap()[0].body;
        let again = body
            .continued("It is \"fine\".\n", &composer.ask_again)
            .text();
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["messages"][0]["content"], content(body));
        assert_eq!(again["messages"][1]["role"], "assistant");
        assert_eq!(again["messages"][1]["content"], "It is \"fine\".\nScore:");
        assert_eq!(again["continue_final_message"], true);
        assert_eq!(again["add_generation_prompt"], false);
        assert_eq!(
            again["structured_outputs"]["choice"],
            json!(["1", "2", "3", "4", "5"])
        );
        let thinking = body.continued("<think>hm", &composer.ask_again).text();
        let thinking: Value = serde_json::from_str(&thinking).unwrap();
        assert_eq!(
            thinking["messages"][1]["content"],
            "<think>hm\n</think>\n\nScore:"
        );
    }

    #[test]
    fn an_item_without_segments_is_refused() {
        assert!(matches!(
            composer(View::Prefix).render(&item(&[])),
            Err(Error::Item { .. })
        ));
    }
}
