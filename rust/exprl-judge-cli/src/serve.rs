//! `exprl-judge serve`.

use std::process::ExitCode;

use exprl_judge::rehearsal::{self, Config, Faults, Rule};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Error, RulesArg, ServeArgs};

pub(crate) async fn run(args: &ServeArgs) -> Result<ExitCode, Error> {
    let mut config = Config::new(match args.rules {
        RulesArg::Division => Rule::Division,
        RulesArg::Numbers => Rule::Numbers,
    });
    config.listen.set_port(args.port);
    config.faults = Faults {
        seed: args.seed,
        too_many_requests_rate: args.rate_limit_rate,
        server_error_rate: args.error_rate,
        no_grade_rate: args.no_grade_rate,
        random_rate: args.random_rate,
        latency_ms: args.latency_ms,
        jitter_ms: args.jitter_ms,
        ..Faults::default()
    };
    let model = config.model.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let server = rehearsal::serve(config).await?;
    println!("{}", server.url());
    eprintln!(
        "exprl-judge: serving model {model} at {}; Ctrl-C ends it",
        server.url()
    );
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}
