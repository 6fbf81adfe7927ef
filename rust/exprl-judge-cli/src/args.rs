//! Names, help and defaults of the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use exprl_judge::Settings;
use exprl_rehearsal::{self as rehearsal, Rule};

use crate::Error;
use crate::flags::Flags;

pub(crate) const EXAMPLES: &str = "\
Examples:
  exprl-judge score --rules numbers < in.jsonl > out.jsonl
  exprl-judge score --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-4B \\
      --ledger replies in.jsonl -o out.jsonl
  exprl-judge score ... in.jsonl -o out.jsonl --resume
      goes on after the last whole line of out.jsonl
  exprl-judge score ... in.jsonl -o out.jsonl --force
      replaces out.jsonl once all lines are graded
  exprl-judge score ... in.jsonl --dry-run
      tokens and cost; sends nothing
  exprl-judge score ... in.jsonl --show-prompt
      what the judge is sent for the first line; sends nothing

Input of score, one object per line ('reference' may be null with
--reference none, 'domain' may be left out):
  {\"id\": \"7\", \"problem\": \"2+2?\", \"reference\": \"2+2=4\",
   \"trace\": \"It is 4.\", \"domain\": \"math\"}

Output, one object per input line and in its order; a missing grade is null
and has a status:
  outcome       {\"id\", \"status\", \"grade\", \"score\", \"error\", \"reply\",
                 usage, ...}
  prefix, step  {\"id\", \"segments\": [{\"start\", \"end\", \"status\", \"grade\",
                 \"score\", \"error\", \"reply\"}, ...], usage, ...}
  start and end count characters (Unicode code points) of the trace.

Exit codes:
  0    every line has a status
  2    bad input or settings
  3    more grades are missing than --max-missing allows
  130  interrupted: what had finished, in order, is written";

pub(crate) const RUBRIC_EXAMPLES: &str = "\
Examples:
  exprl-judge rubric --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-4B \\
      problems.jsonl -o rubrics.jsonl
  exprl-judge score --rubrics rubrics.jsonl ... < in.jsonl > out.jsonl

Input, one object per line: {\"problem\", \"reference\"} with optional \"id\" and
\"domain\"; the input of score will do.
Output, one object per problem and reference:
  {\"key\": \"...\", \"id\": \"7\", \"problem\": \"2+2?\", \"checkpoints\":
   [{\"text\": \"The answer is 4.\", \"weight\": 3}, ...]}
Read it and edit it: texts and weights (1..10) are yours; the key finds the
line again. With -o, what the file holds already stays as it is, and only the
others are asked for.

Exit codes:
  0    all are there
  2    bad input or settings
  3    more are missing than --max-missing allows
  130  interrupted";

/// Grade many model outputs with an LLM judge behind OpenAI-compatible servers.
#[derive(Parser)]
#[command(name = "exprl-judge", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Grade solutions: read JSONL, write JSONL
    Score(Box<ScoreArgs>),
    /// Write a rubric for each problem: a checklist that the judge makes from its reference
    Rubric(Box<RubricArgs>),
    /// Run a server that grades by rule, on this machine only: for tests and rehearsals
    Serve(ServeArgs),
    /// Look at a ledger, or make it smaller
    Ledger(LedgerArgs),
}

/// Whom to ask, and what to show meanwhile.
#[derive(Args)]
pub(crate) struct AskArgs {
    /// Grade by this rule (division or numbers) instead of a model. The command starts a judge as `serve` does
    #[arg(long, value_name = "RULE", conflicts_with_all = ["endpoints", "model"])]
    rules: Option<Rule>,
    /// Serve metrics for Prometheus at http://127.0.0.1:PORT/metrics; 0 takes a free port
    #[arg(long, value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
    /// Show progress as a line every few seconds, even if standard error is not a terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "flags of a command")]
#[derive(Args)]
pub(crate) struct ScoreArgs {
    /// JSONL file of solutions to grade (default: standard input)
    pub(crate) input: Option<PathBuf>,
    /// File to write (default: standard output)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Flags<true>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Which reference the judge sees: the line's own, none, or another problem's (calibration; reads all
    /// input first)
    #[arg(long, value_enum, default_value_t = ReferenceArg::Right)]
    pub(crate) reference: ReferenceArg,
    #[command(flatten)]
    pub(crate) steps: StepArgs,
    /// Continue an interrupted command: after the last whole line of --out, or with the replies in --ledger
    #[arg(long)]
    pub(crate) resume: bool,
    /// Replace --out, once all lines are graded and no more grades are missing than --max-missing allows
    #[arg(long, conflicts_with = "resume")]
    pub(crate) force: bool,
    /// Exit with code 3 if a larger share of the grades is missing
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub(crate) max_missing: f64,
    /// Leave the judge's replies out of the output
    #[arg(long)]
    pub(crate) no_reply: bool,
    /// Field of the input that says whether a solution is right (true or false). The command then reports how
    /// often the judge is wrong
    #[arg(long, value_name = "FIELD")]
    pub(crate) label: Option<String>,
    /// Print what the judge is sent for the first line, or the first N, and send nothing
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub(crate) show_prompt: Option<usize>,
    /// Print an estimate of requests, tokens and cost as JSON, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How a trace is cut into steps, for the views prefix and step.
#[derive(Args)]
pub(crate) struct StepArgs {
    /// Where a step of a trace starts: delimiter (at a text), heading (### at the start of a line),
    /// paragraph (after a blank line) or line
    #[arg(long = "steps", default_value = "delimiter", value_name = "RULE")]
    rule: String,
    /// Text that starts a step, for --steps delimiter
    #[arg(long, default_value = "###", value_name = "TEXT")]
    delimiter: String,
    /// Join a step of fewer words to the next one
    #[arg(long, default_value = "1", value_name = "WORDS")]
    min_step_words: NonZeroUsize,
    /// Join neighbouring steps so that at most this many are left (default: all)
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<NonZeroUsize>,
}

impl StepArgs {
    /// The settings that the flags name; `cut_thinking`: what the judge sees of it.
    pub(crate) fn settings(&self, cut_thinking: bool) -> Result<exprl_steps::Settings, Error> {
        let rule = exprl_steps::Rule::new(&self.rule, &self.delimiter)
            .map_err(|error| Error::Usage(error.to_string()))?;
        Ok(exprl_steps::Settings {
            rule,
            min_size: self.min_step_words,
            max_steps: self.max_steps,
            cut_thinking,
        })
    }
}

#[derive(Args)]
pub(crate) struct RubricArgs {
    /// JSONL file of problems with references (default: standard input)
    pub(crate) input: Option<PathBuf>,
    /// File to write, or to complete if it exists (default: standard output)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Flags<false>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Exit with code 3 if a larger share of the rubrics is missing
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) max_missing: f64,
}

#[derive(Args)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    pub(crate) action: LedgerAction,
}

#[derive(Subcommand)]
pub(crate) enum LedgerAction {
    /// Count replies, grades and tokens, as JSON; works while a run uses the ledger
    Stats {
        /// The ledger's folder
        dir: PathBuf,
    },
    /// Write the newest reply under each key as JSONL; works while a run uses the ledger
    Export {
        /// The ledger's folder
        dir: PathBuf,
    },
    /// Print the reply under a key, as JSON; works while a run uses the ledger
    Show {
        /// The ledger's folder
        dir: PathBuf,
        /// 64 hex digits, from `ledger export` or from the column `ledger_keys` of a run's rollouts
        key: String,
    },
    /// Drop older replies and damaged records. The file is replaced in one step
    Compact {
        /// The ledger's folder
        dir: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The rule: division or numbers
    #[arg(long, value_name = "RULE")]
    pub(crate) rules: Rule,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8001)]
    pub(crate) port: u16,
    /// Share of requests that are refused with 429 at their first try
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) rate_limit_rate: f64,
    /// Retry-After of a 429, in seconds
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub(crate) retry_after_s: u32,
    /// Share of requests that fail with 500 at their first try
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) error_rate: f64,
    /// Share of requests whose first reply breaks off half-way
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) cut_rate: f64,
    /// Share of requests whose first reply never comes, or never ends
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) hang_rate: f64,
    /// Share of requests whose replies never hold a grade
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) no_grade_rate: f64,
    /// Share of requests whose first reply says the grade in words only; asked once more, it has the digit
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) prose_rate: f64,
    /// Share of requests with a random grade
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) random_rate: f64,
    /// Probability of the neighbouring grades, which shows in the log-probabilities only
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub(crate) doubt: f64,
    /// Milliseconds before a reply
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) latency_ms: u64,
    /// Further milliseconds before a reply, at random up to this number
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) jitter_ms: u64,
    /// Milliseconds between two tokens of a streamed reply
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) token_ms: u64,
    /// Requests that are answered at the same time, at most; the others wait
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Tokens of prompt and reply, at most; a longer request is refused with 400
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<usize>,
    /// Seed that chooses the requests with a fault; the same request always meets the same fault
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReferenceArg {
    Right,
    None,
    Wrong,
}

pub(crate) fn share(name: &str, value: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::Usage(format!(
            "{name} {value}: give a share in 0..=1"
        )))
    }
}

impl AskArgs {
    /// Points the settings at a rule judge if one was asked for, which ends when it is dropped.
    pub(crate) async fn serve_rules(
        &self,
        settings: &mut Settings,
    ) -> Result<Option<rehearsal::Handle>, Error> {
        let Some(rule) = self.rules else {
            return Ok(None);
        };
        let server = rehearsal::serve(rehearsal::Config::new(rule)).await?;
        settings.endpoints = vec![server.url()];
        // The rule's port differs from run to run; the model's name is all that a ledger keeps.
        settings.model = format!("rules-{rule}");
        Ok(Some(server))
    }
}
