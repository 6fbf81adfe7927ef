//! Rubrics: what the judge is told before and after the text under judgement.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Deserialize;

use crate::{Error, FenceKey, Head, View};

const MATH: &str = include_str!("../rubrics/math.toml");
const GENERAL: &str = include_str!("../rubrics/general.toml");

/// Tags of the layout, which a rubric's own text must not hold.
const RESERVED: [&str; 5] = [
    "<problem-",
    "<reference-",
    "<outcome-",
    "<prefix-",
    "<step-",
];

/// One rubric for one view. Its templates are rendered when it is made; a request costs a copy.
#[derive(Debug, Clone)]
pub struct Rubric {
    view: View,
    with_reference: Texts,
    without_reference: Texts,
}

#[derive(Debug, Clone)]
struct Texts {
    head: String,
    instruction: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    head: String,
    instruction: String,
}

impl Rubric {
    /// The rubric shipped for a domain; domains without their own share the general one.
    pub fn builtin(domain: &str, view: View) -> Result<Self, Error> {
        match domain {
            "math" => Self::from_toml_str(MATH, view),
            _ => Self::from_toml_str(GENERAL, view),
        }
    }

    /// A rubric file: TOML with the minijinja templates `head` and `instruction`.
    ///
    /// Variables are `has_reference` (bool) and `view` (string); an unknown one is an error.
    pub fn from_toml_str(text: &str, view: View) -> Result<Self, Error> {
        let file: File = toml::from_str(text)?;
        Ok(Self {
            view,
            with_reference: Texts::render(&file, view, true)?,
            without_reference: Texts::render(&file, view, false)?,
        })
    }

    /// The view that this rubric is for.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// What all requests of one problem share. `None` as reference asks the judge to grade without one (calibration).
    #[must_use]
    pub fn head(&self, key: &FenceKey, problem: &str, reference: Option<&str>) -> Head {
        let texts = if reference.is_some() {
            &self.with_reference
        } else {
            &self.without_reference
        };
        Head::new(
            self.view,
            &texts.head,
            &texts.instruction,
            key,
            problem,
            reference,
        )
    }
}

impl Texts {
    fn render(file: &File, view: View, has_reference: bool) -> Result<Self, Error> {
        let head = render("head", &file.head, view, has_reference)?;
        let instruction = render("instruction", &file.instruction, view, has_reference)?;
        if !instruction.contains("Score: n") {
            return Err(Error::NoScoreLine(instruction));
        }
        Ok(Self { head, instruction })
    }
}

fn render(
    field: &'static str,
    template: &str,
    view: View,
    has_reference: bool,
) -> Result<String, Error> {
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
    let text = env
        .render_str(template, context! { view => view.name(), has_reference })
        .map_err(failed)?;
    match RESERVED.into_iter().find(|tag| text.contains(tag)) {
        Some(tag) => Err(Error::ReservedTag { field, tag }),
        None => Ok(text.trim().to_owned()),
    }
}
