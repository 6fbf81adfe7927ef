//! The command line of exprl-judge: the binary and `exprl judge` of the Python package are both this.

mod args;
mod flags;
mod input;
mod ledger;
mod output;
mod progress;
mod rubric;
mod score;
mod serve;

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};

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
    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }
}

/// Runs the command line; returns the exit code.
///
/// `name` is how the user calls it (`exprl-judge` or `exprl judge`); `arguments` are what follows that name.
/// Reads standard input, writes standard output and standard error, and ends in order on Ctrl-C.
pub fn run(name: &str, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let command = Cli::command()
        .bin_name(name)
        .after_help(args::EXAMPLES.replace("exprl-judge", name))
        .mut_subcommand("score", |score| {
            score.after_help(args::EXAMPLES.replace("exprl-judge", name))
        })
        .mut_subcommand("rubric", |rubric| {
            rubric.after_help(args::RUBRIC_EXAMPLES.replace("exprl-judge", name))
        });
    let words = std::iter::once(OsString::from(name)).chain(arguments);
    let parsed = command
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard error leaves nothing to be done.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start threads: {error}");
            return 1;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Score(args) => score::run(&args).await,
            Command::Rubric(args) => rubric::run(&args).await,
            Command::Serve(args) => serve::run(&args).await,
            Command::Ledger(args) => ledger::run(&args.action),
        }
    });
    // A thread that still waits for input must not hold the command up.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        2
    })
}
