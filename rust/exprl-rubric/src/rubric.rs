//! Rubrics: what the judge is told before and after the text under judgement.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Deserialize;

use crate::{Checklist, Error, FenceKey, Head, Layout, View};

const BUILTIN: &str = include_str!("../rubrics/builtin.toml");

/// Tags of the layout, which a rubric's own text must not hold.
const RESERVED: [&str; 6] = [
    "<problem-",
    "<reference-",
    "<checklist-",
    "<outcome-",
    "<prefix-",
    "<step-",
];

/// One rubric for one view. Its templates are rendered when it is made; a request costs a copy.
#[derive(Debug, Clone)]
pub struct Rubric {
    view: View,
    layout: Layout,
    /// By `has_reference + 2 * has_checklist`.
    texts: [Texts; 4],
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts {
    /// With the empty line after it.
    head: Arc<str>,
    instruction: Arc<str>,
    direct_instruction: Arc<str>,
}

/// A rubric file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    head: String,
    instruction: String,
    /// In place of `instruction` for a grade without reasons; left out, the shipped one.
    direct_instruction: Option<String>,
}

/// The templates of a rubric.
struct Templates<'a> {
    head: &'a str,
    instruction: &'a str,
    direct_instruction: &'a str,
}

/// The rubrics that are shipped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Builtin {
    head: String,
    instruction: String,
    direct_instruction: String,
    checklist: String,
    checklist_instruction: String,
    domains: HashMap<String, HashMap<String, Words>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Builtin {
    fn read() -> Result<Self, Error> {
        Ok(toml::from_str(BUILTIN)?)
    }

    fn templates(&self) -> Templates<'_> {
        Templates {
            head: &self.head,
            instruction: &self.instruction,
            direct_instruction: &self.direct_instruction,
        }
    }

    /// The words of a domain, or the general ones.
    fn words(&self, domain: &str) -> Value {
        let words = self.domains.get(domain);
        let words = words.or_else(|| self.domains.get("general"));
        let pairs = words.into_iter().flatten().map(|(name, text)| {
            let text = match text {
                Words::One(text) => Value::from(text.as_str()),
                Words::Many(texts) => texts
                    .iter()
                    .map(|text| Value::from(text.as_str()))
                    .collect(),
            };
            (name.as_str(), text)
        });
        Value::from_pairs(pairs)
    }
}

impl Rubric {
    /// Domains that have words of their own; others get those of `general`.
    pub const DOMAINS: [&str; 4] = ["math", "science", "code", "general"];

    /// The rubric shipped for a domain; domains without their own share the general one.
    pub fn builtin(domain: &str, view: View) -> Result<Self, Error> {
        let builtin = Builtin::read()?;
        let words = builtin.words(domain);
        Self::render(&builtin.templates(), view, &words)
    }

    /// A rubric file: TOML with the minijinja templates `head` and `instruction`, and
    /// `direct_instruction` for a grade without reasons if the shipped one does not suit.
    ///
    /// Variables are `has_reference` and `has_checklist` (bool) and `view` (string); an unknown one is an error.
    pub fn from_toml_str(text: &str, view: View) -> Result<Self, Error> {
        let file: File = toml::from_str(text)?;
        let builtin = Builtin::read()?;
        let direct_instruction = file.direct_instruction.as_ref();
        let templates = Templates {
            head: &file.head,
            instruction: &file.instruction,
            direct_instruction: direct_instruction.unwrap_or(&builtin.direct_instruction),
        };
        Self::render(&templates, view, &Value::UNDEFINED)
    }

    fn render(templates: &Templates<'_>, view: View, words: &Value) -> Result<Self, Error> {
        let texts = |has_reference: bool, has_checklist: bool| {
            let variables =
                context! { view => view.name(), has_reference, has_checklist, d => words.clone() };
            let instruction = render("instruction", templates.instruction, &variables)?;
            if !instruction.contains("Score: n") {
                return Err(Error::NoScoreLine(instruction));
            }
            let direct = templates.direct_instruction;
            let direct = render("direct_instruction", direct, &variables)?;
            let head = render("head", templates.head, &variables)? + "\n\n";
            Ok(Texts {
                head: head.into(),
                instruction: instruction.into(),
                direct_instruction: direct.into(),
            })
        };
        Ok(Self {
            view,
            layout: Layout::default(),
            texts: [
                texts(false, false)?,
                texts(true, false)?,
                texts(false, true)?,
                texts(true, true)?,
            ],
        })
    }

    /// The same rubric with the reference in another place of its requests.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The view that this rubric is for.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// What the requests of all problems begin and end with.
    #[must_use]
    pub fn texts(&self, has_reference: bool, has_checklist: bool) -> [&str; 2] {
        let texts = self.find(has_reference, has_checklist);
        [&texts.head, &texts.instruction]
    }

    /// What they end with instead where the grade alone is asked for, without reasons.
    #[must_use]
    pub fn direct_instruction(&self, has_reference: bool, has_checklist: bool) -> &str {
        &self.find(has_reference, has_checklist).direct_instruction
    }

    fn find(&self, has_reference: bool, has_checklist: bool) -> &Texts {
        &self.texts[usize::from(has_reference) + 2 * usize::from(has_checklist)]
    }

    /// Whether the rubric says anything about a checklist; one that does not must not be given any.
    #[must_use]
    pub fn takes_checklists(&self) -> bool {
        self.texts[..2] != self.texts[2..]
    }

    /// What all requests of one problem share. `None` as reference asks the judge to grade without one (calibration).
    #[must_use]
    pub fn head(&self, key: &FenceKey, problem: &str, reference: Option<&str>) -> Head {
        self.head_with(key, problem, reference, None)
    }

    /// The same with the problem's own checklist; see [`Rubric::takes_checklists`].
    #[must_use]
    pub fn head_with(
        &self,
        key: &FenceKey,
        problem: &str,
        reference: Option<&str>,
        checklist: Option<&Checklist>,
    ) -> Head {
        let texts = self.find(reference.is_some(), checklist.is_some());
        let checklist = checklist.map(ToString::to_string);
        Head::new(
            (self.view, self.layout),
            &texts.head,
            &texts.instruction,
            key,
            (problem, reference),
            checklist.as_deref(),
        )
    }
}

/// What is said before and after the problem and the reference when a checklist is asked for.
pub(crate) fn checklist_texts(domain: &str) -> Result<(String, String), Error> {
    let builtin = Builtin::read()?;
    let variables = context! { d => builtin.words(domain) };
    Ok((
        render("checklist", &builtin.checklist, &variables)?,
        render(
            "checklist_instruction",
            &builtin.checklist_instruction,
            &variables,
        )?,
    ))
}

fn render(field: &'static str, template: &str, variables: &Value) -> Result<String, Error> {
    let failed = |e: minijinja::Error| Error::Template {
        field,
        message: e.to_string(),
    };
    // Lines that hold only a block tag leave no empty line behind.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    let mut env = Environment::new();
    env.set_syntax(syntax.map_err(failed)?);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let text = env.render_str(template, variables).map_err(failed)?;
    match RESERVED.into_iter().find(|tag| text.contains(tag)) {
        Some(tag) => Err(Error::ReservedTag { field, tag }),
        None => Ok(text.trim().to_owned()),
    }
}
