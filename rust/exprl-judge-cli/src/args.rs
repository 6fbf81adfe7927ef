//! Names, help and defaults of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use exprl_judge::{Prices, Readout, ScoreMap, Settings, Task, View};
use exprl_rehearsal::{self as rehearsal, Rule};

use crate::Error;

pub(crate) const EXAMPLES: &str = "\
Examples:
  exprl-judge score --rules numbers < in.jsonl > out.jsonl
  exprl-judge score --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-4B --ledger replies in.jsonl -o out.jsonl
  exprl-judge score ... in.jsonl -o out.jsonl --resume      goes on after the last whole line of out.jsonl
  exprl-judge score ... in.jsonl --dry-run                  tokens and cost; sends nothing

Input of score, one object per line ('reference' may be null with --reference none, 'domain' may be left out):
  {\"id\": \"7\", \"problem\": \"2+2?\", \"reference\": \"2+2=4\", \"trace\": \"It is 4.\", \"domain\": \"math\"}

Output, one object per input line and in its order; a missing grade is null and has a status:
  outcome       {\"id\", \"status\", \"grade\", \"score\", \"error\", \"reply\", usage, ...}
  prefix, step  {\"id\", \"segments\": [{\"start\", \"end\", \"status\", \"grade\", \"score\", \"error\", \"reply\"}, ...], usage, ...}
  start and end count characters (Unicode code points) of the trace.

Exit codes:
  0 every line has a status   2 bad input or settings   3 more grades missing than --max-missing allows
  130 interrupted: what had finished, in order, is written";

pub(crate) const RUBRIC_EXAMPLES: &str = "\
Examples:
  exprl-judge rubric --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-4B problems.jsonl -o rubrics.jsonl
  exprl-judge score --rubrics rubrics.jsonl ... < in.jsonl > out.jsonl

Input, one object per line: {\"problem\", \"reference\"} with optional \"id\" and \"domain\"; the input of score will do.
Output, one object per problem and reference:
  {\"key\": \"...\", \"id\": \"7\", \"problem\": \"2+2?\", \"checkpoints\": [{\"text\": \"The answer is 4.\", \"weight\": 3}, ...]}
Read it and edit it: texts and weights (1..10) are yours; the key finds the line again. With -o, what the file
holds already stays as it is, and only the others are asked for.

Exit codes:
  0 all are there   2 bad input or settings   3 more are missing than --max-missing allows   130 interrupted";

/// Grade many model outputs with an LLM judge behind OpenAI-compatible servers.
#[derive(Parser)]
#[command(name = "exprl-judge", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Grade JSONL; write JSONL
    Score(Box<ScoreArgs>),
    /// Write a rubric for each problem: the checkpoints that its reference gives
    Rubric(Box<RubricArgs>),
    /// Be a judge that grades by rule, on loopback: for tests and rehearsals
    Serve(ServeArgs),
    /// Look at a ledger, or make it smaller
    Ledger(LedgerArgs),
}

/// Which servers to ask, and how.
#[derive(Args)]
pub(crate) struct AskArgs {
    /// Base URL of a server, ending in /v1; may be given several times
    #[arg(long, value_name = "URL", required_unless_present = "rules")]
    endpoint: Vec<String>,
    /// The model's name there
    #[arg(
        long,
        required_unless_present = "rules",
        default_value = "",
        hide_default_value = true
    )]
    model: String,
    /// Ask a rule instead of a model: starts its own judge, as `serve` does
    #[arg(long, value_enum, conflicts_with_all = ["endpoint", "model"])]
    rules: Option<RulesArg>,
    /// Requests in flight per server, at most
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Requests per minute over all servers, at most
    #[arg(long, value_name = "N")]
    rpm: Option<u32>,
    /// Tokens per minute, prompts and replies, over all servers, at most
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// Tokens that a server's KV cache holds; without it vLLM is asked, 0 sets no such bound
    #[arg(long, value_name = "N")]
    kv_tokens: Option<u64>,
    /// Share of requests that may go to a second server when the first is late, at most
    #[arg(long, default_value_t = 0.02, value_name = "SHARE")]
    hedge: f64,
    /// Price of a million prompt, cached and completion tokens, such as 0.3,0.03,1.2: reports the cost
    #[arg(long, value_name = "P,C,R", value_parser = prices)]
    pub(crate) prices: Option<Prices>,
    /// Folder where replies are kept; the same command again sends only what is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) ledger: Option<PathBuf>,
    /// Part of the ledger's keys: change it when the model behind the name changes
    #[arg(long, default_value = "")]
    revision: String,
    /// Requests sent for one reply when servers fail, at most
    #[arg(long, default_value_t = 4)]
    attempts: u32,
    /// Temperature of the model's sampling
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Tokens of a reply, at most
    #[arg(long, default_value_t = 2048)]
    max_tokens: u32,
    /// Seconds for everything; what is left then ends as timeout
    #[arg(long, default_value_t = 86_400.0)]
    deadline_s: f64,
    /// Environment variable that holds the API key
    #[arg(long, value_name = "NAME", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// File that holds the API key
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// PEM file of certificates to check https servers with instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Serve Prometheus metrics at http://127.0.0.1:PORT/metrics; 0 takes a free port
    #[arg(long, value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
    /// Show progress even where standard error is no terminal, as a line every few seconds
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct ScoreArgs {
    /// JSONL to grade; standard input if left out
    pub(crate) input: Option<PathBuf>,
    /// File to write; standard output if left out
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// What the judge sees in one request
    #[arg(long, value_enum, default_value_t = ViewArg::Outcome)]
    view: ViewArg,
    /// Which reference it sees: the line's own, none, or another problem's (calibration; reads all
    /// input first)
    #[arg(long, value_enum, default_value_t = ReferenceArg::Right)]
    pub(crate) reference: ReferenceArg,
    /// The grade in the reply's text, or the expected score under its log-probabilities
    #[arg(long, value_enum, default_value_t = ReadoutArg::Text)]
    readout: ReadoutArg,
    /// How a grade 1..5 becomes a score
    #[arg(long, value_enum, default_value_t = ScoreMapArg::Linear)]
    score_map: ScoreMapArg,
    /// TOML file of a rubric instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    rubric: Option<PathBuf>,
    /// JSONL file of per-problem rubrics, as `rubric` writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) rubrics: Option<PathBuf>,
    /// Marks the steps of a trace for the views prefix and step
    #[arg(long, default_value = "###")]
    pub(crate) delimiter: String,
    /// Go on: with --out after its last whole line, with --ledger from the replies kept there
    #[arg(long)]
    pub(crate) resume: bool,
    /// Do not ask once more for a missing grade
    #[arg(long)]
    no_reask: bool,
    /// Stream the replies, and leave a reply when the line of its grade is complete
    #[arg(long)]
    stream: bool,
    /// Share of grades that may be missing before the exit code is 3
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub(crate) max_missing: f64,
    /// Leave the judge's replies out of the output
    #[arg(long)]
    pub(crate) no_reply: bool,
    /// Field of the input that holds the truth (true or false): reports how often the judge is wrong
    #[arg(long, value_name = "FIELD")]
    pub(crate) label: Option<String>,
    /// Estimate requests, tokens and cost as JSON on standard output; send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct RubricArgs {
    /// JSONL of problems with references; standard input if left out
    pub(crate) input: Option<PathBuf>,
    /// File to write or to complete; standard output if left out
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Share of rubrics that may be missing before the exit code is 3
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
    /// Drop older replies and damaged records; the file is replaced in one go
    Compact {
        /// The ledger's folder
        dir: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The rule
    #[arg(long, value_enum)]
    pub(crate) rules: RulesArg,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8001)]
    pub(crate) port: u16,
    /// Share of contents whose first request is answered 429
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) rate_limit_rate: f64,
    /// Retry-After of a 429, in seconds
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub(crate) retry_after_s: u32,
    /// Share of contents that are answered 500 once
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) error_rate: f64,
    /// Share of contents whose answer is cut once, half-way
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) cut_rate: f64,
    /// Share of contents that once get no answer, or half of one, for ever
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) hang_rate: f64,
    /// Share of contents that never get a grade
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) no_grade_rate: f64,
    /// Share of contents graded in words, without a score line; a re-ask gets the digit
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) prose_rate: f64,
    /// Share of contents graded at random
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) random_rate: f64,
    /// Probability of the neighbouring grades, seen in log-probabilities alone
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub(crate) doubt: f64,
    /// Milliseconds before an answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) latency_ms: u64,
    /// Milliseconds on top of it, at most
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) jitter_ms: u64,
    /// Milliseconds between two tokens of a streamed answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) token_ms: u64,
    /// Requests answered at once, at most; the others wait
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Tokens of prompt and reply, at most; a request for more is answered 400
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<usize>,
    /// Decides which contents are hit
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ViewArg {
    Outcome,
    Prefix,
    Step,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReferenceArg {
    Right,
    None,
    Wrong,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ReadoutArg {
    Text,
    Expected,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum ScoreMapArg {
    Linear,
    Binary,
    Extremes,
    ExtremesSoft,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RulesArg {
    Division,
    Numbers,
}

/// Reads `--prices`.
fn prices(text: &str) -> Result<Prices, String> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(|number| number.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{error}; write it like 0.3,0.03,1.2"))?;
    let [prompt, cached, completion] = numbers[..] else {
        return Err("give three: prompt, cached, completion; write it like 0.3,0.03,1.2".into());
    };
    Ok(Prices {
        prompt,
        cached,
        completion,
    })
}

impl RulesArg {
    pub(crate) fn rule(self) -> Rule {
        match self {
            Self::Division => Rule::Division,
            Self::Numbers => Rule::Numbers,
        }
    }
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
    /// The settings, and the rule judge that they point at, if one was asked for.
    pub(crate) async fn settings(&self) -> Result<(Settings, Option<rehearsal::Handle>), Error> {
        let deadline = Duration::try_from_secs_f64(self.deadline_s).map_err(|_| {
            Error::Usage(format!(
                "--deadline-s {}: give seconds, more than 0",
                self.deadline_s
            ))
        })?;
        let rules = match self.rules {
            Some(rules) => Some(rehearsal::serve(rehearsal::Config::new(rules.rule())).await?),
            None => None,
        };
        let settings = match (&rules, self.rules) {
            // The rule's port differs from run to run; the model's name is all that a ledger keeps.
            (Some(server), Some(rules)) => {
                Settings::new(vec![server.url()], format!("rules-{}", rules.rule()))
            }
            _ => Settings::new(self.endpoint.clone(), &self.model),
        };
        let settings = Settings {
            concurrency: self.concurrency,
            rpm: self.rpm,
            tpm: self.tpm,
            kv_tokens: self.kv_tokens,
            hedge: self.hedge,
            prices: self.prices,
            ledger: self.ledger.clone(),
            revision: self.revision.clone(),
            attempts: self.attempts,
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            deadline,
            api_key_env: self.api_key_env.clone(),
            api_key_file: self.api_key_file.clone(),
            ca_file: self.ca_file.clone(),
            ..settings
        };
        Ok((settings, rules))
    }
}

impl ScoreArgs {
    pub(crate) fn complete(&self, settings: Settings) -> Result<Settings, Error> {
        let rubric = self.rubric.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|error| Error::Usage(format!("--rubric {}: {error}", path.display())))
        });
        Ok(Settings {
            task: Task::Grade,
            view: match self.view {
                ViewArg::Outcome => View::Outcome,
                ViewArg::Prefix => View::Prefix,
                ViewArg::Step => View::Step,
            },
            readout: match self.readout {
                ReadoutArg::Text => Readout::Text,
                ReadoutArg::Expected => Readout::Expected,
            },
            score_map: match self.score_map {
                ScoreMapArg::Linear => ScoreMap::Linear,
                ScoreMapArg::Binary => ScoreMap::Binary,
                ScoreMapArg::Extremes => ScoreMap::Extremes,
                ScoreMapArg::ExtremesSoft => ScoreMap::ExtremesSoft,
            },
            rubric: rubric.transpose()?,
            reask: !self.no_reask,
            stream: self.stream,
            ..settings
        })
    }
}
