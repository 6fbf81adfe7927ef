//! `exprl-judge`: grade many model outputs with an LLM judge, or be a judge that grades by rule.

use std::process::ExitCode;

fn main() -> ExitCode {
    exprl_judge_cli::run("exprl-judge", std::env::args_os().skip(1)).into()
}
