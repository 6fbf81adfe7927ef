//! `exprl-judge serve`.

use std::io::Write;

use exprl_rehearsal::{self as rehearsal, Config, Faults};
use tokio::signal::unix::{SignalKind, signal};

use crate::Error;
use crate::args::ServeArgs;

pub(crate) async fn run(args: &ServeArgs) -> Result<u8, Error> {
    let mut config = Config::new(args.rules);
    config.listen.set_port(args.port);
    config.slots = args.slots;
    config.max_model_len = args.max_model_len;
    config.faults = Faults {
        seed: args.seed,
        rate_limit_rate: args.rate_limit_rate,
        retry_after_s: args.retry_after_s,
        error_rate: args.error_rate,
        cut_rate: args.cut_rate,
        hang_rate: args.hang_rate,
        no_grade_rate: args.no_grade_rate,
        prose_rate: args.prose_rate,
        random_rate: args.random_rate,
        doubt: args.doubt,
        latency_ms: args.latency_ms,
        jitter_ms: args.jitter_ms,
        token_ms: args.token_ms,
    };
    let model = config.model.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let server = rehearsal::serve(config).await?;
    writeln!(std::io::stdout(), "{}", server.url())?;
    say!("serving model {model} at {}; Ctrl-C ends it", server.url());
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    writeln!(std::io::stdout(), "{}", serde_json::json!(server.stats()))?;
    server.stop().await;
    Ok(0)
}
