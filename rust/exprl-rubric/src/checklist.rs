//! Per-problem rubrics: the checkpoints of one problem, written by a model from its reference, kept as
//! JSONL that people read and edit. What a model wrote is hostile input: it is checked against the
//! schema here, and fenced like everything else in a request.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::head::writing_request;
use crate::rubric::checklist_texts;
use crate::thinking::outside_thinking;
use crate::{Error, FenceKey};

const FEWEST: usize = 2;
const MOST: usize = 6;
/// Characters of a checkpoint.
const LONGEST: usize = 500;
const HEAVIEST: u8 = 10;

/// Something that a solution has to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// One line of text.
    pub text: String,
    /// How much it matters, 1..=10.
    #[serde(default = "one")]
    pub weight: u8,
}

/// The checkpoints of one problem: 2 to 6, all different; a part of them may be a single one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Checkpoint>", into = "Vec<Checkpoint>")]
pub struct Checklist(Vec<Checkpoint>);

/// A line of a checklist file: `{"key", "id", "problem", "checkpoints"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`Checklist::key`] of problem and reference. A line without one counts for its problem, whatever the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The writer's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// For the reader's eyes, and to find a line without a key.
    pub problem: String,
    /// What to check.
    pub checkpoints: Checklist,
}

/// The checklists of a file.
#[derive(Debug, Clone, Default)]
pub struct Checklists {
    by_key: HashMap<String, Checklist>,
    by_problem: HashMap<String, Checklist>,
}

fn one() -> u8 {
    1
}

/// Whether a text can be true of a solution: a word, or a relation such as `3 + 4 = 7`. A bare number,
/// which a small model writes for each checkpoint, cannot.
fn states_something(text: &str) -> bool {
    text.chars()
        .any(|c| c.is_alphabetic() || "=<>≤≥≠≈∈∣".contains(c))
}

impl Checklist {
    /// Checks the checkpoints; white space in them becomes single spaces. The error says what is wrong.
    pub fn new(checkpoints: Vec<Checkpoint>) -> Result<Self, String> {
        Self::of_at_least(FEWEST, checkpoints)
    }

    /// A part of a checklist, which one request holds: a single checkpoint will do.
    pub fn part(checkpoints: Vec<Checkpoint>) -> Result<Self, String> {
        Self::of_at_least(1, checkpoints)
    }

    fn of_at_least(fewest: usize, mut checkpoints: Vec<Checkpoint>) -> Result<Self, String> {
        let count = checkpoints.len();
        if !(fewest..=MOST).contains(&count) {
            return Err(format!(
                "{count} checkpoints; a checklist has {fewest} to {MOST}"
            ));
        }
        let mut seen = HashSet::new();
        for (number, checkpoint) in (1..).zip(&mut checkpoints) {
            let words: Vec<&str> = checkpoint.text.split_whitespace().collect();
            checkpoint.text = words.join(" ");
            let length = checkpoint.text.chars().count();
            if !(1..=LONGEST).contains(&length) {
                return Err(format!(
                    "checkpoint {number} has {length} characters; give 1 to {LONGEST}"
                ));
            }
            if !states_something(&checkpoint.text) {
                let text = &checkpoint.text;
                return Err(format!(
                    "checkpoint {number} is {text:?}, which states nothing; write what a solution must show"
                ));
            }
            if !(1..=HEAVIEST).contains(&checkpoint.weight) {
                let weight = checkpoint.weight;
                return Err(format!(
                    "checkpoint {number} has the weight {weight}; give 1 to {HEAVIEST}"
                ));
            }
            if !seen.insert(checkpoint.text.clone()) {
                return Err(format!("checkpoint {number} repeats an earlier one"));
            }
        }
        Ok(Self(checkpoints))
    }

    /// Reads a model's reply: a JSON object `{"checkpoints": [...]}` or that list, outside thinking
    /// blocks, with or without a code fence or words around it. Linear in the reply's length.
    pub fn read(reply: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Object { checkpoints: Vec<Checkpoint> },
            List(Vec<Checkpoint>),
        }
        let spoken = outside_thinking(reply).concat();
        let inner = |open, close| {
            let (start, end) = (spoken.find(open)?, spoken.rfind(close)?);
            spoken.get(start..=end)
        };
        // An object comes first: a list inside of it would be found as well.
        for found in [inner('{', '}'), inner('[', ']')].into_iter().flatten() {
            if let Ok(Written::Object { checkpoints } | Written::List(checkpoints)) =
                serde_json::from_str(found)
            {
                return Self::new(checkpoints);
            }
        }
        Err(
            r#"no JSON object {"checkpoints": [{"text": "...", "weight": 1}, ...]} in the reply"#
                .into(),
        )
    }

    /// The checkpoints, in the order in which a solution comes to them.
    #[must_use]
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.0
    }

    /// Finds the checklist of a problem and its reference again: 32 hex digits of a BLAKE3 hash.
    #[must_use]
    pub fn key(problem: &str, reference: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("exprl-rubric 2026 checklist key");
        hasher.update(&(problem.len() as u64).to_le_bytes());
        hasher
            .update(problem.as_bytes())
            .update(reference.as_bytes());
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The JSON schema of a reply, in the part of the language that guided decoding knows.
    #[must_use]
    pub fn schema() -> Value {
        let checkpoint = json!({
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 1, "maxLength": LONGEST},
                "weight": {"type": "integer", "minimum": 1, "maximum": HEAVIEST},
            },
            "required": ["text", "weight"],
            "additionalProperties": false,
        });
        json!({
            "type": "object",
            "properties": {
                "checkpoints": {"type": "array", "minItems": FEWEST, "maxItems": MOST, "items": checkpoint},
            },
            "required": ["checkpoints"],
            "additionalProperties": false,
        })
    }

    /// The user message that asks a model for the checklist of a problem.
    pub fn request(
        key: &FenceKey,
        domain: &str,
        problem: &str,
        reference: &str,
    ) -> Result<String, Error> {
        let (head, instruction) = checklist_texts(domain)?;
        Ok(writing_request(
            &head,
            &instruction,
            key,
            problem,
            reference,
        ))
    }
}

/// One line per checkpoint, as the judge sees it.
impl fmt::Display for Checklist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Checkpoint { text, weight }) in (1..).zip(&self.0) {
            let newline = if number == 1 { "" } else { "\n" };
            write!(f, "{newline}{number}. (weight {weight}) {text}")?;
        }
        Ok(())
    }
}

impl TryFrom<Vec<Checkpoint>> for Checklist {
    type Error = String;

    fn try_from(checkpoints: Vec<Checkpoint>) -> Result<Self, String> {
        Self::new(checkpoints)
    }
}

impl From<Checklist> for Vec<Checkpoint> {
    fn from(checklist: Checklist) -> Self {
        checklist.0
    }
}

impl Checklists {
    /// Reads a checklist file, JSONL. The error names the line; of two lines for one problem, it refuses the second.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let entry: Entry =
                serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
            let earlier = match entry.key {
                Some(key) => all.by_key.insert(key, entry.checkpoints),
                None => all.by_problem.insert(entry.problem, entry.checkpoints),
            };
            if earlier.is_some() {
                return Err(format!(
                    "line {number}: a second checklist for the same problem"
                ));
            }
        }
        Ok(all)
    }

    /// The checklist of a problem and its reference.
    #[must_use]
    pub fn find(&self, problem: &str, reference: &str) -> Option<&Checklist> {
        let keyed = self.by_key.get(&Checklist::key(problem, reference));
        keyed.or_else(|| self.by_problem.get(problem))
    }

    /// Number of checklists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len() + self.by_problem.len()
    }

    /// Whether the file holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
