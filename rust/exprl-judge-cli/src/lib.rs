//! The command line of exprl-judge: the binary and `exprl judge` of the Python package are both this.

/// A line on standard error. Nobody may be reading it any more, which is no error.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod args;
mod feed;
mod flags;
mod input;
mod ledger;
mod output;
mod preview;
mod progress;
mod rubric;
mod score;
mod serve;
mod target;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use clap::{Args, CommandFactory, FromArgMatches};

use args::{Cli, Command, RubricArgs};

/// What ends the command early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{name}, line {line}: {reason}")]
    Input {
        name: String,
        line: usize,
        reason: String,
    },
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Judge(#[from] exprl_judge::Error),
    #[error(transparent)]
    Serve(#[from] exprl_rehearsal::Error),
    #[error("standard input or output: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Nobody reads the output any more.
    fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Io(error) | Self::Judge(exprl_judge::Error::Ledger { source: error, .. }) => {
                error.kind() == ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }

    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }
}

/// Help is as wide as this, also on a wider terminal.
const HELP_WIDTH: usize = 80;

/// Runs the command line; returns the exit code.
///
/// `name` is how the user calls it (`exprl-judge` or `exprl judge`); `arguments` are what follows that name.
/// Reads standard input, writes standard output and standard error, and ends in order on Ctrl-C.
pub fn run(name: &str, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let help = |text: &str| text.replace("exprl-judge", name);
    let command = Cli::command()
        .bin_name(name)
        .after_help(help(args::EXAMPLES))
        .mut_subcommand("score", |score| score.after_help(help(args::EXAMPLES)))
        .mut_subcommand("rubric", |rubric| {
            let name = format!("{name} rubric");
            rubric.after_help(rubric_help(&name))
        });
    let cli = match parse::<Cli>(name, command, arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    end(name, async move {
        match cli.command {
            Command::Score(args) => score::run(&args).await,
            Command::Rubric(args) => rubric::run(&args).await,
            Command::Serve(args) => serve::run(&args).await,
            Command::Ledger(args) => ledger::run(&args.action),
        }
    })
}

/// Runs `rubric` as a command of its own, which the user calls by `name` (`exprl rubric build`).
pub fn run_rubric(name: &str, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let command = RubricArgs::augment_args(clap::Command::new("rubric"))
        .bin_name(name)
        .about(
            "Write a rubric for each problem: a checklist that the judge makes from its reference",
        )
        .after_help(rubric_help(name));
    match parse::<RubricArgs>(name, command, arguments) {
        Ok(args) => end(name, async move { rubric::run(&args).await }),
        Err(code) => code,
    }
}

fn rubric_help(name: &str) -> String {
    let own = args::RUBRIC_EXAMPLES.replace("exprl-judge rubric", name);
    let judge = name
        .split(' ')
        .next()
        .map_or("exprl-judge", |first| match first {
            "exprl" => "exprl judge",
            _ => "exprl-judge",
        });
    own.replace("exprl-judge", judge)
}

/// The arguments; or the exit code, once help or what is wrong has been printed.
fn parse<T: FromArgMatches>(
    name: &str,
    command: clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, u8> {
    let words = std::iter::once(OsString::from(name)).chain(arguments);
    let parsed = command
        .term_width(HELP_WIDTH)
        .try_get_matches_from(words)
        .and_then(|matches| T::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // A closed standard error leaves nothing to be done.
        let _ = error.print();
        u8::try_from(error.exit_code()).unwrap_or(2)
    })
}

/// Runs to the end; returns the exit code.
fn end(name: &str, command: impl Future<Output = Result<u8, Error>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("{name}: cannot start threads: {error}");
            return 1;
        }
    };
    let done = runtime.block_on(command);
    // A thread that still waits for input must not hold the command up.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        // Whoever read the output has had enough, as `head` does.
        Err(error) if error.is_broken_pipe() => 0,
        Err(error) => {
            say!("{name}: {error}");
            2
        }
    }
}
