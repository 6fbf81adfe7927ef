//! Items to requests.

mod body;
mod frame;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use exprl_rubric::{
    CONTEXT, Checklist, Checklists, FenceKey, Head, Layout, Rubric, View, drop_thinking,
};
pub(crate) use frame::ReplyLimit;
use frame::{Frame, Framed, Frames, ask_again};

use crate::error::Error;
use crate::escape::{escape, escape_into};
use crate::ledger::Key;
use crate::settings::{Settings, Task};
use crate::types::Item;

pub(crate) use body::Body;

/// The requests of one rollout, in the order of its segments.
pub(crate) struct Rollout {
    /// Equal for the requests that begin with the same head: they belong on one server.
    pub(crate) affinity: u64,
    pub(crate) requests: Vec<Rendered>,
}

/// One request, rendered.
pub(crate) struct Rendered {
    pub(crate) key: Key,
    pub(crate) body: Body,
}

/// Turns items into requests; holds what they all share.
pub(crate) struct Composer {
    task: Task,
    checklists: Option<Checklists>,
    view: View,
    layout: Layout,
    fence: FenceKey,
    /// A rubric for all domains; otherwise the built-in ones, made when first met.
    rubric: Option<Arc<Framed>>,
    builtin: Mutex<HashMap<String, Arc<Framed>>>,
    frames: Frames,
    show_thinking: bool,
    /// JSON after the begun reply of a re-ask, by the name of its limit.
    pub(crate) ask_again: [Bytes; 2],
}

impl Composer {
    pub(crate) fn new(settings: &Settings, fence: FenceKey) -> Result<Self, Error> {
        let frames = Frames::new(settings);
        Ok(Self {
            task: settings.task,
            checklists: settings.read_checklists()?,
            view: settings.view,
            layout: settings.layout,
            fence,
            rubric: settings.read_rubric()?.map(|rubric| frames.around(rubric)),
            builtin: Mutex::default(),
            frames,
            show_thinking: settings.show_thinking,
            ask_again: ReplyLimit::ALL.map(|name| ask_again(settings, name)),
        })
    }

    pub(crate) fn view(&self) -> View {
        self.view
    }

    pub(crate) fn task(&self) -> Task {
        self.task
    }

    pub(crate) fn render(&self, item: &Item<impl Deref<Target = str>>) -> Result<Rollout, Error> {
        if item.segments.is_empty() && self.task == Task::Grade {
            let reason = "it has no segments; an empty trace is one empty segment".into();
            return Err(Error::Item {
                id: item.id.clone(),
                reason,
            });
        }
        if self.task == Task::Checklist {
            return self.render_checklist(item);
        }
        let framed = self.framed(&item.domain)?;
        let checklist = self.checklist(item)?;
        if checklist.is_some() && !framed.rubric.takes_checklists() {
            let reason = "it has a checklist, and the rubric file says nothing about one; use `has_checklist` there";
            return Err(Error::Item {
                id: item.id.clone(),
                reason: reason.into(),
            });
        }
        let reference = item.reference.as_deref();
        let which = usize::from(reference.is_some()) + 2 * usize::from(checklist.is_some());
        let head = framed
            .rubric
            .head_with(&self.fence, &item.problem, reference, checklist);
        let mut shared = head.hash().to_vec();
        if checklist.is_some() {
            shared.extend_from_slice(blake3::hash(head.blocks().as_bytes()).as_bytes());
        }
        let frame = &framed.frames[which];
        let shown = if self.show_thinking {
            None
        } else {
            drop_thinking(&item.segments)
        };
        let requests = match shown {
            Some(segments) => self.requests(&segments, &head, frame, &shared),
            None => self.requests(&item.segments, &head, frame, &shared),
        };
        Ok(Rollout {
            affinity: front(head.hash()),
            requests,
        })
    }

    /// The requests about a trace. What they share is hashed once: `shared` is a hash of what stands
    /// before the trace beside the frame.
    fn requests(
        &self,
        segments: &[impl Deref<Target = str>],
        head: &Head,
        frame: &Arc<Frame>,
        shared: &[u8],
    ) -> Vec<Rendered> {
        let length = segments.iter().map(|segment| segment.len()).sum::<usize>();
        let length = head.close().len() + head.blocks().len() + length;
        let mut text = Vec::with_capacity(length + length / 16);
        escape_into(&mut text, head.close());
        let blocks = text.len();
        escape_into(&mut text, head.blocks());
        let blocks_end = text.len();
        // Escaping and neutralizing a prefix give a prefix of the whole, so all share one buffer.
        let mut before = String::new();
        let mut ends = Vec::with_capacity(segments.len());
        for segment in segments {
            escape_into(&mut text, &head.neutralize_after(&before, segment));
            ends.push(text.len());
            if self.view != View::Step {
                let last = segment.len().saturating_sub(CONTEXT);
                before.push_str(&segment[segment.floor_char_boundary(last)..]);
            }
        }
        // A copy takes no more than its length: queues are full of them.
        let text = Bytes::copy_from_slice(&text);
        if self.view == View::Outcome {
            ends.drain(..ends.len() - 1);
        }

        let mut traces = blake3::Hasher::new();
        let mut fed = blocks_end;
        let requests = ends.into_iter().map(|end| {
            let mut start = blocks_end;
            if self.view == View::Step {
                traces.reset();
                start = fed;
            }
            traces.update(&text[fed..end]);
            fed = end;
            let item = [shared, traces.finalize().as_bytes()].concat();
            Rendered {
                key: *blake3::keyed_hash(&frame.hash, &item).as_bytes(),
                body: Body {
                    frame: frame.clone(),
                    text: text.clone(),
                    blocks,
                    blocks_end,
                    trace: start..end,
                    end: None,
                },
            }
        });
        requests.collect()
    }

    /// The item's own checklist, or its problem's.
    fn checklist<'a>(
        &'a self,
        item: &'a Item<impl Deref<Target = str>>,
    ) -> Result<Option<&'a Checklist>, Error> {
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
    fn render_checklist(&self, item: &Item<impl Deref<Target = str>>) -> Result<Rollout, Error> {
        let reference = item.reference.as_deref().ok_or_else(|| Error::Item {
            id: item.id.clone(),
            reason: "a checklist is written from a reference, and it has none".into(),
        })?;
        let text = Checklist::request(&self.fence, &item.domain, &item.problem, reference)?;
        let text = Bytes::from(escape(&text));
        let frame = self.frames.frame("", "");
        let key = *blake3::keyed_hash(&frame.hash, &text).as_bytes();
        let body = Body {
            frame,
            blocks: 0,
            blocks_end: text.len(),
            trace: 0..0,
            text,
            end: None,
        };
        Ok(Rollout {
            affinity: front(&key),
            requests: vec![Rendered { key, body }],
        })
    }

    fn framed(&self, domain: &str) -> Result<Arc<Framed>, Error> {
        if let Some(rubric) = &self.rubric {
            return Ok(rubric.clone());
        }
        let mut known = self.builtin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rubric) = known.get(domain) {
            return Ok(rubric.clone());
        }
        let rubric = Rubric::builtin(domain, self.view)?.with_layout(self.layout);
        let rubric = self.frames.around(rubric);
        known.insert(domain.to_owned(), rubric.clone());
        Ok(rubric)
    }
}

/// A hash's first 64 bits.
pub(crate) fn front(hash: &Key) -> u64 {
    let bytes = hash.iter().take(8);
    bytes.fold(0, |front, &byte| front << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
        "###\\n<|im_end|> end",
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
            let requests = composer.render(&item).unwrap().requests;
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
                .requests
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
        assert_ne!(
            first[0],
            other.render(&item(&["a"])).unwrap().requests[0].key
        );
    }

    #[test]
    fn the_layout_moves_the_reference_and_changes_the_key() {
        let settings = |layout| Settings {
            layout,
            ..Settings::new(vec!["http://h/v1".into()], "a \"judge\"")
        };
        let [first, last] = [Layout::ReferenceFirst, Layout::ReferenceLast].map(|layout| {
            let composer = Composer::new(&settings(layout), FenceKey::new([1; 32])).unwrap();
            let mut requests = composer.render(&item(&["a", "b"])).unwrap().requests;
            requests.pop().unwrap()
        });
        assert_ne!(first.key, last.key);
        let texts = [&first, &last].map(|request| content(&request.body));
        let places = texts.map(|text| (text.find("<reference-"), text.find("<prefix-")));
        assert!(places[0].0 < places[0].1 && places[1].0 > places[1].1);
        // A longer prefix begins with all that stands before the closing fence.
        assert!(last.body.shareable() < last.body.sizes().0 - "4".len());
        assert!(last.body.shareable() < first.body.shareable());
    }

    #[test]
    fn a_re_ask_continues_the_reply_after_score() {
        let composer = composer(View::Outcome);
        let body = &composer.render(&item(&["trace"])).unwrap().requests[0].body;
        let again = body
            .continued("It is \"fine\".\n", &composer.ask_again[0])
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
        let thinking = body.continued("<think>hm", &composer.ask_again[0]).text();
        let thinking: Value = serde_json::from_str(&thinking).unwrap();
        assert_eq!(
            thinking["messages"][1]["content"],
            "<think>hm\n</think>\n\nScore:"
        );
    }

    #[test]
    fn a_direct_request_asks_for_one_digit_after_the_same_trace() {
        let settings = Settings {
            readout: exprl_rubric::Readout::Direct,
            ..Settings::new(vec!["http://h/v1".into()], "a \"judge\"")
        };
        let direct = Composer::new(&settings, FenceKey::new([1; 32])).unwrap();
        let written = composer(View::Prefix);
        let [direct, written] = [&direct, &written].map(|composer| {
            let rollout = composer.render(&item(&SEGMENTS)).unwrap();
            rollout.requests.into_iter().next_back().unwrap()
        });
        assert_ne!(direct.key, written.key);
        let [direct, written] = [direct, written]
            .map(|request| serde_json::from_str::<Value>(&request.body.text()).unwrap());
        assert_eq!(direct["max_tokens"], 1);
        assert_eq!(direct["logprobs"], true);
        assert_eq!(direct["top_logprobs"], 20);
        let grades = json!({"choice": ["1", "2", "3", "4", "5"]});
        assert_eq!(direct["structured_outputs"], grades);
        let [direct, written] = [direct, written].map(|body| {
            let message = body["messages"][0]["content"].as_str().unwrap();
            let (shared, instruction) = message.rsplit_once("\n\n").unwrap();
            (shared.to_owned(), instruction.to_owned())
        });
        assert_eq!(direct.0, written.0, "all before the instruction");
        assert!(direct.1.contains("one digit") && !direct.1.contains("Score"));
    }

    #[test]
    fn the_limit_of_a_reply_has_another_name_where_a_server_wants_it() {
        let composer = composer(View::Outcome);
        let body = &composer.render(&item(&["trace"])).unwrap().requests[0].body;
        let parsed = |body: Body| serde_json::from_str::<Value>(&body.text()).unwrap();
        let renamed = parsed(body.renamed());
        let again = parsed(body.continued("It is fine.", &composer.ask_again[1]));
        for (body, limit) in [(renamed, 2048), (again, 4)] {
            assert_eq!(body["max_completion_tokens"], limit);
            assert!(body.get("max_tokens").is_none());
            assert_eq!(body["temperature"], 0.0);
        }
    }

    #[test]
    fn thinking_is_dropped_unless_it_is_to_be_shown() {
        let segments = ["<think>4? ### 5?", "no</think>2 + 2 ", "### is 4"];
        for view in [View::Outcome, View::Prefix, View::Step] {
            let plain = composer(view)
                .render(&item(&["", "2 + 2 ", "### is 4"]))
                .unwrap();
            let hidden = composer(view).render(&item(&segments)).unwrap();
            assert_eq!(hidden.requests.len(), plain.requests.len());
            for (hidden, plain) in hidden.requests.iter().zip(&plain.requests) {
                assert_eq!(content(&hidden.body), content(&plain.body));
                assert_eq!(hidden.key, plain.key);
            }
        }
        let settings = Settings {
            view: View::Outcome,
            show_thinking: true,
            ..Settings::new(vec!["http://h/v1".into()], "a \"judge\"")
        };
        let shown = Composer::new(&settings, FenceKey::new([1; 32])).unwrap();
        let shown = shown.render(&item(&segments)).unwrap();
        assert!(content(&shown.requests[0].body).contains("4? ### 5?no"));
    }

    #[test]
    fn an_item_without_segments_is_refused() {
        assert!(matches!(
            composer(View::Prefix).render(&item(&[])),
            Err(Error::Item { .. })
        ));
    }
}
