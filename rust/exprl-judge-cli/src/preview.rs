//! What a run would send, without sending it.

use std::io::Write;

use exprl_judge::{Forecaster, Settings};
use serde_json::json;

use crate::Error;
use crate::feed::Entries;

/// `--show-prompt`: the requests about the first lines, on standard output.
pub(crate) async fn show_prompts(
    settings: &Settings,
    mut entries: Entries,
    lines: usize,
) -> Result<u8, Error> {
    let forecaster = Forecaster::new(settings)?;
    let mut out = std::io::stdout().lock();
    for line in 1..=lines {
        let Some(entry) = entries.recv().await else {
            break;
        };
        let entry = entry?;
        let prompts = forecaster.prompts(&entry.item)?;
        let of = prompts.len();
        for (number, prompt) in (1..).zip(prompts) {
            writeln!(
                out,
                "=== line {line}, id {}, request {number} of {of}",
                entry.id
            )?;
            writeln!(out, "{prompt}\n")?;
        }
    }
    Ok(0)
}

/// `--dry-run`: JSON on standard output.
pub(crate) async fn forecast(settings: &Settings, mut entries: Entries) -> Result<u8, Error> {
    let mut forecaster = Forecaster::new(settings)?;
    let mut lines = 0;
    while let Some(entry) = entries.recv().await {
        forecaster.add(&entry?.item)?;
        lines += 1;
    }
    let all = forecaster.forecast();
    let mut shown = json!({
        "lines": lines,
        "requests": all.requests,
        "from_ledger": all.from_ledger,
        "repeated": all.repeated,
        "prompt_tokens": all.prompt_tokens,
        "cached_tokens": all.cached_tokens,
        "completion_tokens": all.completion_tokens,
        "most_completion_tokens": all.most_completion_tokens,
        "settings": settings,
    });
    if let Some(prices) = settings.prices {
        let [usual, most] = all.cost(prices);
        shown["cost"] = json!(usual);
        shown["most_cost"] = json!(most);
    }
    writeln!(std::io::stdout(), "{shown:#}")?;
    say!(
        "an estimate: four bytes per token, replies of 256 tokens (or of --max-tokens: most_...), \
         a prefix cache that forgets nothing; re-asks and retries come on top"
    );
    Ok(0)
}
