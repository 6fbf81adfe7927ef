//! `exprl-judge`: grade many model outputs with an LLM judge, or be a judge that grades by rule.

use std::process::ExitCode;

/// Requests are made on one thread and freed on another, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exprl_judge_cli::run("exprl-judge", std::env::args_os().skip(1)).into()
}
