//! `exprl-judge`: grade many model outputs with an LLM judge, or be a judge that grades by rule.

mod input;
mod output;
mod score;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use exprl_judge::{Prices, Readout, ScoreMap, Settings, View};

/// Grade many model outputs with an LLM judge behind OpenAI-compatible servers.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  exprl-judge serve --rules numbers --port 8001 &
  exprl-judge score --endpoint http://127.0.0.1:8001/v1 --model rules-numbers < in.jsonl > out.jsonl

Input of score, one object per line ('reference' may be null, 'domain' may be left out):
  {\"id\": \"7\", \"problem\": \"2+2?\", \"reference\": \"2+2=4\", \"trace\": \"It is 4.\", \"domain\": \"math\"}

Output, one object per input line and in its order; a missing grade is null and has a status:
  outcome       {\"id\", \"status\", \"grade\", \"score\", \"error\", \"reply\", usage, ...}
  prefix, step  {\"id\", \"segments\": [{\"start\", \"end\", \"status\", \"grade\", \"score\", \"error\"}, ...], usage, ...}
  start and end count characters (Unicode code points) of the trace.

Exit codes:
  0 every line has a status   2 bad input or settings   3 more grades missing than --max-missing allows
  130 interrupted: what had finished is written";

#[derive(Subcommand)]
enum Command {
    /// Grade JSONL from standard input; write JSONL to standard output
    #[command(after_help = EXAMPLES)]
    Score(Box<ScoreArgs>),
    /// Be a judge that grades by rule, on loopback: for tests and rehearsals
    Serve(ServeArgs),
}

#[derive(Args)]
struct ScoreArgs {
    /// Base URL of a server, ending in /v1; may be given several times
    #[arg(long, required = true, value_name = "URL")]
    endpoint: Vec<String>,
    /// The model's name there
    #[arg(long)]
    model: String,
    /// What the judge sees in one request
    #[arg(long, value_enum, default_value_t = ViewArg::Outcome)]
    view: ViewArg,
    /// Which reference it sees: the line's own, none, or another problem's (calibration)
    #[arg(long, value_enum, default_value_t = ReferenceArg::Right)]
    reference: ReferenceArg,
    /// The grade in the reply's text, or the expected score under its log-probabilities
    #[arg(long, value_enum, default_value_t = ReadoutArg::Text)]
    readout: ReadoutArg,
    /// How a grade 1..5 becomes a score
    #[arg(long, value_enum, default_value_t = ScoreMapArg::Linear)]
    score_map: ScoreMapArg,
    /// TOML file of a rubric instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    rubric: Option<PathBuf>,
    /// Marks the steps of a trace for the views prefix and step
    #[arg(long, default_value = "###")]
    delimiter: String,
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
    prices: Option<Prices>,
    /// Folder where replies are kept; the same command again sends only what is missing
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    /// Part of the ledger's keys: change it when the model behind the name changes
    #[arg(long, default_value = "")]
    revision: String,
    /// Requests sent for one grade when servers fail, at most
    #[arg(long, default_value_t = 4)]
    attempts: u32,
    /// Do not ask once more for a missing grade
    #[arg(long)]
    no_reask: bool,
    /// Stream the replies, and leave a reply when the line of its grade is complete
    #[arg(long)]
    stream: bool,
    /// Temperature of the judge's sampling
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
    /// Share of grades that may be missing before the exit code is 3
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    max_missing: f64,
    /// Leave the judge's replies out of the output
    #[arg(long)]
    no_reply: bool,
}

#[derive(Args)]
struct ServeArgs {
    /// The rule
    #[arg(long, value_enum)]
    rules: RulesArg,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8001)]
    port: u16,
    /// Share of contents whose first request is answered 429
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    rate_limit_rate: f64,
    /// Retry-After of a 429, in seconds
    #[arg(long, default_value_t = 1, value_name = "S")]
    retry_after_s: u32,
    /// Share of contents that are answered 500 once
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    error_rate: f64,
    /// Share of contents whose answer is cut once, half-way
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    cut_rate: f64,
    /// Share of contents that once get no answer, or half of one, for ever
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    hang_rate: f64,
    /// Share of contents that never get a grade
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    no_grade_rate: f64,
    /// Share of contents graded in words, without a score line; a re-ask gets the digit
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    prose_rate: f64,
    /// Share of contents graded at random
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    random_rate: f64,
    /// Probability of the neighbouring grades, seen in log-probabilities alone
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    doubt: f64,
    /// Milliseconds before an answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency_ms: u64,
    /// Milliseconds on top of it, at most
    #[arg(long, default_value_t = 0, value_name = "MS")]
    jitter_ms: u64,
    /// Milliseconds between two tokens of a streamed answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    token_ms: u64,
    /// Requests answered at once, at most; the others wait
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// Tokens of prompt and reply, at most; a request for more is answered 400
    #[arg(long, value_name = "TOKENS")]
    max_model_len: Option<usize>,
    /// Decides which contents are hit
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum ViewArg {
    Outcome,
    Prefix,
    Step,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReferenceArg {
    Right,
    None,
    Wrong,
}

#[derive(Clone, Copy, ValueEnum)]
enum ReadoutArg {
    Text,
    Expected,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum ScoreMapArg {
    Linear,
    Binary,
    Extremes,
    ExtremesSoft,
}

#[derive(Clone, Copy, ValueEnum)]
enum RulesArg {
    Division,
    Numbers,
}

/// What ends the command early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("line {line}: {reason}")]
    Input { line: usize, reason: String },
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Judge(#[from] exprl_judge::Error),
    #[error(transparent)]
    Serve(#[from] exprl_judge::rehearsal::Error),
    #[error("standard input or output: {0}")]
    Io(#[from] std::io::Error),
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

impl ScoreArgs {
    fn settings(&self) -> Result<Settings, Error> {
        let rubric = self.rubric.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|error| Error::Usage(format!("--rubric {}: {error}", path.display())))
        });
        let deadline = Duration::try_from_secs_f64(self.deadline_s).map_err(|_| {
            Error::Usage(format!(
                "--deadline-s {}: no time in seconds",
                self.deadline_s
            ))
        })?;
        Ok(Settings {
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
            concurrency: self.concurrency,
            rpm: self.rpm,
            tpm: self.tpm,
            kv_tokens: self.kv_tokens,
            hedge: self.hedge,
            prices: self.prices,
            ledger: self.ledger.clone(),
            revision: self.revision.clone(),
            attempts: self.attempts,
            reask: !self.no_reask,
            stream: self.stream,
            ca_file: self.ca_file.clone(),
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            deadline,
            api_key_env: self.api_key_env.clone(),
            api_key_file: self.api_key_file.clone(),
            ..Settings::new(self.endpoint.clone(), &self.model)
        })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Score(args) => score::run(&args).await,
        Command::Serve(args) => serve::run(&args).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("exprl-judge: {error}");
        ExitCode::from(2)
    })
}
