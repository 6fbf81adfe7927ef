//! The flags that are settings of the judge: one for each field of [`Settings`], made from it.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use exprl_judge::{Settings, View};
use serde_json::{Map, Value};

use crate::Error;

/// What is about grades alone: `rubric` asks for none.
const OF_GRADES: [&str; 9] = [
    "view",
    "layout",
    "show_thinking",
    "readout",
    "score_map",
    "rubric",
    "rubrics",
    "reask",
    "stream",
];

/// The settings that were given as flags, by name; without `GRADES` those of grades are no flags.
pub(crate) struct Flags<const GRADES: bool>(Map<String, Value>);

/// Where no flag is given. Whole solutions are graded, unlike in training.
fn defaults() -> Settings {
    Settings {
        view: View::Outcome,
        ..Settings::default()
    }
}

fn default_values() -> Map<String, Value> {
    match serde_json::to_value(defaults()) {
        Ok(Value::Object(values)) => values,
        // A struct of plain values is an object.
        _ => Map::new(),
    }
}

impl<const GRADES: bool> Flags<GRADES> {
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let mut values = default_values();
        values.extend(self.0.clone());
        Ok(Settings::from_json(Value::Object(values))?)
    }

    fn fields() -> impl Iterator<Item = (&'static str, &'static str)> {
        let fields = Settings::FIELDS.iter().copied();
        fields.filter(|(name, _)| GRADES || !OF_GRADES.contains(name))
    }
}

impl<const GRADES: bool> Args for Flags<GRADES> {
    fn augment_args(command: Command) -> Command {
        let defaults = default_values();
        command.args(Self::fields().map(|(name, help)| flag(name, help, &defaults[name])))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const GRADES: bool> FromArgMatches for Flags<GRADES> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Map::new();
        for (name, default) in default_values() {
            if !Self::fields().any(|(field, _)| field == name) {
                continue;
            }
            let value = match default {
                Value::Bool(usual) => matches.get_flag(&name).then_some(Value::Bool(!usual)),
                Value::Array(_) => matches
                    .get_many::<String>(&name)
                    .map(|texts| texts.cloned().collect()),
                _ => matches.get_one::<Value>(&name).cloned(),
            };
            given.extend(value.map(|value| (name, value)));
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// `--name VALUE`; of a list `--name VALUE` several times; of a truth the word that changes it.
fn flag(name: &'static str, help: &'static str, default: &Value) -> Arg {
    let arg = Arg::new(name).help_heading("Settings of the judge");
    let long = name.replace('_', "-");
    let help = help.trim_end_matches('.');
    match default {
        Value::Bool(true) => {
            let help = format!("Switch this off: {help}");
            let arg = arg.long(format!("no-{long}")).help(help);
            arg.action(ArgAction::SetTrue)
        }
        Value::Bool(false) => arg.long(long).help(help).action(ArgAction::SetTrue),
        Value::Array(_) => arg
            .long(long.trim_end_matches('s').to_owned())
            .help(format!("{help}; may be given several times"))
            .action(ArgAction::Append)
            .value_name("URL")
            .required_unless_present("rules"),
        usual => {
            let usual = usual.as_str().map_or_else(|| usual.to_string(), Into::into);
            let help = match usual.as_str() {
                "" | "null" | "{}" => help.to_owned(),
                usual => format!("{help} [default: {usual}]"),
            };
            let arg = arg.long(long).help(help);
            let arg = arg.value_parser(move |text: &str| read(name, text));
            let arg = arg.value_name(name.to_uppercase());
            match name {
                "model" => arg.required_unless_present("rules"),
                _ => arg,
            }
        }
    }
}

/// The value of a setting from its text: a number, an object, numbers with commas between them, or
/// the text itself.
fn read(name: &str, text: &str) -> Result<Value, String> {
    let json = [text.to_owned(), format!("[{text}]")];
    let json = json
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok());
    let mut wrong = None;
    for value in json.chain([Value::from(text)]) {
        let alone = Map::from_iter([(name.to_owned(), value.clone())]);
        match Settings::from_json(Value::Object(alone)) {
            Ok(_) => return Ok(value),
            Err(exprl_judge::Error::Setting { reason, .. }) => wrong = wrong.or(Some(reason)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(wrong.unwrap_or_default())
}
