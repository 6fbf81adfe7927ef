//! Items to request bodies. A body is pieces of shared memory, never one long copy.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use exprl_rubric::{
    CONTEXT, Checklist, Checklists, FenceKey, LAYOUT_VERSION, PARSER_VERSION, Readout, Rubric,
    View, open_thinking,
};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::escape::{escape, escape_into};
use crate::ledger::Key;
use crate::settings::{Settings, Task};
use crate::types::Item;

/// What the requests of all problems begin and end with.
struct Frame {
    /// JSON, then the rubric.
    open: Bytes,
    /// What is asked, then JSON.
    end: Bytes,
    /// Where in it the JSON begins.
    json: usize,
    /// Hash of both, and of all that a key holds beside the item.
    hash: Key,
}

/// A request body: `[frame: open][problem, reference][trace][closing fence][frame: end]`.
#[derive(Clone)]
pub(crate) struct Body {
    frame: Arc<Frame>,
    /// What the requests of one rollout share: `[closing fence][problem, reference][trace]`.
    text: Bytes,
    /// Where in it the second part begins.
    blocks: usize,
    /// Where it ends.
    blocks_end: usize,
    trace: Range<usize>,
    /// In place of the frame's.
    end: Option<Bytes>,
}

impl Body {
    pub(crate) fn parts(&self) -> [&[u8]; 5] {
        [
            &self.frame.open,
            &self.text[self.blocks..self.blocks_end],
            &self.text[self.trace.clone()],
            &self.text[..self.blocks],
            self.end.as_ref().unwrap_or(&self.frame.end),
        ]
    }

    /// The same, to be sent: nothing is copied.
    pub(crate) fn pieces(&self) -> [Bytes; 5] {
        [
            self.frame.open.clone(),
            self.text.slice(self.blocks..self.blocks_end),
            self.text.slice(self.trace.clone()),
            self.text.slice(..self.blocks),
            self.end.as_ref().unwrap_or(&self.frame.end).clone(),
        ]
    }

    pub(crate) fn trace(&self) -> &[u8] {
        &self.text[self.trace.clone()]
    }

    /// Bytes of the whole, and of the head that its problem's requests share.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let [open, blocks, trace, close, end] = self.parts().map(<[u8]>::len);
        (open + blocks + trace + close + end, open + blocks)
    }

    /// Bytes that the body of a longer prefix of the same trace begins with as well.
    pub(crate) fn shareable(&self) -> usize {
        self.sizes().1 + self.trace.len()
    }

    /// Tells heads apart.
    pub(crate) fn head_hash(&self) -> Key {
        let [open, blocks, ..] = self.parts();
        let mut hasher = blake3::Hasher::new();
        *hasher.update(open).update(blocks).finalize().as_bytes()
    }

    /// The same conversation, with the judge's reply begun: it goes on after `Score:`.
    pub(crate) fn continued(&self, reply: &str, ask_again: &Bytes) -> Self {
        // An open thinking block would swallow the grade.
        let close = open_thinking(reply).map_or(String::new(), |tag| format!("\n{tag}\n"));
        let begun = format!("{}{close}\nScore:", reply.trim_end());
        let mut end = self.frame.end[..self.frame.json].to_vec();
        end.extend_from_slice(b"\"},{\"role\":\"assistant\",\"content\":\"");
        end.extend_from_slice(&escape(begun.trim_start()));
        end.extend_from_slice(ask_again);
        Self {
            end: Some(end.into()),
            ..self.clone()
        }
    }

    #[cfg(test)]
    fn text(&self) -> String {
        String::from_utf8(self.parts().concat()).unwrap()
    }
}

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

/// A rubric, and its frames by `has_reference + 2 * has_checklist`.
struct Framed {
    rubric: Rubric,
    frames: [Arc<Frame>; 4],
}

/// Turns items into requests; holds what they all share.
pub(crate) struct Composer {
    task: Task,
    checklists: Option<Checklists>,
    view: View,
    fence: FenceKey,
    /// A rubric for all domains; otherwise the built-in ones, made when first met.
    rubric: Option<Arc<Framed>>,
    builtin: Mutex<HashMap<String, Arc<Framed>>>,
    frames: Frames,
    /// JSON after the begun reply of a re-ask.
    pub(crate) ask_again: Bytes,
}

/// Makes frames.
struct Frames {
    /// JSON before the rubric.
    open: Vec<u8>,
    /// JSON after what is asked.
    close: Vec<u8>,
    /// The same without what says how the reply travels, for the keys.
    close_of_key: Vec<u8>,
    /// Hash state over all that a key holds beside the frame's texts and the item.
    hasher: blake3::Hasher,
}

impl Frames {
    fn frame(&self, head: &str, instruction: &str) -> Arc<Frame> {
        let mut open = self.open.clone();
        escape_into(&mut open, head);
        let mut end = escape(instruction);
        let json = end.len();
        let mut hasher = self.hasher.clone();
        for text in [&open, &end, &self.close_of_key] {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text);
        }
        end.extend_from_slice(&self.close);
        Arc::new(Frame {
            open: open.into(),
            end: end.into(),
            json,
            hash: *hasher.finalize().as_bytes(),
        })
    }

    fn around(&self, rubric: Rubric) -> Arc<Framed> {
        let frames = [(false, false), (true, false), (false, true), (true, true)];
        let frames = frames.map(|(has_reference, has_checklist)| {
            let [head, instruction] = rubric.texts(has_reference, has_checklist);
            self.frame(head, instruction)
        });
        Arc::new(Framed { rubric, frames })
    }
}

impl Composer {
    pub(crate) fn new(settings: &Settings, fence: FenceKey) -> Result<Self, Error> {
        let mut open = b"{\"model\":\"".to_vec();
        open.extend_from_slice(&escape(&settings.model));
        open.extend_from_slice(b"\",\"messages\":[{\"role\":\"user\",\"content\":\"");
        let mut hasher = blake3::Hasher::new_derive_key("exprl-judge 2026 request key: frame");
        hasher.update(&PARSER_VERSION.to_le_bytes());
        hasher.update(&LAYOUT_VERSION.to_le_bytes());
        hasher.update(settings.view.name().as_bytes());
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
        let frames = Frames {
            open,
            close: end_of_body(&fields),
            close_of_key,
            hasher,
        };
        Ok(Self {
            task: settings.task,
            checklists: settings.read_checklists()?,
            view: settings.view,
            fence,
            rubric: settings.read_rubric()?.map(|rubric| frames.around(rubric)),
            builtin: Mutex::default(),
            frames,
            ask_again: end_of_body(&again).into(),
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
        let frame = &framed.frames[which];
        let rubric = &framed.rubric;
        let head = rubric.head_with(&self.fence, &item.problem, reference, checklist);

        let mut text = Vec::with_capacity(256 + item.bytes() * 9 / 8);
        escape_into(&mut text, head.close());
        let blocks = text.len();
        escape_into(&mut text, head.blocks());
        let blocks_end = text.len();
        // Escaping and neutralizing a prefix give a prefix of the whole, so all share one buffer.
        let mut before = String::new();
        let mut ends = Vec::with_capacity(item.segments.len());
        for segment in &item.segments {
            escape_into(&mut text, &head.neutralize_after(&before, segment));
            ends.push(text.len());
            if self.view != View::Step {
                let last = segment.len().saturating_sub(CONTEXT);
                before.push_str(&segment[segment.floor_char_boundary(last)..]);
            }
        }
        let text = Bytes::from(text);
        if self.view == View::Outcome {
            ends.drain(..ends.len() - 1);
        }

        // What requests share is hashed once. Of problem and reference the fence's hash is taken: with
        // the frame it decides what stands before the trace, but for a checklist.
        let mut shared = head.hash().to_vec();
        if checklist.is_some() {
            shared.extend_from_slice(blake3::hash(head.blocks().as_bytes()).as_bytes());
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
            let item = [&shared[..], traces.finalize().as_bytes()].concat();
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
        Ok(Rollout {
            affinity: front(head.hash()),
            requests: requests.collect(),
        })
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
        let rubric = self.frames.around(Rubric::builtin(domain, self.view)?);
        known.insert(domain.to_owned(), rubric.clone());
        Ok(rubric)
    }
}

/// A hash's first 64 bits.
pub(crate) fn front(hash: &Key) -> u64 {
    let bytes = hash.iter().take(8);
    bytes.fold(0, |front, &byte| front << 8 | u64::from(byte))
}

/// Closes the message, the list and the object around `fields`.
fn end_of_body(fields: &Map<String, Value>) -> Vec<u8> {
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
    fn a_re_ask_continues_the_reply_after_score() {
        let composer = composer(View::Outcome);
        let body = &composer.render(&item(&["trace"])).unwrap().requests[0].body;
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
